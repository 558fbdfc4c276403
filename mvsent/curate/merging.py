"""Decisions on merging datasets: each id and picture once, and contradicting labels settled by a rule."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from mvsent.curate.duplicates import telling
from mvsent.curate.near import near_pairs
from mvsent.pairs import Label
from mvsent.reasons import Reason

REASONS = (Reason.DUPLICATE_ID, Reason.DUPLICATE_IMAGE, Reason.DUPLICATE_LABEL_CONFLICT)
"""Reasons by their number in `Verdict.reason`."""
_ID, _IMAGE, _CONFLICT = range(3)
KEPT = -1
MAX_ROWS = 2**31 - 2  # rows are int32, and N + 1 is a mark

Ints = npt.NDArray[np.int64]
Rows = npt.NDArray[np.int32]
"""Row numbers, or numbers of keys; -1 for none."""
Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class Keys:
    """The properties by which N rows are compared; the rows of the first dataset come first.

    Attributes:
        starts: first row of each dataset, and N at the end.
        ids: [N], a number for each different id.
        pictures: [N], a number for each different picture, by its bytes; -1 if there is none.
        phash: [N], perceptual hashes; 0 if there is none.
        labels: [N]; -1 if there is none.
    """

    starts: list[int]
    ids: Rows
    pictures: Rows
    phash: Hashes
    labels: npt.NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class Verdict:
    """The decision on every row.

    Attributes:
        reason: [N], KEPT or the number of the reason in `REASONS`.
        twin: [N], the row that a dropped row repeats or contradicts; -1 for a kept row.
        n_conflicts: number of groups of duplicates with more than one label.
    """

    reason: npt.NDArray[np.int8]
    twin: Rows
    n_conflicts: int

    @property
    def kept(self) -> npt.NDArray[np.bool_]:
        kept: npt.NDArray[np.bool_] = self.reason == KEPT
        return kept


def merged(keys: Keys, conflict: str = "first", distance: int | None = None) -> Verdict:
    """Decide each row. A duplicate is a row with the id or picture of a row in an earlier dataset.

    Rows that repeat another row of their own dataset are kept, as its build decided about them. They count as
    one group only when labels contradict each other.

    Args:
        conflict: `first`: the row of the first dataset is kept. `drop`: none is kept. `majority`: a row with
            the most frequent label is kept; none in case of a tie.
        distance: maximum number of differing bits in the perceptual hashes of one picture; None: compare
            bytes only.
    """
    looks, near = _looks(keys.phash, distance)
    numbers = [keys.ids, keys.pictures, looks]
    reason, twin, n_conflicts = _settle(conflict, keys, *_duplicates(keys.starts, numbers, near))
    # A majority may have kept a row whose id another kept row has.
    kept = np.flatnonzero(reason == KEPT)
    first = np.full(len(keys.ids) + 1, -1, dtype=np.int32)
    first[keys.ids[kept[::-1]]] = kept[::-1]  # reversed, as the last of several assignments wins
    again = kept[first[keys.ids[kept]] != kept]
    reason[again], twin[again] = _ID, first[keys.ids[again]]
    return Verdict(reason, twin, n_conflicts)


def numbered(digests: Hashes) -> Rows:
    """Number the different rows of `digests` [N, 2]: [N]; -1 for a row of zeros.

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
    """Number the perceptual hashes: [N], -1 if not telling; and pairs of near numbers [P, 2]."""
    look = np.full(len(phash), -1, dtype=np.int32)
    if distance is None:
        return look, np.zeros((0, 2), dtype=np.int64)
    is_telling = telling(phash)  # the following is np.unique with its inverse, in half the memory
    ranked = phash[is_telling]
    ranked.sort()
    different = ranked[np.r_[True, ranked[1:] != ranked[:-1]][: len(ranked)]]
    del ranked
    look[is_telling] = np.searchsorted(different, phash[is_telling])
    pairs = near_pairs(different, distance)
    # In both directions: either of two near hashes may come first.
    return look, np.concatenate([pairs, pairs[:, ::-1]])


