"""Label rules: the paper's examples, and what must hold for any votes."""

import itertools

import krippendorff
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mvsent.curate.agreement import krippendorff_alpha
from mvsent.curate.labels import MISSING, combine, decide, from_modalities, majority, vote_counts
from mvsent.pairs import Label
from mvsent.reasons import Reason

NEG, NEU, POS = (int(label) for label in Label)
NONE = int(MISSING)


def votes(*rows):
    return np.array(rows, dtype=np.int8)


any_votes = st.tuples(st.integers(0, 8), st.integers(1, 5)).flatmap(
    lambda shape: arrays(np.int8, (*shape, 2), elements=st.integers(-1, 2))
)
ties = st.sampled_from(["drop", "neutral"])


def one(text, image):
    """The decision for one annotator's labels."""
    return decide(votes([[text, image]]))


@pytest.mark.parametrize(
    ("text", "image", "label"),
    [
        (POS, POS, POS),
        (NEG, NEG, NEG),
        (NEU, NEU, NEU),
        (POS, NEU, POS),
        (NEU, POS, POS),
        (NEG, NEU, NEG),
        (NEU, NEG, NEG),
    ],
)
def test_agreeing_or_polar_with_neutral_is_kept(text, image, label):
    decision = one(text, image)
    assert decision.label.tolist() == [label]
    assert decision.reason.tolist() == [None]


def test_positive_image_with_negative_text_is_dropped():
    assert one(NEG, POS).label.tolist() == [NONE]
    assert one(NEG, POS).reason.tolist() == [Reason.LABEL_CONFLICT]


def test_negative_image_with_positive_text_is_dropped():
    assert one(POS, NEG).reason.tolist() == [Reason.LABEL_CONFLICT]


def test_two_of_three_annotators_decide():
    assert majority(votes([POS, NEG, POS], [NEU, NEU, NEG])).tolist() == [POS, NEU]


def test_three_different_votes_are_no_majority():
    decision = decide(votes([[POS, POS], [NEU, POS], [NEG, POS]]))
    assert decision.reason.tolist() == [Reason.NO_MAJORITY]
    assert (decision.text_label.tolist(), decision.image_label.tolist()) == ([NONE], [POS])


def test_a_tie_counts_as_neutral_when_asked():
    decision = decide(votes([[POS, POS], [NEU, POS], [NEG, POS]]), ties="neutral")
    assert decision.label.tolist() == [POS]


def test_no_majority_is_named_before_a_conflict():
    decision = decide(votes([[NEG, POS], [POS, POS], [NEU, NEG]]))
    assert decision.reason.tolist() == [Reason.NO_MAJORITY]


def test_the_most_votes_win_without_half_of_them():
    assert majority(votes([POS, POS, NEU, NEG])).tolist() == [POS]


def test_two_labels_with_equally_many_votes_are_a_tie():
    assert majority(votes([POS, POS, NEG, NEG])).tolist() == [NONE]


def test_missing_votes_do_not_count():
    assert majority(votes([POS, NONE, NONE], [NONE, NONE, NONE])).tolist() == [POS, NONE]
    assert majority(votes([NONE, NONE]), "neutral").tolist() == [NONE]


def test_a_missing_modality_gives_no_label():
    assert combine(votes(NONE, POS, NONE), votes(POS, NONE, NONE)).tolist() == [NONE] * 3


def test_no_rows_give_no_decisions():
    assert len(decide(np.empty((0, 3, 2), dtype=np.int8)).label) == 0


@given(any_votes, ties, st.randoms())
def test_order_of_annotators_never_matters(all_votes, ties, random):
    order = list(range(all_votes.shape[1]))
    random.shuffle(order)
    first, second = decide(all_votes, ties), decide(all_votes[:, order], ties)
    assert first.label.tolist() == second.label.tolist()
    assert first.reason.tolist() == second.reason.tolist()


@given(any_votes, ties)
def test_swapping_the_poles_swaps_the_labels(all_votes, ties):
    def swap(labels):
        return np.where(labels == MISSING, MISSING, 2 - labels).astype(np.int8)

    first, second = decide(all_votes, ties), decide(swap(all_votes), ties)
    assert swap(first.label).tolist() == second.label.tolist()
    assert first.reason.tolist() == second.reason.tolist()


@given(any_votes, ties)
def test_swapping_text_and_image_changes_no_label(all_votes, ties):
    first, second = decide(all_votes, ties), decide(all_votes[:, :, ::-1], ties)
    assert first.label.tolist() == second.label.tolist()
    assert first.text_label.tolist() == second.image_label.tolist()


