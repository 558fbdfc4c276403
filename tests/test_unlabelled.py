"""Datasets whose pairs lack labels, and those with columns of their own, go through every command that they can."""

import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from mvsent.cli import app
from mvsent.datasets.validate import validate
from mvsent.errors import DatasetError
from mvsent.pairs import pair_table
from mvsent.runs.inputs.setup import text_kind
from mvsent.shards.reader import Dataset
from mvsent.shards.writer import DatasetWriter
from mvsent.splits import PROTOCOLS
from tests.conftest import write_dataset
from tests.drawing import draw_pairs

SHOPS = {"shop": "int64", "city": "string"}


def write(folder: Path, labels: list[int | None], name: str = "mine", first: int = 0) -> Path:
    """A dataset of as many drawn pairs as there are labels, from number `first` on, and `shop` and `city`."""
    drawn = draw_pairs(first + len(labels)).slice(first)
    columns = dict(zip(drawn.column_names, drawn.columns, strict=True)) | {
        "id": [f"{name}:{row}" for row in range(len(labels))],
        "label": pa.array(labels, pa.int8()),
        "text_label": pa.nulls(len(labels), pa.int8()),
        "image_label": pa.nulls(len(labels), pa.int8()),
        "shop": list(range(len(labels))),
        "city": ["Köln", None] * (len(labels) // 2),
    }
    with DatasetWriter(
        folder, name, settings={}, shard_size=8, labelled=False, text_kind="tweets", extra_columns=SHOPS
    ) as writer:
        writer.write(pair_table(columns, SHOPS))
        writer.finish(len(labels))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "mine", [None] * 20)


def run(*words: object) -> str:
    result = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False, standalone_mode=False)
    assert result.return_value in (0, None), result.output
    return result.stdout


def test_the_labels_are_null_and_the_extra_columns_typed(folder: Path) -> None:
    dataset = Dataset.open(folder)
    assert dataset.labels.tolist() == [-1] * 20
    assert dataset.manifest.n_unlabelled == 20 and dataset.manifest.text_kind == "tweets"
    table = dataset.table(["shop", "city"])
    assert table.schema.types == [pa.int64(), pa.string()]
    assert table["shop"].to_pylist() == list(range(20))
    assert validate(folder).clean


def test_hugging_face_reads_them(folder: Path, tmp_path: Path) -> None:
    loaded = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path))
    assert loaded["label"] == [None] * 20 and loaded["shop"] == list(range(20))
    assert isinstance(loaded.features["label"], datasets.ClassLabel)
    assert loaded.features["city"].dtype == "string" and loaded[0]["image"].size == (96, 72)


def test_labelled_shards_have_the_bytes_that_they_had_before_labels_could_be_null(
    small_dataset: Path,
) -> None:
    schema = pq.read_schema(small_dataset / "data/shard-00000.parquet")
    assert not schema.field("label").nullable


def test_a_writer_of_labelled_pairs_refuses_one_without(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="a pair has no label"),
        DatasetWriter(tmp_path, "mine", settings={}, shard_size=8) as writer,
    ):
        writer.write(pair_table({"id": ["a:1"], "label": [None]}))


def test_commands_take_them(folder: Path, tmp_path: Path) -> None:
    [stats] = json.loads(run("stats", folder, "--json"))
    assert stats["unlabelled"] == 20 and stats["total"] == 20
    assert "unlabelled" in run("stats", folder)
    run("validate", folder)
    run("report", folder, "--out", tmp_path / "report.html", "-q")
    assert "unlabelled" in (tmp_path / "report.html").read_text()
    for to in ("csv", "imagefolder", "webdataset", "label-studio", "croissant"):
        run("export", folder, "--to", to, "--out", tmp_path / to)
    assert (tmp_path / "csv/pairs.csv").read_text().splitlines()[0].endswith(",shop,city")
    assert len(list((tmp_path / "imagefolder/unlabelled").iterdir())) == 20
    line = json.loads((tmp_path / "imagefolder/metadata.jsonl").read_text().splitlines()[0])
    assert (line["label"], line["label_name"], line["shop"]) == (None, None, 0)
    tasks = json.loads((tmp_path / "label-studio/tasks.json").read_text())
    assert tasks[0]["predictions"] == []
    run("shard", folder, "--rows-per-shard", 5, "--out", tmp_path / "sharded")
    assert Dataset.open(tmp_path / "sharded").table(["shop"]) == Dataset.open(folder).table(["shop"])


def test_merged_datasets_have_the_columns_of_all(folder: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other", [None] * 4 + [0, 1, 2, 2], "other", first=20)
    run("merge", folder, other, "--out", tmp_path / "both", "--mixed-classes")
    both = Dataset.open(tmp_path / "both")
    assert both.manifest.extra_columns == SHOPS and both.manifest.text_kind == "tweets"
    assert validate(tmp_path / "both").clean


def test_a_pair_without_a_label_contradicts_no_label(tmp_path: Path) -> None:
    first = write(tmp_path / "a", [None, 2] * 3, "a")
    second = write(tmp_path / "b", [2, None] * 3, "b")
    done = json.loads(
        run(
            "merge",
            first,
            second,
            "--out",
            tmp_path / "c",
            "--conflict",
            "majority",
            "--json",
            "--mixed-classes",
        )
    )
    assert done["notes"]["contradictions"] == 0
    assert Dataset.open(tmp_path / "c").ids[:] == [f"a:{row}" for row in range(6)]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "split", "review"])
@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([None] * 20, r"20 of its 20 pairs have no label. Label them: mvsent export --to label-studio"),
        (
            [0, 2] * 9 + [None, 1],
            r"1 of its 20 pairs have no label. .*leave them out: mvsent subset .* --where",
        ),
    ],
)
def test_commands_that_need_labels_say_what_to_do(
    command: str, labels: list[int | None], said: str, tmp_path: Path
) -> None:
    folder = write(tmp_path / "mine", labels)
    with pytest.raises(DatasetError, match=said):
        run(command, folder)


def test_a_split_needs_labels(folder: Path) -> None:
    for protocol in PROTOCOLS:
        with pytest.raises(DatasetError, match="have no label"):
            run("split", folder, "--protocol", protocol)


def test_the_number_of_words_read_follows_the_kind_of_text_and_not_the_name(
    folder: Path, tmp_path: Path
) -> None:
    assert text_kind(Dataset.open(folder)) == "tweets"
    older = write_dataset(tmp_path / "mvsa-single", draw_pairs(6))  # it states no kind of text
    assert text_kind(Dataset.open(older)) == "captions"
