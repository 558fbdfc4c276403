"""How good predictions are: point values through scikit-learn, 95% intervals by a vectorised bootstrap.

Everywhere `y_true` is int [N], the label numbers; `y_prob` is float [N, 3], its columns in the order of `Label` and 0
for a class that the model does not know; `classes` lists the labels that count, sorted. A metric of a class without a row in
`y_true` is undefined: None in a point value, NaN in an array. So is every macro average over such a class, because
a mean over other classes is another quantity.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from mvsent.pairs import LABEL_NAMES

Ints = npt.NDArray[np.integer]
Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]
Fold = tuple[Ints, Floats]
"""The test rows of one fold: `(y_true, y_prob)`."""
Metrics = dict[str, float | None]


class Summary(TypedDict):
    """A metric over folds: mean and sample standard deviation of the folds' values, bounds of the 95% interval of the mean.

    None where it is not defined: the standard deviation of one fold, everything of a metric no fold defines.
    """

    mean: float | None
    std: float | None
    low: float | None
    high: float | None


def point_metrics(y_true: Ints, y_prob: Floats, classes: Sequence[int]) -> Metrics:
    """Every metric, by name: accuracy, then NAME_AVERAGE and NAME_CLASS.

    NAME is precision, recall, f1, roc_auc or average_precision; the last two are one-vs-rest. The precision of a class that
    is never predicted is 0, as in scikit-learn.

    >>> y_prob = np.array([[0.9, 0.0, 0.1], [0.2, 0.0, 0.8], [0.4, 0.0, 0.6], [0.3, 0.0, 0.7]])
    >>> metrics = point_metrics(np.array([0, 2, 0, 2]), y_prob, classes=[0, 2])
    >>> metrics["accuracy"], metrics["recall_negative"], metrics["roc_auc_positive"]
    (0.75, 0.5, 1.0)
    """
    from sklearn.metrics import accuracy_score

    metrics: Metrics = {"accuracy": float(accuracy_score(y_true, y_prob.argmax(axis=1)))}
    return metrics | _decision_metrics(y_true, y_prob, classes) | _ranking_metrics(y_true, y_prob, classes)


def _decision_metrics(y_true: Ints, y_prob: Floats, classes: Sequence[int]) -> Metrics:
    from sklearn.metrics import precision_recall_fscore_support

    def scores(average: str | None) -> tuple[npt.ArrayLike, ...]:
        every = precision_recall_fscore_support(
            y_true, y_prob.argmax(axis=1), labels=list(classes), average=average, zero_division=0
        )
        return tuple(every[:3])

    complete = all(np.isin(classes, y_true))
    by_average = {average: scores(average) for average in ("weighted", "macro", "micro")}
    by_class = scores(None)
    metrics: Metrics = {}
    for i, name in enumerate(("precision", "recall", "f1")):
        for average, values in by_average.items():
            metrics[f"{name}_{average}"] = float(values[i]) if complete or average != "macro" else None  # type: ignore[arg-type]
        for label, value in zip(classes, np.asarray(by_class[i]), strict=True):
            metrics[f"{name}_{LABEL_NAMES[label]}"] = float(value) if label in y_true else None
    return metrics


def _ranking_metrics(y_true: Ints, y_prob: Floats, classes: Sequence[int]) -> Metrics:
    from sklearn.metrics import average_precision_score, roc_auc_score

    hits, scores = one_vs_rest(y_true, y_prob, classes)  # [N, C] each
    support = hits.sum(axis=0)
    metrics: Metrics = {}
    for name, score in (("roc_auc", roc_auc_score), ("average_precision", average_precision_score)):
        most = hits.shape[0] - 1 if name == "roc_auc" else hits.shape[0]  # a ROC curve needs a row on either side
        each = [
            float(score(hits[:, i], scores[:, i])) if 0 < support[i] <= most else math.nan
            for i in range(len(classes))
        ]
        metrics[f"{name}_weighted"] = _or_none(_support_weighted(np.array(each), support))
        metrics[f"{name}_macro"] = _or_none(float(np.mean(each)))
        metrics[f"{name}_micro"] = float(score(hits.ravel(), scores.ravel()))
        metrics |= {
            f"{name}_{LABEL_NAMES[c]}": _or_none(value) for c, value in zip(classes, each, strict=True)
        }
    return metrics


def one_vs_rest(
    y_true: Ints, y_prob: Floats, classes: Sequence[int]
) -> tuple[Bools, Floats]:
    """Whether each row is of each class, and the probability it was given: [N, C] each."""
    return y_true[:, None] == np.asarray(classes)[None, :], y_prob[:, list(classes)]


def weighted_metrics(
    y_true: Ints, y_prob: Floats, weights: Floats, classes: Sequence[int]
) -> dict[str, Floats]:
    """`point_metrics` of R weightings of the same rows at once, `weights` [N, R] ≥ 0: arrays [R], NaN where undefined.

    A column of whole numbers gives what `point_metrics` gives when each row is repeated so many times.
    """
    support, metrics = _weighted_decisions(y_true, y_prob, weights, classes)
    hits, scores = one_vs_rest(y_true, y_prob, classes)
    rows = np.arange(len(y_true))
    ranks = [_weighted_ranking(hits[:, i], scores[:, i], weights, rows) for i in range(len(classes))]
    micro = _weighted_ranking(hits.ravel(), scores.ravel(), weights, np.repeat(rows, len(classes)))
    for i, name in enumerate(("roc_auc", "average_precision")):
        each = np.stack([rank[i] for rank in ranks], axis=1)  # [R, C]
        metrics[f"{name}_weighted"] = _support_weighted(each, support)
        metrics[f"{name}_macro"] = each.mean(axis=1)
        metrics[f"{name}_micro"] = micro[i]
        metrics |= {f"{name}_{LABEL_NAMES[c]}": each[:, j] for j, c in enumerate(classes)}
    return metrics


def _weighted_decisions(
    y_true: Ints, y_prob: Floats, weights: Floats, classes: Sequence[int]
) -> tuple[Floats, dict[str, Floats]]:
    """The weight of each class [R, C], and everything that follows from the weighted confusion matrices."""
    n_labels = len(LABEL_NAMES)
    cell = y_true.astype(np.int64) * n_labels + y_prob.argmax(axis=1)  # [N], which cell of the matrix a row is in
    confusion = weights.T @ np.eye(n_labels**2)[cell]  # [R, 9]
    confusion = confusion.reshape(-1, n_labels, n_labels)  # [R, true, predicted]
    found = np.diagonal(confusion, axis1=1, axis2=2)[:, list(classes)]  # [R, C]
    support = confusion.sum(axis=2)[:, list(classes)]
    predicted = confusion.sum(axis=1)[:, list(classes)]
    metrics: dict[str, Floats] = {"accuracy": _ratio(found.sum(axis=1), support.sum(axis=1), math.nan)}
    for name, n_found, out_of in (
        ("precision", found, predicted),
        ("recall", found, support),
        ("f1", 2 * found, support + predicted),
    ):
        each = np.where(support > 0, _ratio(n_found, out_of, 0.0), math.nan)
        metrics[f"{name}_weighted"] = _support_weighted(each, support)
        metrics[f"{name}_macro"] = each.mean(axis=1)
        metrics[f"{name}_micro"] = _ratio(n_found.sum(axis=1), out_of.sum(axis=1), 0.0)
        metrics |= {f"{name}_{LABEL_NAMES[c]}": each[:, i] for i, c in enumerate(classes)}
    return support, metrics


def _weighted_ranking(hits: Bools, scores: Floats, weights: Floats, rows: Ints) -> tuple[Floats, Floats]:
    """ROC AUC and average precision [R] of K scored items; item k weighs `weights[rows[k]]`.

    Items of equal score enter together, so that ties count half in the AUC and as one step in the average precision. Both are
    sums over the scores at which there is a hit, so only those are looked at after one cumulative sum.
    """
    order = np.argsort(-scores, kind="stable")
    item_weights = weights[rows[order]]  # [K, R], best score first
    above = np.zeros((len(order) + 1, weights.shape[1]))
    np.cumsum(item_weights, axis=0, out=above[1:])
    at = np.flatnonzero(hits[order])  # where the hits are
    if len(at) == 0:
        undefined = np.full(weights.shape[1], math.nan)
        return undefined, undefined
    begin, end, first = _ties(scores[order], at)
    new_hits = np.add.reduceat(item_weights[at], first, axis=0)  # [G, R], weight of the hits at each score
    hits_above = np.cumsum(new_hits, axis=0)
    n_hits, total = hits_above[-1], above[-1]
    misses = (above[begin] + above[end] + new_hits) / 2 - hits_above  # above the score, ties by half
    area = (new_hits * (total - n_hits - misses)).sum(axis=0)
    steps = (new_hits * _ratio(hits_above, above[end], 0.0)).sum(axis=0)
    return _ratio(area, n_hits * (total - n_hits), math.nan), _ratio(steps, n_hits, math.nan)


def _ties(ranked: Floats, at: Ints) -> tuple[Ints, Ints, Ints]:
    """For each distinct score among `ranked[at]`: where its run begins and ends in `ranked`, and begins in `at`.

    >>> _ties(np.array([0.9, 0.5, 0.5, 0.5, 0.1]), np.array([1, 3]))
    (array([1]), array([4]), array([0]))
    """
    begins = np.append(0, 1 + np.flatnonzero(ranked[1:] != ranked[:-1]))
    run, first = np.unique(np.searchsorted(begins, at, side="right") - 1, return_index=True)
    return begins[run], np.append(begins, len(ranked))[run + 1], first


def bootstrap_intervals(
    folds: Sequence[Fold], classes: Sequence[int], n: int = 1000, seed: int = 0
) -> dict[str, tuple[float | None, float | None]]:
    """The 95% percentile interval of each metric's mean over folds, from `n` resamplings of the rows of each fold.

    Folds are resampled independently of one another. In a resampling that leaves a fold without a class, that class's
    metric is the mean over the other folds. Memory does not grow with the number of rows times `n`.
    """
    resampled = [_bootstrap_fold(fold, classes, n, np.random.default_rng([seed, i])) for i, fold in enumerate(folds)]
    intervals: dict[str, tuple[float | None, float | None]] = {}
    for name in resampled[0]:
        means = _nan_mean(np.stack([values[name] for values in resampled]))
        means = means[~np.isnan(means)]
        low, high = np.percentile(means, [2.5, 97.5]) if len(means) else (math.nan, math.nan)
        intervals[name] = (_or_none(low), _or_none(high))
    return intervals


def _bootstrap_fold(
    fold: Fold, classes: Sequence[int], n: int, rng: np.random.Generator
) -> dict[str, Floats]:
    y_true, y_prob = fold
    parts = [
        weighted_metrics(y_true, y_prob, weights, classes) for weights in _resamplings(len(y_true), n, rng)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _resamplings(n_rows: int, n: int, rng: np.random.Generator) -> Iterator[Floats]:
    """How often each row is drawn in each of `n` resamplings, [N, ≤ n] at a time: about half a million numbers."""
    at_once = max(1, 2**19 // n_rows)
    for start in range(0, n, at_once):
        size = min(at_once, n - start)
        drawn = rng.integers(n_rows, size=(n_rows, size)) * size + np.arange(size)
        yield np.bincount(drawn.ravel(), minlength=n_rows * size).reshape(n_rows, size).astype(np.float64)


def summarise(
    folds: Sequence[Fold], classes: Sequence[int], *, n: int = 1000, seed: int = 0
) -> tuple[list[Metrics], dict[str, Summary]]:
    """The metrics of each fold, and their summary over the folds that define them."""
    per_fold = [point_metrics(y_true, y_prob, classes) for y_true, y_prob in folds]
    intervals = bootstrap_intervals(folds, classes, n, seed)
    return per_fold, {name: _summary([m[name] for m in per_fold], *intervals[name]) for name in per_fold[0]}


def _summary(values: Sequence[float | None], low: float | None, high: float | None) -> Summary:
    defined = [value for value in values if value is not None]
    return Summary(
        mean=float(np.mean(defined)) if defined else None,
        std=float(np.std(defined, ddof=1)) if len(defined) > 1 else None,
        low=low,
        high=high,
    )


def prior_prob(y_train: Ints, n_rows: int) -> Floats:
    """What the majority baseline predicts for every row: the class shares of `y_train`, [n_rows, 3].

    >>> prior_prob(np.array([2, 2, 0, 1]), 1)
    array([[0.25, 0.25, 0.5 ]])
    """
    shares = np.bincount(y_train, minlength=len(LABEL_NAMES)) / len(y_train)
    return np.tile(shares, (n_rows, 1))


def confusion_counts(y_true: Ints, y_prob: Floats) -> npt.NDArray[np.int64]:
    """How many rows of each label (first axis) were predicted as each label (second axis): [3, 3]."""
    from sklearn.metrics import confusion_matrix

    counts: npt.NDArray[np.int64] = confusion_matrix(
        y_true, y_prob.argmax(axis=1), labels=range(len(LABEL_NAMES))
    )
    return counts


def _ratio(part: Floats, whole: Floats, otherwise: float) -> Floats:
    """`part / whole`, and `otherwise` where `whole` is 0."""
    return np.divide(part, whole, out=np.full(np.shape(whole), otherwise), where=whole != 0)


def _support_weighted(each: Floats, support: npt.NDArray[np.generic]) -> Floats:
    """The mean of `each` [..., C] weighted by `support` [..., C]; a class without support does not count."""
    share = np.divide(support, support.sum(axis=-1, keepdims=True))
    return np.where(support > 0, share * each, 0.0).sum(axis=-1)


def _nan_mean(values: Floats) -> Floats:
    """The mean over the first axis of what is defined; NaN where nothing is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # "mean of empty slice" is the answer NaN here
        return np.asarray(np.nanmean(values, axis=0))


def _or_none(value: float | np.floating | Floats) -> float | None:
    return None if np.isnan(value) else float(value)
