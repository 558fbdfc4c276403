"""Tests of two systems against scipy, statsmodels' printed answers, and every way to swap."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mvsent.learn.bootstrap import Answered
from mvsent.learn.metrics import score
from mvsent.learn.significance import discordant_pairs, holm, mcnemar, permutation_test

THREE = [0, 1, 2]


def system(y_true, rng, skill):
    logits = rng.normal(size=(len(y_true), 3)) + skill * np.eye(3)[y_true]
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def two_systems(n_pairs, rows_of_folds, seed=0, skills=(1.5, 0.5)):
    """Two systems on the same rows; the answer to a pair differs from fold to fold."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n_pairs)
    rows = [np.array(of_fold) for of_fold in rows_of_folds]
    return [Answered([(labels[of], system(labels[of], rng, skill)) for of in rows], rows) for skill in skills]


@pytest.mark.slow
@pytest.mark.parametrize(("key", "seed"), [("accuracy", 0), ("f1_weighted", 1), ("f1_weighted", 2)])
def test_with_few_pairs_every_way_to_swap_them_is_tried(key, seed):
    first, second = two_systems(8, [range(6), [1, 7, 2, 5, 0, 4]], seed)

    def difference(swapped):
        gaps = []
        for (y_true, ours), (_, theirs), pairs in zip(first.folds, second.folds, first.pairs, strict=True):
            other = np.array(swapped)[pairs][:, None]
            own, rest = np.where(other, theirs, ours), np.where(other, ours, theirs)
            gaps.append(score(y_true, own, THREE)[key] - score(y_true, rest, THREE)[key])
        return np.mean(gaps)

    gaps = [difference(ways) for ways in itertools.product([False, True], repeat=8)]
    expected = np.mean(np.abs(gaps) >= abs(difference([False] * 8)) - 1e-12)
    assert permutation_test(first, second, THREE, key) == pytest.approx(expected)


def test_of_accuracy_on_rows_tested_once_it_is_the_exact_test_of_mcnemar():
    """Both toss a coin for each discordant pair; 999 random permutations come near."""
    first, second = two_systems(300, [range(300)], skills=(1.0, 0.8))
    exact = mcnemar(*discordant_pairs(first, second))
    assert 0.01 < exact < 0.9
    assert permutation_test(first, second, THREE, "accuracy", n=999) == pytest.approx(exact, abs=0.05)


def test_the_same_seed_gives_the_same_p_value_and_the_same_system_1():
    first, second = two_systems(60, [range(40), range(20, 60)])
    one, again, other = (
        permutation_test(first, second, THREE, "f1_weighted", n=99, seed=seed) for seed in (3, 3, 4)
    )
    assert one == again and other == pytest.approx(one, abs=0.2)
    assert permutation_test(first, first, THREE, "accuracy") == mcnemar(0, 0) == 1


@pytest.mark.slow
def test_permutations_reject_a_true_hypothesis_as_rarely_as_they_say():
    """Of 200 comparisons of equal systems on repeated rows, a tenth has p ≤ 0.1; 33 is 3 deviations more."""
    rejected = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        rows = [rng.permutation(100)[:40] for _ in range(3)]
        labels = rng.integers(0, 3, 100)
        of_pair = [system(labels, rng, 1.0) for _ in range(2)]  # the same answer in every fold
        first, second = (Answered([(labels[of], y_prob[of]) for of in rows], rows) for y_prob in of_pair)
        rejected += permutation_test(first, second, THREE, "accuracy", n=99, seed=seed) <= 0.1
    assert rejected <= 33


def test_a_pair_counts_once_for_the_system_that_is_right_in_more_folds():
    def answered(*rights):
        rows = [np.array([0, 1, 2])] * len(rights)
        return Answered([(np.zeros(3, int), np.eye(3)[np.where(right, 0, 1)]) for right in rights], rows)

    first = answered([True, True, False], [True, False, False])
    second = answered([False, False, True], [False, True, False])
    # pair 0: the first system twice; pair 1: each once; pair 2: the second system once
    assert discordant_pairs(first, second) == (1, 1)


@pytest.mark.parametrize(
    ("counts", "p"), [((5, 17), 0.01690053939819336), ((236, 129), 2.3073012310666603e-08)]
)
def test_mcnemar_is_that_of_statsmodels(counts, p):
    """statsmodels 0.14: mcnemar([[0, 5], [17, 0]], exact=True)."""
    assert mcnemar(*counts) == mcnemar(*counts[::-1]) == pytest.approx(p)


def test_holm_is_that_of_statsmodels():
    """statsmodels 0.14: multipletests(…, method="holm")."""
    assert holm([0.01, 0.04, 0.03, 0.005, 0.2, 0.04]) == pytest.approx([0.05, 0.12, 0.12, 0.03, 0.2, 0.12])


@given(st.lists(st.one_of(st.none(), st.floats(0, 1))))
def test_a_correction_keeps_the_order_raises_every_p_and_leaves_gaps(p_values):
    corrected = holm(p_values)
    known = [(p, q) for p, q in zip(p_values, corrected, strict=True) if p is not None]
    assert [p is None for p in p_values] == [q is None for q in corrected]
    assert all(p <= q <= min(1, p * len(known)) + 1e-12 for p, q in known)
    assert [q for _, q in sorted(known)] == sorted(q for _, q in known)
    assert holm(p_values[::-1]) == corrected[::-1]


@given(st.lists(st.floats(0, 1), min_size=1))
def test_the_smallest_corrected_p_is_that_of_bonferroni_and_none_is_below_false_discovery(p_values):
    corrected = holm(p_values)
    assert min(corrected) == pytest.approx(min(1, min(p_values) * len(p_values)))
    assert (np.array(corrected) >= stats.false_discovery_control(p_values) - 1e-12).all()
