"""Which rows are the same tweet again: the groups that a leak-free split keeps on one side."""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mvsent.curate.text import normalised_text

Keys = npt.NDArray[np.uint64]
NO_KEY = 0
_MIN_BITS = 24  # of 64; a real picture's hash has 32, one of a flat or striped picture far fewer


def duplicate_groups(
    texts: Sequence[str | None], sha256: Sequence[str | None], phash: Sequence[int | None]
) -> npt.NDArray[np.int64]:
    """[N]: a group number per row; rows that share a text, a picture's bytes or its perceptual hash share it.

    Texts are compared by `normalised_text`; one that is then empty (nothing but URLs and names) equals no
    other. A hash of few bits belongs to a flat picture and equals no other. Sharing is transitive. Groups are
    numbered from 0 in the order of their first rows.

    >>> duplicate_groups(["Hi!", "hi http://t.co/1", "bye", None], ["a", "b", "b", "c"], [None] * 4).tolist()
    [0, 0, 0, 1]
    """
    return groups_of([text_keys(texts), string_keys(sha256), look_keys(phash)], len(texts))


def groups_of(keys: Iterable[Keys], n_rows: int) -> npt.NDArray[np.int64]:
    """[N]: a group number per row; rows that share a key of one kind share it, and sharing is transitive.

    Args:
        keys: one array [N] a kind, read one after the other; `NO_KEY` is a row without one.

    Groups are numbered from 0 in the order of their first rows.
    """
    edges = [_neighbours(each) for each in keys]
    ends = np.concatenate([np.zeros((2, 0), np.int64), *edges], axis=1)
    graph = coo_array((np.ones(ends.shape[1], np.int8), (ends[0], ends[1])), shape=(n_rows, n_rows))
    _, group = connected_components(graph, directed=False)  # numbers them as it walks over the rows
    numbers: npt.NDArray[np.int64] = group.astype(np.int64)
    return numbers


def _neighbours(keys: Keys) -> npt.NDArray[np.int64]:
    """[2, E]: pairs of rows with one key, so many that each row of a key is joined to the others."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    same = np.flatnonzero((ordered[1:] == ordered[:-1]) & (ordered[1:] != NO_KEY))
    return np.stack([order[same], order[same + 1]])


def text_keys(texts: Iterable[str | None]) -> Keys:
    """[N]: a key for each text, the same for two that `normalised_text` makes equal."""
    return np.fromiter((_text_key(text) for text in texts), np.uint64)


def _text_key(text: str | None) -> int:
    plain = normalised_text(text) if text else ""
    return _hashed(plain.encode("utf-8", "surrogatepass")) if plain else NO_KEY


def string_keys(strings: Iterable[str | None]) -> Keys:
    """[N]: a key for each string that is not empty."""
    return np.fromiter((_hashed(one.encode()) if one else NO_KEY for one in strings), np.uint64)


def look_keys(phash: Iterable[int | None]) -> Keys:
    """[N]: a key for each perceptual hash that tells something."""
    keys = np.fromiter((bits or NO_KEY for bits in phash), np.uint64)
    return np.where(telling(keys), keys, np.uint64(NO_KEY))


def _hashed(data: bytes) -> int:
    """64 bits: among a billion different ones two share them once in forty such collections."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") or 1


def is_telling(phash: int | None) -> bool:
    """Whether a perceptual hash tells its picture from others: a flat picture's does not.

    >>> is_telling(0xF0F0F0F0F0F0F0F0), is_telling(1), is_telling(None)
    (True, False, False)
    """
    return phash is not None and phash.bit_count() >= _MIN_BITS


def telling(phash: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """[N]: `is_telling` of every hash; 0 stands for a row that has none.

    >>> telling(np.array([0xF0F0F0F0F0F0F0F0, 1, 0], np.uint64)).tolist()
    [True, False, False]
    """
    return np.bitwise_count(phash) >= _MIN_BITS
