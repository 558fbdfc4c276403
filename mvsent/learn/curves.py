"""ROC and precision-recall curves of several folds on one grid, so that they can be averaged.

The area under the mean of the folds' curves is the mean of their areas, so that a curve drawn from these
arrays agrees with the score in its legend.
"""

from collections.abc import Callable, Sequence

import numpy as np

from mvsent.learn.answers import Bools, Floats, Fold, one_vs_rest
from mvsent.pairs import LABEL_NAMES

GRID: Floats = np.linspace(0, 1, 201)
"""False positive rates of ROC curves, and recalls of precision-recall curves."""


def roc_curves(folds: Sequence[Fold], classes: Sequence[int]) -> dict[str, Floats]:
    """True positive rate [F, G] at each false positive rate in `GRID`, for each class, "macro" and "micro".

    Each class is taken against the rest; NaN if a fold has no row of the class, or of another.
    """
    return _curves(folds, classes, _roc)


def prc_curves(folds: Sequence[Fold], classes: Sequence[int]) -> dict[str, Floats]:
    """Precision [F, G] at each recall in `GRID`, for the same curves as `roc_curves`."""
    return _curves(folds, classes, _prc)


def prevalence(folds: Sequence[Fold], classes: Sequence[int]) -> dict[str, float]:
    """Share of each class: the precision of a random classifier, at every recall."""
    y_true = np.concatenate([fold[0] for fold in folds])
    return {LABEL_NAMES[c]: float((y_true == c).mean()) for c in classes}


def _curves(
    folds: Sequence[Fold], classes: Sequence[int], on_grid: Callable[[Bools, Floats], Floats]
) -> dict[str, Floats]:
    of_folds: dict[str, list[Floats]] = {}
    for y_true, y_prob in folds:
        hits, scores = one_vs_rest(y_true, y_prob, classes)
        by_class = [on_grid(hits[:, i], scores[:, i]) for i in range(len(classes))]
        for label, curve in zip(classes, by_class, strict=True):
            of_folds.setdefault(LABEL_NAMES[label], []).append(curve)
        of_folds.setdefault("macro", []).append(np.mean(by_class, axis=0))
        of_folds.setdefault("micro", []).append(on_grid(hits.ravel(), scores.ravel()))
    return {name: np.stack(curves) for name, curves in of_folds.items()}


def _roc(hits: Bools, scores: Floats) -> Floats:
    """The ROC curve [G], starting at 0.

    >>> _roc(np.array([True, False]), np.array([0.8, 0.2]))[[0, 1, -1]]
    array([0., 1., 1.])
    """
    from sklearn.metrics import roc_curve

    if hits.all() or not hits.any():
        return np.full(len(GRID), np.nan)
    false_rate, true_rate, _ = roc_curve(hits, scores)
    curve: Floats = np.interp(GRID, false_rate, true_rate)
    curve[0] = 0.0  # the curve rises at 0, where interp takes the top
    return curve


def _prc(hits: Bools, scores: Floats) -> Floats:
    """The precision [G] at the highest threshold that reaches each recall: the steps of average precision.

    >>> _prc(np.array([True, False, True]), np.array([0.9, 0.5, 0.5]))[[0, 100, 101, -1]].round(2)
    array([1.  , 1.  , 0.67, 0.67])
    """
    from sklearn.metrics import precision_recall_curve

    if not hits.any():
        return np.full(len(GRID), np.nan)
    precision, recall, _ = precision_recall_curve(hits, scores)  # recall falls from 1 to 0
    above_zero = np.maximum(GRID, np.nextafter(0, 1))  # without scikit-learn's artificial end point (0, 1)
    curve: Floats = precision[::-1][np.searchsorted(recall[::-1], above_zero)]
    return curve
