"""Metrics against scikit-learn, and the bootstrap against the metrics."""

import math
import tracemalloc
import warnings

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve

from mvsent.learn.answers import Predicted, confusion_counts, prior_prob
from mvsent.learn.bootstrap import Answered, interval, resampled_means, summarise
from mvsent.learn.metrics import METRICS, ByClass, score, values
from mvsent.pairs import LABEL_NAMES

THREE, TWO = [0, 1, 2], [0, 2]


def predictions(n_rows, seed=0, skill=1.0, classes=THREE):
    """Labels, and probabilities that know something about them."""
    rng = np.random.default_rng(seed)
    y_true = rng.choice(classes, size=n_rows)
    logits = rng.normal(size=(n_rows, 3)) + skill * np.eye(3)[y_true]
    logits[:, np.setdiff1d(range(3), classes)] = -np.inf
    y_prob = np.exp(logits)
    return y_true, y_prob / y_prob.sum(axis=1, keepdims=True)


def answered(*folds):
    """Folds that test no pair twice."""
    ends = np.cumsum([len(y_true) for y_true, _ in folds])
    return Answered(folds, np.split(np.arange(ends[-1]), ends[:-1]))


def by_scikit_learn(y_true, y_prob, classes, weights):
    """Every metric by key. Rows without weight must not be among them: scikit-learn would count their class."""
    y_pred, kinds = y_prob.argmax(axis=1), ("precision", "recall", "f1")
    told = {"labels": classes, "zero_division": 0, "sample_weight": weights}
    scores = {"accuracy": sk.accuracy_score(y_true, y_pred, sample_weight=weights)}
    for average in ("weighted", "macro", "micro"):
        of = sk.precision_recall_fscore_support(y_true, y_pred, average=average, **told)
        scores |= {f"{kind}_{average}": value for kind, value in zip(kinds, of[:3], strict=True)}
    each = sk.precision_recall_fscore_support(y_true, y_pred, average=None, **told)
    for i, label in enumerate(classes):
        scores |= {f"{kind}_{LABEL_NAMES[label]}": of[i] for kind, of in zip(kinds, each[:3], strict=True)}
    hits, p = y_true[:, None] == classes, y_prob[:, classes]
    for name, of in (("roc_auc", sk.roc_auc_score), ("average_precision", sk.average_precision_score)):
        each = [of(hits[:, i], p[:, i], sample_weight=weights) for i in range(len(classes))]
        scores |= {f"{name}_{LABEL_NAMES[label]}": value for label, value in zip(classes, each, strict=True)}
        scores[f"{name}_macro"] = np.mean(each)
        support = (hits * weights[:, None]).sum(axis=0)
        there = support > 0
        scores[f"{name}_weighted"] = np.average(np.array(each)[there], weights=support[there])
        scores[f"{name}_micro"] = of(hits.ravel(), p.ravel(), sample_weight=weights.repeat(len(classes)))
    scores["matthews_corrcoef"] = sk.matthews_corrcoef(y_true, y_pred, sample_weight=weights)
    scores["cohen_kappa"] = sk.cohen_kappa_score(y_true, y_pred, sample_weight=weights)
    scores["log_loss"] = sk.log_loss(y_true, y_prob, labels=THREE, sample_weight=weights)
    scores["brier_score"] = sk.brier_score_loss(
        y_true, y_prob, labels=THREE, scale_by_half=False, sample_weight=weights
    )
    return scores | {"expected_calibration_error": calibration_error(y_true, y_prob, weights)}


def calibration_error(y_true, y_prob, weights):
    """By scikit-learn's calibration curve, which takes no weights: of rows that are repeated."""
    repeated = np.repeat(np.arange(len(y_true)), np.round(weights * 8).astype(int))
    correct, confidence = (y_prob.argmax(axis=1) == y_true)[repeated], y_prob.max(axis=1)[repeated]
    accuracies, means = calibration_curve(correct, confidence, n_bins=15)
    counts = np.bincount(np.searchsorted(np.linspace(0, 1, 16)[1:-1], confidence))
    return np.average(np.abs(accuracies - means), weights=counts[counts > 0])


