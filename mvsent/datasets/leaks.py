"""The leak of a split: test rows that repeat, exactly or nearly, a training row of their fold."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from mvsent.curate.duplicates import Keys, account_of, groups_of, look_keys, string_keys, telling, text_keys
from mvsent.curate.near import near_pairs
from mvsent.curate.near_texts import MAX_TEXTS, TooManyPairs, near_text_pairs
from mvsent.curate.text import normalised_text
from mvsent.errors import SplitError
from mvsent.shards.reader import Dataset
from mvsent.splits import TEST, TRAIN, Split

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

MAX_DIFFERING_BITS = 4
"""Perceptual hashes that differ in as many bits, of 64, show near copies; the default of `merge`, too."""
_BATCH_ROWS = 8192  # without pictures


@dataclass(frozen=True)
class Leak:
    """The leak of a split: test rows with a duplicate among the training rows of their fold.

    Attributes:
        n_groups: groups of at least two rows with the same text or picture.
        n_rows: rows in those groups.
        n_test: test rows, over all folds.
        n_leaked: test rows with a duplicate in training.
    """

    n_groups: int
    n_rows: int
    n_test: int
    n_leaked: int


@dataclass(frozen=True)
class NearLeak:
    """Test rows with a near copy, but no duplicate, among the training rows of their fold.

    Attributes:
        n_compared: test rows, over all folds.
        n_texts: those with a training text whose character TF-IDF has a cosine above 0.8.
        n_pictures: those with a training picture whose perceptual hash differs in at most 4 bits.
        n_leaked: those with either.
    """

    n_compared: int
    n_texts: int
    n_pictures: int
    n_leaked: int


@dataclass(frozen=True)
class Left:
    """The leak that a grouped protocol leaves.

    Attributes:
        n_groups: groups of at least two rows that it keeps on one side.
        n_rows, n_largest: rows in those groups, and in the largest of all.
        n_test: test rows, over all folds.
        n_leaked: test rows with a duplicate in training.
        n_owners: test rows with a training row of their owner.
        near: test rows with a near copy in training; None if there were too many rows to find them.
    """

    n_groups: int
    n_rows: int
    n_largest: int
    n_test: int
    n_leaked: int
    n_owners: int
    near: NearLeak | None

    @classmethod
    def of_json(cls, text: str) -> "Left":
        """Read what `json.dumps(asdict(left))` wrote."""
        given = json.loads(text)
        return cls(**given | {"near": given["near"] and NearLeak(**given["near"])})


@dataclass(frozen=True)
class Alike:
    """Rows that are almost equal in one respect.

    Attributes:
        value: int [N], the number of each row's value, from 0 without gaps; -1 for a row without one.
        pairs: int [P, 2], values that are near each other; each pair once.
    """

    value: Ints
    pairs: Ints

    @cached_property
    def n_values(self) -> int:
        return int(self.value.max(initial=-1)) + 1

    @property
    def rows(self) -> Ints:
        """For each pair of values the first rows that have them: [P, 2]."""
        value, first = np.unique(self.value, return_index=True)
        return first[value >= 0][self.pairs]

    def in_training(self, train: Flags) -> Flags:
        """Whether a training row has a value near that of the row: [N]."""
        trained = np.zeros(self.n_values + 1, dtype=bool)
        trained[self.value[train]] = True
        trained[-1] = False  # where -1 writes: rows without a value
        near = np.zeros(self.n_values + 1, dtype=bool)
        for first, second in (self.pairs.T, self.pairs.T[::-1]):
            near[first[trained[second]]] = True
        return near[self.value]


@dataclass(frozen=True)
class NearCopies:
    """Rows with near copies of each other's text or picture."""

    texts: Alike
    pictures: Alike

    @property
    def rows(self) -> list[Ints]:
        """Pairs of rows [P, 2] that connect all near copies, beside equal rows."""
        return [self.texts.rows, self.pictures.rows]


def count_leak(split: Split, groups: Ints) -> Leak:
    """Count the leak of `split`; `groups` [N] are the groups of duplicates."""
    _, group = np.unique(groups, return_inverse=True)
    size = np.bincount(group)
    n_leaked = 0
    for roles in split.roles:
        n_training = np.bincount(group[roles == TRAIN], minlength=len(size))
        n_leaked += int((n_training[group[roles == TEST]] > 0).sum())
    n_test = int((split.roles == TEST).sum())
    return Leak(int((size > 1).sum()), int(size[size > 1].sum()), n_test, n_leaked)


