"""What an older mvsent wrote is read by this one: the datasets, the run and the settings in `tests/fixtures`."""

import json
import shutil
import tomllib
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from mvsent.build.refresh import refresh
from mvsent.cli import app
from mvsent.cli.command import sections
from mvsent.shards.reader import Dataset
from mvsent.sources.flickr import FlickrClient
from tests.conftest import write_dataset
from tests.docs_workplace import annotate
from tests.drawing import draw_pairs

FIXTURES = Path(__file__).parent / "fixtures" / "v0.1"
MADE_IN = "/tmp/v0.1"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with copies of what mvsent 0.1 wrote: mvsa, flickr, run, clip, words.txt."""
    place = tmp_path / "place"
    shutil.copytree(FIXTURES, place, ignore=shutil.ignore_patterns("mvsent.toml"))
    config = place / "run" / "config.toml"
    config.write_text(config.read_text().replace(MADE_IN, str(place)))
    monkeypatch.chdir(place)
    monkeypatch.setenv("MVSENT_CACHE", str(tmp_path / "cache"))
    return place


def run(line: str) -> str:
    """Type `mvsent LINE`; returns what it printed. Fails where it fails."""
    result = CliRunner().invoke(app, line.split(), catch_exceptions=False, standalone_mode=False)
    assert result.return_value in (0, None), result.output
    return result.stdout


TRAINING = "--backbone clip --words words.txt --protocol kfold-5 --folds 0 --epochs 1 --threads 1"


@pytest.mark.parametrize(
    "line",
    [
        "stats mvsa flickr",
        "validate mvsa",
        "validate flickr",
        *(
            f"export mvsa --to {to}"
            for to in ("csv", "imagefolder", "webdataset", "label-studio", "croissant")
        ),
        "split mvsa --protocol paper-5x",
        "split mvsa --split-file mvsa/splits/kfold-5.parquet",
        "split flickr --protocol grouped-kfold-5",
        "report mvsa",
        "report flickr",
        "report run",
        "review mvsa",
        "review mvsa run --html",
        "predict run mvsa --out answers.parquet",
        "predict run flickr --out answers.csv",
        "predict run flickr --out answers.jsonl --fold 1",
        "eval run",
        "eval run --dataset flickr",
        "eval run --missing image,text",
        "explain run -n 2 --measured 2",
        "explain run -n 2 --measured 2 --dataset flickr",
        "train --config run/config.toml --out again",
        f"train flickr --out new {TRAINING}",
        f"train mvsa --out new --stream {TRAINING}",
        "train-anps flickr --out anps.safetensors --backbone clip --protocol kfold-5",
    ],
)
def test_a_command_reads_what_an_older_version_wrote(line: str) -> None:
    run(line)


def probabilities(path: str) -> dict[str, list[float]]:
    names = ["id", "p_negative", "p_neutral", "p_positive"]
    return {
        id: row for id, *row in zip(*pq.read_table(path, columns=names).to_pydict().values(), strict=True)
    }


@pytest.mark.parametrize("fold", [0, 1])
def test_a_network_gives_the_answers_that_it_gave_in_training(fold: int) -> None:
    run(f"predict run mvsa --out answers.parquet --fold {fold}")
    now = probabilities("answers.parquet")
    for id, then in probabilities(f"run/fold-{fold}/predictions.parquet").items():
        assert now[id] == pytest.approx(then, abs=1e-4)


def test_a_run_that_was_cut_off_is_finished_and_its_first_fold_stays(place: Path) -> None:
    kept = (place / "run/fold-0/predictions.parquet").read_bytes()
    shutil.rmtree("run/fold-1")
    run("train --resume --out run")
    assert (place / "run/fold-1/predictions.parquet").is_file()
    assert (place / "run/fold-0/predictions.parquet").read_bytes() == kept


def test_a_merge_with_a_new_dataset_has_the_rows_of_both(place: Path) -> None:
    write_dataset(place / "new", draw_pairs(12), n_rejected=2)
    run("merge mvsa new --out merged")
    assert Dataset.open(place / "merged").ids == [
        *Dataset.open(place / "mvsa").ids,
        *(f"drawn:{i}" for i in range(12)),
    ]
    assert '"clean": true' in run("validate merged --json")


def test_the_same_rows_and_splits_are_in_shards_of_another_size(place: Path) -> None:
    run("shard mvsa --rows-per-shard 7 --out sharded")
    assert Dataset.open(place / "sharded").ids == Dataset.open(place / "mvsa").ids
    assert json.loads(run("validate sharded --json"))["n_splits"] == 2


def test_annotations_of_it_come_back(place: Path) -> None:
    run("export mvsa --to label-studio --out tasks")
    annotate(place / "tasks" / "tasks.json", [place / "project.json"])
    run("reconcile-tasks project.json mvsa --out annotated")
    assert Dataset.open(place / "annotated").ids == Dataset.open(place / "mvsa").ids
    assert '"clean": true' in run("validate annotated --json")


def test_what_flickr_has_no_more_is_taken_out(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *others = Dataset.open(place / "flickr").ids
    monkeypatch.setattr(FlickrClient, "is_public", lambda self, id: id != first)
    assert refresh(place / "flickr", SecretStr("key"), quota_per_hour=10_000_000, quiet=True).removed == [
        first
    ]
    assert Dataset.open(place / "flickr").ids == others
    assert '"clean": true' in run("validate flickr --json")


@pytest.mark.parametrize("name", ["mvsa", "flickr"])
def test_hugging_face_loads_it(name: str, place: Path, tmp_path: Path) -> None:
    loaded = datasets.load_dataset(str(place / name), cache_dir=str(tmp_path / "hf"))["train"]
    assert loaded["id"][:] == list(Dataset.open(place / name).ids)
    assert loaded.features["label"].names == ["negative", "neutral", "positive"]
    assert loaded[0]["image"].size == (loaded[0]["width"], loaded[0]["height"])


def test_its_settings_are_taken() -> None:
    written = tomllib.loads((FIXTURES / "mvsent.toml").read_text())
    shutil.copy(FIXTURES / "mvsent.toml", "mvsent.toml")
    assert written.keys() <= sections().keys()
    changed = set()
    for section in written:
        taken = sections()[section].given().resolve().model_dump(mode="json")
        changed |= {(section, key) for key, value in written[section].items() if taken[key] != value}
    # A date of TOML's, and a list as a text with commas: spelled otherwise, but the same.
    assert changed == {("build-flickr", "until"), ("build-getty", "text_fields")}


def test_a_command_obeys_its_settings(place: Path) -> None:
    shutil.copy(FIXTURES / "mvsent.toml", "mvsent.toml")
    run("train --out other")
    document = tomllib.loads((place / "other/config.toml").read_text())
    assert (document["train"]["folds"], document["resolved"]["max_words"]) == ([1], 12)
