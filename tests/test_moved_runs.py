"""Runs and datasets that moved, and the rows of another dataset that a run has seen in training."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import accuracy_score, f1_score
from typer.testing import CliRunner, Result

from mvsent.cli import app
from mvsent.config import TrainSettings
from mvsent.errors import RunError, UsageError
from mvsent.pages.explain import explain_run
from mvsent.pages.report import report
from mvsent.runs import evaluate as evaluation
from mvsent.runs.evaluate import evaluate
from mvsent.runs.run_dataset import own_dataset, own_split
from mvsent.runs.run_folder import RunFolder
from mvsent.runs.seen_rows import row_keys, seen_rows, training_labels
from mvsent.runs.train import train
from mvsent.shards.reader import Dataset
from mvsent.splits import TEST, TRAIN, VALIDATION
from tests.conftest import write_dataset
from tests.drawing import draw_pairs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, sixty_pairs: pa.Table) -> Path:
    """A folder with `data/small` and `runs/run`, two folds of which are trained."""
    folder = tmp_path_factory.mktemp("project")
    dataset = write_dataset(folder / "data" / "small", sixty_pairs)
    settings = TrainSettings(
        dataset=str(dataset),
        weights="random",
        words="random",
        epochs=1,
        batch_size=16,
        threads=1,
        folds=[0, 1],
    )
    train(settings, out=folder / "runs" / "run", quiet=True)
    return folder


@pytest.fixture
def moved(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project, whose recorded place of the dataset does not exist."""
    monkeypatch.setattr(evaluation, "RESAMPLES", 20)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "elsewhere"
    shutil.copytree(project, folder)
    config = folder / "runs" / "run" / "config.toml"
    config.write_text(config.read_text().replace(str(project), str(tmp_path / "former")))
    return folder


