"""Metrics of a model's answers: each is one entry, a function of answers under row weights.

Point values, the bootstrap, `metrics.json`, tables, pages, a benchmark's files and the reference follow from
the entry. A metric of a class without weight is undefined: NaN in an array, None in a dictionary. So is every
macro average over such a class, because a mean over the other classes is another quantity.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mvsent.learn.answers import N_LABELS, Floats, Ints, Predicted, ratio
from mvsent.pairs import LABEL_NAMES

Scores = dict[str, float | None]
"""Metrics by key; None where undefined."""

PERCENT = "percent"
CLASS = "class"


class ByClass(NamedTuple):
    """A metric of each class against the rest."""

    each: Floats  # [R, C]; NaN for a class without weight
    micro: Floats  # [R]; over all pairs of a row and a class


@dataclass(frozen=True)
class Metric:
    """The name of a metric, and how a reader sees its numbers.

    Attributes:
        name: its key in `metrics.json`; of a metric by class, the start of its keys, such as NAME_macro.
        title: its name in tables.
        unit: `PERCENT` for a share from 0 to 1, which tables multiply by 100; otherwise a unit or a range,
            which tables put beside the title.
        lower_is_better: tables mark the title with ↓.
        rows: of a metric by class, its rows in the table of results: weighted, macro, micro, `CLASS`.
        headline: of a metric by class, the averages in the table of folds and in a benchmark's files.
        caution: a sentence that tables put below, without its full stop.
    """

    name: str
    title: str
    unit: str = PERCENT
    lower_is_better: bool = False
    rows: tuple[str, ...] = ()
    headline: tuple[str, ...] = ()
    caution: str = ""

    def keys(self, parts: Sequence[str], classes: Sequence[str] = ()) -> list[str]:
        """The keys of `parts`, some of `rows`; NAME alone if the metric is not by class."""
        if not self.rows:
            return [self.name]
        return [f"{self.name}_{of}" for part in parts for of in (classes if part == CLASS else [part])]

    def heading(self, key: str) -> str:
        """The title of one of the keys, with direction and unit.

        >>> Metric("brier_score", "Brier score", "0 to 2", lower_is_better=True).heading("brier_score")
        'Brier score ↓ (0 to 2)'
        >>> Metric("f1", "F1", rows=(CLASS,)).heading("f1_neutral")
        'F1, neutral'
        """
        of = key.removeprefix(self.name).replace("_", ", ", 1)
        unit = "" if self.unit == PERCENT else f" ({self.unit})"
        return f"{self.title}{of}{' ↓' if self.lower_is_better else ''}{unit}"


Score = Callable[[Predicted], Floats | ByClass]
METRICS: dict[Metric, Score] = {}
"""Every metric with its function, in the order of `metrics.json` and of the tables."""


def register(metric: Metric) -> Callable[[Score], Score]:
    """Decorate the function that computes `metric`: values [R] of `Predicted`, or a `ByClass`.

    The first line of its docstring describes the metric in the reference.
    """

    def add(score: Score) -> Score:
        METRICS[metric] = score
        return score

    return add


def headlines() -> dict[str, Metric]:
    """The keys that stand for all metrics where a table has one column for each."""
    return {key: metric for metric in METRICS for key in metric.keys(metric.headline)}


def values(answers: Predicted, only: Collection[str] = ()) -> dict[str, Floats]:
    """Every metric [R] by key: NAME, or NAME_weighted, NAME_macro, NAME_micro and NAME_CLASS.

    With `only`, the metrics of these names alone.
    """
    support = answers.counts[1]
    with np.errstate(invalid="ignore"):  # a resampling may leave a fold without rows
        share = support / support.sum(axis=1, keepdims=True)
    by_key: dict[str, Floats] = {}
    chosen = {metric.name: score for metric, score in METRICS.items() if not only or metric.name in only}
    for name, value in ((name, score(answers)) for name, score in chosen.items()):
        if not isinstance(value, ByClass):
            by_key[name] = value
            continue
        # Without the condition, the NaN of a class without rows would count, although its weight is 0.
        by_key[f"{name}_weighted"] = np.where(support > 0, share * value.each, 0.0).sum(axis=1)
        by_key[f"{name}_macro"] = value.each.mean(axis=1)
        by_key[f"{name}_micro"] = value.micro
        by_key |= {f"{name}_{LABEL_NAMES[c]}": value.each[:, i] for i, c in enumerate(answers.classes)}
    return by_key


def score(
    y_true: Ints, y_prob: Floats, classes: Sequence[int] = range(N_LABELS), weights: Floats | None = None
) -> Scores:
    """Every metric by key. Arguments as for `Predicted`, with one weight a row, 1 by default.

    >>> y_prob = np.array([[0.9, 0.0, 0.1], [0.2, 0.0, 0.8], [0.4, 0.0, 0.6], [0.3, 0.0, 0.7]])
    >>> scores = score(np.array([0, 2, 0, 2]), y_prob, classes=[0, 2])
    >>> scores["accuracy"], scores["recall_negative"], scores["roc_auc_positive"]
    (0.75, 0.5, 1.0)
    """
    weights = np.ones(len(y_true)) if weights is None else weights
    by_key = values(Predicted(y_true, y_prob, classes, weights[:, None]))
    return {key: None if np.isnan(value[0]) else float(value[0]) for key, value in by_key.items()}


@register(Metric("accuracy", "accuracy"))
def accuracy(answers: Predicted) -> Floats:
    """Share of the rows whose most probable class is the true one."""
    return answers.mean(answers.y_pred == answers.y_true)


@register(Metric("precision", "precision", rows=("weighted", "macro")))
def precision(answers: Predicted) -> ByClass:
    """Share of the rows predicted as a class that belong to it; 0 for a class that is never predicted."""
    hits, support, predicted = answers.counts
    return _shares(hits, predicted, support)


@register(Metric("recall", "recall", rows=("weighted", "macro")))
def recall(answers: Predicted) -> ByClass:
    """Share of the rows of a class that are predicted as it."""
    hits, support, _ = answers.counts
    return _shares(hits, support, support)


@register(Metric("f1", "F1", rows=("weighted", "macro", CLASS), headline=("weighted", "macro")))
def f1(answers: Predicted) -> ByClass:
    """Harmonic mean of precision and recall."""
    hits, support, predicted = answers.counts
    return _shares(2 * hits, support + predicted, support)


def _shares(part: Floats, whole: Floats, support: Floats) -> ByClass:
    """`part / whole` [R, C] for each class, and for all classes together; 0 where the whole is 0."""
    each = np.where(support > 0, ratio(part, whole, 0.0), math.nan)
    return ByClass(each, ratio(part.sum(axis=1), whole.sum(axis=1), 0.0))


@register(Metric("roc_auc", "ROC AUC", rows=(CLASS, "macro", "micro"), headline=("macro",)))
def roc_auc(answers: Predicted) -> ByClass:
    """Area under the ROC curve of a class against the rest; a tie of a hit and a miss counts half."""
    areas = []
    for hits, hits_to, items_above, items_to, total in answers.ranked:
        n_misses = total - hits.sum(axis=0)
        misses_above = (items_above + items_to + hits) / 2 - hits_to  # those of equal score by half
        areas.append(
            ratio((hits * (n_misses - misses_above)).sum(axis=0), hits.sum(axis=0) * n_misses, math.nan)
        )
    return ByClass(np.stack(areas[:-1], axis=1), areas[-1])


@register(
    Metric("average_precision", "average precision", rows=(CLASS, "macro", "micro"), headline=("macro",))
)
def average_precision(answers: Predicted) -> ByClass:
    """Mean over the rows of a class of the precision at their score; rows of equal score are one step."""
    means = [
        ratio((hits * ratio(hits_to, items_to, 0.0)).sum(axis=0), hits.sum(axis=0), math.nan)
        for hits, hits_to, _, items_to, _ in answers.ranked
    ]
    return ByClass(np.stack(means[:-1], axis=1), means[-1])


@register(Metric("matthews_corrcoef", "Matthews' correlation", "−1 to 1"))
def matthews_corrcoef(answers: Predicted) -> Floats:
    """Correlation of predicted and true classes; 0 if all rows are of one class or predicted as one.

    Reference: Gorodkin, Comparing two K-category assignments by a K-category correlation coefficient, 2004.
    """
    true, predicted = answers.confusion.sum(axis=2), answers.confusion.sum(axis=1)
    hits, total = answers.confusion.trace(axis1=1, axis2=2), true.sum(axis=1)
    variances = [total**2 - (count**2).sum(axis=1) for count in (true, predicted)]
    return ratio(total * hits - (true * predicted).sum(axis=1), np.sqrt(np.prod(variances, axis=0)), 0.0)


@register(Metric("cohen_kappa", "Cohen's kappa", "−1 to 1"))
def cohen_kappa(answers: Predicted) -> Floats:
    """Agreement of predicted and true classes beyond chance; undefined if both are one and the same class.

    Reference: Cohen, A coefficient of agreement for nominal scales, 1960.
    """
    hits, support, predicted = answers.counts
    total = support.sum(axis=1)
    by_chance = total**2 - (support * predicted).sum(axis=1)
    return 1 - ratio(total * (total - hits.sum(axis=1)), by_chance, math.nan)


@register(Metric("log_loss", "log loss", "nats", lower_is_better=True))
def log_loss(answers: Predicted) -> Floats:
    """Mean negative logarithm of the probability of the true class, at most 36 for a row."""
    probability = answers.y_prob[np.arange(len(answers.y_true)), answers.y_true]
    eps = np.finfo(np.float64).eps  # scikit-learn's bound; without it, one certain error would be infinite
    return answers.mean(-np.log(probability.clip(eps, 1 - eps)))


@register(Metric("brier_score", "Brier score", "0 to 2", lower_is_better=True))
def brier_score(answers: Predicted) -> Floats:
    """Mean squared error of the probabilities against 1 for the true class and 0 for others, summed.

    Reference: Brier, Verification of forecasts expressed in terms of probability, 1950.
    """
    return answers.mean(((answers.y_prob - np.eye(N_LABELS)[answers.y_true]) ** 2).sum(axis=1))


@register(
    Metric(
        "expected_calibration_error",
        "expected calibration error",
        lower_is_better=True,
        caution="The interval of the calibration error lies too high: repeated rows look worse calibrated",
    )
)
def expected_calibration_error(answers: Predicted) -> Floats:
    """Difference of accuracy and highest probability, in 15 bins of equal width of that probability.

    Reference: Guo et al., On Calibration of Modern Neural Networks, 2017, Eq. 3.
    """
    n_bins, confidence = 15, answers.y_prob.max(axis=1)
    # The bins are open on the left, as Guo et al. define them.
    bins = np.digitize(confidence, np.linspace(0, 1, n_bins + 1)[1:-1], right=True)
    gaps = (answers.y_pred == answers.y_true) - confidence
    sums = [gaps[bins == number] @ answers.weights[bins == number] for number in range(n_bins)]
    return ratio(np.abs(sums).sum(axis=0), answers.total, math.nan)  # Eq. 3