@st.composite
def weighted_predictions(draw):
    """A few rows with weights in eighths, 0 too. Most probabilities are quarters, so that ties abound."""
    classes = draw(st.sampled_from([THREE, TWO]))
    n_rows = draw(st.integers(1, 12))

    def rows(of):
        return np.array(draw(st.lists(of, min_size=n_rows, max_size=n_rows)))

    y_true = rows(st.sampled_from(classes))
    parts = st.one_of(st.integers(0, 4).map(lambda part: part / 4), st.floats(0, 1))
    first = rows(parts)
    second = rows(parts) * (1 - first) * (classes == THREE)
    y_prob = np.stack([first, second, np.maximum(1 - first - second, 0)], axis=1)
    weights = rows(st.integers(0, 40)) / 8
    weights[draw(st.integers(0, n_rows - 1))] += 1
    return y_true, y_prob, weights, classes


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(weighted_predictions())
def test_every_metric_is_that_of_scikit_learn_under_any_weights(case):
    y_true, y_prob, weights, classes = case
    there = weights > 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn says what is undefined
        expected = by_scikit_learn(y_true[there], y_prob[there], classes, weights[there])
    scores = score(y_true, y_prob, classes, weights)
    assert scores.keys() == expected.keys()
    lost = [LABEL_NAMES[label] for label in classes if label not in y_true[there]]
    one_class_only = len(set(y_true[there])) == 1
    for key, value in scores.items():
        if key.endswith(tuple(lost)) or (lost and key.endswith("macro")):
            assert value is None, key
        elif value is None:
            assert one_class_only and key.startswith(("roc_auc", "cohen_kappa")), key
            assert key == "roc_auc_weighted" or np.isnan(expected[key]), key
        else:
            assert value == pytest.approx(expected[key], abs=1e-9), key


@settings(max_examples=50, deadline=None)
@given(weighted_predictions())
def test_whole_weights_are_repeated_rows(case):
    y_true, y_prob, weights, classes = case
    whole = np.ceil(weights).astype(int)
    repeated = score(np.repeat(y_true, whole), np.repeat(y_prob, whole, axis=0), classes)
    assert score(y_true, y_prob, classes, whole.astype(float)) == {
        key: value if value is None else pytest.approx(value, abs=1e-12) for key, value in repeated.items()
    }


def test_many_weightings_at_once_give_what_each_gives_alone():
    y_true, y_prob = predictions(40)
    weights = np.random.default_rng(1).integers(0, 3, size=(40, 5)).astype(float)
    unweighted = Predicted(y_true, y_prob, THREE, np.ones((40, 1)))
    for key, together in values(unweighted.reweighted(weights)).items():
        alone = [score(y_true, y_prob, THREE, weights[:, i])[key] for i in range(5)]
        assert together == pytest.approx(alone), key


def test_an_entry_names_the_keys_that_its_function_gives():
    y_true, y_prob = predictions(30)
    keys = score(y_true, y_prob)
    for metric, compute in METRICS.items():
        is_by_class = isinstance(compute(Predicted(y_true, y_prob, THREE, np.ones((30, 1)))), ByClass)
        assert bool(metric.rows) == is_by_class
        assert {*metric.keys(metric.rows, LABEL_NAMES), *metric.keys(metric.headline)} <= keys.keys()


def test_a_certain_error_costs_36_nats_and_a_certain_hit_next_to_nothing():
    y_prob = np.array([[1.0, 0, 0]])
    assert score(np.array([2]), y_prob)["log_loss"] == pytest.approx(36.04, abs=0.01)
    assert 0 < score(np.array([0]), y_prob)["log_loss"] < 1e-15


def test_a_confidence_on_the_edge_of_two_bins_belongs_to_the_lower_one():
    """0.6 closes the ninth of fifteen bins: with 0.59 it is one bin, with 0.61 it would be another."""
    y_prob = np.array([[0.6, 0.4, 0], [0.59, 0.41, 0]])
    errors = score(np.array([0, 1]), y_prob)["expected_calibration_error"]
    assert errors == pytest.approx(abs((0.4 - 0.59) / 2))


def test_two_classes_have_no_metric_of_the_third():
    y_true, y_prob = predictions(30, classes=TWO)
    assert not [name for name in score(y_true, y_prob, TWO) if "neutral" in name]


def test_a_class_without_rows_has_no_value_and_neither_has_a_macro_average():
    y_true, y_prob = predictions(60, classes=TWO)
    metrics = score(y_true, y_prob, THREE)
    undefined = {name for name, value in metrics.items() if value is None}
    families = ("precision", "recall", "f1", "roc_auc", "average_precision")
    assert undefined == {f"{family}_{of}" for family in families for of in ("neutral", "macro")}