def typed(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


def rows_of(project: Path, role: int) -> np.ndarray:
    run = RunFolder.open(project / "runs" / "run")
    return own_split(run, Dataset.open(project / "data" / "small")).rows(0, role)


# Moved


def test_a_project_that_moved_finds_its_dataset_and_says_where(
    moved: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = moved / "runs" / "run"
    caplog.set_level(logging.INFO)
    assert own_dataset(RunFolder.open(run)).folder == moved / "data" / "small"
    assert f"is read from {moved / 'data' / 'small'}" in caplog.text
    assert evaluate(run, ["roc"], quiet=True).document["notes"] == [
        note for note in evaluate(run, ["roc"], quiet=True).document["notes"] if "gone" not in note
    ]
    assert evaluate(run, ["roc"], missing="image", quiet=True).document["missing"] == "image"


def test_the_dataset_is_found_by_its_rows_under_any_name(moved: Path) -> None:
    (moved / "data" / "small").rename(moved / "runs" / "renamed")
    for decoy in (moved / "data" / "small", moved / "runs" / "another"):  # other rows under its name
        write_dataset(decoy, draw_pairs(6, prefix="decoy"))
    run = RunFolder.open(moved / "runs" / "run")
    assert own_dataset(run).folder == moved / "runs" / "renamed"


def test_a_dataset_in_data_of_the_current_folder_is_found(
    moved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other" / "data").mkdir(parents=True)
    (moved / "data" / "small").rename(tmp_path / "other" / "data" / "any")
    monkeypatch.chdir(tmp_path / "other")
    assert own_dataset(RunFolder.open(moved / "runs" / "run")).folder == Path("data/any")


def test_a_dataset_that_is_nowhere_is_named_by_the_user_in_every_command(moved: Path, tmp_path: Path) -> None:
    run, away = moved / "runs" / "run", tmp_path / "disk" / "small"
    before = evaluate(run, ["roc"], missing="image", quiet=True).document
    away.parent.mkdir()
    (moved / "data" / "small").rename(away)
    with pytest.raises(RunError, match="--dataset"):
        evaluate(run, ["roc"], missing="image", quiet=True)
    again = typed("eval", run, "--missing", "image", "--dataset", away, "--metrics", "roc", "--json", "-q")
    assert json.loads(again.stdout) == before  # without a note that the dataset is gone
    own = typed("eval", run, "--dataset", away, "--metrics", "roc", "--json", "-q")
    assert json.loads(own.stdout)["n_folds"] == 5 and "gone" not in own.stdout
    page = tmp_path / "page.html"
    found = typed("report", run, "--dataset", away, "--out", page, "--json", "-q")
    assert json.loads(found.stdout)["shown"] == json.loads(found.stdout)["errors"] > 0
    typed("explain", run, "--dataset", away, "-n", "2", "--measured", "0", "--out", tmp_path / "seen", "-q")
    assert "test rows of small" in (tmp_path / "seen" / "index.html").read_text()


def test_a_dataset_of_other_rows_is_not_taken_for_the_run_s(
    moved: Path, make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    other = make_dataset(draw_pairs(12, prefix="other"), name="other")
    run = moved / "runs" / "run"
    with pytest.raises(UsageError, match=r"holds other rows \(other\) than .*run was trained on \(small\)"):
        report(run, tmp_path / "page.html", dataset=other, quiet=True)
    assert not (tmp_path / "page.html").exists()
    with pytest.raises(UsageError, match="is a dataset itself"):
        report(other, tmp_path / "page.html", dataset=other, quiet=True)


def test_another_dataset_is_explained_as_another(
    moved: Path, make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    other = make_dataset(draw_pairs(12, prefix="other"), name="other")
    told = explain_run(moved / "runs" / "run", dataset=other, n=1, measured=0, out=tmp_path / "page")
    assert "on rows of other" in (told.folder / "index.html").read_text()


def test_the_split_of_a_lost_file_is_found_in_the_dataset(project: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "data" / "small"
    shutil.copytree(project / "data" / "small", dataset)
    file = tmp_path / "mine.csv"
    ids = Dataset.open(dataset).ids
    roles = ["test", "validation", "train", "train", "train"]
    file.write_text("id,role\n" + "".join(f"{id},{roles[i // 3 % 5]}\n" for i, id in enumerate(ids)))
    settings = TrainSettings(
        dataset=str(dataset),
        split_file=str(file),
        model="logistic",
        weights="random",
        words="random",
        threads=1,
    )
    run = RunFolder.open(train(settings, out=tmp_path / "run", quiet=True).run)
    file.unlink()
    assert own_split(run, Dataset.open(dataset)).sha256 == run.resolved.split_sha256


# Seen


@pytest.fixture
def again(moved: Path, project: Path, sixty_pairs: pa.Table, make_dataset: Callable[..., Path]) -> Path:
    """Ten training rows under other ids and ten new pairs, as a dataset of another name."""
    old = sixty_pairs.take(rows_of(project, TRAIN)[:10])
    ids = pa.array([f"again:{i}" for i in range(10)])
    old = old.set_column(old.schema.get_field_index("id"), old.schema.field("id"), ids)
    new = draw_pairs(40, prefix="new").slice(30)
    pictures = [{"bytes": row["bytes"] + b"\0", "path": row["path"]} for row in new["image"].to_pylist()]
    new = new.set_column(1, new.schema.field("image"), pa.array(pictures, new.schema.field("image").type))
    texts = pa.array([f"a wholly new text {i}" for i in range(10)])
    new = new.set_column(2, new.schema.field("text"), texts)
    sha256 = pa.array([f"{i:064x}" for i in range(10)])
    new = new.set_column(new.schema.get_field_index("sha256"), new.schema.field("sha256"), sha256)
    return make_dataset(pa.concat_tables([old, new]), name="again")


def test_rows_seen_in_training_are_counted_and_the_metrics_given_without_them(
    moved: Path, again: Path
) -> None:
    run = moved / "runs" / "run"
    result = evaluate(run, ["roc"], again, quiet=True)
    seen = result.document["seen"]
    assert (seen["n_rows"], seen["n_seen"], seen["by"]["id"]) == (20, 10, 0)
    assert seen["by"]["text"] == seen["by"]["picture"] == 10
    assert [fold["n_unseen"] + fold["n_seen"] for fold in seen["folds"]] == [20, 20]
    assert seen["folds"][0]["n_seen"] == 10
    # By scikit-learn, on the rows that the first fold's network was neither trained nor validated on.
    saved = pq.read_table(result.folder / "fold-0" / "predictions.parquet").to_pandas()
    new = saved[saved["id"].str.startswith("new:")]
    predicted = new[["p_negative", "p_neutral", "p_positive"]].to_numpy().argmax(axis=1)
    assert seen["folds"][0]["metrics"]["accuracy"] == accuracy_score(new["label"], predicted)
    assert seen["folds"][0]["metrics"]["f1_macro"] == pytest.approx(
        f1_score(new["label"], predicted, average="macro")
    )
    assert any("10 of 20 rows of again were seen" in note for note in result.document["notes"])
    told = typed("eval", run, "--dataset", again, "--metrics", "roc", "-q").stdout
    assert "without seen rows" in told and "without seen rows" in (result.folder / "report.html").read_text()


def test_a_training_set_as_a_dataset_has_no_row_that_is_new(
    moved: Path, project: Path, sixty_pairs: pa.Table, make_dataset: Callable[..., Path]
) -> None:
    """Its 98 % would say nothing."""
    rows = np.concatenate([rows_of(project, TRAIN), rows_of(project, VALIDATION)])
    document = evaluate(
        moved / "runs" / "run", ["roc"], make_dataset(sixty_pairs.take(rows), name="train"), quiet=True
    ).document
    seen = document["seen"]
    assert seen["n_seen"] == len(rows) and seen["folds"][0]["n_unseen"] == 0
    assert seen["folds"][0]["metrics"] is None
    assert seen["by"]["id"] == len(rows)


def test_new_rows_need_no_warning(moved: Path, make_dataset: Callable[..., Path], again: Path) -> None:
    new = Dataset.open(again).table(Dataset.open(again).schema.names).slice(10)
    result = typed(
        *(
            "eval",
            moved / "runs" / "run",
            "--dataset",
            make_dataset(new, name="fresh"),
            "--metrics",
            "roc",
            "-q",
        )
    )
    assert "None of the 10 rows was seen in training or validation" in result.stdout
    assert "without seen rows" not in result.stdout


def test_the_record_is_the_split_s(project: Path) -> None:
    run = RunFolder.open(project / "runs" / "run")
    dataset = Dataset.open(project / "data" / "small")
    known, keys = seen_rows(run), row_keys(dataset)
    assert known is not None
    split = own_split(run, dataset)
    for fold in range(5):
        by_id = known.among(fold, keys)["id"]
        assert np.flatnonzero(~by_id).tolist() == split.rows(fold, TEST).tolist()


def test_the_labels_of_the_training_rows_are_recorded_or_read_from_the_dataset(moved: Path) -> None:
    run = RunFolder.open(moved / "runs" / "run")
    dataset = Dataset.open(moved / "data" / "small")
    split = own_split(run, dataset)
    expected = [dataset.labels[split.rows(fold, TRAIN)].tolist() for fold in range(5)]

    def found() -> list[list[int]] | None:
        labels = training_labels(run)
        return None if labels is None else [of_fold.tolist() for of_fold in labels]

    assert found() == expected
    (run.path / "rows.parquet").unlink()
    assert found() == expected
    shutil.rmtree(moved / "data")
    assert found() is None


def test_an_old_run_without_a_record_is_compared_through_its_dataset(moved: Path, again: Path) -> None:
    run = moved / "runs" / "run"
    recorded = evaluate(run, ["roc"], again, quiet=True).document
    (run / "rows.parquet").unlink()
    assert evaluate(run, ["roc"], again, quiet=True).document == recorded


def test_an_old_run_whose_dataset_is_gone_says_that_nobody_knows(moved: Path, again: Path) -> None:
    run = moved / "runs" / "run"
    (run / "rows.parquet").unlink()
    shutil.rmtree(moved / "data")
    document = evaluate(run, ["roc"], again, quiet=True).document
    assert document["seen"] is None
    assert [note for note in document["notes"] if "it is unknown whether" in note]


@pytest.mark.parametrize("content", [b"half a file", None])
def test_a_damaged_record_is_refused_by_name(moved: Path, again: Path, content: bytes | None) -> None:
    record = moved / "runs" / "run" / "rows.parquet"
    if content is None:
        pq.write_table(pa.table({"id": ["a"], "text": [1]}), record)
    else:
        record.write_bytes(content)
    with pytest.raises(RunError, match=r"rows\.parquet: not the hashes of a run's rows.*Delete it"):
        evaluate(moved / "runs" / "run", ["roc"], again, quiet=True)
