"""Metrics against scikit-learn, and the bootstrap against the metrics."""

import math
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    average_precision_score,
    classification_report,
    roc_auc_score,
)

from mvsent.learn.metrics import (
    bootstrap_intervals,
    confusion_counts,
    point_metrics,
    prior_prob,
    summarise,
    weighted_metrics,
)

THREE, TWO = [0, 1, 2], [0, 2]


def predictions(n_rows, seed=0, skill=1.0, classes=THREE):
    """Labels, and probabilities that know something about them."""
    rng = np.random.default_rng(seed)
    y_true = rng.choice(classes, size=n_rows)
    logits = rng.normal(size=(n_rows, 3)) + skill * np.eye(3)[y_true]
    logits[:, np.setdiff1d(range(3), classes)] = -np.inf
    y_prob = np.exp(logits)
    return y_true, y_prob / y_prob.sum(axis=1, keepdims=True)


@st.composite
def tied_predictions(draw):
    """A few rows whose probabilities are quarters, so that ties abound, with a whole-number weight for each row."""
    classes = draw(st.sampled_from([THREE, TWO]))
    n_rows = draw(st.integers(1, 12))
    rows = st.lists(st.integers(0, 4), min_size=n_rows, max_size=n_rows)
    y_true = np.array(draw(st.lists(st.sampled_from(classes), min_size=n_rows, max_size=n_rows)))
    first = np.array(draw(rows)) / 4
    second = np.array(draw(rows)) / 4 * (1 - first) * (classes == THREE)
    y_prob = np.stack([first, second, 1 - first - second], axis=1)
    weights = draw(rows.filter(any))
    return y_true, y_prob, np.array(weights), classes


@settings(max_examples=100, deadline=None)
@given(tied_predictions())
def test_whole_weights_equal_repeated_rows_ties_and_lost_classes_included(case):
    y_true, y_prob, weights, classes = case
    vectorised = weighted_metrics(y_true, y_prob, [weights[:, None].astype(float)], classes)
    expected = point_metrics(np.repeat(y_true, weights), np.repeat(y_prob, weights, axis=0), classes)
    assert vectorised.keys() == expected.keys()
    for name, value in expected.items():
        want = math.nan if value is None else value
        assert vectorised[name][0] == pytest.approx(want, abs=1e-12, nan_ok=True), name


def test_several_blocks_of_weightings_give_what_each_gives_alone():
    y_true, y_prob = predictions(40)
    weights = np.random.default_rng(1).integers(0, 3, size=(40, 5)).astype(float)
    together = weighted_metrics(y_true, y_prob, [weights[:, :2], weights[:, 2:]], THREE)
    alone = [weighted_metrics(y_true, y_prob, [weights[:, [i]]], THREE) for i in range(5)]
    for name, values in together.items():
        assert values == pytest.approx([one[name][0] for one in alone]), name


@pytest.mark.parametrize("classes", [THREE, TWO])
def test_point_values_are_those_of_scikit_learn(classes):
    y_true, y_prob = predictions(200, classes=classes)
    report = classification_report(y_true, y_prob.argmax(1), labels=classes, output_dict=True)
    metrics = point_metrics(y_true, y_prob, classes)
    hits = y_true[:, None] == classes
    assert metrics["accuracy"] == pytest.approx((y_true == y_prob.argmax(1)).mean())
    assert metrics["f1_macro"] == pytest.approx(report["macro avg"]["f1-score"])
    assert metrics["precision_weighted"] == pytest.approx(report["weighted avg"]["precision"])
    assert metrics["recall_negative"] == pytest.approx(report["0"]["recall"])
    for average in ("macro", "micro", "weighted"):
        scores = y_prob[:, classes]
        assert metrics[f"roc_auc_{average}"] == pytest.approx(roc_auc_score(hits, scores, average=average))
        assert metrics[f"average_precision_{average}"] == pytest.approx(
            average_precision_score(hits, scores, average=average)
        )


def test_two_classes_have_no_metric_of_the_third():
    y_true, y_prob = predictions(30, classes=TWO)
    assert not [name for name in point_metrics(y_true, y_prob, TWO) if "neutral" in name]


