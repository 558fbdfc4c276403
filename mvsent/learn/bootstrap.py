"""Metrics over folds: their means, standard deviations, and 95% intervals by resampling the test rows."""

import warnings
from collections.abc import Iterator, Sequence
from typing import TypedDict

import numpy as np

from mvsent.learn.answers import Floats, Fold, Predicted
from mvsent.learn.metrics import Scores, score, values

Interval = tuple[float | None, float | None]


class Summary(TypedDict):
    """A metric over folds: mean and sample standard deviation, and the 95% interval of the mean.

    None where undefined: the standard deviation of one fold, everything of a metric that no fold defines.
    """

    mean: float | None
    std: float | None
    low: float | None
    high: float | None


def summarise(
    folds: Sequence[Fold], classes: Sequence[int], *, n: int = 1000, seed: int = 0
) -> tuple[list[Scores], dict[str, Summary]]:
    """The metrics of each fold, and their summary over the folds that define them."""
    per_fold = [score(y_true, y_prob, classes) for y_true, y_prob in folds]
    summaries = {}
    for key, (low, high) in bootstrap_intervals(folds, classes, n, seed).items():
        defined = [value for scores in per_fold if (value := scores[key]) is not None]
        mean = float(np.mean(defined)) if defined else None
        std = float(np.std(defined, ddof=1)) if len(defined) > 1 else None
        summaries[key] = Summary(mean=mean, std=std, low=low, high=high)
    return per_fold, summaries


def bootstrap_intervals(
    folds: Sequence[Fold], classes: Sequence[int], n: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """The 95% percentile interval of each metric's mean over folds, from `n` resamplings of each fold's rows.

    Folds are resampled independently of one another. In a resampling that leaves a fold without a class, that
    class's metric is the mean over the other folds. Memory does not grow with the number of rows times `n`.
    """
    resampled = []
    for i, (y_true, y_prob) in enumerate(folds):
        answers = Predicted(y_true, y_prob, classes, np.ones((len(y_true), 1)))
        drawn = resamplings(len(y_true), n, np.random.default_rng([seed, i]))
        blocks = [values(answers.reweighted(weights)) for weights in drawn]
        resampled.append({key: np.concatenate([block[key] for block in blocks]) for key in blocks[0]})
    intervals: dict[str, Interval] = {}
    for key in resampled[0]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # "mean of empty slice" where no fold counts
            means = np.nanmean([by_key[key] for by_key in resampled], axis=0)
        means = means[~np.isnan(means)]
        low, high = np.percentile(means, [2.5, 97.5]).tolist() if len(means) else (None, None)
        intervals[key] = (low, high)
    return intervals


def resamplings(n_rows: int, n: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Yield how often each row is drawn in `n` resamplings: [N, ≤ n], half a million numbers at a time."""
    at_once = max(1, 2**19 // n_rows)
    for start in range(0, n, at_once):
        size = min(at_once, n - start)
        # Row and column as one number, so that a single bincount serves all resamplings.
        drawn = rng.integers(n_rows, size=(n_rows, size)) * size + np.arange(size)
        yield np.bincount(drawn.ravel(), minlength=n_rows * size).reshape(n_rows, size).astype(np.float64)
