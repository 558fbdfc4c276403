"""A significance test for two systems on the same folds."""

import math
from collections.abc import Sequence

import numpy as np

MIN_FOLDS = 3
"""Fewer differences say too little about their own spread."""


def corrected_t_test(differences: Sequence[float], test_share: float) -> float | None:
    """Two-sided p-value of "both are equally good", by the corrected resampled t-test.

    Folds share training rows, so the plain paired t-test finds far too many differences. Here the variance of
    the mean difference is that of the folds times `1/k + n_test/n_train`, and not times `1/k`.

    Reference: Nadeau & Bengio, Inference for the Generalization Error. Machine Learning 52, 2003.

    Args:
        differences: of the two systems' scores, one for each of the k folds.
        test_share: `n_test / n_train`.

    Returns:
        None with fewer than three folds; 1 where no fold differs.

    >>> round(corrected_t_test([0.01, 0.03, 0.02], test_share=0.5), 4)
    0.1598
    """
    values = np.asarray(differences, dtype=float)
    k = len(values)
    if k < MIN_FOLDS:
        return None
    mean, variance = float(values.mean()), float(values.var(ddof=1))
    # Not `variance == 0`: rounding can leave a variance in equal numbers.
    if np.ptp(values) == 0:
        return float(mean == 0)
    from scipy import stats

    t = mean / math.sqrt((1 / k + test_share) * variance)
    return float(2 * stats.t.sf(abs(t), df=k - 1))
