"""How good predictions are: point values through scikit-learn, 95% intervals by a vectorised bootstrap.

Everywhere `y_true` is int [N], the label numbers; `y_prob` is float [N, 3], its columns in `Label`'s order, 0
for a class that the model does not know; `classes` lists the labels that count, sorted. A metric of a class
without a row in `y_true` is undefined: None in a point value, NaN in an array. So is every macro average over
such a class, because a mean over other classes is another quantity.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypedDict

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
    """A metric over folds: mean and sample standard deviation, and the 95% interval of the mean.

    None where undefined: the standard deviation of one fold, everything of a metric that no fold defines.
    """

    mean: float | None
    std: float | None
    low: float | None
    high: float | None


def point_metrics(y_true: Ints, y_prob: Floats, classes: Sequence[int]) -> Metrics:
    """Every metric, by name: accuracy, then NAME_AVERAGE and NAME_CLASS.

    NAME is precision, recall, f1, roc_auc or average_precision; the last two are one-vs-rest. The precision
    of a class that is never predicted is 0, as in scikit-learn.

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

    def scores(average: str | None) -> list[Floats]:
        every = precision_recall_fscore_support(
            y_true, y_prob.argmax(axis=1), labels=list(classes), average=average, zero_division=0
        )
        return [np.asarray(values) for values in every[:3]]

    by_average = {average: scores(average) for average in ("weighted", "macro", "micro")}
    if not all(np.isin(classes, y_true)):
        by_average["macro"] = [np.asarray(math.nan)] * 3
    by_class = scores(None)
    metrics: Metrics = {}
    for i, name in enumerate(("precision", "recall", "f1")):
        metrics |= {f"{name}_{average}": _or_none(values[i]) for average, values in by_average.items()}
        for label, value in zip(classes, by_class[i], strict=True):
            metrics[f"{name}_{LABEL_NAMES[label]}"] = float(value) if label in y_true else None
    return metrics


def _ranking_metrics(y_true: Ints, y_prob: Floats, classes: Sequence[int]) -> Metrics:
    from sklearn.metrics import average_precision_score, roc_auc_score

    hits, scores = one_vs_rest(y_true, y_prob, classes)  # [N, C] each
    support = hits.sum(axis=0).astype(float)
    metrics: Metrics = {}
    for name, score, others in (
        ("roc_auc", roc_auc_score, 1),  # needs an item that is no hit as well
        ("average_precision", average_precision_score, 0),
    ):
        each = np.array([_score(score, hits[:, i], scores[:, i], others) for i in range(len(classes))])
        metrics[f"{name}_weighted"] = _or_none(_support_weighted(each, support))
        metrics[f"{name}_macro"] = _or_none(each.mean())
        metrics[f"{name}_micro"] = _or_none(_score(score, hits.ravel(), scores.ravel(), others))
        metrics |= {f"{name}_{LABEL_NAMES[c]}": _or_none(each[i]) for i, c in enumerate(classes)}
    return metrics


def _score(score: Callable[[Bools, Floats], float], hits: Bools, scores: Floats, others: int) -> float:
    """What `score` gives, or NaN without a hit or with fewer than `others` items that are none."""
    return float(score(hits, scores)) if 0 < hits.sum() <= hits.size - others else math.nan


def one_vs_rest(y_true: Ints, y_prob: Floats, classes: Sequence[int]) -> tuple[Bools, Floats]:
    """Whether each row is of each class, and the probability it was given: [N, C] each."""
    return y_true[:, None] == np.asarray(classes)[None, :], y_prob[:, list(classes)]


def weighted_metrics(
    y_true: Ints, y_prob: Floats, weightings: Iterable[Floats], classes: Sequence[int]
) -> dict[str, Floats]:
    """`point_metrics` of R weightings of the same rows: arrays [R], NaN where undefined.

    The weights, ≥ 0, come in blocks [N, ≤ R], only one of which is held in memory. A column of whole numbers
    gives what `point_metrics` gives when each row is repeated so many times.
    """
    hits, scores = one_vs_rest(y_true, y_prob, classes)
    rows = np.arange(len(y_true))
    rankings = [_rank(hits[:, i], scores[:, i], rows) for i in range(len(classes))]
    rankings.append(_rank(hits.ravel(), scores.ravel(), np.repeat(rows, len(classes))))  # micro
    blocks = []
    for weights in weightings:
        support, metrics = _weighted_decisions(y_true, y_prob, weights, classes)
        ranks = [_weighted_ranking(ranking, weights) for ranking in rankings]
        for i, name in enumerate(("roc_auc", "average_precision")):
            *by_class, micro = (rank[i] for rank in ranks)
            metrics |= _averages(name, np.stack(by_class, axis=1), support, micro, classes)
        blocks.append(metrics)
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _averages(
    name: str, each: Floats, support: Floats, micro: Floats, classes: Sequence[int]
) -> dict[str, Floats]:
    """The metrics called NAME_AVERAGE and NAME_CLASS out of the values of each class [R, C]."""
    return {
        f"{name}_weighted": _support_weighted(each, support),
        f"{name}_macro": each.mean(axis=1),
        f"{name}_micro": micro,
        **{f"{name}_{LABEL_NAMES[c]}": each[:, i] for i, c in enumerate(classes)},
    }


