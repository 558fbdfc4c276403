"""Intervals of repeated test rows: pairs are resampled, not rows, and what a confusion matrix counts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mvsent.learn import metrics
from mvsent.learn.bootstrap import (
    Answered,
    confusion_of_pairs,
    interval,
    pair_numbers,
    resampled_means,
    resamplings,
    summarise,
)
from mvsent.learn.metrics import METRICS, score

TWO = [0, 2]


def answers(right):
    """Rows of label 0, of which some are answered correctly, and the others as label 2."""
    return np.zeros(len(right), np.int64), np.eye(3)[np.where(right, 0, 2)]


def repeats(right, rng, n_folds=5):
    """The test rows of as many repeats of 90:10, of pairs that are answered correctly or not."""
    rows = [rng.permutation(len(right))[: len(right) // 10] for _ in range(n_folds)]
    return Answered([answers(right[of_fold]) for of_fold in rows], rows)


def by_rows(tested):
    """The same rows as if each were a pair of its own."""
    ends = np.cumsum([len(of_fold) for of_fold in tested.pairs])
    return Answered(tested.folds, np.split(np.arange(ends[-1]), ends[:-1]))


def accuracy_interval(tested, n=400, seed=0):
    [means] = resampled_means([tested], TWO, n, seed, ["accuracy"])
    return interval(means["accuracy"])


@pytest.mark.slow
def test_the_interval_of_repeats_covers_as_often_as_it_says_and_that_of_rows_does_not():
    """Of 400 drawn datasets; a share of 400 with the probability 0.95 is below 0.92 once in 200 times."""
    covered, covered_by_rows = 0, 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        tested = repeats(rng.random(500) < 0.7, rng)
        for kind in (tested, by_rows(tested)):
            low, high = accuracy_interval(kind, n=300, seed=seed)
            if kind is tested:
                covered += low <= 0.7 <= high
            else:
                covered_by_rows += low <= 0.7 <= high
    assert covered / 400 > 0.92
    assert covered_by_rows / 400 < 0.92


def test_the_spread_is_the_cluster_robust_standard_error():
    """statsmodels' OLS of the rows on a constant, cov_type="cluster" by pair, gives the same error."""
    rng = np.random.default_rng(0)
    tested = repeats(rng.random(900) < 0.7, rng)
    right = np.concatenate([y_prob.argmax(axis=1) == 0 for _, y_prob in tested.folds])
    of_pair = np.bincount(np.concatenate(tested.pairs), weights=right - right.mean())
    robust, of_rows = np.sqrt((of_pair**2).sum()) / len(right), right.std() / np.sqrt(len(right))
    [means] = resampled_means([tested], TWO, 4000, 0, ["accuracy"])
    assert means["accuracy"].std() == pytest.approx(robust, rel=0.04)
    assert robust > 1.15 * of_rows


def test_scipy_resamples_the_same_pairs_to_the_same_interval():
    rng = np.random.default_rng(3)
    tested = repeats(rng.random(300) < 0.6, rng)
    right = [y_prob.argmax(axis=1) == 0 for _, y_prob in tested.folds]
    total, n_right = np.zeros((2, 5, 300))
    for fold, (pairs, of_fold) in enumerate(zip(tested.pairs, right, strict=True)):
        total[fold, pairs], n_right[fold, pairs] = 1, of_fold
    tried = np.flatnonzero(total.any(axis=0))

    def mean_over_folds(*columns, axis):
        hits, rows = np.array(columns[:5]), np.array(columns[5:])
        return (hits.sum(axis=axis) / rows.sum(axis=axis)).mean(axis=0)

    by_scipy = stats.bootstrap(
        [*n_right[:, tried], *total[:, tried]],
        mean_over_folds,
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=4000,
        random_state=np.random.default_rng(0),
    ).confidence_interval
    assert accuracy_interval(tested, n=4000) == pytest.approx((by_scipy.low, by_scipy.high), abs=0.012)


@st.composite
def some_folds(draw):
    """A few folds of a few pairs, tested once in a fold, by a system that is sometimes right."""
    n_pairs, n_folds = draw(st.integers(2, 12)), draw(st.integers(1, 4))
    labels = np.array(draw(st.lists(st.sampled_from(TWO), min_size=n_pairs, max_size=n_pairs)))
    pairs, folds = [], []
    for _ in range(n_folds):
        rows = np.array(draw(st.lists(st.integers(0, n_pairs - 1), min_size=1, unique=True)))
        right = np.array(draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))))
        y_true = labels[rows]
        folds.append((y_true, np.eye(3)[np.where(right, y_true, 2 - y_true)]))
        pairs.append(rows)
    return Answered(folds, pairs)


