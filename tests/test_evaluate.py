"""`mvsent eval`: what it writes beside a run, and what it says of a run that is not as it should be."""

import json
import logging
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import top_k_accuracy_score
from typer.testing import CliRunner

from mvsent.cli import app
from mvsent.errors import DatasetError, RunError, UsageError
from mvsent.learn import metrics
from mvsent.learn.metrics import CLASS, METRICS, ByClass, Metric, register, score
from mvsent.pages.report_run import run_report
from mvsent.report.benchmark_tables import render_csv
from mvsent.report.results import render_results
from mvsent.runs import evaluate as evaluation
from mvsent.runs import predictor as predictor_module
from mvsent.runs.benchmark_results import summaries
from mvsent.runs.evaluate import PICTURES, evaluate
from mvsent.runs.run_folder import RunFolder, newest_run
from mvsent.shards.reader import Dataset
from tests.drawing import draw_pairs
from tests.run_folder import answers, predictions, write_run

FILES = {
    "metrics.json",
    "report.html",
    *(f"{name}.{suffix}" for name in PICTURES for suffix in ("png", "svg")),
}


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(evaluation, "RESAMPLES", 20)


@pytest.fixture
def run(tmp_path) -> Path:
    return write_run(tmp_path / "runs" / "a-run")


def rewrite(run: Path, fold: int, change) -> Path:
    """Change the table of a fold's predictions."""
    path = run / f"fold-{fold}" / "predictions.parquet"
    pq.write_table(change(pq.read_table(path)), path)
    return path


def with_column(table: pa.Table, name: str, values) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, pa.array(values))


@pytest.mark.slow
def test_everything_is_written_and_nothing_else(run):
    before = {path.name for path in run.iterdir()}
    result = evaluate(run)
    assert {path.name for path in run.iterdir()} - before == FILES
    assert json.loads((run / "metrics.json").read_text()) == result.document
    assert [path.name for path in result.pictures] == [f"{name}.png" for name in PICTURES]


def test_metrics_are_those_of_the_test_rows_and_their_mean_over_folds(run):
    document = evaluate(run, ["roc"]).document
    expected = [score(*answers(120, (0, 1, 2), fold), (0, 1, 2)) for fold in range(3)]
    assert [fold["metrics"]["f1_macro"] for fold in document["folds"]] == pytest.approx(
        [metrics["f1_macro"] for metrics in expected], abs=1e-6
    )
    assert document["metrics"]["accuracy"]["mean"] == pytest.approx(
        np.mean([metrics["accuracy"] for metrics in expected])
    )


@pytest.mark.slow
def test_the_document_says_what_was_measured_and_stands_beside_the_paper(run):
    document = evaluate(run, ["roc"]).document
    told = {
        "run": "a-run",
        "model": "dmlanet",
        "fidelity": "reconstructed",
        "dataset": "mvsa-single",
        "dataset_sha256": "d" * 64,
        "protocol": "paper-5x",
        "split_sha256": "5" * 64,
        "seeds": [0],
        "classes": ["negative", "neutral", "positive"],
        "n_folds": 3,
        "published": {"accuracy": 79.47, "f1": 79.59},
    }
    assert {name: document[name] for name in told} == told
    assert set(document["metrics"]["accuracy"]) == {"mean", "std", "low", "high"}
    assert document["majority"].keys() == document["metrics"].keys()


def test_the_majority_baseline_has_the_label_shares_of_the_training_rows(tmp_path):
    run = write_run(tmp_path / "run", trained_labels=[1, 1, 1, 0, 2])
    neutral = np.mean([np.mean(answers(120, (0, 1, 2), fold)[0] == 1) for fold in range(3)])
    document = evaluate(run, ["roc"]).document
    assert document["majority"]["accuracy"]["mean"] == pytest.approx(neutral)
    hits = [answers(120, (0, 1, 2), fold)[0] == 1 for fold in range(3)]
    losses = [-np.where(of_fold, np.log(0.6), np.log(0.2)).mean() for of_fold in hits]
    assert document["majority"]["log_loss"]["mean"] == pytest.approx(np.mean(losses))
    assert not [note for note in document["notes"] if "majority baseline" in note]