def test_a_class_without_rows_has_no_value_and_neither_has_a_macro_average():
    y_true, y_prob = predictions(60, classes=TWO)
    metrics = point_metrics(y_true, y_prob, THREE)
    undefined = {name for name, value in metrics.items() if value is None}
    families = ("precision", "recall", "f1", "roc_auc", "average_precision")
    assert undefined == {f"{family}_{of}" for family in families for of in ("neutral", "macro")}


def test_a_class_that_is_never_predicted_has_precision_zero_without_a_warning():
    y_true = np.array([0, 1, 2, 2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics = point_metrics(y_true, np.tile([0.1, 0.2, 0.7], (4, 1)), THREE)
    assert metrics["precision_negative"] == metrics["f1_negative"] == 0


def test_a_better_probability_ranking_raises_the_auc_but_not_the_accuracy():
    y_true = np.array([0, 0, 2, 2])
    worse = np.array([[0.6, 0, 0.4], [0.9, 0, 0.1], [0.7, 0, 0.3], [0.2, 0, 0.8]])
    better = np.array([[0.8, 0, 0.2], [0.9, 0, 0.1], [0.7, 0, 0.3], [0.2, 0, 0.8]])
    low, high = (point_metrics(y_true, y_prob, TWO) for y_prob in (worse, better))
    assert low["accuracy"] == high["accuracy"]
    assert (low["roc_auc_negative"], high["roc_auc_negative"]) == (0.75, 1.0)


def test_the_prior_ranks_nothing_and_names_the_majority():
    y_true, _ = predictions(90)
    metrics = point_metrics(y_true, prior_prob(np.array([2, 2, 2, 0, 1]), 90), THREE)
    assert metrics["accuracy"] == (y_true == 2).mean()
    assert metrics["roc_auc_macro"] == 0.5


def test_intervals_hold_the_mean_and_narrow_with_more_rows():
    def width(n_rows):
        folds = [predictions(n_rows, seed) for seed in range(3)]
        _, summary = summarise(folds, THREE, n=400)
        for name, value in summary.items():
            assert value["low"] < value["mean"] < value["high"], name
        return summary["accuracy"]["high"] - summary["accuracy"]["low"]

    assert width(100) / width(1600) == pytest.approx(4, rel=0.25)


def test_the_accuracy_interval_is_the_binomial_one():
    y_true, y_prob = predictions(1000)
    accuracy = (y_true == y_prob.argmax(1)).mean()
    low, high = bootstrap_intervals([(y_true, y_prob)], THREE, n=4000)["accuracy"]
    half = 1.96 * math.sqrt(accuracy * (1 - accuracy) / 1000)
    assert (low, high) == pytest.approx((accuracy - half, accuracy + half), abs=0.003)


def test_the_same_seed_gives_the_same_intervals_and_another_seed_others():
    folds = [predictions(50)]
    once, again, other = (bootstrap_intervals(folds, THREE, n=100, seed=seed) for seed in (3, 3, 4))
    assert once == again != other


def test_a_class_missing_from_one_fold_is_averaged_over_the_others():
    folds = [predictions(80, seed=1), predictions(80, seed=2), predictions(80, seed=3, classes=TWO)]
    per_fold, summary = summarise(folds, THREE, n=50)
    assert per_fold[2]["f1_neutral"] is None
    f1s = [metrics["f1_neutral"] for metrics in per_fold[:2]]
    assert summary["f1_neutral"]["mean"] == pytest.approx(np.mean(f1s))
    assert summary["f1_neutral"]["std"] == pytest.approx(np.std(f1s, ddof=1))
    assert summary["f1_neutral"]["low"] < summary["f1_neutral"]["high"]


def test_one_fold_has_no_standard_deviation_and_a_class_of_no_fold_no_summary():
    _, summary = summarise([predictions(40, classes=TWO)], THREE, n=20)
    assert summary["accuracy"]["std"] is None
    assert set(summary["f1_neutral"].values()) == {None}


def test_confusion_counts_rows_by_label_and_prediction():
    y_prob = np.eye(3)[[0, 2, 2, 1]]
    assert confusion_counts(np.array([0, 0, 2, 2]), y_prob).tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 1]]


def test_memory_does_not_grow_with_the_number_of_resamplings():
    def peak(n):
        tracemalloc.start()
        bootstrap_intervals([predictions(10_000)], THREE, n=n)
        bytes_used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return bytes_used

    assert peak(200) < 1.2 * peak(50)
