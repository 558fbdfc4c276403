"""What an older mvsent wrote is read by this one, and by one whose pairs have a column more.

It is in `tests/fixtures`: datasets, a run, and settings.
"""

import csv
import json
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from mvsent import pairs
from mvsent.build.assemble import assemble
from mvsent.build.parts import part_path, rejected_path, rejected_table
from mvsent.cli import app
from mvsent.cli.command import sections
from mvsent.datasets.export import FORMATS
from mvsent.shards.reader import Dataset
from mvsent.shards.writer import DatasetWriter
from mvsent.sources.flickr import FlickrClient, FlickrSettings
from tests.building import refresh
from tests.conftest import write_dataset
from tests.docs_workplace import annotate
from tests.drawing import draw_pairs
from tests.more_columns import a_column_more

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


@pytest.fixture(autouse=True, params=["columns as they are", "a column more"])
def n_more(request: pytest.FixtureRequest) -> Iterator[int]:
    """The columns that this mvsent has and the older ones lacked."""
    with a_column_more() if request.param == "a column more" else nullcontext():
        yield int(request.param == "a column more")


def run(line: str) -> str:
    """Type `mvsent LINE`; returns what it printed. Fails where it fails."""
    result = CliRunner().invoke(app, line.split(), catch_exceptions=False, standalone_mode=False)
    assert result.return_value in (0, None), result.output
    return result.stdout


TRAINING = "--backbone clip --words words.txt --protocol kfold-5 --folds 0 --epochs 1 --threads 1"


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        "stats mvsa flickr",
        "validate mvsa",
        "validate flickr",
        *(f"export mvsa --to {to}" for to in FORMATS),
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["patience", "class_weights", "shuffle_buffer"])
def test_a_run_from_before_a_setting_existed_is_finished(place: Path, setting: str) -> None:
    config = place / "run/config.toml"
    lines = config.read_text().splitlines()
    older = [line for line in lines if not line.startswith(f"{setting} = ")]
    assert len(older) == len(lines) - 1
    config.write_text("\n".join(older))
    shutil.rmtree("run/fold-1")
    run("train --resume --out run")
    assert (place / "run/fold-1/predictions.parquet").is_file()


def check(folder: Path, ids: list[str], new: list[str] | None = None, n_more: int = 0) -> None:
    """Fails unless the dataset has these rows, an older one's and `new` ones, and is what its manifest says."""
    dataset, new = Dataset.open(folder), new or []
    assert dataset.ids == [*ids, *new]
    assert dataset.manifest.schema_version == pairs.SCHEMA_VERSION
    if n_more:
        assert dataset.table(["mood"])["mood"].to_pylist() == [None] * len(ids) + [
            f"mood of {id}" for id in new
        ]
    run(f"validate {folder}")


def write_new(folder: Path, n_more: int) -> list[str]:
    """A dataset of this version is in `folder`; returns its ids."""
    table = draw_pairs(30)
    ids: list[str] = table["id"].to_pylist()
    if n_more:
        table = table.set_column(table.num_columns - 1, "mood", pa.array([f"mood of {id}" for id in ids]))
    write_dataset(folder, table, n_rejected=2)
    return ids


@pytest.mark.slow
def test_merged_with_a_new_dataset_it_serves_every_command(place: Path, n_more: int) -> None:
    new = write_new(place / "new", n_more)
    run("merge mvsa new --out merged")
    check(place / "merged", list(Dataset.open(place / "mvsa").ids), new, n_more)
    for command in ("stats", "report", "review", *(f"export --to {to}" for to in FORMATS)):
        run(f"{command} merged")
    run("predict run merged --out answers.csv")
    run("eval run --dataset merged")
    run(f"train merged --out kept {TRAINING}")
    run(f"train merged --out streamed --stream {TRAINING}")
    assert (place / "kept/fold-0/predictions.parquet").is_file()
    assert (place / "streamed/fold-0/predictions.parquet").is_file()
    with (place / "exports/merged-csv/pairs.csv").open(newline="", encoding="utf-8") as file:
        assert [row.get("mood", "") for row in csv.DictReader(file)][-30:] == [
            f"mood of {id}" * n_more for id in new
        ]


def test_the_same_rows_and_splits_are_in_shards_of_another_size(place: Path, n_more: int) -> None:
    run("shard mvsa --rows-per-shard 7 --out sharded")
    check(place / "sharded", list(Dataset.open(place / "mvsa").ids), n_more=n_more)
    assert len(list((place / "sharded/splits").iterdir())) == 2


def test_annotations_of_it_come_back(place: Path, n_more: int) -> None:
    run("export mvsa --to label-studio --out tasks")
    annotate(place / "tasks" / "tasks.json", [place / "project.json"])
    run("reconcile-tasks project.json mvsa --out annotated")
    check(place / "annotated", list(Dataset.open(place / "mvsa").ids), n_more=n_more)


@pytest.mark.slow
def test_what_flickr_has_no_more_is_taken_out(
    place: Path, n_more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *others = Dataset.open(place / "flickr").ids
    monkeypatch.setattr(FlickrClient, "is_public", lambda self, id: id != first)
    assert refresh(place / "flickr").removed == [first]
    check(place / "flickr", others, n_more=n_more)


def test_what_an_older_version_has_fetched_is_assembled(place: Path, n_more: int) -> None:
    part, old = part_path(place, 0), Dataset.open(place / "flickr")
    pq.write_table(old.table(pq.read_schema(old.shard_paths[0]).names), part)
    pq.write_table(rejected_table([]), rejected_path(part))
    with DatasetWriter(place / "assembled", "flickr", settings={}, shard_size=100) as writer:
        assemble([part], writer, FlickrSettings())
        writer.finish(len(old))
    check(place / "assembled", list(old.ids), n_more=n_more)


@pytest.mark.parametrize("name", ["mvsa", "flickr", "exports/mvsa-multiple-croissant"])
def test_hugging_face_loads_it_and_croissant_names_its_columns(
    name: str, place: Path, tmp_path: Path
) -> None:
    run("export mvsa --to croissant")
    loaded = datasets.load_dataset(str(place / name), cache_dir=str(tmp_path / "hf"))["train"]
    assert loaded.features["label"].names == ["negative", "neutral", "positive"]
    assert loaded[0]["image"].size == (loaded[0]["width"], loaded[0]["height"])
    described = json.loads((place / name / "croissant.json").read_text())["recordSet"][1]["field"]
    assert [field["name"] for field in described] == loaded.column_names


def test_its_settings_are_taken() -> None:
    written = tomllib.loads((FIXTURES / "mvsent.toml").read_text())
    shutil.copy(FIXTURES / "mvsent.toml", "mvsent.toml")
    assert written.keys() <= sections().keys()
    changed = set()
    for section in written:
        taken = sections()[section].given().resolve().model_dump(mode="json")
        changed |= {(section, key) for key, value in written[section].items() if taken[key] != value}
    # A date of TOML's, a list as a text with commas, and no split file: spelled otherwise, but the same.
    assert changed == {("build-flickr", "until"), ("build-getty", "text_fields"), ("train", "split_file")}


def test_a_command_obeys_its_settings(place: Path) -> None:
    shutil.copy(FIXTURES / "mvsent.toml", "mvsent.toml")
    run("train --out other")
    document = tomllib.loads((place / "other/config.toml").read_text())
    assert (document["train"]["folds"], document["resolved"]["max_words"]) == ([1], 12)