def test_of_an_older_run_whose_dataset_is_gone_it_has_those_of_the_validation_rows(tmp_path):
    def only_neutral_in_validation(table):
        role, label = table["role"].to_pylist(), table["label"].to_pylist()
        return with_column(
            table,
            "label",
            np.array([1 if r == "validation" else y for r, y in zip(role, label, strict=True)], np.int8),
        )

    run = write_run(tmp_path / "run", trained_labels=None)
    for fold in range(3):
        rewrite(run, fold, only_neutral_in_validation)
    shares = [np.mean(answers(120, (0, 1, 2), fold)[0] == 1) for fold in range(3)]
    document = evaluate(run, ["roc"]).document
    assert document["majority"]["accuracy"]["mean"] == pytest.approx(np.mean(shares))
    [note] = [note for note in document["notes"] if "majority baseline" in note]
    assert "has the label shares of the validation rows: an earlier version trained the run" in note


@pytest.mark.slow
def test_a_pair_that_two_folds_test_counts_once_in_the_confusion_matrix(run):
    """Its rows say how many pairs there are, and the title too."""
    document = evaluate(run, ["roc"]).document
    assert np.sum(document["confusion"]) == document["n_pairs"] == 360
    assert "360 test rows, seed 0" in render_results(document)
    twice = pq.read_table(run / "fold-0" / "predictions.parquet")
    pq.write_table(twice, run / "fold-1" / "predictions.parquet")
    document = evaluate(run, ["confusion"]).document
    assert document["n_pairs"] == 240
    labels = np.concatenate([answers(120, (0, 1, 2), fold)[0] for fold in (0, 2)])
    assert np.sum(document["confusion"], axis=1) == pytest.approx(np.bincount(labels), abs=1e-4)
    assert [np.sum(fold["confusion"]) for fold in document["folds"]] == [120, 120, 120]
    assert "360 test rows of 240 pairs, seed 0" in render_results(document)


@pytest.mark.slow
def test_repeated_rows_make_the_interval_wider(run):
    """Three folds with the rows and answers of one say what that one says."""
    (run / "config.toml").write_text((run / "config.toml").read_text().replace("folds = []", "folds = [0]"))
    [once] = [evaluate(run, ["roc"]).document["metrics"]["accuracy"]]
    (run / "config.toml").write_text((run / "config.toml").read_text().replace("folds = [0]", "folds = []"))
    for fold in (1, 2):
        shutil.copy(run / "fold-0" / "predictions.parquet", run / f"fold-{fold}")
    thrice = evaluate(run, ["roc"]).document["metrics"]["accuracy"]
    assert (thrice["low"], thrice["high"]) == pytest.approx((once["low"], once["high"]))


@pytest.mark.slow
def test_evaluating_again_writes_the_same_bytes(run):
    evaluate(run)
    first = {name: (run / name).read_bytes() for name in FILES}
    evaluate(run)
    assert {name: (run / name).read_bytes() for name in FILES} == first


def test_pictures_that_are_not_asked_for_are_not_drawn(run):
    evaluate(run, ["prc"])
    assert [path.name for path in run.glob("*.png")] == ["prc.png"]
    assert "Precision-recall" in (run / "report.html").read_text()
    assert "ROC curves" not in (run / "report.html").read_text()


@pytest.mark.slow
def test_pictures_of_an_earlier_evaluation_follow_the_new_numbers(run):
    evaluate(run, ["confusion"])
    old = (run / "confusion.svg").read_bytes()
    rewrite(run, 0, lambda table: table.filter(pa.compute.not_equal(table["id"], "mvsa-single:test-0-7")))
    assert len(evaluate(run, ["roc"]).pictures) == 2
    assert (run / "confusion.svg").read_bytes() != old


def test_an_unknown_picture_is_refused_with_the_known_ones(run):
    with pytest.raises(
        UsageError, match=r"unknown 'rco'\. Did you mean 'roc'\? Known are: roc, prc, confusion, curves"
    ):
        evaluate(run, ["roc", "rco"])
    assert not (run / "metrics.json").exists()


def test_a_run_without_a_finished_fold_says_how_to_finish_it(tmp_path):
    run = write_run(tmp_path / "begun", finished=[])
    with pytest.raises(RunError, match=r"begun: no fold is finished\. .*mvsent train --resume --out .*begun"):
        evaluate(run)