def _weighted_decisions(
    y_true: Ints, y_prob: Floats, weights: Floats, classes: Sequence[int]
) -> tuple[Floats, dict[str, Floats]]:
    """The weight of each class [R, C], and everything that follows from the weighted confusion matrices."""
    n_labels = len(LABEL_NAMES)
    cell = y_true.astype(np.int64) * n_labels + y_prob.argmax(
        axis=1
    )  # [N], which cell of the matrix a row is in
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
        micro = _ratio(n_found.sum(axis=1), out_of.sum(axis=1), 0.0)
        metrics |= _averages(name, each, support, micro, classes)
    return support, metrics


class Ranking(NamedTuple):
    """K scored items from the best score to the worst, and the G distinct scores at which there is a hit."""

    rows: Ints  # [K], whose weight each item carries
    at: Ints  # the positions of the hits
    first: Ints  # [G], where in `at` each such score begins
    begin: Ints  # [G], the position at which the items of each such score begin
    end: Ints  # [G], and the one after their last


def _rank(hits: Bools, scores: Floats, rows: Ints) -> Ranking:
    """Sort once what every weighting needs.

    >>> _rank(np.array([True, False, True, False]), np.array([0.5, 0.5, 0.5, 0.9]), np.arange(4))
    Ranking(rows=array([3, 0, 1, 2]), at=array([1, 3]), first=array([0]), begin=array([1]), end=array([4]))
    """
    order = np.argsort(-scores, kind="stable")
    ranked, at = scores[order], np.flatnonzero(hits[order])
    begins = np.append(0, 1 + np.flatnonzero(ranked[1:] != ranked[:-1]))  # of each run of equal scores
    run, first = np.unique(np.searchsorted(begins, at, side="right") - 1, return_index=True)
    return Ranking(rows[order], at, first, begins[run], np.append(begins, len(ranked))[run + 1])


def _weighted_ranking(ranking: Ranking, weights: Floats) -> tuple[Floats, Floats]:
    """ROC AUC and average precision [R] for weights [N, R].

    Items of equal score enter together: ties count half in the AUC and as one step in the average precision.
    Both are sums over the scores at which there is a hit: after one cumulative sum only those are looked at.
    """
    if len(ranking.at) == 0:
        undefined = np.full(weights.shape[1], math.nan)
        return undefined, undefined
    item_weights = weights[ranking.rows]  # [K, R]
    above = np.zeros((len(item_weights) + 1, weights.shape[1]))
    np.cumsum(item_weights, axis=0, out=above[1:])
    new_hits = np.add.reduceat(item_weights[ranking.at], ranking.first, axis=0)  # [G, R]
    hits_above = np.cumsum(new_hits, axis=0)
    n_hits, total = hits_above[-1], above[-1]
    at_or_above = above[ranking.end]
    misses_above = (above[ranking.begin] + at_or_above + new_hits) / 2 - hits_above  # ties by half
    area = (new_hits * (total - n_hits - misses_above)).sum(axis=0)
    steps = (new_hits * _ratio(hits_above, at_or_above, 0.0)).sum(axis=0)
    return _ratio(area, n_hits * (total - n_hits), math.nan), _ratio(steps, n_hits, math.nan)


def bootstrap_intervals(
    folds: Sequence[Fold], classes: Sequence[int], n: int = 1000, seed: int = 0
) -> dict[str, tuple[float | None, float | None]]:
    """The 95% percentile interval of each metric's mean over folds, from `n` resamplings of each fold's rows.

    Folds are resampled independently of one another. In a resampling that leaves a fold without a class, that
    class's metric is the mean over the other folds. Memory does not grow with the number of rows times `n`.
    """
    resampled = [
        weighted_metrics(*fold, _resamplings(len(fold[0]), n, np.random.default_rng([seed, i])), classes)
        for i, fold in enumerate(folds)
    ]
    intervals: dict[str, tuple[float | None, float | None]] = {}
    for name in resampled[0]:
        means = _nan_mean(np.stack([values[name] for values in resampled]))
        means = means[~np.isnan(means)]
        low, high = np.percentile(means, [2.5, 97.5]) if len(means) else (math.nan, math.nan)
        intervals[name] = (_or_none(low), _or_none(high))
    return intervals


def _resamplings(n_rows: int, n: int, rng: np.random.Generator) -> Iterator[Floats]:
    """How often each row is drawn in each of `n` resamplings, [N, ≤ n] at a time: half a million numbers."""
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
    ratio: Floats = np.divide(part, whole, out=np.full(np.shape(whole), otherwise), where=whole != 0)
    return ratio


def _support_weighted(each: Floats, support: Floats) -> Floats:
    """The mean of `each` [..., C] weighted by `support` [..., C]; a class without support does not count."""
    share = support / support.sum(axis=-1, keepdims=True)
    mean: Floats = np.where(support > 0, share * each, 0.0).sum(axis=-1)
    return mean


def _nan_mean(values: Floats) -> Floats:
    """The mean over the first axis of what is defined; NaN where nothing is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # "mean of empty slice" is the answer NaN here
        return np.asarray(np.nanmean(values, axis=0))


def _or_none(value: float | np.floating | Floats) -> float | None:
    return None if np.isnan(value) else float(value)
