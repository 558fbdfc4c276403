"""`mvsent validate`: a good dataset is clean, and every way to spoil one is found and named."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mvsent.cli import app, exit_code
from mvsent.datasets.split import split_dataset
from mvsent.datasets.validate import MAX_LISTED, validate
from mvsent.errors import DatasetError
from mvsent.pairs import PAIR_SCHEMA
from mvsent.shards.schema import stored_schema
from tests.drawing import draw_pairs, draw_picture


@pytest.fixture
def folder(make_dataset: Callable[..., Path], sixty_pairs: pa.Table) -> Path:
    return make_dataset(sixty_pairs, n_rejected=2)


def problems(folder: Path) -> list[str]:
    return validate(folder, quiet=True).problems


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads((folder / "dataset.json").read_text())
    change(document)
    (folder / "dataset.json").write_text(json.dumps(document))


def replace_column(pairs: pa.Table, name: str, values: list[Any]) -> pa.Table:
    place = PAIR_SCHEMA.get_field_index(name)
    return pairs.set_column(place, PAIR_SCHEMA.field(place), pa.array(values, PAIR_SCHEMA.field(place).type))


def with_first_image(pairs: pa.Table, data: bytes | None) -> pa.Table:
    images = pairs["image"].to_pylist()
    images[0] = None if data is None else {"bytes": data, "path": "0.jpg"}
    return replace_column(pairs, "image", images)


def restate_sha256(pairs: pa.Table) -> pa.Table:
    images = pairs["image"].to_pylist()
    return replace_column(pairs, "sha256", [hashlib.sha256(image["bytes"]).hexdigest() for image in images])


# Clean


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_good_dataset_is_clean(folder: Path, workers: int) -> None:
    split_dataset(folder, "paper-5x")
    split_dataset(folder, "grouped-kfold-5", 3)
    report = validate(folder, workers, quiet=True)
    assert report.problems == []
    assert report.clean
    assert (report.n_rows, report.n_images, report.n_shards, report.n_splits) == (60, 60, 3, 2)


def test_labels_without_pictures_are_clean(make_dataset: Callable[..., Path]) -> None:
    report = validate(make_dataset(draw_pairs(600, images=False), shard_size=600), quiet=True)
    assert report.clean
    assert (report.n_rows, report.n_images) == (600, 0)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "WEBP"])
def test_pictures_of_every_format_are_decoded(
    make_dataset: Callable[..., Path], sixty_pairs: pa.Table, kind: str
) -> None:
    pairs = with_first_image(sixty_pairs, draw_picture(2, 0, format=kind))
    assert problems(make_dataset(restate_sha256(pairs))) == []


# Files


def test_a_changed_byte_is_found_by_its_hash(folder: Path) -> None:
    path = folder / "data/shard-00001.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    assert any(line.startswith(f"{path}: altered: sha256 is ") for line in problems(folder))


def test_a_shortened_shard_is_found_by_its_size(folder: Path) -> None:
    path = folder / "data/shard-00001.parquet"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-100])
    found = problems(folder)
    assert found[0] == f"{path}: altered: {size - 100} bytes, the manifest says {size}"
    assert any(line.startswith(f"{path}: not readable as Parquet") for line in found)


def test_a_missing_shard_is_found_and_the_others_are_still_checked(folder: Path) -> None:
    (folder / "data/shard-00000.parquet").unlink()
    report = validate(folder, quiet=True)
    assert (
        report.problems[0] == f"{folder}/data/shard-00000.parquet: cannot be read (no such file or directory)"
    )
    assert report.n_rows == 35
    assert "35 rows, the funnel says 60 were kept" in report.problems


def test_a_stray_shard_is_found(folder: Path) -> None:
    (folder / "data/shard-00003.parquet").write_bytes((folder / "data/shard-00002.parquet").read_bytes())
    assert problems(folder) == [f"{folder}/data/shard-00003.parquet: not in the manifest"]


def test_a_missing_card_is_found(folder: Path) -> None:
    (folder / "README.md").unlink()
    assert problems(folder) == [f"{folder}: has no README.md"]


def test_other_columns_are_found(folder: Path) -> None:
    path = folder / "data/shard-00002.parquet"
    pq.write_table(draw_pairs(300, images=False).drop_columns(["votes"]), path)
    found = problems(folder)
    assert f"{path}: 300 rows, the manifest says 10" in found
    assert f"{path}: not the columns of a pair: votes" in found


def test_a_large_row_group_with_pictures_is_found(folder: Path, sixty_pairs: pa.Table) -> None:
    path = folder / "data/shard-00002.parquet"
    pq.write_table(pa.concat_tables([sixty_pairs] * 5), path)
    assert f"{path}: a row group of 300 rows, more than 256" in problems(folder)


# Rows


def test_a_repeated_id_is_found(make_dataset: Callable[..., Path], sixty_pairs: pa.Table) -> None:
    ids = sixty_pairs["id"].to_pylist()
    assert problems(make_dataset(replace_column(sixty_pairs, "id", [*ids[:59], ids[0]]))) == [
        "drawn:0: 2 rows have this id"
    ]


def test_a_label_that_is_none_is_found(folder: Path, sixty_pairs: pa.Table) -> None:
    path = folder / "data/shard-00002.parquet"
    pairs = replace_column(sixty_pairs, "label", [7] * 60).slice(50)
    pq.write_table(pairs.cast(stored_schema(pairs.schema, labelled=True)), path)
    found = problems(folder)
    assert f"{path}: label 7 is not 0, 1 or 2" in found
    assert "16 rows are negative, the manifest says 20" in found


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("sha256", "0" * 64, "sha256 is "),
        ("sha256", None, "sha256 is "),
        ("width", 97, "width is 96, the row says 97"),
        ("height", 1, "height is 72, the row says 1"),
    ],
)
def test_a_wrong_fact_about_a_picture_is_found(
    make_dataset: Callable[..., Path], sixty_pairs: pa.Table, column: str, value: Any, message: str
) -> None:
    values = sixty_pairs[column].to_pylist()
    values[5] = value
    [problem] = problems(make_dataset(replace_column(sixty_pairs, column, values)))
    assert problem.startswith(f"drawn:5: {message}")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: data[: len(data) * 2 // 3], "image-corrupt"),
        (lambda data: b"<html>not found</html>", "image-not-an-image"),
        (lambda data: b"", "image-corrupt"),
    ],
)
def test_a_picture_that_cannot_be_decoded_is_found(
    make_dataset: Callable[..., Path], sixty_pairs: pa.Table, spoil: Callable[[bytes], bytes], message: str
) -> None:
    spoilt = with_first_image(sixty_pairs, spoil(sixty_pairs["image"][0].as_py()["bytes"]))
    [problem] = problems(make_dataset(restate_sha256(spoilt)))  # its hash is right, so only decoding tells
    assert problem.startswith(f"drawn:0: {message}")


def test_a_missing_picture_is_found(make_dataset: Callable[..., Path], sixty_pairs: pa.Table) -> None:
    assert problems(make_dataset(with_first_image(sixty_pairs, None))) == [
        "drawn:0: states a picture's size or hash, but has none"
    ]


# The funnel and the splits


def test_a_funnel_that_does_not_add_up_is_found(folder: Path) -> None:
    edit_manifest(folder, lambda document: document["funnel"].update(input=63))
    assert problems(folder) == ["the funnel does not add up: 63 in, 60 kept, dropped {'label-conflict': 2}"]


def test_wrong_label_counts_are_found(folder: Path) -> None:
    edit_manifest(folder, lambda document: document["labels"].update(neutral=21))
    assert problems(folder) == ["20 rows are neutral, the manifest says 21"]


def test_rejected_rows_that_differ_from_the_funnel_are_found(folder: Path) -> None:
    path = folder / "rejected.parquet"
    rejected = pq.read_table(path).to_pylist()
    rejected[0]["reason"] = "bad-mood"
    pq.write_table(pa.Table.from_pylist(rejected, pq.read_schema(path)), path)
    assert problems(folder) == [
        f"{path}: unknown reason 'bad-mood'",
        f"{path}: 1 rows for bad-mood, the funnel says 0",
        f"{path}: 1 rows for label-conflict, the funnel says 2",
    ]


def test_missing_and_strange_rejected_files_are_found(folder: Path) -> None:
    path = folder / "rejected.parquet"
    pq.write_table(pa.table({"id": ["a"]}), path)
    assert problems(folder)[0].startswith(f"{path}: cannot be read")
    path.unlink()
    assert problems(folder)[0].startswith(f"{path}: cannot be read")


def test_a_split_that_does_not_cover_the_ids_is_found(folder: Path) -> None:
    path = split_dataset(folder, "paper-5x").path
    table = pq.read_table(path)
    pq.write_table(table.filter(pa.compute.not_equal(table["id"], "drawn:8")), path)
    assert problems(folder) == [f"{path}: 1 of 60 ids of the dataset have no role, e.g. 'drawn:8'"]


def test_a_split_with_an_unknown_role_is_found(folder: Path) -> None:
    (folder / "splits").mkdir()
    roles = ["holdout", *["train"] * 59]
    path = folder / "splits" / "mine.parquet"
    pq.write_table(pa.table({"id": [f"drawn:{i}" for i in range(60)], "fold": [0] * 60, "role": roles}), path)
    assert problems(folder) == [f"{path}: unknown role 'holdout' (row 1)"]


# What the user sees


def run(*arguments: str) -> int:
    return exit_code(lambda: app(["validate", *arguments], standalone_mode=False))


def test_a_clean_dataset_is_one_line_and_exit_0(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(folder)) == 0
    assert capsys.readouterr().out == f"{folder}: clean (60 rows, 60 pictures, 3 shards, 0 splits)\n"


def test_problems_are_a_line_each_and_exit_1(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_manifest(folder, lambda document: document["labels"].update(neutral=21, positive=19))
    assert run(str(folder)) == 1
    assert capsys.readouterr().out.splitlines() == [
        "20 rows are neutral, the manifest says 21",
        "20 rows are positive, the manifest says 19",
        f"{folder}: 2 problems (60 rows, 60 pictures, 3 shards, 0 splits)",
    ]


def test_one_problem_is_one_problem(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "README.md").unlink()
    assert run(str(folder)) == 1
    assert f"{folder}: 1 problem (" in capsys.readouterr().out


def test_endless_problems_are_cut_short_but_counted(
    make_dataset: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = draw_pairs(3 * MAX_LISTED, images=False)
    folder = make_dataset(replace_column(pairs, "width", [5] * len(pairs)))
    assert run(str(folder)) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == f"… and {2 * MAX_LISTED} more"
    assert f"{3 * MAX_LISTED} problems" in lines[-1]
    assert len(lines) == MAX_LISTED + 2


def test_json_is_one_document(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_manifest(folder, lambda document: document["labels"].update(neutral=21))
    assert run(str(folder), "--json") == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["clean"], document["n_problems"], document["n_rows"]) == (False, 1, 60)
    assert document["problems"] == ["20 rows are neutral, the manifest says 21"]


def test_a_folder_that_is_no_dataset_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(str(tmp_path)) == 1
    assert capsys.readouterr().err == (
        f"mvsent: {tmp_path}: not a finished dataset (it has no dataset.json). "
        "Name a dataset folder, or build one: mvsent reconcile-mvsa, build-table, build-flickr, build-getty\n"
    )
    with pytest.raises(DatasetError):
        validate(tmp_path)


def test_without_a_folder_the_newest_in_data_is_checked(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder.parent.parent)
    assert run() == 0
    assert capsys.readouterr().out.startswith("data/drawn: clean")