def test_a_half_finished_run_is_judged_loudly(tmp_path, caplog):
    run = write_run(tmp_path / "half", n_folds=5, finished=[0, 2])
    document = evaluate(run, ["roc"]).document
    assert [fold["fold"] for fold in document["folds"]] == [0, 2]
    loud = next(note for note in document["notes"] if note.startswith("ONLY 2 OF 5 FOLDS"))
    assert "missing: 1, 3, 4" in loud and "--resume" in loud
    assert loud in [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "ONLY 2 OF 5 FOLDS" in (run / "report.html").read_text()


@pytest.mark.slow
def test_one_fold_has_no_standard_deviation(tmp_path):
    run = write_run(tmp_path / "one", finished=[1], folds=[1])
    document = evaluate(run).document
    assert document["metrics"]["accuracy"]["std"] is None
    assert document["n_folds"] == 3 and not [note for note in document["notes"] if "FOLDS" in note]


@pytest.mark.slow
def test_a_class_missing_from_a_fold_is_null_there_and_said_once(tmp_path, caplog):
    run = write_run(tmp_path / "run")
    rewrite(run, 1, lambda _: predictions(50, (0, 2), seed=1))
    document = evaluate(run).document
    assert [fold["metrics"]["f1_neutral"] is None for fold in document["folds"]] == [False, True, False]
    assert [record.getMessage() for record in caplog.records if "neutral" in record.getMessage()] == [
        "fold 1 has no neutral test row: its metrics of that class and its macro averages are undefined, the "
        "means are over the other folds"
    ]


def test_a_run_of_two_classes_has_metrics_of_two_classes(tmp_path):
    document = evaluate(write_run(tmp_path / "two", classes=(0, 2)), ["confusion"]).document
    assert document["classes"] == ["negative", "positive"]
    assert not [name for name in document["metrics"] if "neutral" in name]


def test_a_run_whose_dataset_is_gone_is_judged_with_a_note(run, caplog):
    evaluate(run, ["roc"])
    assert [record.getMessage() for record in caplog.records] == [
        f"{run.parent / 'gone'}: the dataset is gone, the saved predictions are evaluated"
    ]


def test_a_run_whose_dataset_is_there_needs_no_note(tmp_path, small_dataset):
    sha256 = Dataset.open(small_dataset).sha256
    run = write_run(tmp_path / "run", dataset=str(small_dataset), dataset_sha256=sha256)
    assert evaluate(run, ["roc"]).document["notes"] == []


def test_a_dataset_that_has_changed_since_is_noted(tmp_path, small_dataset):
    run = write_run(tmp_path / "run", dataset=str(small_dataset))
    assert "has changed since" in evaluate(run, ["roc"]).document["notes"][0]


def spoil_nan(table):
    return with_column(table, "p_neutral", np.full(len(table), np.nan, np.float32))


def spoil_sum(table):
    return with_column(table, "p_neutral", table["p_neutral"].to_numpy() + np.float32(0.01))


def spoil_sign(table):
    y_prob = table["p_neutral"].to_numpy()
    moved = with_column(table, "p_neutral", np.full(len(table), -0.1, np.float32))
    return with_column(moved, "p_negative", table["p_negative"].to_numpy() + y_prob + np.float32(0.1))


def spoil_label(table):
    return with_column(table, "label", np.full(len(table), 3, np.int8))


def spoil_null(table):
    return with_column(table, "p_neutral", pa.nulls(len(table), pa.float32()))


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (spoil_nan, "120 rows have a probability that is not a number, the first is mvsa-single:"),
        (spoil_sum, "120 rows have probabilities that do not sum to one"),
        (spoil_sign, "120 rows have a negative probability"),
        (spoil_label, "120 rows have a label that is none of the run's classes"),
        (spoil_null, "has empty cells"),
        (lambda table: table.drop_columns(["p_neutral"]), "has no column p_neutral"),
        (lambda table: table.filter(pa.compute.equal(table["role"], "validation")), "has no test rows"),
        (lambda table: table.slice(0, 0), "has no test rows"),
    ],
)
def test_impossible_predictions_are_refused_naming_the_file(run, spoil, problem):
    path = rewrite(run, 1, spoil)
    with pytest.raises(RunError, match=problem) as caught:
        evaluate(run)
    assert str(path) in str(caught.value)
    assert not (run / "metrics.json").exists()


def test_a_file_that_is_no_parquet_is_refused_naming_it(run):
    path = run / "fold-0" / "predictions.parquet"
    path.write_bytes(b"half a file")
    with pytest.raises(RunError, match="not readable") as caught:
        evaluate(run)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "epoch,train_loss\n0,nonsense\n", "epoch,loss\n0,1\n"])
def test_a_broken_history_is_refused_naming_it(run, text):
    (run / "fold-2" / "history.csv").write_text(text)
    with pytest.raises(RunError, match=r"fold-2/history\.csv.*--metrics roc,prc,confusion"):
        evaluate(run)
    evaluate(run, ["roc"])


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="not a run folder"):
        evaluate(tmp_path)


def test_the_newest_run_is_the_one_begun_last(tmp_path):
    import os

    for i, name in enumerate(("b", "c", "a")):
        config = write_run(tmp_path / "runs" / name, finished=[]) / "config.toml"
        os.utime(config, (1000 + i, 1000 + i))
    assert newest_run(tmp_path / "runs").name == "a"