def _duplicates(
    starts: list[int], numbers: list[Rows], near: Ints
) -> tuple[npt.NDArray[np.int8], Rows, Rows]:
    """Find duplicates dataset by dataset, without regard to labels: (reason, twin, head), each [N].

    The twin of a dropped row is a kept row of an earlier dataset. The head of a kept row is the first row of
    its dataset with the same picture; the head of a dropped row is that of its twin.
    """
    n_rows = starts[-1]
    reason = np.full(n_rows, KEPT, dtype=np.int8)
    twin = np.full(n_rows, -1, dtype=np.int32)
    # The first kept row of each key. The last element is for rows without a key, and stays -1.
    holder = [np.full(n_rows + 1, -1, dtype=np.int32) for _ in numbers]
    for first, last in pairwise(starts):
        rows = slice(first, last)
        by_id, by_bytes, by_look = (held[number[rows]] for held, number in zip(holder, numbers, strict=True))
        if len(near):
            # Near to kept rows only: a chain of small steps would lead from one picture to any other.
            # For each hash the first row that holds one near to it; N + 1 if none does.
            nearest = np.full(n_rows + 1, n_rows + 1, dtype=np.int32)
            look, other = near[holder[2][near[:, 1]] >= 0].T
            np.minimum.at(nearest, look, holder[2][other])
            nearest[nearest == n_rows + 1] = -1
            by_look = np.where(by_look < 0, nearest[numbers[2][rows]], by_look)
        by_image = np.where(by_bytes < 0, by_look, by_bytes)
        twin[rows] = np.where(by_id < 0, by_image, by_id)
        reason[rows][by_image >= 0] = _IMAGE
        reason[rows][by_id >= 0] = _ID
        kept = first + np.flatnonzero(reason[rows] == KEPT)[::-1]  # reversed, as the last assignment wins
        for held, number in zip(holder, numbers, strict=True):
            held[number[kept]] = kept
            held[-1] = -1
    own = [held[number] for held, number in zip(holder[1:], numbers[1:], strict=True)]
    head = np.where(own[1] < 0, own[0], own[1])
    head = np.where(head < 0, np.arange(n_rows, dtype=np.int32), head)
    return reason, twin, np.where(reason == KEPT, head, head[twin])


def _settle(
    rule: str, keys: Keys, reason: npt.NDArray[np.int8], twin: Rows, head: Rows
) -> tuple[npt.NDArray[np.int8], Rows, int]:
    """Apply `rule` to the groups with several labels; return `reason`, `twin` and the number of groups."""
    is_shared = np.zeros(len(head), dtype=bool)
    is_shared[head[reason != KEPT]] = True
    rows = np.flatnonzero(is_shared[head] & (keys.labels >= 0))  # a row without a label contradicts none
    label = keys.labels[rows]
    _, group = np.unique(head[rows], return_inverse=True)
    n_groups = int(group.max(initial=-1)) + 1
    counts = np.zeros((n_groups, len(Label)), dtype=np.int64)
    np.add.at(counts, (group, label), 1)
    first = np.full((n_groups, len(Label)), len(head), dtype=np.int64)  # first row of each label; N: none
    np.minimum.at(first, (group, label), rows)
    in_conflict = (counts > 0).sum(axis=1) > 1
    if rule != "first":
        is_tie = (counts == counts.max(axis=1, initial=0)[:, None]).sum(axis=1) > 1
        lost = (in_conflict & (is_tie | (rule == "drop")))[group]
        others = first[group[lost]]  # the first row of another label is the twin
        others[np.arange(len(others)), label[lost]] = np.iinfo(np.int64).max  # not its own label
        reason[rows[lost]], twin[rows[lost]] = _CONFLICT, others.min(axis=1, initial=np.iinfo(np.int64).max)
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


def _dataset(keys: Keys, rows: Ints) -> Ints:
    return np.searchsorted(keys.starts, rows, side="right")
