"""Weak labels: the sign of the queries that found a picture."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvsent.curate.weak_labels import weak_label
from mvsent.pairs import Label
from mvsent.reasons import Reason

POSITIVE, NEGATIVE = Label.POSITIVE, Label.NEGATIVE
CONFLICT = Reason.DUPLICATE_QUERY_CONFLICT
RULES = ("drop", "first", "mean")

found = st.lists(st.floats(-4, 4).filter(bool), min_size=1, max_size=6)


@pytest.mark.parametrize("conflict", RULES)
def test_queries_of_one_sign_give_that_sign(conflict):
    assert weak_label([0.3], conflict) == POSITIVE
    assert weak_label([-0.1, -2.0], conflict) == NEGATIVE


def test_a_picture_found_under_opposite_signs_is_dropped():
    assert weak_label([1.9, -0.1]) == CONFLICT


def test_first_goes_by_the_first_query_whatever_its_strength():
    assert weak_label([-0.1, 1.9, 1.9], "first") == NEGATIVE


def test_mean_goes_by_the_mean():
    assert weak_label([-0.1, 1.9], "mean") == POSITIVE
    assert weak_label([-1.0, -1.2, 2.0], "mean") == NEGATIVE


def test_a_mean_of_zero_is_a_conflict():
    assert weak_label([1.5, -1.5], "mean") == CONFLICT


def test_a_mean_weaker_than_the_minimum_is_a_conflict():
    assert weak_label([2.0, -1.5], "mean", min_sentiment=1.0) == CONFLICT


@pytest.mark.parametrize("sentiments", [[], [0.0], [1.0, float("nan")], [float("inf")]])
def test_what_no_lexicon_holds_is_refused(sentiments):
    with pytest.raises(ValueError, match="not the sentiments"):
        weak_label(sentiments)


@given(found, st.sampled_from(RULES), st.floats(0, 4))
def test_swapping_the_signs_swaps_the_label(sentiments, conflict, minimum):
    swapped = weak_label([-sentiment for sentiment in sentiments], conflict, minimum)
    label = weak_label(sentiments, conflict, minimum)
    assert swapped == ({POSITIVE: NEGATIVE, NEGATIVE: POSITIVE}.get(label, label))


@pytest.mark.slow
@given(found, st.sampled_from(("drop", "mean")), st.randoms())
def test_the_order_of_finding_matters_only_to_first(sentiments, conflict, random):
    shuffled = random.sample(sentiments, len(sentiments))
    assert weak_label(shuffled, conflict) == weak_label(sentiments, conflict)


@given(found, st.sampled_from(RULES), st.floats(0, 4))
def test_a_label_is_never_neutral_and_has_a_query_of_its_sign(sentiments, conflict, minimum):
    label = weak_label(sentiments, conflict, minimum)
    if isinstance(label, Label):
        assert label != Label.NEUTRAL
        assert any((s > 0) == (label == POSITIVE) for s in sentiments)