def test_without_runs_the_next_step_is_to_train(tmp_path):
    with pytest.raises(RunError, match=r"holds no run\. Make one with: mvsent train"):
        newest_run(tmp_path / "runs")


# Another dataset


@pytest.fixture
def predictor(monkeypatch):
    """The networks of every fold are sure of label 2, whatever is missing; the calls are recorded."""
    calls = []

    class Sure:
        def __init__(self, run, dataset, *, quiet):
            self.dataset = dataset

        def predict(self, fold, *, missing):
            calls.append(fold)
            return np.tile(np.array([0.1, 0.2, 0.7], np.float32), (len(self.dataset), 1))

    monkeypatch.setattr(predictor_module, "DatasetPredictor", Sure)
    return calls


@pytest.mark.slow
def test_another_dataset_is_judged_afresh_beside_the_run_s_own_numbers(run, small_dataset, predictor):
    evaluate(run, ["roc"])
    own = (run / "metrics.json").read_bytes()
    result = evaluate(run, dataset=small_dataset)
    assert predictor == [0, 1, 2]
    assert result.folder == run / "eval-small"
    assert (run / "metrics.json").read_bytes() == own
    assert (result.document["dataset"], result.document["trained_on"]) == ("small", "mvsa-single")
    assert result.document["metrics"]["recall_positive"]["mean"] == 1
    assert {path.name for path in result.folder.iterdir()} == {
        *("fold-0", "fold-1", "fold-2"),
        *(name for name in FILES if not name.startswith("curves")),
    }


def test_the_paper_did_not_judge_a_network_on_another_dataset(run, make_dataset, predictor):
    """Numbers are published for Flickr: of a network that was trained on it."""
    assert evaluate(run, ["roc"], make_dataset(draw_pairs(12), name="flickr")).document["published"] is None


def test_fresh_answers_are_saved_as_the_run_s_own_are(run, small_dataset, predictor):
    evaluate(run, ["roc"], small_dataset)
    saved = pq.read_table(run / "eval-small" / "fold-1" / "predictions.parquet")
    assert saved.column_names == pq.read_table(run / "fold-1" / "predictions.parquet").column_names
    assert saved["id"].to_pylist() == Dataset.open(small_dataset).ids


@pytest.mark.slow
def test_a_dataset_of_fewer_classes_is_judged_on_those(run, make_dataset, predictor):
    pairs = draw_pairs(40, images=False)
    polar = pairs.filter(pa.compute.not_equal(pairs["label"], 1))
    document = evaluate(run, dataset=make_dataset(polar, name="polar")).document
    assert document["classes"] == ["negative", "positive"]
    assert document["metrics"]["recall_macro"]["mean"] == 0.5


@pytest.mark.slow
def test_the_run_s_own_dataset_may_be_named_and_its_test_rows_are_judged(tmp_path, small_dataset, predictor):
    run = write_run(tmp_path / "run", dataset_sha256=Dataset.open(small_dataset).sha256)
    named = evaluate(run, dataset=small_dataset)
    assert not predictor and named.folder == run and named.document["notes"] == []


def test_an_empty_dataset_is_refused(run, make_dataset, predictor):
    with pytest.raises(DatasetError, match="has no rows"):
        evaluate(run, dataset=make_dataset(draw_pairs(0), name="empty"))


def test_training_curves_of_another_dataset_are_refused(run, small_dataset):
    with pytest.raises(UsageError, match="nothing was trained that way"):
        evaluate(run, ["curves"], small_dataset)


# A metric that is added


@pytest.fixture
def two_more_metrics():
    """A metric in a unit of its own, and one by class."""
    before = dict(METRICS)

    @register(Metric("confidence", "mean confidence", "0 to 1", lower_is_better=True))
    def confidence(answers):
        return answers.mean(answers.y_prob.max(axis=1))

    @register(Metric("specificity", "specificity", rows=(CLASS, "macro"), headline=("macro",)))
    def specificity(answers):
        hits, support, predicted = answers.counts
        others = answers.total[:, None] - support
        each = 1 - (predicted - hits) / others
        return ByClass(each, (each * others).sum(axis=1) / others.sum(axis=1))

    yield
    METRICS.clear()
    METRICS.update(before)


def test_the_metric_that_contributing_shows_can_be_pasted():
    page = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    [block] = [
        each for each in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "@register(Metric" in each
    ]
    before = dict(METRICS)
    exec(block, vars(metrics) | {})
    [added] = METRICS.keys() - before.keys()
    y_true, y_prob = answers(120, (0, 1, 2), 1)
    found = METRICS.pop(added)(metrics.Predicted(y_true, y_prob, [0, 1, 2], np.ones((120, 1))))
    assert found == pytest.approx(top_k_accuracy_score(y_true, y_prob, k=2))


