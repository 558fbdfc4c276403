"""Groups of rows that repeat each other, which a leak-free split keeps on one side."""

import hashlib
import re
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mvsent.curate.text import normalised_text

Keys = npt.NDArray[np.uint64]
NO_KEY = 0
_ACCOUNT = re.compile(r"https?://(?:www\.)?flickr\.com/photos/([^/?#]+)/\d")
_MIN_BITS = 24  # of 64; the hash of a real picture has about 32, that of a flat or striped one far fewer


def duplicate_groups(
    texts: Sequence[str | None], sha256: Sequence[str | None], phash: Sequence[int | None]
) -> npt.NDArray[np.int64]:
    """Group rows that share a text, a picture's bytes or its perceptual hash: group numbers [N].

    Texts are compared by `normalised_text`; a text that is then empty (only URLs and names) equals no other.
    A hash of few bits belongs to a flat picture and equals no other. Groups are transitive, and numbered from
    0 in the order of their first rows.

    >>> duplicate_groups(["Hi!", "hi http://t.co/1", "bye", None], ["a", "b", "b", "c"], [None] * 4).tolist()
    [0, 0, 0, 1]
    """
    return groups_of([text_keys(texts), string_keys(sha256), look_keys(phash)], len(texts))


def groups_of(
    keys: Iterable[Keys], n_rows: int, pairs: Iterable[npt.NDArray[np.int64]] = ()
) -> npt.NDArray[np.int64]:
    """Group rows that share a key of any kind, or are a pair: the group number of each row [N].

    Args:
        keys: one array [N] for each kind, read one after the other; `NO_KEY` marks rows without a key.
        pairs: pairs of rows [P, 2], such as near copies; each pair at most once in an array.

    Groups are transitive, and numbered from 0 in the order of their first rows.
    """
    edges = [np.zeros((2, 0), np.int64), *(each.T for each in pairs)]
    for each in keys:
        # Neighbours in sorted order are enough to connect all rows with the same key.
        order = np.argsort(each, kind="stable")
        ordered = each[order]
        same = np.flatnonzero((ordered[1:] == ordered[:-1]) & (ordered[1:] != NO_KEY))
        edges.append(np.stack([order[same], order[same + 1]]))
    ends = np.concatenate(edges, axis=1)
    # int8 cannot overflow: an edge occurs at most once for each kind, and equal edges are summed.
    graph = coo_array((np.ones(ends.shape[1], np.int8), (ends[0], ends[1])), shape=(n_rows, n_rows))
    _, group = connected_components(graph, directed=False)  # numbers groups in the order of their first rows
    numbers: npt.NDArray[np.int64] = group.astype(np.int64)
    return numbers


def text_keys(texts: Iterable[str | None]) -> Keys:
    """Keys [N] of texts, equal if `normalised_text` makes the texts equal."""
    plain = (normalised_text(text) if text else "" for text in texts)
    return np.fromiter(
        (_hashed(text.encode("utf-8", "surrogatepass")) if text else NO_KEY for text in plain), np.uint64
    )


def string_keys(strings: Iterable[str | None]) -> Keys:
    """Keys [N] of strings; `NO_KEY` for an empty string or None."""
    return np.fromiter((_hashed(one.encode()) if one else NO_KEY for one in strings), np.uint64)


def account_of(owner: str | None, page_url: str | None) -> str | None:
    """Who posted a pair: the account in its page's address where that names one, else its owner.

    Flickr's `owner` is a name for display, which several accounts may share and one may change.

    >>> account_of("Anna", "https://www.flickr.com/photos/12@N00/345"), account_of("Anna", None)
    ('12@N00', 'Anna')
    """
    found = _ACCOUNT.match(page_url or "")
    return found[1] if found else owner


def look_keys(phash: Iterable[int | None]) -> Keys:
    """Keys [N] of perceptual hashes; `NO_KEY` for those that do not identify a picture."""
    keys = np.fromiter((bits or NO_KEY for bits in phash), np.uint64)
    return np.where(telling(keys), keys, np.uint64(NO_KEY))


def _hashed(data: bytes) -> int:
    """A hash of 64 bits; the chance of any collision among a billion values is 1 in 40."""
    # Not `hash`, which differs between processes. Never 0, which is NO_KEY.
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") or 1


def is_telling(phash: int | None) -> bool:
    """Whether a perceptual hash identifies a picture; that of a flat picture does not.

    >>> is_telling(0xF0F0F0F0F0F0F0F0), is_telling(1), is_telling(None)
    (True, False, False)
    """
    return phash is not None and phash.bit_count() >= _MIN_BITS


def telling(phash: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """`is_telling` of every hash [N]; 0 marks a row without one.

    >>> telling(np.array([0xF0F0F0F0F0F0F0F0, 1, 0], np.uint64)).tolist()
    [True, False, False]
    """
    return np.bitwise_count(phash) >= _MIN_BITS
