"""`mvsent export`: other tools read back the pairs that were written, whatever strangers wrote in them."""

import base64
import csv
import hashlib
import json
import os
import re
import shutil
import tarfile
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from mvsent.cli import app, exit_code
from mvsent.datasets import export as pipeline
from mvsent.datasets.export import FORMATS, export
from mvsent.errors import DatasetError, OutputExistsError, UsageError
from mvsent.pairs import PAIR_SCHEMA
from mvsent.shards.exports.rows import extension, file_stem, plain_name
from mvsent.shards.reader import Dataset
from tests.drawing import draw_pairs, draw_picture

WITH_PICTURES = [name for name in FORMATS if name not in ("csv", "croissant")]

HOSTILE_IDS = [
    "../../escaped",
    "/etc/passwd",
    "mvsa-single:1/../../x",
    "a:b.c",
    "A:b",
    "a:B",
    "con",
    "x" * 300,
    "flickr:1\n2",
    "\x00",
    "",
    "猫:1",
]
HOSTILE_TEXTS = [
    '=HYPERLINK("http://evil","x")',
    "@ana hello",
    "-1+1",
    "+49",
    "'quoted",
    'a "quoted", text\r\nover lines',
    "<script>alert(1)</script>",
    "</Text><Choices/>",
    "\u202egnp.exe",
    "",
    "2020-01-01",
    "{{ 7 * 7 }}",
]