@pytest.mark.slow
@pytest.mark.usefixtures("two_more_metrics")
def test_a_registered_metric_is_in_the_table_the_files_and_the_pages(run):
    told = invoke(str(run), "--metrics", "roc").stdout
    assert re.search(
        r"mean confidence ↓ \(0 to 1\) +0\.\d{3} ± 0\.\d{3} +0\.\d{3}–0\.\d{3} +0\.\d{3}\n", told
    )
    assert re.search(r"specificity, neutral +9\d\.\d\d ± \d\.\d\d +9\d\.\d\d–\d+\.\d\d +100\.00\n", told)
    document = json.loads((run / "metrics.json").read_text())
    y_true, y_prob = answers(120, (0, 1, 2), 1)
    of_fold = document["folds"][1]["metrics"]
    assert of_fold["confidence"] == pytest.approx(y_prob.max(axis=1).mean(), abs=1e-6)
    negative = y_prob.argmax(axis=1) == 0
    assert of_fold["specificity_negative"] == pytest.approx((~negative)[y_true != 0].mean())
    for of in ("metrics", "majority"):
        assert set(document[of]["confidence"]) == {"mean", "std", "low", "high"}
    for page in ((run / "report.html").read_text(), run_report(run, 4, quiet=True)[0]):
        assert '<th scope="row">mean confidence ↓ (0 to 1)</th>' in page  # in the table of results
        assert '<th scope="col">specificity, macro</th>' in page  # in that of folds
    row = {"folds": [], **summaries(document["metrics"])}
    header, line = render_csv({"tables": [{"table": "2", "rows": [row]}]}).splitlines()
    by_column = dict(zip(header.split(","), line.split(","), strict=True))
    assert float(by_column["confidence_mean"]) == document["metrics"]["confidence"]["mean"]
    assert float(by_column["specificity_macro_low"]) == document["metrics"]["specificity_macro"]["low"]


def test_an_evaluation_older_than_a_metric_is_a_row_of_a_benchmark_without_it(run):
    document = evaluate(run, ["roc"]).document
    del document["metrics"]["log_loss"]
    row = {"folds": [], **summaries(document["metrics"])}
    header, line = render_csv({"tables": [{"table": "2", "rows": [row]}]}).splitlines()
    by_column = dict(zip(header.split(","), line.split(","), strict=True))
    assert by_column["log_loss_mean"] == "" and by_column["accuracy_mean"]


# The command


def invoke(*arguments: str):
    return CliRunner().invoke(app, ["eval", *arguments], catch_exceptions=False)


@pytest.mark.slow
def test_without_argument_the_newest_run_is_judged_and_the_table_printed(run, monkeypatch):
    monkeypatch.chdir(run.parents[1])
    result = invoke("--metrics", "roc, prc")
    assert result.stdout.startswith("dmlanet (reconstructed) on mvsa-single, paper-5x, 3 folds, ")
    assert "79.47" in result.stdout and "79.59" in result.stdout
    assert result.stdout.splitlines()[-4:] == [
        f"runs/a-run/{name}" for name in ("roc.png", "prc.png", "report.html", "metrics.json")
    ]


@pytest.mark.slow
def test_json_prints_the_document_and_nothing_else(run):
    result = invoke(str(run), "--json", "--metrics", "roc")
    assert json.loads(result.stdout) == json.loads((run / "metrics.json").read_text())


@pytest.mark.slow
def test_the_seed_moves_the_intervals_and_not_the_means(run):
    one, other = (
        json.loads(invoke(str(run), "--json", "--metrics", "roc", "--seed", s).stdout) for s in "12"
    )
    assert one["metrics"]["accuracy"]["mean"] == other["metrics"]["accuracy"]["mean"]
    assert one["metrics"]["accuracy"]["low"] != other["metrics"]["accuracy"]["low"]


@pytest.mark.slow
def test_a_failed_write_leaves_the_old_numbers(run, monkeypatch):
    evaluate(run, ["roc"])
    old = (run / "metrics.json").read_bytes()
    shutil.rmtree(run / "fold-2")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(evaluation, "render_page", full)
    with pytest.raises(OSError, match="No space left"):
        evaluate(run, ["roc"])
    assert (run / "metrics.json").read_bytes() == old
    assert not list(run.glob(".*"))
    assert RunFolder.open(run).finished_folds == [0, 1]
