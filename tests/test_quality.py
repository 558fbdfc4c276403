"""What is suspicious about rows: the scores, by themselves."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvsent.curate.quality import (
    WEIGHTS,
    combined,
    contradiction,
    disagreement,
    distance,
    label_errors,
    worst_first,
)
from mvsent.errors import UsageError


def informed(true: np.ndarray, seed: int = 0, strength: float = 4.0) -> np.ndarray:
    """[N, 3]: what a network that has learnt the true labels fairly well would say."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(len(true), 3)) + strength * np.eye(3)[true]
    y_prob = np.exp(logits)
    return y_prob / y_prob.sum(axis=1, keepdims=True)


def with_flips(n: int, share: float = 0.05, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True labels, labels of which a share is wrong, and the rows where they are."""
    rng = np.random.default_rng(seed)
    true = rng.choice(3, n, p=[0.3, 0.1, 0.6])
    flipped = rng.choice(n, int(n * share), replace=False)
    labels = true.copy()
    labels[flipped] = (labels[flipped] + rng.integers(1, 3, len(flipped))) % 3
    return true, labels, flipped


groups_and_labels = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), min_size=1, max_size=30)


@given(groups_and_labels)
def test_a_contradiction_is_the_mean_distance_to_the_labels_of_the_others(
    rows: list[tuple[int, int]],
) -> None:
    groups, labels = (np.array(column) for column in zip(*rows, strict=True))
    found = contradiction(groups, labels)
    for i, (group, label) in enumerate(rows):
        others = [other for j, (of, other) in enumerate(rows) if of == group and j != i]
        expected = np.mean([abs(label - other) / 2 for other in others]) if others else 0.0
        assert found[i] == pytest.approx(expected)


def test_positive_against_negative_is_worse_than_against_neutral() -> None:
    found = contradiction(np.array([0, 0, 1, 1, 2, 2]), np.array([2, 0, 2, 1, 2, 2]))
    assert found.tolist() == [1, 1, 0.5, 0.5, 0, 0]


def test_one_row_against_many_is_suspected_more_than_each_of_the_many() -> None:
    found = contradiction(np.zeros(5, dtype=int), np.array([2, 2, 2, 2, 0]))
    assert found[4] == 1
    assert found[0] == pytest.approx(0.25)


def test_annotators_who_agree_or_are_alone_raise_no_suspicion() -> None:
    assert disagreement(np.array([[0, 0, 3], [1, 0, 0], [0, 0, 0]])).tolist() == [0, 0, 0]


def test_annotators_who_contradict_each_other_raise_more_than_those_who_waver() -> None:
    polar, wavering = disagreement(np.array([[1, 0, 1], [0, 1, 1]]))
    assert polar == 1
    assert wavering == 0.5


def test_a_modality_without_a_label_is_not_compared() -> None:
    assert distance(np.array([-1, 2, 2]), np.array([0, -1, 0])).tolist() == [0, 0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_most_planted_label_errors_are_flagged_and_rank_first(seed: int) -> None:
    true, labels, flipped = with_flips(1000, seed=seed)
    found = label_errors(labels, informed(true, seed))
    assert found.flagged[flipped].mean() > 0.8
    ranked = worst_first(np.where(found.flagged, found.score, 0), np.arange(1000), len(flipped), 1)
    assert np.isin(ranked, flipped).mean() > 0.7
    assert (found.suggested[flipped] == true[flipped]).mean() > 0.8


def test_right_labels_are_seldom_flagged_where_the_network_is_good() -> None:
    true, labels, flipped = with_flips(1000)
    found = label_errors(labels, informed(true, strength=6.0))
    assert np.delete(found.flagged, flipped).mean() < 0.02


def test_a_flagged_row_has_another_suggestion_and_a_score_above_a_half() -> None:
    true, labels, _ = with_flips(500)
    found = label_errors(labels, informed(true, strength=1.0))
    assert found.flagged.any()
    assert (found.suggested[found.flagged] != labels[found.flagged]).all()
    assert (found.score[found.flagged] > 0.5).all()


def test_labels_without_neutral_have_two_classes() -> None:
    """As of Flickr and Getty, whose networks give neutral no probability."""
    true, labels, _ = with_flips(600)
    true, labels = np.where(true == 1, 2, true), np.where(labels == 1, 2, labels)
    y_prob = informed(true)
    y_prob[:, 1] = 0
    found = label_errors(labels, y_prob / y_prob.sum(axis=1, keepdims=True))
    wrong = np.flatnonzero(true != labels)
    assert found.flagged[wrong].mean() > 0.8
    assert set(found.suggested[found.flagged]) <= {0, 2}


@pytest.mark.parametrize("n", [0, 1, 3])
def test_few_rows_or_one_class_are_no_problem(n: int) -> None:
    y_prob = np.tile([1.0, 0.0, 0.0], (n, 1))
    assert not label_errors(np.zeros(n, dtype=int), y_prob).flagged.any()


def test_a_class_that_is_only_predicted_counts() -> None:
    y_prob = np.array([[0.9, 0.05, 0.05], [0.1, 0.1, 0.8], [0.8, 0.1, 0.1]])
    assert len(label_errors(np.array([0, 0, 0]), y_prob).score) == 3


def test_label_errors_are_the_same_every_time() -> None:
    true, labels, _ = with_flips(300)
    one, other = (label_errors(labels, informed(true)) for _ in range(2))
    assert (one.flagged == other.flagged).all()
    assert (one.score == other.score).all()


def test_without_cleanlab_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    with pytest.raises(UsageError, match=r"cleanlab.*pip install 'mvsent\[review\]'"):
        label_errors(np.array([0, 1]), np.array([[1.0, 0, 0], [0, 1, 0]]))


scores = st.lists(st.floats(0, 1), min_size=len(WEIGHTS), max_size=len(WEIGHTS))


@given(scores, st.sampled_from(list(WEIGHTS)))
def test_one_more_reason_never_lowers_a_score(values: list[float], kind: str) -> None:
    found = {name: np.array([value]) for name, value in zip(WEIGHTS, values, strict=True)}
    less = combined(found | {kind: np.zeros(1)})[0]
    assert less <= combined(found)[0] + 1e-12
    assert 0 <= less < 1


def test_a_contradicting_twin_is_the_worst_single_reason() -> None:
    alone = {kind: combined({kind: np.ones(1)})[0] for kind in WEIGHTS}
    assert max(alone, key=alone.__getitem__) == "contradiction"
    assert list(alone.values()) == sorted(alone.values(), reverse=True)


def test_the_worst_come_first_and_rows_without_a_reason_not_at_all() -> None:
    score = np.array([0.0, 0.2, 0.9, 0.2, 0.0])
    assert worst_first(score, np.arange(5), 10, n_of_group=1).tolist() == [2, 1, 3]
    assert worst_first(score, np.arange(5), 1, n_of_group=1).tolist() == [2]


def test_a_large_group_does_not_fill_the_list() -> None:
    score, groups = np.array([0.9, 0.8, 0.9, 0.9, 0.1, 0.5]), np.array([0, 0, 0, 0, 1, 2])
    assert worst_first(score, groups, 4, n_of_group=2).tolist() == [0, 2, 5, 4]