def read(dataset: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = Dataset.open(dataset).table(PAIR_SCHEMA.names).to_pylist()
    return rows


def with_columns(pairs: pa.Table, **columns: list[Any]) -> pa.Table:
    for name, values in columns.items():
        place = pairs.schema.get_field_index(name)
        field = pairs.schema.field(name)
        pairs = pairs.set_column(place, field, pa.array(values, field.type))
    return pairs


@pytest.fixture
def hostile(make_dataset: Callable[..., Path]) -> Path:
    pairs = draw_pairs(len(HOSTILE_IDS))
    titles = [f"={text}" for text in HOSTILE_TEXTS]
    return make_dataset(with_columns(pairs, id=HOSTILE_IDS, text=HOSTILE_TEXTS, title=titles), name="hostile")


def test_the_webdataset_library_reads_every_pair_back(small_dataset: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    result = export(small_dataset, "webdataset", tmp_path / "out", shard_rows=25, quiet=True)
    assert result.entries == [f"small-{n:06d}.tar" for n in range(3)]
    found = list(
        webdataset.WebDataset(
            [str(tmp_path / "out" / name) for name in result.entries], shardshuffle=False, empty_check=False
        )
    )
    rows = read(small_dataset)
    assert [sample["__key__"].rpartition("/")[2] for sample in found] == [f"drawn_{i}" for i in range(60)]
    assert [sample["jpg"] for sample in found] == [row["image"]["bytes"] for row in rows]
    assert [sample["txt"].decode() for sample in found] == [row["text"] for row in rows]
    known = [json.loads(sample["json"]) for sample in found]
    assert [(one["id"], one["label"]) for one in known] == [(row["id"], row["label"]) for row in rows]
    assert known[0]["label_name"] == "positive" and known[0]["votes"] == [{"text": 2, "image": 2}]


def test_the_same_dataset_makes_the_same_tars(small_dataset: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        export(small_dataset, "webdataset", tmp_path / name, quiet=True)
    tars = [(tmp_path / name / "small-000000.tar").read_bytes() for name in ("one", "two")]
    assert tars[0] == tars[1]


def test_hugging_face_loads_the_imagefolder_with_texts_and_labels(
    small_dataset: Path, tmp_path: Path
) -> None:
    datasets = pytest.importorskip("datasets")
    export(small_dataset, "imagefolder", tmp_path / "out", quiet=True)
    loaded = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"), split="train"
    )
    rows = {row["id"]: row for row in read(small_dataset)}
    assert len(loaded) == len(rows) == 60
    for one in loaded:
        row = rows[one["id"]]
        assert (one["text"], one["label"]) == (row["text"], row["label"])
        assert one["image"].size == (96, 72)


def test_the_folders_of_an_imagefolder_are_the_labels(small_dataset: Path, tmp_path: Path) -> None:
    export(small_dataset, "imagefolder", tmp_path / "out", quiet=True)
    for row in read(small_dataset):
        name = ("negative", "neutral", "positive")[row["label"]]
        assert (tmp_path / "out" / name / f"{file_stem(row['id'])}.jpg").read_bytes() == row["image"]["bytes"]


def test_pandas_reads_the_table_and_its_pictures_back(small_dataset: Path, tmp_path: Path) -> None:
    export(small_dataset, "csv", tmp_path / "out", quiet=True)
    table = pd.read_csv(tmp_path / "out" / "pairs.csv")
    rows = read(small_dataset)
    assert table["id"].tolist() == [row["id"] for row in rows]
    assert table["label"].tolist() == [row["label"] for row in rows]
    assert [json.loads(votes) for votes in table["votes"]] == [row["votes"] for row in rows]
    assert [(tmp_path / "out" / name).read_bytes() for name in table["image"]] == [
        row["image"]["bytes"] for row in rows
    ]


def test_no_cell_of_the_table_is_a_formula_and_no_text_is_lost(hostile: Path, tmp_path: Path) -> None:
    export(hostile, "csv", tmp_path / "out", quiet=True)
    with (tmp_path / "out" / "pairs.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [cell for row in rows for cell in row.values() if cell[:1] in set("=+-@\t\r")] == []
    assert [row["text"].removeprefix("'") for row in rows] == HOSTILE_TEXTS


def test_a_table_and_croissant_need_no_pictures(make_dataset: Callable[..., Path], tmp_path: Path) -> None:
    dataset = make_dataset(draw_pairs(5, images=False))
    export(dataset, "csv", tmp_path / "out", quiet=True)
    assert pd.read_csv(tmp_path / "out" / "pairs.csv")["image"].isna().all()
    assert export(dataset, "croissant", tmp_path / "croissant", quiet=True).rows == 5


@pytest.mark.parametrize("format", WITH_PICTURES)
def test_other_formats_say_that_there_are_no_pictures(
    make_dataset: Callable[..., Path], tmp_path: Path, format: str
) -> None:
    dataset = make_dataset(draw_pairs(5, images=False))
    with pytest.raises(DatasetError, match=r"drawn:0: has no picture\. Only --to csv and --to croissant"):
        export(dataset, format, tmp_path / "out", quiet=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_label_studio_gets_a_task_a_pair_with_the_labels_as_predictions(
    small_dataset: Path, tmp_path: Path
) -> None:
    export(small_dataset, "label-studio", tmp_path / "tasks to do", quiet=True)
    tasks = json.loads((tmp_path / "tasks to do" / "tasks.json").read_text())
    rows = read(small_dataset)
    assert [task["data"]["id"] for task in tasks] == [row["id"] for row in rows]
    assert [task["data"]["text"] for task in tasks] == [row["text"] for row in rows]
    for task, row in zip(tasks, rows, strict=True):
        address = urlsplit(task["data"]["image"])
        assert address.path == "/data/local-files/"
        (place,) = parse_qs(address.query)["d"]  # relative to the document root, the folder of the export
        assert (tmp_path / place).read_bytes() == row["image"]["bytes"]
        text, image = (item["value"]["choices"] for item in task["predictions"][0]["result"])
        name = ["negative", "neutral", "positive"][row["label"]]
        assert text == image == [name]


def test_each_modality_is_predicted_by_its_own_label(
    make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    pairs = with_columns(draw_pairs(2), label=[2, 0], text_label=[1, None], image_label=[2, None])
    export(make_dataset(pairs), "label-studio", tmp_path / "out", quiet=True)
    tasks = json.loads((tmp_path / "out" / "tasks.json").read_text())
    told = [[item["value"]["choices"][0] for item in task["predictions"][0]["result"]] for task in tasks]
    assert told == [["neutral", "positive"], ["negative", "negative"]]


def test_the_labelling_interface_asks_for_both_modalities_and_fits_the_tasks(
    small_dataset: Path, tmp_path: Path
) -> None:
    export(small_dataset, "label-studio", tmp_path / "out", quiet=True)
    view = ET.parse(tmp_path / "out" / "config.xml").getroot()
    shown = {
        element.get("name"): element.get("value") for element in view if element.get("value", "")[:1] == "$"
    }
    asked = {
        element.get("name"): (element.get("toName"), {choice.get("value") for choice in element})
        for element in view.iter("Choices")
    }
    assert shown == {"text": "$text", "image": "$image"}
    names = {"negative", "neutral", "positive"}
    assert asked == {"text_sentiment": ("text", names), "image_sentiment": ("image", names)}
    task = json.loads((tmp_path / "out" / "tasks.json").read_text())[0]
    assert {value[1:] for value in shown.values()} <= task["data"].keys()
    assert {(item["from_name"], item["to_name"]) for item in task["predictions"][0]["result"]} == {
        (name, subject) for name, (subject, _) in asked.items()
    }


def test_pictures_can_travel_within_the_tasks(small_dataset: Path, tmp_path: Path) -> None:
    result = export(small_dataset, "label-studio", tmp_path / "out", embed_images=True, quiet=True)
    assert result.entries == ["config.xml", "tasks.json"]
    task = json.loads((tmp_path / "out" / "tasks.json").read_text())[0]
    head, _, data = task["data"]["image"].partition(",")
    assert head == "data:image/jpeg;base64"
    assert base64.b64decode(data) == read(small_dataset)[0]["image"]["bytes"]


@pytest.mark.parametrize("format", FORMATS)
def test_a_stranger_s_id_or_text_writes_nothing_elsewhere(hostile: Path, tmp_path: Path, format: str) -> None:
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    export(hostile, format, tmp_path / "out", quiet=True)
    written = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert written and all(path.is_relative_to(tmp_path / "out") for path in written)
    if format == "webdataset":
        with tarfile.open(tmp_path / "out" / "hostile-000000.tar") as tar:
            names = tar.getnames()
    else:
        names = [path.name for path in written]
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+(\.[a-z]+)?", name) for name in names)
    pictures = [name for name in names if name.endswith(".jpg")]
    assert format == "croissant" or len({name.lower() for name in pictures}) == len(HOSTILE_IDS)


@given(st.lists(st.text(max_size=130), max_size=6, unique=True))
def test_no_two_ids_share_a_file_name_and_none_leads_elsewhere(ids: list[str]) -> None:
    names = [file_stem(id) for id in ids]
    assert len({name.lower() for name in names}) == len(ids)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,130}", name) for name in names)


def test_an_id_cannot_be_made_to_take_another_s_name() -> None:
    victim = "a:b_c"
    tries = ["a_b_c", "a:b:c", "a_b:c", "A:b_c", file_stem(victim), f"{file_stem('A:b')}"]
    assert file_stem(victim) not in [file_stem(id) for id in tries]


def test_a_dataset_s_name_is_made_fit_for_a_file() -> None:
    assert plain_name("../../x") == "x"
    assert plain_name("///") == "dataset"


@pytest.mark.parametrize(
    ("format", "name"),
    [("JPEG", "jpg"), ("PNG", "png"), ("GIF", "gif"), ("WEBP", "webp"), ("BMP", "bmp"), ("TIFF", "tif")],
)
def test_a_picture_s_extension_is_what_it_is(format: str, name: str) -> None:
    assert extension(draw_picture(0, 0, format=format)) == name


@pytest.mark.parametrize("format", FORMATS)
def test_a_finished_export_is_replaced_only_when_asked(
    small_dataset: Path, tmp_path: Path, format: str
) -> None:
    out = tmp_path / "out"
    export(small_dataset, format, out, quiet=True)
    with pytest.raises(OutputExistsError, match="already contains a finished dataset export"):
        export(small_dataset, format, out, quiet=True)
    export(small_dataset, "csv", out, overwrite=True, quiet=True)
    assert sorted(path.name for path in out.iterdir()) == ["export.json", "images", "pairs.csv"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.mark.parametrize("added", ["mine.txt", "positive/mine.jpg"])
def test_a_file_that_was_added_is_not_deleted_by_overwrite(
    small_dataset: Path, tmp_path: Path, added: str
) -> None:
    out = tmp_path / "out"
    export(small_dataset, "imagefolder", out, quiet=True)
    (out / added).write_text("mine")
    with pytest.raises(UsageError, match="not part of a dataset export"):
        export(small_dataset, "imagefolder", out, overwrite=True, quiet=True)
    assert (out / added).read_text() == "mine"


def test_a_folder_of_somebody_s_is_left_alone(small_dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"thesis\.txt"):
        export(small_dataset, "csv", tmp_path, overwrite=True, quiet=True)


def test_an_export_that_fails_leaves_the_earlier_one(
    small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    export(small_dataset, "csv", out, quiet=True)
    before = (out / "pairs.csv").read_bytes()

    def full_disk(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "sync", full_disk)
    with pytest.raises(OSError, match="No space"):
        export(small_dataset, "webdataset", out, overwrite=True, quiet=True)
    assert (out / "pairs.csv").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("format", FORMATS)
def test_a_dataset_without_rows_is_refused(
    make_dataset: Callable[..., Path], tmp_path: Path, format: str
) -> None:
    with pytest.raises(DatasetError, match="has no rows"):
        export(make_dataset(draw_pairs(0), n_rejected=1), format, tmp_path / "out", quiet=True)


def test_two_rows_with_one_id_are_refused(make_dataset: Callable[..., Path], tmp_path: Path) -> None:
    dataset = make_dataset(with_columns(draw_pairs(2), id=["drawn:1", "drawn:1"]))
    with pytest.raises(DatasetError, match="two rows have the same id"):
        export(dataset, "imagefolder", tmp_path / "out", quiet=True)


@pytest.mark.parametrize("place", [".", "data", ".."])
def test_an_export_lies_neither_in_its_dataset_nor_around_it(small_dataset: Path, place: str) -> None:
    with pytest.raises(UsageError, match="inside or around it"):
        export(small_dataset, "csv", small_dataset / place, overwrite=True, quiet=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"to": "tfrecord"}, "unknown format. Choose from webdataset, imagefolder, csv"),
        ({"to": "csv", "shard_rows": 5}, "for --to webdataset"),
        ({"to": "webdataset", "shard_rows": -1}, "for --to webdataset"),
        ({"to": "csv", "embed_images": True}, "is for --to label-studio"),
    ],
)
def test_an_option_that_means_nothing_is_refused(
    small_dataset: Path, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        export(small_dataset, out=tmp_path / "out", quiet=True, **options)


def test_an_altered_shard_is_not_passed_on(make_dataset: Callable[..., Path], tmp_path: Path) -> None:
    dataset = make_dataset(draw_pairs(3))
    shard = dataset / "data" / "shard-00000.parquet"
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DatasetError, match="altered"):
        export(dataset, "croissant", tmp_path / "out", quiet=True)


def test_a_manifest_cannot_name_a_shard_outside(make_dataset: Callable[..., Path], tmp_path: Path) -> None:
    dataset = make_dataset(draw_pairs(3))
    moved = tmp_path / "outside.parquet"
    (dataset / "data" / "shard-00000.parquet").rename(moved)
    manifest = json.loads((dataset / "dataset.json").read_text())
    manifest["shards"][0]["path"] = "../../outside.parquet"
    (dataset / "dataset.json").write_text(json.dumps(manifest))
    with pytest.raises(DatasetError, match="no place for a shard"):
        export(dataset, "croissant", tmp_path / "out", quiet=True)


def test_a_shard_is_read_only_when_its_rows_are_due(small_dataset: Path, tmp_path: Path) -> None:
    dataset = Path(shutil.copytree(small_dataset, tmp_path / "copy"))
    rows = pipeline.read_rows(Dataset.open(dataset))
    next(rows)
    (dataset / "data" / "shard-00002.parquet").unlink()
    with pytest.raises(DatasetError, match="not a readable shard"):
        list(rows)


def test_the_command_goes_to_exports_and_prints_json(
    small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke(app, ["export", str(small_dataset), "--to", "csv", "--json", "--quiet"])
    assert run.exit_code == 0
    document = json.loads(run.stdout)
    assert document["folder"] == "exports/small-csv"
    assert (document["rows"], document["files"]) == (60, 61)
    assert document["dataset_sha256"] == Dataset.open(small_dataset).sha256
    assert (tmp_path / "exports" / "small-csv" / "pairs.csv").is_file()


def test_the_command_takes_the_newest_dataset_and_lists_what_it_wrote(
    make_dataset: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_dataset(draw_pairs(4), name="tiny")
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke(app, ["export", "--to", "webdataset", "--out", "here", "--quiet"])
    assert run.stdout.splitlines()[:2] == ["tiny as webdataset → here", "  tiny-000000.tar"]
    assert run.stdout.splitlines()[2].startswith("4 pairs, 1 file, ")


def test_a_missing_dataset_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["export", str(tmp_path / "nowhere"), "--to", "csv"]
    assert exit_code(lambda: app(arguments, standalone_mode=False)) == 1
    error = capsys.readouterr().err
    assert error.startswith("mvsent: ") and error.count("\n") == 1 and "no such folder" in error


def test_the_export_says_which_rows_it_holds(small_dataset: Path, tmp_path: Path) -> None:
    export(small_dataset, "webdataset", tmp_path / "out", quiet=True)
    document = json.loads((tmp_path / "out" / "export.json").read_text())
    assert document["dataset_sha256"] == Dataset.open(small_dataset).sha256
    sizes = sum((tmp_path / "out" / name).stat().st_size for name in document["entries"])
    assert document["bytes"] == sizes


def test_croissant_copies_are_the_shards(small_dataset: Path, tmp_path: Path) -> None:
    export(small_dataset, "croissant", tmp_path / "out", quiet=True)
    for shard in Dataset.open(small_dataset).manifest.shards:
        copy = (tmp_path / "out" / shard.path).read_bytes()
        assert hashlib.sha256(copy).hexdigest() == shard.sha256
    assert (tmp_path / "out" / "croissant.json").read_bytes() == (
        small_dataset / "croissant.json"
    ).read_bytes()
    assert (tmp_path / "out" / "README.md").read_bytes() == (small_dataset / "README.md").read_bytes()


def test_the_commands_of_the_guide_work_as_typed(
    make_dataset: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_dataset(draw_pairs(6), name="mvsa-single")
    monkeypatch.chdir(tmp_path)
    guide = (Path(__file__).parents[1] / "docs" / "export.md").read_text(encoding="utf-8")
    typed = [
        line.split()[1:] for line in re.findall(r"^ *(mvsent (?:export|reconcile).*)$", guide, re.MULTILINE)
    ]
    assert len(typed) == len(FORMATS) + 2
    for arguments in typed:
        if arguments[0] == "reconcile-tasks":
            tasks = json.loads((tmp_path / "label-studio" / "mvsa" / "tasks.json").read_text())
            answered = [task | {"annotations": task["predictions"]} for task in tasks]
            (tmp_path / arguments[1]).write_text(json.dumps(answered))
        run = CliRunner().invoke(app, arguments)
        assert run.exit_code == 0, (arguments, run.output, run.exception)
    assert len(Dataset.open(tmp_path / "data" / "mvsa-single-annotated")) == 6
