"""Pairs of perceptual hashes that differ in few bits, without comparing all pairs.

The 64 bits are cut into `distance + k` bands. Two hashes that differ in at most `distance` bits agree in at
least k bands, as each differing bit affects one band (the pigeonhole principle). For every choice of k bands
the hashes are sorted by their bits in these bands, and only those that agree are compared. A larger k means
more sorting and fewer comparisons; the number of hashes decides which is cheaper.

Reference: Manku, Jain, Das Sarma 2007, "Detecting near-duplicates for web crawling", section 3.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial, reduce
from itertools import combinations, pairwise
from math import comb

import numpy as np
import numpy.typing as npt

from mvsent.config import MAX_DISTANCE

Hashes = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]

_BITS = 64
_CHUNK = 1 << 16  # hashes compared at a time, which fit in the processor's cache
_FEW = 1 << 21  # up to this many hashes take a second or two, and a second thread is not worth its memory
_SORT_NS, _COMPARE_NS = 150.0, 8.0  # of a hash in a table, of a comparison; only their ratio matters


def near_pairs(hashes: Hashes, distance: int, threads: int = 2) -> Ints:
    """Find the pairs of indices [P, 2] whose hashes differ in at most `distance` bits; each once, ascending.

    Uses about 30 bytes a hash and thread, besides the pairs. If many hashes are near each other, there are
    many more pairs than hashes.

    Args:
        hashes: uint64 [N], all different.
        distance: from 0 to MAX_DISTANCE bits.

    >>> near_pairs(np.array([0b1111, 0b1000, 0b0111], np.uint64), 2).tolist()
    [[0, 2]]
    """
    if not 0 <= distance <= MAX_DISTANCE:
        raise ValueError(f"distance {distance} is not between 0 and {MAX_DISTANCE}")
    if len(hashes) < 2 or distance == 0:
        return np.zeros((0, 2), dtype=np.int64)
    k = _agreeing(len(hashes), distance)
    tables = list(combinations(_bands(distance + k), k))
    masks = [np.uint64(sum(((1 << width) - 1) << first for first, width in table)) for table in tables]
    search = partial(_found_in, hashes, distance=distance)
    earlier = [masks[:i] for i in range(len(tables))]
    if threads == 1 or len(hashes) < _FEW:
        near = list(map(search, tables, earlier))
    else:
        with ThreadPoolExecutor(threads) as pool:
            near = list(pool.map(search, tables, earlier))
    pairs = np.sort(np.concatenate(near), axis=1)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def _bands(n_bands: int) -> list[tuple[int, int]]:
    """(first bit, number of bits) of each band.

    >>> _bands(3)
    [(0, 21), (21, 21), (42, 22)]
    """
    edges = [_BITS * band // n_bands for band in range(n_bands + 1)]
    return [(first, last - first) for first, last in pairwise(edges)]


def _agreeing(n_hashes: int, distance: int) -> int:
    """The number of bands k in which two hashes must agree to be compared, chosen for the lowest cost.

    >>> _agreeing(1000, 4), _agreeing(10**7, 4)
    (1, 2)
    """

    def cost(k: int) -> float:
        compared = n_hashes / 2 / 2.0 ** (_BITS * k // (distance + k))  # comparisons of a hash in a table
        return comb(distance + k, k) * (_SORT_NS + _COMPARE_NS * compared)

    # With k ≤ distance the bands of a table have at most half the bits, so an index fits beside them.
    return min(range(1, distance + 1), key=cost)


def _found_in(
    hashes: Hashes, table: Sequence[tuple[int, int]], earlier: Sequence[np.uint64], distance: int
) -> Ints:
    """The near pairs [P, 2] that agree in the bands of `table`, but not in those of an `earlier` table."""
    index_bits = np.uint64(len(hashes).bit_length())
    ranked = np.zeros(len(hashes), dtype=np.uint64)
    for first, width in table:
        band = hashes >> np.uint64(first)
        band &= np.uint64((1 << width) - 1)
        ranked <<= np.uint64(width)
        ranked |= band
        del band
    ranked <<= index_bits  # the index beside each key, so that sorting moves both
    ranked |= np.arange(len(hashes), dtype=np.uint64)
    ranked.sort()
    pairs, first = [np.zeros((0, 2), dtype=np.int64)], 0
    while first < len(ranked):
        next_bucket = (ranked[min(first + _CHUNK, len(ranked)) - 1] >> index_bits) + np.uint64(1)
        last = int(np.searchsorted(ranked, next_bucket << index_bits))
        place = (ranked[first:last] & ((np.uint64(1) << index_bits) - np.uint64(1))).astype(np.int64)
        bucket = ranked[first:last] >> index_bits
        pairs.append(_near_in_buckets(hashes[place], place, bucket, earlier, distance))
        first = last
    return np.concatenate(pairs)


def _near_in_buckets(
    hashes: Hashes, place: Ints, bucket: Hashes, earlier: Sequence[np.uint64], distance: int
) -> Ints:
    """Compare each hash with the following ones of its bucket; hashes are sorted by bucket."""
    pairs = [np.zeros((0, 2), dtype=np.int64)]
    left, step = np.flatnonzero(bucket[1:] == bucket[:-1]), 1
    while len(left):
        differing = hashes[left] ^ hashes[left + step]
        near = np.flatnonzero(np.bitwise_count(differing) <= distance)
        if len(near):
            differing = differing[near]
            new = reduce(np.logical_and, ((differing & mask) != 0 for mask in earlier), np.True_)
            near = near[np.broadcast_to(new, near.shape)]
            pairs.append(np.stack([place[left[near]], place[left[near] + step]], axis=1))
        step += 1
        left = left[: np.searchsorted(left, len(hashes) - step)]
        left = left[bucket[left] == bucket[left + step]]
    return np.concatenate(pairs)