@settings(max_examples=60, deadline=None)
@given(some_folds())
def test_folds_that_test_the_same_pairs_say_no_more_than_one_of_them(tested):
    """The answers to the rows of one fold, given three times, have the interval of one time."""
    fold, pairs = tested.folds[0], tested.pairs[0]
    once, thrice = Answered([fold], [pairs]), Answered([fold] * 3, [pairs] * 3)
    assert accuracy_interval(thrice, n=50) == pytest.approx(accuracy_interval(once, n=50))


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(some_folds(), st.permutations(range(12)))
def test_the_order_of_rows_and_the_numbers_of_pairs_do_not_matter_to_the_values(tested, numbers):
    shuffled = Answered(
        [(y_true[::-1], y_prob[::-1]) for y_true, y_prob in tested.folds],
        [np.array(numbers)[of_fold][::-1] for of_fold in tested.pairs],
    )
    assert shuffled.n_pairs == tested.n_pairs
    assert confusion_of_pairs(shuffled) == pytest.approx(confusion_of_pairs(tested))
    both = [summarise(each, TWO, n=2)[1]["accuracy"]["mean"] for each in (tested, shuffled)]
    assert both[0] == pytest.approx(both[1])


@settings(max_examples=60, deadline=None)
@given(some_folds())
def test_a_confusion_matrix_counts_every_pair_once(tested):
    labels = {
        pair: y
        for (y_true, _), of in zip(tested.folds, tested.pairs, strict=True)
        for pair, y in zip(of.tolist(), y_true.tolist(), strict=True)
    }
    counts = confusion_of_pairs(tested)
    assert counts.sum(axis=1) == pytest.approx(np.bincount(list(labels.values()), minlength=3), abs=1e-4)


def test_a_pair_is_divided_among_its_answers():
    tested = Answered(
        [answers([True, True]), answers([False, True, True])], [np.array([0, 1]), np.array([0, 2, 3])]
    )
    assert confusion_of_pairs(tested).tolist() == [[3.5, 0, 0.5], [0, 0, 0], [0, 0, 0]]


def test_folds_without_common_pairs_are_resampled_on_their_own():
    """As with kfold-5 and kfold-10: the draws of fold i are those of the seed (seed, i), row by row."""
    rng = np.random.default_rng(5)
    rows = np.split(rng.permutation(60), 3)
    right = rng.random(60) < 0.7
    tested = Answered([answers(right[of_fold]) for of_fold in rows], rows)
    [means] = resampled_means(
        [Answered(tested.folds, pair_numbers([list(map(str, r)) for r in rows]))], TWO, 30, 7
    )
    expected = []
    for i, (y_true, y_prob) in enumerate(tested.folds):
        [weights] = resamplings(20, 30, np.random.default_rng([7, i]))
        expected.append([score(y_true, y_prob, TWO, w)["accuracy"] for w in weights.T])
    assert means["accuracy"] == pytest.approx(np.mean(expected, axis=0))


def test_two_systems_are_resampled_together():
    """A system minus itself is 0 in every resampling."""
    rng = np.random.default_rng(1)
    tested = repeats(rng.random(200) < 0.7, rng)
    one, other = resampled_means([tested, tested], TWO, 50, only=["accuracy", "f1"])
    assert (one["accuracy"] == other["accuracy"]).all() and one["accuracy"].std() > 0
    assert one.keys() == {
        key
        for metric in METRICS
        if metric.name in ("accuracy", "f1")
        for key in (
            metric.name,
            *(f"{metric.name}_{of}" for of in ("weighted", "macro", "micro", "negative", "positive")),
        )
        if key in one
    }


def test_only_the_chosen_metrics_are_computed(monkeypatch):
    def refuse(answers):
        raise AssertionError

    for metric in list(METRICS):
        if metric.name != "accuracy":
            monkeypatch.setitem(metrics.METRICS, metric, refuse)
    assert accuracy_interval(Answered([answers([True] * 4)], [np.arange(4)])) == (1, 1)
