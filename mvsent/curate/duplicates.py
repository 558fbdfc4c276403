"""Which rows are the same tweet again: the groups that a leak-free split keeps on one side."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mvsent.curate.text import normalised_text

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
    n_rows = len(texts)
    keys: tuple[Sequence[Any], ...] = (
        [normalised_text(text) or None if text else None for text in texts],
        sha256,
        [bits if is_telling(bits) else None for bits in phash],
    )
    rows, nodes = [], []
    n_nodes = n_rows  # of a graph in which each row is joined to the nodes of its keys
    for values, kind in zip(keys, (pa.string(), pa.string(), pa.uint64()), strict=True):
        row, key, n_keys = _row_to_key(values, kind)
        rows.append(row)
        nodes.append(key + n_nodes)
        n_nodes += n_keys
    row, node = np.concatenate(rows), np.concatenate(nodes)
    graph = coo_array((np.ones(len(row), dtype=np.int8), (row, node)), shape=(n_nodes, n_nodes))
    component = connected_components(graph, directed=False)[1][:n_rows]
    return _numbered_by_first_row(component)


def is_telling(phash: int | None) -> bool:
    """Whether a perceptual hash tells its picture from others: a flat picture's does not.

    >>> is_telling(0xF0F0F0F0F0F0F0F0), is_telling(1), is_telling(None)
    (True, False, False)
    """
    return phash is not None and phash.bit_count() >= _MIN_BITS


def _row_to_key(values: Sequence[Any], kind: pa.DataType) -> tuple[Any, Any, int]:
    """(rows that have a key, the key's number of each, how many keys there are)."""
    encoded = pa.array(values, type=kind).dictionary_encode()
    numbers = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    rows = np.flatnonzero(numbers >= 0)
    return rows, numbers[rows], len(encoded.dictionary)


def _numbered_by_first_row(component: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    _, first, inverse = np.unique(component, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int64)
