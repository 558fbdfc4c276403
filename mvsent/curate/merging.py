"""Which rows of several datasets make one: the same id or picture once, and what becomes of two labels."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from mvsent.curate.duplicates import telling
from mvsent.curate.near import near_pairs
from mvsent.pairs import Label, Reason

CONFLICT_RULES = ("first", "drop", "majority")
"""`first`: the row of the first dataset stays, whatever the others say. `drop`: none of them stays.
`majority`: a row with the label that most of them have stays, none where two labels have equally many."""

REASONS = (Reason.DUPLICATE_ID, Reason.DUPLICATE_IMAGE, Reason.DUPLICATE_LABEL_CONFLICT)
"""Why a row is dropped, by its number in `Verdict.reason`."""
_ID, _IMAGE, _CONFLICT = range(3)
KEPT = -1
MAX_ROWS = 2**31 - 2

Ints = npt.NDArray[np.int64]
Rows = npt.NDArray[np.int32]
"""Rows, or numbers of keys; -1 stands for none."""
Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class Keys:
    """By what rows are compared: N rows, those of the first dataset first."""

    starts: list[int]
    """Of each dataset its first row, and N at the end."""
    ids: Rows
    """[N]: a number for each different id."""
    pictures: Rows
    """[N]: a number for each different picture, by its bytes; -1 where there is none."""
    phash: Hashes
    """[N]; 0 where there is none."""
    labels: npt.NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class Verdict:
    """What becomes of every row."""

    reason: npt.NDArray[np.int8]
    """[N]: KEPT, or the number of its reason in `REASONS`."""
    twin: Rows
    """[N]: of a dropped row the row that it repeats or contradicts; -1 for a kept one."""
    n_conflicts: int
    """Groups of duplicates with more than one label."""

    @property
    def kept(self) -> npt.NDArray[np.bool_]:
        kept: npt.NDArray[np.bool_] = self.reason == KEPT
        return kept


def merged(keys: Keys, conflict: str = "first", distance: int | None = None) -> Verdict:
    """What becomes of the rows: a duplicate is a row with the id or picture of one in an earlier dataset.

    Rows that repeat another of their own dataset stay: its build decided about them. Only where their labels
    are in question do they count as one group.

    Args:
        conflict: one of `CONFLICT_RULES`.
        distance: how many bits the perceptual hashes of one picture differ in at most; None for bytes alone.
    """
    looks, near = _looks(keys.phash, distance)
    numbers = [keys.ids, keys.pictures, looks]
    reason, twin, n_conflicts = _settle(conflict, keys, *_duplicates(keys.starts, numbers, near))
    _drop_repeated_ids(keys.ids, reason, twin)
    return Verdict(reason, twin, n_conflicts)


def numbered(digests: Hashes) -> Rows:
    """[N]: a number for each different row of `digests` [N, 2]; -1 for one of zeros.

    >>> numbered(np.array([[7, 1], [0, 0], [7, 2], [7, 1]], np.uint64)).tolist()
    [1, -1, 2, 1]
    """
    order = np.lexsort(digests.T)
    is_new = np.zeros(len(digests), dtype=bool)
    for column in digests.T:
        ranked = column[order]
        is_new[1:] |= ranked[1:] != ranked[:-1]
    number = np.empty(len(digests), dtype=np.int32)
    number[order] = np.cumsum(is_new, dtype=np.int32)
    number[~digests.any(axis=1)] = -1
    return number


def _looks(phash: Hashes, distance: int | None) -> tuple[Rows, Ints]:
    """(the number of each row's hash, -1 where it tells nothing; the numbers that are near one another)."""
    look = np.full(len(phash), -1, dtype=np.int32)
    if distance is None:
        return look, np.zeros((0, 2), dtype=np.int64)
    is_telling = telling(phash)  # what follows is np.unique with its inverse, in half the memory
    ranked = phash[is_telling]
    ranked.sort()
    different = ranked[np.r_[True, ranked[1:] != ranked[:-1]][: len(ranked)]]
    del ranked
    look[is_telling] = np.searchsorted(different, phash[is_telling])
    pairs = near_pairs(different, distance)
    return look, np.concatenate([pairs, pairs[:, ::-1]])


def _duplicates(
    starts: list[int], numbers: list[Rows], near: Ints
) -> tuple[npt.NDArray[np.int8], Rows, Rows]:
    """(reason, twin, head) [N] before labels are looked at, dataset by dataset.

    A dropped row's twin is a kept one of an earlier dataset. The head of a kept row is the first of its own
    dataset with its picture, that of a dropped one is its twin's.
    """
    n_rows = starts[-1]
    reason = np.full(n_rows, KEPT, dtype=np.int8)
    twin = np.full(n_rows, -1, dtype=np.int32)
    # The first kept row of each key; the last place is that of rows without one, and stays -1.
    holder = [np.full(n_rows + 1, -1, dtype=np.int32) for _ in numbers]
    for first, last in pairwise(starts):
        rows = slice(first, last)
        by_id, by_bytes, by_look = (held[number[rows]] for held, number in zip(holder, numbers, strict=True))
        if len(near):
            by_look = np.where(by_look < 0, _nearest(holder[2], near)[numbers[2][rows]], by_look)
        by_image = np.where(by_bytes < 0, by_look, by_bytes)
        twin[rows] = np.where(by_id < 0, by_image, by_id)
        reason[rows][by_image >= 0] = _IMAGE
        reason[rows][by_id >= 0] = _ID
        kept = (
            first + np.flatnonzero(reason[rows] == KEPT)[::-1]
        )  # of several values for one place the last one stays
        for held, number in zip(holder, numbers, strict=True):
            held[number[kept]] = kept
            held[-1] = -1
    own = [held[number] for held, number in zip(holder[1:], numbers[1:], strict=True)]
    head = np.where(own[1] < 0, own[0], own[1])
    head = np.where(head < 0, np.arange(n_rows, dtype=np.int32), head)
    return reason, twin, np.where(reason == KEPT, head, head[twin])


def _nearest(holder: Rows, near: Ints) -> Rows:
    """For each look the first row that holds one near to it, -1 where none does."""
    found = np.full(len(holder), len(holder), dtype=np.int32)
    look, other = near[holder[near[:, 1]] >= 0].T
    np.minimum.at(found, look, holder[other])
    found[found == len(holder)] = -1
    return found


def _settle(
    rule: str, keys: Keys, reason: npt.NDArray[np.int8], twin: Rows, head: Rows
) -> tuple[npt.NDArray[np.int8], Rows, int]:
    """`reason` and `twin` are what `rule` says of groups with several labels; returns them and how many."""
    is_shared = np.zeros(len(head), dtype=bool)
    is_shared[head[reason != KEPT]] = True
    rows = np.flatnonzero(is_shared[head])
    label = keys.labels[rows]
    _, group = np.unique(head[rows], return_inverse=True)
    n_groups = int(group.max(initial=-1)) + 1
    counts = np.zeros((n_groups, len(Label)), dtype=np.int64)
    np.add.at(counts, (group, label), 1)
    first = np.full((n_groups, len(Label)), len(head), dtype=np.int64)  # row of each label; none: N
    np.minimum.at(first, (group, label), rows)
    in_conflict = (counts > 0).sum(axis=1) > 1
    if rule != "first":
        is_tie = (counts == counts.max(axis=1, initial=0)[:, None]).sum(axis=1) > 1
        lost = (in_conflict & (is_tie | (rule == "drop")))[group]
        reason[rows[lost]], twin[rows[lost]] = _CONFLICT, _first_of_another(first[group[lost]], label[lost])
        won = in_conflict[group] & ~lost
        rows, group, label = rows[won], group[won], label[won]
        majority = counts.argmax(axis=1)[group]
        winner = first[group, majority]
        agrees = label == majority
        stays = agrees & (_dataset(keys, rows) == _dataset(keys, winner))
        reason[rows[~agrees]] = _CONFLICT
        reason[rows[stays]] = KEPT
        twin[rows] = np.where(stays, -1, winner)
    return reason, twin, int(in_conflict.sum())


def _first_of_another(first: Ints, label: npt.NDArray[np.int8]) -> Ints:
    """[n]: the first row of another label than `label` [n], where `first` [n, 3] are the first of each."""
    others = first.copy()
    others[np.arange(len(label)), label] = np.iinfo(np.int64).max
    first_row: Ints = others.min(axis=1)
    return first_row


def _dataset(keys: Keys, rows: Ints) -> Ints:
    return np.searchsorted(keys.starts, rows, side="right")


def _drop_repeated_ids(ids: Rows, reason: npt.NDArray[np.int8], twin: Rows) -> None:
    """No two kept rows have one id, though a majority may have kept a row whose id another row has."""
    kept = np.flatnonzero(reason == KEPT)
    first = np.full(len(ids) + 1, -1, dtype=np.int32)
    first[ids[kept[::-1]]] = kept[::-1]  # of several values for one place the last one stays
    again = kept[first[ids[kept]] != kept]
    reason[again], twin[again] = _ID, first[ids[again]]