@given(any_votes, ties)
def test_every_row_has_a_label_or_one_reason(all_votes, ties):
    decision = decide(all_votes, ties)
    assert len(decision.label) == len(all_votes)
    assert [label == NONE for label in decision.label] == [reason is not None for reason in decision.reason]
    assert decision.kept.sum() + sum(reason is not None for reason in decision.reason) == len(all_votes)


@given(any_votes)
def test_counts_are_conserved(all_votes):
    counts = vote_counts(all_votes[:, :, 0])
    assert counts.sum(axis=1).tolist() == (all_votes[:, :, 0] != NONE).sum(axis=1).tolist()


@given(any_votes)
def test_a_unanimous_vote_is_the_majority(all_votes):
    unanimous = np.repeat(all_votes[:, :1], 3, axis=1)
    assert majority(unanimous[:, :, 0]).tolist() == unanimous[:, 0, 0].tolist()


def test_the_rule_covers_all_nine_pairs():
    pairs = np.array(list(itertools.product(Label, Label)), dtype=np.int8)
    assert combine(pairs[:, 0], pairs[:, 1]).tolist() == [NEG, NEG, NONE, NEG, NEU, POS, NONE, POS, POS]


# Which pairs are kept, by --pairs

modalities = st.integers(0, 9).flatmap(
    lambda n: st.tuples(*[arrays(np.int8, n, elements=st.integers(-1, 2))] * 2)
)


@pytest.mark.parametrize(
    ("pairs", "label", "reasons"),
    [
        ("paper", [POS, POS, NONE, NONE, NONE], [None, None, "label-conflict", "no-majority", "no-majority"]),
        (
            "consistent",
            [POS, NONE, NONE, NONE, NONE],
            [None, "labels-differ", "label-conflict", "no-majority", "no-majority"],
        ),
        ("text", [POS, POS, POS, NONE, NEU], [None, None, None, "no-majority", None]),
        ("image", [POS, NEU, NEG, NEU, NONE], [None, None, None, None, "no-majority"]),
    ],
)
def test_the_pairs_of_each_rule_and_why_others_are_dropped(pairs, label, reasons):
    text, image = votes(POS, POS, POS, NONE, NEU), votes(POS, NEU, NEG, NEU, NONE)
    decided = from_modalities(text, image, pairs)
    assert (decided.label.tolist(), decided.reason.tolist()) == (label, reasons)
    assert (decided.text_label.tolist(), decided.image_label.tolist()) == (text.tolist(), image.tolist())


@given(modalities, st.sampled_from(["paper", "consistent", "text", "image"]))
def test_a_row_of_any_rule_has_a_label_or_one_reason(given, pairs):
    decided = from_modalities(*given, pairs)
    assert [label == NONE for label in decided.label] == [reason is not None for reason in decided.reason]


@given(modalities)
def test_consistent_pairs_are_pairs_of_every_rule_with_the_same_label(given):
    consistent = from_modalities(*given, "consistent")
    assert (consistent.kept == ((given[0] == given[1]) & (given[0] != NONE))).all()
    for pairs in ("paper", "text", "image"):
        other = from_modalities(*given, pairs)
        assert (other.label == consistent.label)[consistent.kept].all()


def test_alpha_of_two_annotators_is_agreement_beyond_chance():
    """Krippendorff 2011, section C: two observers, nominal data, no missing votes."""
    one = [2, 0, 1, 1, 2, 2, 0]
    other = [2, 0, 1, 2, 2, 2, 1]
    observed = 1 - 2 / 7  # shares of agreeing pairs
    n = np.bincount(one + other)
    expected = sum(k * (k - 1) for k in n) / (14 * 13)
    assert krippendorff_alpha(votes(*zip(one, other, strict=True))) == pytest.approx(
        (observed - expected) / (1 - expected)
    )


@given(any_votes)
def test_alpha_is_what_the_krippendorff_package_says(all_votes):
    alpha = krippendorff_alpha(all_votes[:, :, 0])
    if alpha is not None:
        counts = vote_counts(all_votes[:, :, 0])
        assert alpha == pytest.approx(krippendorff.alpha(value_counts=counts, level_of_measurement="nominal"))


def test_alpha_needs_two_annotators_and_two_labels():
    assert krippendorff_alpha(votes([POS], [NEG])) is None
    assert krippendorff_alpha(votes([POS, POS], [POS, POS])) is None
    assert krippendorff_alpha(votes([POS, POS], [NEG, NONE])) is None  # the second tweet has one vote
    assert krippendorff_alpha(np.empty((0, 3), dtype=np.int8)) is None


@given(any_votes)
def test_alpha_is_at_most_one_and_blind_to_order(all_votes):
    alpha = krippendorff_alpha(all_votes[:, :, 0])
    if alpha is not None:
        assert alpha <= 1
        assert krippendorff_alpha(all_votes[::-1, ::-1, 0]) == pytest.approx(alpha)
