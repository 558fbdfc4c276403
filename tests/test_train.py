"""`mvsent train` on a small dataset: what it writes, how it survives kill -9, and what it refuses."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from mvsent.cli import app
from mvsent.config import TrainSettings, read_toml
from mvsent.errors import DatasetError, NonFiniteLossError, OutputExistsError, RunError, UsageError
from mvsent.runs.predictor import DatasetPredictor
from mvsent.runs.run_folder import RunFolder
from mvsent.runs.train import changed, train
from mvsent.shards.reader import Dataset
from mvsent.shards.staging import locked
from tests import programs

pytestmark = pytest.mark.slow

QUICK = {
    "weights": "random",
    "words": "random",
    "epochs": 3,
    "batch_size": 16,
    "folds": [0, 1],
    "options": {"hidden": 16, "map_channels": 16},
}


def settings(dataset: Path, **changes: object) -> TrainSettings:
    return TrainSettings(dataset=str(dataset), **{**QUICK, **changes})


def without_seconds(history: Path) -> list[list[str]]:
    with history.open() as file:
        return [row[:-1] for row in csv.reader(file)]


def assert_same_run(one: Path, other: Path) -> None:
    for fold in QUICK["folds"]:
        first, second = one / f"fold-{fold}", other / f"fold-{fold}"
        assert without_seconds(first / "history.csv") == without_seconds(second / "history.csv")
        assert pq.read_table(first / "predictions.parquet") == pq.read_table(second / "predictions.parquet")
        weights, again = (load_file(folder / "model.safetensors") for folder in (first, second))
        assert weights.keys() == again.keys()
        assert all((weights[name] == again[name]).all() for name in weights)


@pytest.fixture(scope="session")
def finished(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(settings(small_dataset), out=tmp_path_factory.mktemp("runs") / "whole", quiet=True).run


def test_a_run_folder_holds_what_the_contract_says(finished: Path, small_dataset: Path) -> None:
    files = {"config.toml", "environment.json", "rows.parquet", "fold-0", "fold-1"}
    assert {p.name for p in finished.iterdir()} == files
    expected = {"model.safetensors", "vocabulary.txt", "history.csv", "predictions.parquet"}
    assert {p.name for p in (finished / "fold-0").iterdir()} == expected
    predictions = pq.read_table(finished / "fold-0" / "predictions.parquet")
    assert predictions.column_names == ["id", "label", "p_negative", "p_neutral", "p_positive", "role"]
    assert set(predictions["role"].to_pylist()) == {"validation", "test"}
    total = sum(predictions[f"p_{name}"].to_numpy() for name in ("negative", "neutral", "positive"))
    assert abs(total - 1).max() < 1e-5
    known = dict(zip(Dataset.open(small_dataset).ids, Dataset.open(small_dataset).labels, strict=True))
    assert all(
        known[i] == label for i, label in zip(*predictions.select([0, 1]).to_pydict().values(), strict=True)
    )
    environment = json.loads((finished / "environment.json").read_text())
    assert {"command", "torch", "device", "mvsent"} <= environment.keys()


def test_the_same_settings_give_the_same_bits(finished: Path, small_dataset: Path, tmp_path: Path) -> None:
    replayed = TrainSettings(**read_toml(finished / "config.toml")["train"])
    assert_same_run(finished, train(replayed, out=tmp_path / "again", quiet=True).run)


def command(dataset: Path, out: Path, *more: str) -> list[str]:
    flags = "--weights random --words random --epochs 3 --batch-size 16 --folds 0,1"
    options = "--option hidden=16 --option map_channels=16"
    return ["train", str(dataset), "--out", str(out), *f"{flags} {options}".split(), *more]


@pytest.mark.parametrize("line", ["fold 0 (1 of 2) epoch 0", "fold 1 (2 of 2) epoch 1"])
def test_killed_and_resumed_it_ends_as_if_nothing_had_happened(
    line: str, finished: Path, small_dataset: Path, tmp_path: Path
) -> None:
    words = programs.mvsent(*command(small_dataset, tmp_path / "cut"))
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    for shown in process.stderr:
        if shown.startswith(line):
            os.kill(programs.pid(process.pid), signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL
    assert not RunFolder.open(tmp_path / "cut").is_finished
    train(TrainSettings(), out=tmp_path / "cut", resume=True, quiet=True)
    assert_same_run(finished, tmp_path / "cut")
    assert not list((tmp_path / "cut").rglob("checkpoint.pt"))


def test_a_dataset_is_judged_afresh_as_in_training(finished: Path, small_dataset: Path) -> None:
    dataset = Dataset.open(small_dataset)
    fresh = DatasetPredictor(RunFolder.open(finished), dataset, quiet=True).predict(0)
    saved = pq.read_table(finished / "fold-0" / "predictions.parquet")
    rows = [dataset.ids.index(i) for i in saved["id"].to_pylist()]
    assert abs(fresh[rows, 2] - saved["p_positive"].to_numpy()).max() < 1e-5


def test_a_finished_run_is_not_written_over(finished: Path, small_dataset: Path) -> None:
    with pytest.raises(
        OutputExistsError, match=r"already holds a run\. Continue it with --resume, or replace"
    ):
        train(settings(small_dataset), out=finished, quiet=True)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"epochs": 9},
            r"--epochs: .*whole was begun with 3; --resume takes no 9\. Leave it out to continue",
        ),
        ({"options": {"hidden": "17"}}, "--option: "),
        ({"batch_size": 1}, "--batch-size: "),
    ],
)
def test_what_the_numbers_depend_on_is_not_changed_by_resuming(
    changes: dict[str, object], told: str, finished: Path
) -> None:
    with pytest.raises(UsageError, match=told):
        train(TrainSettings(), out=finished, resume=True, changes=changes, quiet=True)
    how = {"epochs": 3, "device": "cpu", "workers": 1, "checkpoint_every": 1.0}
    assert train(TrainSettings(), out=finished, resume=True, changes=how, quiet=True).run == finished


def test_the_threads_of_a_resumed_run_are_those_that_are_asked_for(finished: Path) -> None:
    run = RunFolder.open(finished)
    assert changed(run, {"device": "cpu"}).resolved.threads == run.resolved.threads
    assert changed(run, {"threads": 0}).resolved.threads == run.resolved.threads
    assert changed(run, {"threads": 3}).resolved.threads == 3


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--resume", "--epochs", "9"], "--epochs: "),
        (["--resume", "--model", "fenet"], "--model: "),
        (["--resume", "--option", "hidden=17"], "--option: "),
        (["--resume", "--overwrite"], "--overwrite: not with --resume"),
        (["--resume", "--config", "config.toml"], "--config: not with --resume"),
        (["--shuffle-buffer", "9"], r"--shuffle-buffer: only --stream has one\. Add --stream"),
    ],
)
def test_no_option_is_ignored(words: list[str], told: str, finished: Path, small_dataset: Path) -> None:
    found = CliRunner().invoke(app, ["train", str(small_dataset), "--out", str(finished), *words])
    assert isinstance(found.exception, UsageError)
    assert re.match(told, str(found.exception))


def test_the_same_command_with_resume_continues(finished: Path, small_dataset: Path) -> None:
    words = command(small_dataset, finished, "--resume", "--json")
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 0, found.output


def test_what_trains_is_said_once(
    finished: Path, small_dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="mvsent")
    train(TrainSettings(), out=finished, resume=True, changes={"device": "cpu"}, quiet=True)
    threads = RunFolder.open(finished).resolved.threads
    said = [line for line in caplog.messages if line.startswith("training ")]
    assert said == [f"training on the CPU ({threads} thread{'s' * (threads > 1)})"]


def test_somebody_elses_folder_is_never_replaced(small_dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "config.toml").write_text('title = "my site"')
    with pytest.raises(OutputExistsError, match=r"holds thesis\.tex, which is not a run's file"):
        train(settings(small_dataset), out=tmp_path, overwrite=True, quiet=True)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_an_overwritten_run_is_kept_until_the_new_one_is_finished(
    finished: Path, small_dataset: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    with pytest.raises(NonFiniteLossError):
        train(settings(small_dataset, learning_rate=1e30), out=tmp_path / "run", overwrite=True, quiet=True)
    assert_same_run(finished, tmp_path / ".run.old")
    assert not (tmp_path / "run" / "fold-0" / "predictions.parquet").exists()
    train(settings(small_dataset), out=tmp_path / "run", overwrite=True, quiet=True)
    assert_same_run(finished, tmp_path / "run")
    assert not (tmp_path / ".run.old").exists()


def test_two_processes_never_train_one_run(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    with locked(tmp_path / ".run.lock"), pytest.raises(UsageError, match="another mvsent process"):
        train(TrainSettings(), out=tmp_path / "run", resume=True, quiet=True)


def test_a_flipped_bit_in_a_shard_is_noticed(small_dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(small_dataset, tmp_path / "damaged")
    shard = tmp_path / "damaged" / "data" / "shard-00000.parquet"
    data, text = bytearray(shard.read_bytes()), pq.ParquetFile(shard).metadata.row_group(0).column(3)
    data[text.data_page_offset + text.total_compressed_size - 5] ^= 0xFF
    shard.write_bytes(data)
    with pytest.raises(DatasetError, match="shard-00000"):
        train(settings(tmp_path / "damaged"), out=tmp_path / "r", quiet=True)


def test_a_fold_that_does_not_exist_is_named(small_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no fold 7\. Choose from 0 to 4"):
        train(settings(small_dataset, folds=[7]), out=tmp_path / "r", quiet=True)
    assert not (tmp_path / "r").exists()


def test_an_option_of_no_model_is_refused_before_any_work(small_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--option depth"):
        train(settings(small_dataset, options={"depth": 3}), out=tmp_path / "r", quiet=True)
    assert not (tmp_path / "r").exists()


def test_a_resumed_run_checks_that_its_words_are_still_the_same(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    text = (copy / "config.toml").read_text()
    sha = RunFolder.open(copy).resolved.dataset_sha256
    (copy / "config.toml").write_text(text.replace(sha, "0" * 64))
    with pytest.raises(RunError, match="dataset_sha256 was 000"):
        train(TrainSettings(), out=copy, resume=True, quiet=True)


def test_fine_tuning_runs_through_pixels(small_dataset: Path, tmp_path: Path) -> None:
    chosen = settings(small_dataset, fine_tune="last", epochs=1, folds=[0])
    result = train(chosen, out=tmp_path / "tuned", quiet=True)
    weights = load_file(result.run / "fold-0" / "model.safetensors")
    assert any(name.startswith("backbone.") for name in weights)
    fresh = DatasetPredictor(RunFolder.open(result.run), Dataset.open(small_dataset), quiet=True).predict(0)
    assert fresh.shape == (len(Dataset.open(small_dataset)), 3)


def test_a_fine_tuned_fold_knows_nothing_of_the_folds_before_it(small_dataset: Path, tmp_path: Path) -> None:
    chosen = settings(small_dataset, fine_tune="last", epochs=1)
    both = train(chosen, out=tmp_path / "both", quiet=True).run / "fold-1" / "model.safetensors"
    alone = train(chosen.model_copy(update={"folds": [1]}), out=tmp_path / "alone", quiet=True).run
    weights, expected = load_file(both), load_file(alone / "fold-1" / "model.safetensors")
    assert all((weights[name] == expected[name]).all() for name in expected)
