"""The leak of a split: test rows that repeat, exactly or nearly, a training row of their fold."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mvsent.curate.duplicates import Keys, account_of, groups_of, look_keys, string_keys, telling, text_keys
from mvsent.curate.near import near_pairs
from mvsent.curate.near_texts import near_text_pairs
from mvsent.curate.text import normalised_text
from mvsent.shards.reader import Dataset
from mvsent.splits import TEST, TRAIN, Split

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

MAX_DIFFERING_BITS = 4
"""Perceptual hashes that differ in as many bits, of 64, show near copies; the default of `merge`, too."""
MAX_COMPARISONS = 5 * 10**8
"""Comparisons of texts, which take a minute or two; of more test rows a sample is compared."""
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
        n_compared: test rows that were compared, over all folds: all, or those of a sample.
        n_texts: those with a training text whose character TF-IDF has a cosine above 0.8.
        n_pictures: those with a training picture whose perceptual hash differs in at most 4 bits.
        n_leaked: those with either.
    """

    n_compared: int
    n_texts: int
    n_pictures: int
    n_leaked: int


@dataclass(frozen=True)
class Alike:
    """Rows that are almost equal in one respect.

    Attributes:
        value: int [N], the number of each row's value; -1 for a row without one.
        pairs: int [P, 2], values that are near each other, in both orders.
    """

    value: Ints
    pairs: Ints

    def in_training(self, train: Flags) -> Flags:
        """Whether a training row has a value near that of the row: [N]."""
        n_values = int(self.value.max(initial=-1)) + 1
        trained = np.zeros(n_values + 1, dtype=bool)
        trained[self.value[train]] = True
        trained[-1] = False  # where -1 writes: rows without a value
        near = np.zeros(n_values + 1, dtype=bool)
        first, second = self.pairs.T
        near[first[trained[second]]] = True
        return near[self.value]


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


def count_near_leak(split: Split, groups: Ints, texts: Alike, pictures: Alike, compared: Flags) -> NearLeak:
    """Count the `compared` test rows of `split` that only a near copy leaks."""
    _, group = np.unique(groups, return_inverse=True)
    counts = np.zeros(4, dtype=np.int64)
    for roles in split.roles:
        train, tested = roles == TRAIN, (roles == TEST) & compared
        repeated = np.bincount(group[train], minlength=int(group.max(initial=-1)) + 1)[group] > 0
        of_text, of_picture = (alike.in_training(train) & tested & ~repeated for alike in (texts, pictures))
        counts += [tested.sum(), of_text.sum(), of_picture.sum(), (of_text | of_picture).sum()]
    return NearLeak(*map(int, counts))


def near_leak(dataset: Dataset, split: Split, groups: Ints) -> NearLeak:
    """Count the near copies that `split` leaks, of all test rows or, in a large dataset, of a sample."""
    texts = [normalised_text(text) if text else "" for text in cells(dataset, "text")]
    distinct, value = np.unique(np.array(texts, dtype=object), return_inverse=True)
    tested = np.flatnonzero((split.roles == TEST).any(axis=0))
    n_compared = min(len(tested), max(1, MAX_COMPARISONS // max(1, len(distinct))))
    sample = np.sort(np.random.default_rng(0).permutation(tested)[:n_compared])
    compared = np.zeros(len(dataset), dtype=bool)
    compared[sample] = True
    alike = Alike(value, near_text_pairs(distinct.tolist(), np.unique(value[sample])))
    return count_near_leak(split, groups, alike, alike_pictures(dataset), compared)


def alike_pictures(dataset: Dataset) -> Alike:
    """The pictures of the dataset whose perceptual hashes are near each other."""
    bits = np.fromiter((each or 0 for each in cells(dataset, "phash")), np.uint64, len(dataset))
    known = telling(bits)
    value = np.full(len(dataset), -1, dtype=np.int64)
    distinct, value[known] = np.unique(bits[known], return_inverse=True)
    pairs = near_pairs(distinct, MAX_DIFFERING_BITS)
    return Alike(value, np.concatenate([pairs, pairs[:, ::-1]]))


def dataset_groups(dataset: Dataset, *, owners: bool = False) -> Ints:
    """Group numbers [N] of duplicates, see `groups_of`; with `owners`, rows of one owner are a group, too."""
    kinds: list[tuple[str, Callable[[Iterator[Any]], Keys]]] = [
        ("text", text_keys),
        ("sha256", string_keys),
        ("phash", look_keys),
    ]
    keys = (of(cells(dataset, column)) for column, of in kinds)
    return groups_of([*keys, _account_keys(dataset)] if owners else keys, len(dataset))


def owner_groups(dataset: Dataset) -> Ints:
    """Group numbers [N] of rows of one owner; a row without an owner is a group of its own."""
    return groups_of([_account_keys(dataset)], len(dataset))


def _account_keys(dataset: Dataset) -> Keys:
    return string_keys(map(account_of, cells(dataset, "owner"), cells(dataset, "page_url")))


def cells(dataset: Dataset, column: str) -> Iterator[Any]:
    """The values of a column, in order."""
    for batch in dataset.batches([column], _BATCH_ROWS):
        yield from batch[column].to_pylist()