def count_near_leak(split: Split, groups: Ints, near: NearCopies) -> NearLeak:
    """Count the test rows of `split` that only a near copy leaks; `groups` [N] are those of duplicates."""
    _, group = np.unique(groups, return_inverse=True)
    counts = np.zeros(4, dtype=np.int64)
    for roles in split.roles:
        train, tested = roles == TRAIN, roles == TEST
        repeated = np.bincount(group[train], minlength=int(group.max(initial=-1)) + 1)[group] > 0
        of_text, of_picture = (
            alike.in_training(train) & tested & ~repeated for alike in (near.texts, near.pictures)
        )
        counts += [tested.sum(), of_text.sum(), of_picture.sum(), (of_text | of_picture).sum()]
    return NearLeak(*map(int, counts))


def left_by(dataset: Dataset, split: Split, groups: Ints, near: NearCopies | None) -> Left:
    """Measure the leak that `split`, by a grouped protocol with these `groups` [N], leaves."""
    duplicates = dataset_groups(dataset)
    kept = count_leak(split, groups)
    return Left(
        kept.n_groups,
        kept.n_rows,
        int(np.bincount(groups).max(initial=0)),
        kept.n_test,
        count_leak(split, duplicates).n_leaked,
        count_leak(split, owner_groups(dataset)).n_leaked,
        count_near_leak(split, duplicates, near) if near else None,
    )


def find_near_copies(dataset: Dataset) -> NearCopies:
    """Find the near copies of all rows.

    Raises: SplitError if there are more than MAX_TEXTS rows, or too many texts that resemble each other.
    """
    exact = "Use a protocol that joins exact copies only, such as grouped-paper-5x"
    if len(dataset) > MAX_TEXTS:
        raise SplitError(
            f"{dataset.folder}: has {len(dataset)} rows; near copies are found among at most {MAX_TEXTS}",
            exact,
        )
    texts = [normalised_text(text) if text else "" for text in cells(dataset, "text")]
    distinct, value = np.unique(np.array(texts, dtype=object), return_inverse=True)
    del texts
    try:
        pairs = near_text_pairs(distinct.tolist())
    except TooManyPairs:
        raise SplitError(
            f"{dataset.folder}: too many texts resemble each other to compare all that do", exact
        ) from None
    return NearCopies(Alike(value, pairs), alike_pictures(dataset))


def alike_pictures(dataset: Dataset) -> Alike:
    """The pictures of the dataset whose perceptual hashes are near each other."""
    bits = np.fromiter((each or 0 for each in cells(dataset, "phash")), np.uint64, len(dataset))
    known = telling(bits)
    value = np.full(len(dataset), -1, dtype=np.int64)
    distinct, value[known] = np.unique(bits[known], return_inverse=True)
    return Alike(value, near_pairs(distinct, MAX_DIFFERING_BITS))


def dataset_groups(dataset: Dataset, *, owners: bool = False, near: NearCopies | None = None) -> Ints:
    """Group numbers [N] of duplicates, see `groups_of`.

    Args:
        owners: whether rows of one owner are a group, too.
        near: near copies that are a group, too.
    """
    kinds: list[tuple[str, Callable[[Iterator[Any]], Keys]]] = [
        ("text", text_keys),
        ("sha256", string_keys),
        ("phash", look_keys),
    ]
    keys = (of(cells(dataset, column)) for column, of in kinds)
    every = [*keys, _account_keys(dataset)] if owners else keys
    return groups_of(every, len(dataset), near.rows if near else ())


def owner_groups(dataset: Dataset) -> Ints:
    """Group numbers [N] of rows of one owner; a row without an owner is a group of its own."""
    return groups_of([_account_keys(dataset)], len(dataset))


def _account_keys(dataset: Dataset) -> Keys:
    return string_keys(map(account_of, cells(dataset, "owner"), cells(dataset, "page_url")))


def cells(dataset: Dataset, column: str) -> Iterator[Any]:
    """The values of a column, in order."""
    for batch in dataset.batches([column], _BATCH_ROWS):
        yield from batch[column].to_pylist()
