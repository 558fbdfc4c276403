"""Metrics over folds: their means, standard deviations, and 95% intervals by resampling the tested pairs."""

import math
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mvsent.learn.answers import N_LABELS, Floats, Fold, Ints, Predicted
from mvsent.learn.metrics import Scores, score, values

RESAMPLES = 1000
"""Resamplings of a reported interval."""

Interval = tuple[float | None, float | None]


class Summary(TypedDict):
    """A metric over folds: mean and sample standard deviation, and the 95% interval of the mean.

    None where undefined: the standard deviation of one fold, everything of a metric that no fold defines.
    """

    mean: float | None
    std: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Answered:
    """The test rows of all folds, as one system answered them.

    Attributes:
        folds: `(y_true, y_prob)` of each fold.
        pairs: of each fold the number of the pair in each row, int [N]. Repeats of 80:10:10 test some pairs
            in several folds; such rows have one number, see `pair_numbers`.
    """

    folds: Sequence[Fold]
    pairs: Sequence[Ints]

    @property
    def n_pairs(self) -> int:
        """Number of distinct pairs."""
        return len(np.unique(np.concatenate(self.pairs))) if self.pairs else 0


def pair_numbers(ids: Sequence[Sequence[str]]) -> list[Ints]:
    """Number the distinct ids of all folds in the order of their first appearance.

    >>> [numbers.tolist() for numbers in pair_numbers([["a", "b"], ["c", "a"]])]
    [[0, 1], [2, 0]]
    """
    numbers: dict[str, int] = {}
    return [np.array([numbers.setdefault(id, len(numbers)) for id in fold], np.int64) for fold in ids]


def confusion_of_pairs(tested: Answered) -> Floats:
    """Number of pairs of each label (first axis) predicted as each label (second axis): [3, 3].

    A pair that several folds test counts once: a share of it for each of its answers. The sum of a row is
    therefore, up to rounding, the whole number of distinct pairs with that label.
    """
    appearances = np.bincount(np.concatenate(tested.pairs))
    counts: Floats = np.sum(
        [
            Predicted(*fold, range(N_LABELS), 1 / appearances[pairs][:, None]).confusion[0]
            for fold, pairs in zip(tested.folds, tested.pairs, strict=True)
        ],
        axis=0,
    )
    return counts.round(6)


def summarise(
    tested: Answered, classes: Sequence[int], *, n: int = RESAMPLES, seed: int = 0
) -> tuple[list[Scores], dict[str, Summary]]:
    """The metrics of each fold, and their summary over the folds that define them."""
    per_fold = [score(y_true, y_prob, classes) for y_true, y_prob in tested.folds]
    [resampled] = resampled_means([tested], classes, n, seed)
    summaries = {}
    for key, means in resampled.items():
        defined = [value for scores in per_fold if (value := scores[key]) is not None]
        mean = float(np.mean(defined)) if defined else None
        std = float(np.std(defined, ddof=1)) if len(defined) > 1 else None
        low, high = interval(means)
        summaries[key] = Summary(mean=mean, std=std, low=low, high=high)
    return per_fold, summaries


def interval(resampled: Floats) -> Interval:
    """The 95% percentile interval of resampled values [n], NaN left out; (None, None) if nothing is left."""
    defined = resampled[~np.isnan(resampled)]
    if not len(defined):
        return None, None
    low, high = np.percentile(defined, [2.5, 97.5]).tolist()
    return low, high


def resampled_means(
    systems: Sequence[Answered],
    classes: Sequence[int],
    n: int = RESAMPLES,
    seed: int = 0,
    only: Collection[str] = (),
) -> list[dict[str, Floats]]:
    """Each system's metrics, as means over its folds, in `n` resamplings of the pairs: key → [n].

    A pair is drawn with all its rows, in whichever folds and systems they are: rows that repeat a pair say
    little new, and drawn on their own would make an interval too narrow. Folds that share no pair are drawn
    independently. In a resampling that leaves a fold without a class, that class's metric is the mean over
    the other folds. Memory does not grow with the number of rows times `n`.

    Reference: Field & Welsh, Bootstrapping clustered data. J. R. Statist. Soc. B 69, 2007.

    Args:
        systems: their pairs are numbered alike.
        classes: the labels that count.
        n: number of resamplings.
        seed: of the drawing.
        only: names of the metrics to compute; empty: all.
    """
    folds = [fold for system in systems for fold in system.folds]
    pairs = [of_fold for system in systems for of_fold in system.pairs]
    of_fold: list[dict[str, Floats]] = [{} for _ in folds]
    for together in _sharing(pairs):
        distinct, number = np.unique(np.concatenate([pairs[i] for i in together]), return_inverse=True)
        rows = np.split(number, np.cumsum([len(pairs[i]) for i in together])[:-1])
        answers = [Predicted(*folds[i], classes, np.ones((len(pairs[i]), 1))) for i in together]
        drawn = resamplings(len(distinct), n, np.random.default_rng([seed, together[0]]))
        blocks = [
            [_values(one.reweighted(weights[of]), only) for one, of in zip(answers, rows, strict=True)]
            for weights in drawn
        ]
        for place, i in enumerate(together):
            parts = [block[place] for block in blocks]
            of_fold[i] = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    ends = np.cumsum([len(system.folds) for system in systems]).tolist()
    starts = [0, *ends[:-1]]
    return [_means(of_fold[start:end]) for start, end in zip(starts, ends, strict=True)]


def _values(answers: Predicted, only: Collection[str]) -> dict[str, Floats]:
    """The metrics [R]; NaN in a resampling that leaves the fold without rows."""
    return {key: np.where(answers.total > 0, value, math.nan) for key, value in values(answers, only).items()}


def _means(folds: Sequence[dict[str, Floats]]) -> dict[str, Floats]:
    """Key → the means [n] over the folds that define the metric."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # "mean of empty slice" where no fold counts
        return {key: np.nanmean([by_key[key] for by_key in folds], axis=0) for key in folds[0]}


def _sharing(pairs: Sequence[Ints]) -> list[list[int]]:
    """The folds by position, those together that share pairs, directly or through others.

    >>> _sharing([np.array([0, 1]), np.array([2]), np.array([1, 3])])
    [[0, 2], [1]]
    """
    place = np.repeat(np.arange(len(pairs)), [len(of_fold) for of_fold in pairs])
    pair = np.concatenate(pairs) + len(pairs)
    size = int(pair.max(initial=len(pairs))) + 1
    _, component = connected_components(coo_array((np.ones(len(pair)), (place, pair)), shape=(size, size)))
    together: dict[int, list[int]] = {}
    for i, number in enumerate(component[: len(pairs)].tolist()):
        together.setdefault(number, []).append(i)
    return list(together.values())


def resamplings(n_pairs: int, n: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Yield how often each pair is drawn in `n` resamplings: [N, ≤ n], half a million numbers at a time."""
    at_once = max(1, 2**19 // n_pairs)
    for start in range(0, n, at_once):
        size = min(at_once, n - start)
        # Row and column as one number, so that a single bincount serves all resamplings.
        drawn = rng.integers(n_pairs, size=(n_pairs, size)) * size + np.arange(size)
        yield np.bincount(drawn.ravel(), minlength=n_pairs * size).reshape(n_pairs, size).astype(np.float64)
