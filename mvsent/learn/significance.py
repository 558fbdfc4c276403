"""Significance tests for two systems on the same rows, and their correction for many comparisons."""

import math
from collections.abc import Sequence

import numpy as np

from mvsent.learn.answers import Floats, Fold, Ints, Predicted
from mvsent.learn.bootstrap import Answered
from mvsent.learn.metrics import METRICS, values
from mvsent.pairs import LABEL_NAMES

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


def discordant_pairs(first: Answered, second: Answered) -> tuple[int, int]:
    """Number of pairs that only the first system answers correctly, and of those that only the second does.

    A pair in the rows of several folds counts once, for the system that is right in more of them.

    Args:
        first, second: the answers of the two systems to the same rows.
    """
    lead = np.zeros(max(int(of_fold.max()) for of_fold in first.pairs) + 1, np.int64)
    for (y_true, ours), (_, theirs), pairs in zip(first.folds, second.folds, first.pairs, strict=True):
        right, other = (y_prob.argmax(axis=1) == y_true for y_prob in (ours, theirs))
        np.add.at(lead, pairs, right.astype(np.int64) - other)
    return int((lead > 0).sum()), int((lead < 0).sum())


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided p-value of "both are equally often right", by the exact test of McNemar.

    If there is no difference, each discordant pair is a toss of a fair coin. 1 without such pairs.

    Reference: McNemar, Note on the sampling error of the difference between correlated proportions or
    percentages. Psychometrika 12, 1947.

    >>> mcnemar(1, 9)
    0.021484375
    """
    from scipy import stats

    n = only_first + only_second
    return float(stats.binomtest(only_first, n).pvalue) if n else 1.0


def permutation_test(
    first: Answered, second: Answered, classes: Sequence[int], key: str, *, n: int = 9999, seed: int = 0
) -> float:
    """Two-sided p-value of "the answers of both systems are exchangeable", by swapping them pair by pair.

    The statistic is the difference of a metric's means over the folds. A pair's answers are swapped in all
    its rows at once. If there are at most `n` ways to swap, all are computed, otherwise `n` random ones.

    Reference: Yeh, More accurate tests for the statistical significance of result differences. COLING 2000.

    Args:
        first, second: the answers of the two systems to the same rows.
        classes: the labels that count.
        key: of a metric that depends on the predicted classes alone, such as accuracy or f1_weighted.
        n: number of permutations.
        seed: of the drawing.
    """
    from scipy import stats

    differs = [
        ours.argmax(axis=1) != theirs.argmax(axis=1)
        for (_, ours), (_, theirs) in zip(first.folds, second.folds, strict=True)
    ]
    # Only pairs that were answered differently are swapped: the others change nothing.
    swappable = np.unique(np.concatenate([of[rows] for of, rows in zip(first.pairs, differs, strict=True)]))
    if not len(swappable):
        return 1.0
    folds = [
        _Both(ours, theirs, classes, swappable, pairs)
        for ours, theirs, pairs in zip(first.folds, second.folds, first.pairs, strict=True)
    ]

    def difference(at_first: Floats, _: Floats, axis: int) -> Floats:
        """The difference [R] of the systems; `at_first` [R, P] is 1 for a swapped pair, 0 for another."""
        ways = np.atleast_2d(at_first).T
        mean: Floats = np.nanmean([fold.difference(ways, key) for fold in folds], axis=0)
        return mean if at_first.ndim > 1 else mean[0]

    found = stats.permutation_test(
        (np.zeros(len(swappable)), np.ones(len(swappable))),
        difference,
        permutation_type="samples",
        vectorized=True,
        n_resamples=n,
        batch=max(1, 2**20 // len(swappable)),
        random_state=np.random.default_rng(seed),
    )
    return float(found.pvalue)


class _Both:
    """The rows of a fold with the answers of two systems, which can be swapped."""

    def __init__(
        self, ours: Fold, theirs: Fold, classes: Sequence[int], swappable: Ints, pairs: Ints
    ) -> None:
        y_true, y_prob = (np.concatenate(part) for part in zip(ours, theirs, strict=True))
        self.answers = Predicted(y_true, y_prob, classes, np.ones((len(y_true), 1)))
        self.swappable = np.isin(pairs, swappable)
        self.place = np.searchsorted(swappable, pairs[self.swappable])

    def difference(self, ways: Floats, key: str) -> Floats:
        """First minus second system [R] by a metric, if the pairs are swapped as `ways` [P, R] say."""
        swaps = np.zeros((len(self.swappable), ways.shape[1]))
        swaps[self.swappable] = ways[self.place]
        metric = next(one.name for one in METRICS if key in (one.name, *one.keys(one.rows, LABEL_NAMES)))
        one, two = (
            values(self.answers.reweighted(np.concatenate(weights)), [metric])[key]
            for weights in ((1 - swaps, swaps), (swaps, 1 - swaps))
        )
        gap: Floats = one - two
        return gap


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Correct p-values for the number of comparisons, so that any false finding is as rare as one p says.

    The smallest of m is multiplied by m, the next one by m − 1, and so on, but none becomes smaller than one
    before it. None stays None, and does not count.

    Reference: Holm, A simple sequentially rejective multiple test procedure. Scand. J. Statist. 6, 1979.

    >>> holm([0.01, 0.04, None, 0.03])
    [0.03, 0.06, None, 0.06]
    """
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    least = 0.0
    for rank, (p, i) in enumerate(known):
        least = max(least, min(1.0, p * (len(known) - rank)))
        corrected[i] = least
    return corrected