def test_a_class_that_is_never_predicted_has_precision_zero_without_a_warning():
    y_true = np.array([0, 1, 2, 2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics = score(y_true, np.tile([0.1, 0.2, 0.7], (4, 1)), THREE)
    assert metrics["precision_negative"] == metrics["f1_negative"] == 0


def test_a_better_probability_ranking_raises_the_auc_but_not_the_accuracy():
    y_true = np.array([0, 0, 2, 2])
    worse = np.array([[0.6, 0, 0.4], [0.9, 0, 0.1], [0.7, 0, 0.3], [0.2, 0, 0.8]])
    better = np.array([[0.8, 0, 0.2], [0.9, 0, 0.1], [0.7, 0, 0.3], [0.2, 0, 0.8]])
    low, high = (score(y_true, y_prob, TWO) for y_prob in (worse, better))
    assert low["accuracy"] == high["accuracy"]
    assert (low["roc_auc_negative"], high["roc_auc_negative"]) == (0.75, 1.0)


def test_the_prior_ranks_nothing_and_names_the_majority():
    y_true, _ = predictions(90)
    metrics = score(y_true, prior_prob(np.array([2, 2, 2, 0, 1]), 90), THREE)
    assert metrics["accuracy"] == (y_true == 2).mean()
    assert metrics["roc_auc_macro"] == 0.5


def test_intervals_hold_the_mean_and_narrow_with_more_rows():
    def width(n_rows):
        folds = [predictions(n_rows, seed) for seed in range(3)]
        _, summary = summarise(answered(*folds), THREE, n=400)
        del summary["expected_calibration_error"]  # its resamplings look worse calibrated than the rows
        for name, value in summary.items():
            assert value["low"] < value["mean"] < value["high"], name
        return summary["accuracy"]["high"] - summary["accuracy"]["low"]

    assert width(100) / width(1600) == pytest.approx(4, rel=0.25)


def test_the_accuracy_interval_is_the_binomial_one():
    y_true, y_prob = predictions(1000)
    accuracy = (y_true == y_prob.argmax(1)).mean()
    [means] = resampled_means([answered((y_true, y_prob))], THREE, n=4000, only=["accuracy"])
    low, high = interval(means["accuracy"])
    half = 1.96 * math.sqrt(accuracy * (1 - accuracy) / 1000)
    assert (low, high) == pytest.approx((accuracy - half, accuracy + half), abs=0.003)


def test_the_same_seed_gives_the_same_intervals_and_another_seed_others():
    fold = answered(predictions(50))
    once, again, other = (summarise(fold, THREE, n=100, seed=seed)[1] for seed in (3, 3, 4))
    assert once == again != other


def test_a_class_missing_from_one_fold_is_averaged_over_the_others():
    folds = [predictions(80, seed=1), predictions(80, seed=2), predictions(80, seed=3, classes=TWO)]
    per_fold, summary = summarise(answered(*folds), THREE, n=50)
    assert per_fold[2]["f1_neutral"] is None
    f1s = [metrics["f1_neutral"] for metrics in per_fold[:2]]
    assert summary["f1_neutral"]["mean"] == pytest.approx(np.mean(f1s))
    assert summary["f1_neutral"]["std"] == pytest.approx(np.std(f1s, ddof=1))
    assert summary["f1_neutral"]["low"] < summary["f1_neutral"]["high"]


def test_one_fold_has_no_standard_deviation_and_a_class_of_no_fold_no_summary():
    _, summary = summarise(answered(predictions(40, classes=TWO)), THREE, n=20)
    assert summary["accuracy"]["std"] is None
    assert set(summary["f1_neutral"].values()) == {None}


def test_confusion_counts_rows_by_label_and_prediction():
    y_prob = np.eye(3)[[0, 2, 2, 1]]
    assert confusion_counts(np.array([0, 0, 2, 2]), y_prob).tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 1]]


def test_memory_does_not_grow_with_the_number_of_resamplings():
    def peak(n):
        tracemalloc.start()
        resampled_means([answered(predictions(10_000))], THREE, n=n)
        bytes_used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return bytes_used

    assert peak(200) < 1.2 * peak(50)
