"""A table becomes a dataset by one command, and a table that cannot is refused in one line."""

import bz2
import gzip
import json
import os
from pathlib import Path
from typing import Any

import datasets
import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mvsent.datasets.validate import validate
from mvsent.errors import InputError, MvsentError, OutputExistsError, StorageError, UsageError
from mvsent.pairs import LABEL_NAMES
from mvsent.shards.reader import Dataset
from tests.drawing import draw_picture
from tests.tables import (
    build_table,
    built,
    column,
    draw_files,
    drawn_rows,
    rejected,
    write_csv,
    write_jsonl,
)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out" / "mine"


def as_csv(folder: Path, rows: list[dict[str, str]]) -> Path:
    return write_csv(folder / "pairs.csv", rows)


def as_semicolons(folder: Path, rows: list[dict[str, str]]) -> Path:
    return write_csv(folder / "pairs.csv", rows, delimiter=";", encoding="utf-16")


def as_tsv(folder: Path, rows: list[dict[str, str]]) -> Path:
    return write_csv(folder / "pairs.tsv", rows, delimiter="\t", encoding="utf-8-sig")


def as_jsonl(folder: Path, rows: list[dict[str, str]]) -> Path:
    return write_jsonl(folder / "pairs.jsonl", rows)


def as_json_lines_called_json(folder: Path, rows: list[dict[str, str]]) -> Path:
    return write_jsonl(folder / "pairs.json", rows)


def as_json(folder: Path, rows: list[dict[str, str]]) -> Path:
    (folder / "pairs.json").write_text(json.dumps(rows, indent=1))
    return folder / "pairs.json"


def as_json_object(folder: Path, rows: list[dict[str, str]]) -> Path:
    (folder / "pairs.json").write_text(json.dumps({"version": 1, "data": rows}))
    return folder / "pairs.json"


def as_json_on_one_line(folder: Path, rows: list[dict[str, str]]) -> Path:
    (folder / "pairs.json").write_text(json.dumps(rows))
    return folder / "pairs.json"


def as_parquet_of_paths(folder: Path, rows: list[dict[str, str]]) -> Path:
    pd.DataFrame(rows).to_parquet(folder / "pairs.parquet")
    return folder / "pairs.parquet"


def as_parquet_of_bytes(folder: Path, rows: list[dict[str, str]]) -> Path:
    held = [{**row, "image": (folder / row["image"]).read_bytes()} for row in rows]
    pq.write_table(pa.Table.from_pylist(held), folder / "pairs.parquet", row_group_size=2)
    return folder / "pairs.parquet"


def hugging_face(folder: Path, rows: list[dict[str, str]]) -> datasets.Dataset:
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["positive", "neutral", "negative"]),
        }
    )
    held = [{**row, "image": str(folder / row["image"])} for row in rows]
    return datasets.Dataset.from_list(held, features=features)


def as_hugging_face_parquet(folder: Path, rows: list[dict[str, str]]) -> Path:
    hugging_face(folder, rows).to_parquet(folder / "pairs.parquet")
    return folder / "pairs.parquet"


def as_hugging_face_folder(folder: Path, rows: list[dict[str, str]]) -> Path:
    hugging_face(folder, rows).save_to_disk(folder / "saved")
    return folder / "saved"


def as_hugging_face_splits(folder: Path, rows: list[dict[str, str]]) -> Path:
    whole = hugging_face(folder, rows)
    splits = {"a": whole.select(range(2)), "b": whole.select(range(2, len(rows)))}
    datasets.DatasetDict(splits).save_to_disk(folder / "saved")
    return folder / "saved"


def as_image_folder(folder: Path, rows: list[dict[str, str]]) -> Path:
    named = [{"file_name": row["image"], "caption": row["text"], "sentiment": row["label"]} for row in rows]
    write_jsonl(folder / "metadata.jsonl", named)
    return folder


def as_two_files(folder: Path, rows: list[dict[str, str]]) -> Path:
    (folder / "parts").mkdir()
    named = [{**row, "image": f"../{row['image']}"} for row in rows]
    write_csv(folder / "parts" / "a.csv", named[:2])
    write_csv(folder / "parts" / "b.csv", named[2:])
    return folder / "parts" / "*.csv"


FORMATS = [value for name, value in list(globals().items()) if name.startswith("as_")]


@pytest.mark.parametrize("write", FORMATS, ids=lambda write: write.__name__)
def test_every_format_gives_the_same_pairs(write: Any, tmp_path: Path, out: Path) -> None:
    rows = drawn_rows(tmp_path, 7)
    dataset = built(write(tmp_path, rows), out=out)
    assert column(dataset, "text") == [row["text"] for row in rows]
    assert [LABEL_NAMES[label] for label in dataset.labels] == [row["label"] for row in rows]
    pictures = [image["bytes"] for image in column(dataset, "image")]
    assert pictures == [(tmp_path / row["image"]).read_bytes() for row in rows]
    assert validate(out).clean and dataset.manifest.funnel.input == 7


def test_hugging_face_and_duckdb_read_the_dataset(tmp_path: Path, out: Path) -> None:
    rows = [{**row, "shop": str(n), "city": "Köln"} for n, row in enumerate(drawn_rows(tmp_path))]
    built(write_csv(tmp_path / "pairs.csv", rows), "--keep-columns", "shop,city", out=out)
    loaded = datasets.load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded[0]["image"].size == (96, 72) and loaded["city"] == ["Köln"] * 3
    counted = duckdb.sql(f"SELECT label, sum(shop) FROM '{out}/data/*.parquet' GROUP BY 1 ORDER BY 1")
    assert counted.fetchall() == [(0, 2), (1, 1), (2, 0)]


# Columns


def test_the_columns_taken_and_the_format_are_printed(tmp_path: Path, out: Path) -> None:
    rows = [
        {"tweet_id": "7", "img": draw_files(tmp_path)[0], "tweet": "sö good", "polarity": "POS", "url": ""}
    ]
    said = build_table(write_csv(tmp_path / "p.csv", rows, delimiter=";", encoding="cp1252"), "--out", out)
    assert "separated by semicolons, cp1252" in said
    for taken in ("image     img", "text    tweet", "label  polarity", "id  tweet_id", "also possible: url"):
        assert (
            taken.split() in [line.split()[: len(taken.split())] for line in said.splitlines()]
            or taken in said
        )
    assert "texts are read as tweets" in said
    assert Dataset.open(out).ids[:] == ["table:7"]


def test_columns_can_be_named(tmp_path: Path, out: Path) -> None:
    [picture] = draw_files(tmp_path, 1)
    rows = [{"a": picture, "b": "fine", "c": "neu", "d": "x1"}]
    dataset = built(
        *(write_csv(tmp_path / "p.csv", rows), "--image", "a", "--text", "b", "--label", "c", "--id", "d"),
        *("--name", "mine"),
        out=out,
    )
    assert dataset.ids[:] == ["mine:x1"] and dataset.labels.tolist() == [1] and dataset.name == "mine"
    assert column(dataset, "source") == ["mine"]


def test_without_ids_rows_are_called_by_file_and_line(tmp_path: Path, out: Path) -> None:
    rows = drawn_rows(tmp_path)
    rows[0]["text"] = "on two\nlines"
    assert built(as_csv(tmp_path, rows), out=out).ids[:] == [f"table:pairs.csv:{line}" for line in (2, 4, 5)]


def test_files_of_one_name_have_different_ids(tmp_path: Path, out: Path) -> None:
    tables = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        tables.append(as_csv(tmp_path / name, drawn_rows(tmp_path / name, 1)))
    assert built(*tables, out=out).ids[:] == ["table:a/pairs.csv:2", "table:b/pairs.csv:2"]


def test_kept_columns_are_typed_and_those_that_every_dataset_has_are_filled(
    tmp_path: Path, out: Path
) -> None:
    more = {"n": ["1", "", "3"], "x": ["0.5", "2", ""], "ok": ["true", "False", ""], "code": ["007", "8", ""]}
    rows = [
        {**row, **{name: values[n] for name, values in more.items()}, "owner": "ana"}
        for n, row in enumerate(drawn_rows(tmp_path))
    ]
    dataset = built(as_csv(tmp_path, rows), "--keep-columns", "n,x,ok,code,owner", out=out)
    assert dataset.manifest.extra_columns == {"n": "int64", "x": "double", "ok": "bool", "code": "string"}
    kept = dataset.table([*more, "owner"]).to_pydict()
    assert kept == {
        "n": [1, None, 3],
        "x": [0.5, 2.0, None],
        "ok": [True, False, None],
        "code": ["007", "8", None],
        "owner": ["ana"] * 3,
    }


# Labels


@pytest.mark.parametrize(
    ("cells", "options", "labels"),
    [
        (["POSITIVE", " Neutral ", "negative"], [], [2, 1, 0]),
        (["pos", "Neu", "NEG"], [], [2, 1, 0]),
        (["1", "0", "-1"], [], [2, 1, 0]),
        (["1.0", "0.0", "-1.0"], [], [2, 1, 0]),
        (["0", "1", "2"], ["--labels", "0=positive,1=neutral,2=negative"], [2, 1, 0]),
        (["4", "2", "0"], ["--labels", "0=neg,2=neu,4=pos"], [2, 1, 0]),
        (["joy", "meh", "negative"], ["--labels", "joy=positive,meh=neutral"], [2, 1, 0]),
    ],
)
def test_labels_are_words_or_signs_or_what_labels_says(
    cells: list[str], options: list[str], labels: list[int], tmp_path: Path, out: Path
) -> None:
    rows = [{**row, "label": cell} for row, cell in zip(drawn_rows(tmp_path), cells, strict=True)]
    assert built(as_csv(tmp_path, rows), *options, out=out).labels.tolist() == labels


def test_what_words_and_numbers_stand_for_is_printed(tmp_path: Path, out: Path) -> None:
    rows = [{**row, "label": cell} for row, cell in zip(drawn_rows(tmp_path), ("1", "-1", "0"), strict=True)]
    said = build_table(as_csv(tmp_path, rows), "--out", out)
    assert "labels: -1 is negative, 0 is neutral, 1 is positive" in said.splitlines()
    assert "Dropped rows" not in said
    rows = [{**row, "label": cell} for row, cell in zip(rows, ("positive", "neutral", "neg"), strict=True)]
    said = build_table(as_csv(tmp_path, rows), "--out", tmp_path / "words")
    assert "labels: neg is negative" in said.splitlines()


@pytest.mark.parametrize("numbers", [["0", "1", "2"], ["0", "1", "1"], ["1", "1", "1"], ["-2", "0", "2"]])
def test_numbers_without_a_meaning_are_refused_with_the_option(
    numbers: list[str], tmp_path: Path, out: Path
) -> None:
    rows = [{**row, "label": cell} for row, cell in zip(drawn_rows(tmp_path), numbers, strict=True)]
    with pytest.raises(
        InputError, match=r"pairs.csv, line 2: label is '-?\d'.*--labels 0=negative,1=neutral"
    ):
        built(as_csv(tmp_path, rows), out=out)
    assert not out.exists()


def test_a_word_that_is_no_label_is_named_with_its_line(tmp_path: Path, out: Path) -> None:
    rows = drawn_rows(tmp_path)
    rows[1]["label"] = "angry"
    with pytest.raises(InputError, match=r"pairs.csv, line 3: label is 'angry', which is no label"):
        built(as_csv(tmp_path, rows), out=out)


def test_labels_of_text_and_picture_are_joined_by_the_label_rule(tmp_path: Path, out: Path) -> None:
    given = [("positive", "neutral"), ("negative", "positive"), ("neutral", "neutral")]
    rows = [
        {"image": row["image"], "text": row["text"], "text_label": text, "image_label": image}
        for row, (text, image) in zip(drawn_rows(tmp_path), given, strict=True)
    ]
    dataset = built(as_csv(tmp_path, rows), out=out)
    assert dataset.labels.tolist() == [2, 1]
    assert column(dataset, "text_label") == [2, 1] and column(dataset, "image_label") == [1, 1]
    assert column(dataset, "votes")[0] == [{"text": 2, "image": 1}]
    detail = "pairs.csv:3: text negative, image positive"
    assert rejected(dataset) == [("table:pairs.csv:3", "label-conflict", detail)]


def test_pairs_says_which_rows_are_kept_with_which_label(tmp_path: Path, out: Path) -> None:
    given = [("positive", "positive", ""), ("neutral", "positive", "negative"), ("neutral", "", "neutral")]
    rows = [
        {"image": row["image"], "text": row["text"], "text_label": a, "image_label": b, "label": c}
        for row, (a, b, c) in zip(drawn_rows(tmp_path), given, strict=True)
    ]
    table = as_csv(tmp_path, rows)
    consistent = built(table, "--pairs", "consistent", out=out)
    assert (consistent.labels.tolist(), consistent.name) == ([2], "table-consistent")
    assert [reason for _, reason, _ in rejected(consistent)] == ["labels-differ", "label-missing"]
    of_text = built(table, "--pairs", "text", out=out.with_name("text"))
    assert of_text.labels.tolist() == [2, 1, 1]
    by_paper = built(table, out=out.with_name("paper"))
    assert (by_paper.labels.tolist(), by_paper.name) == ([0, 1], "table"), "the label of the pair counts"
    with pytest.raises(UsageError, match="--label and --pairs consistent contradict each other"):
        built(table, "--pairs", "consistent", "--label", "label", out=out.with_name("both"))


def test_consistent_pairs_need_two_labels(tmp_path: Path, out: Path) -> None:
    table = as_csv(tmp_path, drawn_rows(tmp_path))
    with pytest.raises(
        InputError, match=r"pairs.csv: --pairs consistent needs labels of .* only image, text"
    ):
        built(table, "--pairs", "consistent", out=out)
    assert not out.exists()


def test_annotators_in_columns_vote(tmp_path: Path, out: Path) -> None:
    votes = [("pos", "pos", "neg"), ("pos", "neu", "neg"), ("neu", "", "neu")]
    rows = [
        {"image": row["image"], "text": row["text"], "label_1": a, "label_2": b, "label_3": c}
        for row, (a, b, c) in zip(drawn_rows(tmp_path), votes, strict=True)
    ]
    dataset = built(as_csv(tmp_path, rows), out=out)
    assert dataset.labels.tolist() == [2, 1]
    assert [reason for _, reason, _ in rejected(dataset)] == ["no-majority"]
    assert column(dataset, "votes")[1] == [{"text": 1, "image": 1}] * 2
    assert dataset.manifest.agreement is not None
    tied = built(as_csv(tmp_path, rows), "--ties", "neutral", out=out.with_name("tied"))
    assert tied.labels.tolist() == [2, 1, 1]


@pytest.mark.parametrize("aggregate", ["majority", "dawid-skene"])
def test_annotators_in_rows_vote(aggregate: str, tmp_path: Path, out: Path) -> None:
    pairs = drawn_rows(tmp_path, 6)
    rows = [
        {"id": n, **row, "worker": worker, "label": row["label"] if worker != "c" or n else "negative"}
        for worker in "abc"
        for n, row in enumerate(pairs)
    ]
    dataset = built(as_csv(tmp_path, rows), "--aggregate", aggregate, out=out)
    assert dataset.ids[:] == [f"table:{n}" for n in range(6)]
    assert [LABEL_NAMES[label] for label in dataset.labels] == [row["label"] for row in pairs]
    assert dataset.manifest.funnel.input == 6 and dataset.manifest.notes == {"annotations": 18}
    assert len(column(dataset, "votes")[0]) == 3


def test_a_table_without_labels_is_a_dataset_without_labels(tmp_path: Path, out: Path) -> None:
    rows = [{"image": row["image"], "text": row["text"]} for row in drawn_rows(tmp_path)]
    dataset = built(as_csv(tmp_path, rows), out=out)
    assert dataset.labels.tolist() == [-1] * 3 and dataset.manifest.n_unlabelled == 3
    assert validate(out).clean


def test_a_row_without_a_label_is_dropped_or_kept(tmp_path: Path, out: Path) -> None:
    rows = drawn_rows(tmp_path)
    rows[1]["label"] = ""
    dataset = built(as_csv(tmp_path, rows), out=out)
    assert rejected(dataset) == [("table:pairs.csv:3", "label-missing", "pairs.csv:3: label")]
    kept = built(as_csv(tmp_path, rows), "--unlabelled", "keep", out=out.with_name("kept"))
    assert kept.labels.tolist() == [2, -1, 0] and kept.manifest.n_unlabelled == 1
    unclear = built(
        as_csv(tmp_path, [{**row, "label": row["label"] or "unclear"} for row in rows]),
        *("--labels", "unclear="),
        out=out.with_name("unclear"),
    )
    assert unclear.labels.tolist() == [2, 0]


# Texts and filters


@pytest.mark.slow
def test_the_papers_filters_are_off_until_asked_for(tmp_path: Path, out: Path) -> None:
    rows = drawn_rows(tmp_path, 4)
    for row, text in zip(
        rows, ["one two", "a b c d e", "Der Hund schläft heute im Garten", "a b c d e f"], strict=True
    ):
        row["text"] = text
    (tmp_path / rows[3]["image"]).write_bytes((tmp_path / rows[1]["image"]).read_bytes())
    table = as_csv(tmp_path, rows)
    assert len(built(table, out=out)) == 4
    asked = ["--min-words", 5, "--max-words", 5, "--duplicates", "drop"]
    filtered = built(table, *asked, out=out.with_name("filtered"))
    assert filtered.ids[:] == ["table:pairs.csv:3"]
    assert {reason for _, reason, _ in rejected(filtered)} == {"text-too-short", "text-too-long"}
    same = built(table, "--duplicates", "drop", out=out.with_name("same"))
    assert rejected(same) == [
        ("table:pairs.csv:5", "duplicate-image", "the picture of table:pairs.csv:3"),
    ]
    german = built(table, "--language", "de", out=out.with_name("german"))
    assert german.ids[:] == ["table:pairs.csv:4"]


@pytest.mark.parametrize(("n_words", "kind"), [(40, "tweets"), (41, "captions")])
def test_the_kind_of_text_follows_from_the_number_of_words(
    n_words: int, kind: str, tmp_path: Path, out: Path
) -> None:
    rows = drawn_rows(tmp_path)
    rows[0]["text"] = "word " * n_words
    assert built(as_csv(tmp_path, rows), out=out).manifest.text_kind == kind
    named = built(as_csv(tmp_path, rows), "--text-kind", "captions", out=out.with_name("named"))
    assert named.manifest.text_kind == "captions"


def test_texts_are_cleaned_as_everywhere_and_strangers_characters_do_no_harm(
    tmp_path: Path, out: Path
) -> None:
    names = draw_files(tmp_path, 4)
    texts = ["Tom &amp; Ana\u0000 \ud800here", "caf\u0065\u0301\r\nsun", "x" * 1_000_000, 7]
    rows = [{"image": name, "text": text, "label": "pos"} for name, text in zip(names, texts, strict=True)]
    dataset = built(write_jsonl(tmp_path / "p.jsonl", rows), out=out)
    assert column(dataset, "text") == ["Tom & Ana here", "café sun"]
    assert [(reason, detail) for _, reason, detail in rejected(dataset)] == [
        ("text-too-long", "p.jsonl:3: more than 65536 characters"),
        ("text-missing", "p.jsonl:4: the text is not a string but int"),
    ]


@pytest.mark.slow
def test_a_megabyte_in_a_cell_of_a_csv_is_one_dropped_row(tmp_path: Path, out: Path) -> None:
    rows = drawn_rows(tmp_path)
    rows[1]["text"] = "ab " * 400_000
    assert [reason for _, reason, _ in rejected(built(as_csv(tmp_path, rows), out=out))] == ["text-too-long"]


# Pictures


def test_rows_whose_pictures_cannot_be_used_are_dropped_with_their_lines(tmp_path: Path, out: Path) -> None:
    rows = drawn_rows(tmp_path, 9)
    (tmp_path / "page.jpg").write_text("<html>")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    places = [
        "",
        "nowhere.jpg",
        "page.jpg",
        "empty.jpg",
        "loop.jpg",
        "pipe.jpg",
        "ftp://x.org/a.jpg",
        "a\0b.jpg",
    ]
    for row, place in zip(rows[1:], places, strict=True):
        row["image"] = place
    dataset = built(as_csv(tmp_path, rows), out=out)
    assert len(dataset) == 1
    found = {detail.partition(": ")[0]: reason for _, reason, detail in rejected(dataset)}
    assert found == {
        "pairs.csv:3": "image-missing",
        "pairs.csv:4": "image-missing",
        "pairs.csv:5": "image-not-an-image",
        "pairs.csv:6": "image-corrupt",
        "pairs.csv:7": "image-corrupt",
        "pairs.csv:8": "image-missing",
        "pairs.csv:9": "blocked-host",
        "pairs.csv:10": "image-missing",
    }


def test_a_path_out_of_the_folder_is_read_and_said(tmp_path: Path, out: Path) -> None:
    rows = drawn_rows(tmp_path)
    rows[0]["image"] = str(tmp_path / rows[0]["image"])
    rows[1]["image"] = f"../{rows[1]['image']}"
    rows[2]["image"] = f"../tables/../{rows[2]['image']}"
    (tmp_path / "tables").mkdir()
    said = build_table(write_csv(tmp_path / "tables" / "pairs.csv", rows), "--out", out)
    assert "Pictures outside the folder of their table: 3" in said
    assert len(Dataset.open(out)) == 3


def test_the_content_of_a_file_outside_the_folder_is_not_shown(tmp_path: Path, out: Path) -> None:
    rows = drawn_rows(tmp_path / "here", 4)
    (tmp_path / "key").write_text("BEGIN SECRET")
    (tmp_path / "here" / "own.jpg").write_text("<html>")
    (tmp_path / "here" / "link.jpg").symlink_to(tmp_path / "key")
    for row, place in zip(rows, ("../key", str(tmp_path / "key"), "link.jpg", "own.jpg"), strict=True):
        row["image"] = place
    rows += drawn_rows(tmp_path / "here", 1)
    rejections = rejected(built(as_csv(tmp_path / "here", rows), out=out))
    details = [detail.rpartition(": ")[2] for _, _, detail in rejections]
    assert details == ["does not begin as a picture does"] * 3 + ["starts with b'<html>'"]


def test_an_address_of_a_file_is_its_path(tmp_path: Path, out: Path) -> None:
    rows = drawn_rows(tmp_path)
    (tmp_path / "a b.jpg").write_bytes((tmp_path / rows[0]["image"]).read_bytes())
    rows[0]["image"] = f"file://{tmp_path}/a%20b.jpg"
    assert len(built(as_csv(tmp_path, rows), out=out)) == 3


def test_a_windows_path_is_found(tmp_path: Path, out: Path) -> None:
    rows = [{**row, "image": row["image"].replace("/", "\\")} for row in drawn_rows(tmp_path)]
    assert len(built(as_csv(tmp_path, rows), out=out)) == 3


def test_pictures_in_many_row_groups_are_those_of_their_rows(tmp_path: Path, out: Path) -> None:
    pictures = [draw_picture(n % 3, n) for n in range(90)]
    rows = [{"image": {"bytes": data, "path": None}, "text": f"text {n}"} for n, data in enumerate(pictures)]
    rows[4]["text"] = rows[50]["text"] = ""
    rows[7]["image"] = {"bytes": None, "path": None}
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet", row_group_size=40)
    dataset = built(tmp_path / "p.parquet", "--shard-size", 16, out=out)
    kept = [n for n in range(90) if n not in (4, 7, 50)]
    assert column(dataset, "text") == [f"text {n}" for n in kept]
    assert [image["bytes"] for image in column(dataset, "image")] == [pictures[n] for n in kept]


def test_an_exported_dataset_comes_back_by_its_table(small_dataset: Path, tmp_path: Path, out: Path) -> None:
    from mvsent.datasets.export import export

    before = Dataset.open(small_dataset)
    export(small_dataset, "csv", tmp_path / "csv")
    dataset = built(tmp_path / "csv" / "pairs.csv", "--name", "drawn", out=out)
    columns = ["id", "text", "label", "text_label", "image_label"]
    assert dataset.table(columns).to_pydict() == before.table(columns).to_pydict()
    shards = built(small_dataset / "data" / "*.parquet", "--name", "drawn", out=out.with_name("again"))
    assert shards.table(columns).to_pydict() == before.table(columns).to_pydict()


# Bad input


def refused(*words: object, out: Path) -> str:
    with pytest.raises(MvsentError) as raised:
        build_table(*words, "--out", out, "-q")
    assert raised.value.exit_code in (1, 2) and "\n" not in str(raised.value)
    assert not out.exists()
    return str(raised.value)


BAD: dict[str, tuple[str, bytes, str]] = {
    "no picture column": ("p.csv", b"words,text\na,b\n", "no column of pictures; it has words, text"),
    "no text column": ("p.csv", b"image,words\na,b\n", "no column of texts; it has image, words"),
    "two texts": ("p.csv", b"image,tweet,caption\na,b,c\n", "tweet and caption could both be the text"),
    "two pictures": ("p.csv", b"path,file_name,text\na,b,c\n", "path and file_name could both be the image"),
    "one name twice": ("p.csv", b"image,text,text\na,b,c\n", "has two columns 'text'"),
    "no rows": ("p.csv", b"image,text\n", "has no rows"),
    "no rows of JSON": ("p.jsonl", b"\n", "it has none"),
    "empty": ("p.csv", b"", "is empty"),
    "ragged": ("p.csv", b"image,text\na,b\nc\n", "p.csv, line 3: has 1 cells, the header has 2"),
    "open quote": ("p.csv", b'image,text\n"a,b\n', "not CSV"),
    "mixed encodings": (
        "p.csv",
        "image,text\na,schön\n".encode() + "b,schön\n".encode("latin-1"),
        "line 3: not UTF-8, but 1 of the other lines are: the file mixes encodings",
    ),
    "broken JSON": ("p.json", b'[{"image": "a", "text": "b"},\n {"image": ]', "p.json, line 2: not JSON"),
    "endless list": ("p.json", b'[{"image": "a", "text": "b"}\n {}', "the list does not end"),
    "JSON of words": ("p.json", b'["a"]', "line 1: not a JSON object"),
    "a single object": ("p.json", b'{"image": "a",\n "text": "b"}', "not a list of rows but one JSON object"),
    "cut Parquet": ("p.parquet", b"PAR1 no", "not a Parquet file"),
    "long ids": ("p.csv", b"id,image,text\n%s,a,b\n" % (b"1" * 501), "the id has 501 characters"),
    "half of a character as id": (
        "p.jsonl",
        b'{"id": "\\ud800", "image": "a", "text": "b"}',
        "the id '\\ud800' has characters that cannot be printed",
    ),
    "bzip2": ("p.csv.bz2", bz2.compress(b"image,text\na,b\n"), "is compressed (bzip2). Unpack it first"),
    "gzip as csv": ("p.csv", gzip.compress(b"image,text\na,b\n"), "is compressed (gzip). Unpack it first"),
    "empty ids": ("p.csv", b"id,image,text\n,a,b\n", "line 2: the id is empty"),
    "half of the labels": (
        "p.csv",
        b"image,text,text_label\na,b,pos\n",
        "1 columns of labels of texts, but 0",
    ),
    "annotators alone": (
        "p.csv",
        b"image,text,worker\na,b,c\n",
        "a column of annotators, but none of labels",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_table_that_cannot_be_used_is_one_line(name: str, tmp_path: Path, out: Path) -> None:
    file, content, said = BAD[name]
    (tmp_path / file).write_bytes(content)
    assert said in refused(tmp_path / file, out=out)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--text", "txet"], "--text txet: "),
        (["--keep-columns", "shop"], "--keep-columns shop: "),
        (["--keep-columns", "text"], "every dataset has a column of this name"),
        (["--labels", "0:negative"], "--labels: should be such as 0=negative"),
        (["--labels", "0=bad"], "--labels: should be such as 0=negative"),
        (["--encoding", "utf-99"], "--encoding: is no encoding"),
        (["--encoding", "rot13"], "--encoding: is no encoding of text"),
        (["--encoding", "hex"], "--encoding: is no encoding of text"),
        (["--encoding", "utf-16"], "not UTF-16 (UTF-16 stream does not start with BOM). Correct or omit"),
        (["--delimiter", "ab"], "--delimiter: should be one character"),
        (["--allow-host", "localhost"], "--allow-host: should be HOST:PORT"),
        (["--allow-host", "s3://a/b"], "--allow-host: should be HOST:PORT, or s3://NAME"),
        (["--language", "klingon"], "--language: should be any or one of"),
    ],
)
def test_an_option_that_cannot_be_used_is_one_line(
    options: list[str], said: str, tmp_path: Path, out: Path
) -> None:
    table = as_csv(tmp_path, drawn_rows(tmp_path))
    message = refused(table, *options, out=out)
    assert said in message


def test_parquet_of_the_wrong_types_is_one_line(tmp_path: Path, out: Path) -> None:
    for kept, said in (
        ({"image": [1], "text": ["a"]}, "column image has no pictures but int64"),
        ({"image": ["a"], "text": [1]}, "column text has no texts but int64"),
        ({"image": [["a"]], "text": ["a"]}, "column image has no pictures but list"),
        ({"image": ["a"], "text": ["a"], "label": [["pos"]]}, "row 1: the label is not a word but list"),
    ):
        pq.write_table(pa.table(kept), tmp_path / "p.parquet")
        assert said in refused(tmp_path / "p.parquet", out=out)


def test_parquet_with_damaged_pictures_leaves_nothing(tmp_path: Path, out: Path) -> None:
    path = tmp_path / "p.parquet"
    drawn = [(tmp_path / row["image"]).read_bytes() for row in drawn_rows(tmp_path)]
    pq.write_table(pa.table({"image": drawn, "text": ["a", "b", "c"]}), path, use_dictionary=False)
    content = path.read_bytes()
    path.write_bytes(content[:4] + b"\xff" * 40 + content[44:])
    assert "p.parquet: cannot be read to its end (" in refused(path, out=out)


def test_an_out_where_nothing_can_be_written_is_named(tmp_path: Path) -> None:
    table = as_csv(tmp_path, drawn_rows(tmp_path))
    with pytest.raises(OSError, match=r"cannot be written .*: '/proc/pairs'"):
        build_table(table, "--out", "/proc/pairs", "-q")


def test_an_out_that_is_a_file_or_in_one_is_named(tmp_path: Path) -> None:
    table = as_csv(tmp_path, drawn_rows(tmp_path))
    for out in (table, table / "in" / "it"):
        with pytest.raises(UsageError, match=r"pairs.csv: is a file, not a folder. Name another --out"):
            build_table(table, "--out", out, "-q")


def test_places_that_are_no_tables_are_one_line(tmp_path: Path, out: Path, small_dataset: Path) -> None:
    (tmp_path / "link.csv").symlink_to("link.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder").mkdir()
    for place, said in (
        (tmp_path / "nowhere.csv", "no such file"),
        (tmp_path / "*.csv2", "no such file"),
        (tmp_path / "link.csv", "a link that leads nowhere"),
        (tmp_path / "pipe.csv", "not an ordinary file"),
        (tmp_path / "folder", "has no metadata.csv"),
        (small_dataset, "is a dataset of mvsent already"),
    ):
        assert said in refused(place, out=out)


def test_a_table_of_which_nothing_can_be_kept_leaves_nothing(tmp_path: Path, out: Path) -> None:
    rows = [{**row, "image": "nowhere.jpg"} for row in drawn_rows(tmp_path)]
    said = refused(as_csv(tmp_path, rows), out=out)
    assert (
        "none of the 3 rows can be kept: 3 image-missing. The first: pairs.csv:2: no file nowhere.jpg" in said
    )


def test_repeated_ids_are_dropped_with_both_lines(tmp_path: Path, out: Path) -> None:
    rows = [{"id": str(n // 2), **row} for n, row in enumerate(drawn_rows(tmp_path))]
    dataset = built(as_csv(tmp_path, rows), out=out)
    assert rejected(dataset) == [("table:0", "duplicate-id", "pairs.csv:3: the id of pairs.csv:2")]


def test_mixed_encodings_can_be_overruled(tmp_path: Path, out: Path) -> None:
    [picture] = draw_files(tmp_path, 1)
    content = f"image,text\n{picture},schön\n".encode() + f"{picture},schön\n".encode("latin-1")
    (tmp_path / "p.csv").write_bytes(content)
    assert column(built(tmp_path / "p.csv", "--encoding", "latin-1", out=out), "text") == ["schÃ¶n", "schön"]


def test_tabs_with_bare_quotation_marks_are_read_without_quoting(tmp_path: Path, out: Path) -> None:
    a, b = draw_files(tmp_path, 2)
    (tmp_path / "p.tsv").write_text(f'image\ttext\n{a}\t"so" good\n{b}\t"oh\n')
    said = build_table(tmp_path / "p.tsv", "--out", out)
    assert "separated by tabs, without quoting" in said
    assert column(Dataset.open(out), "text") == ['"so" good', '"oh']


# As every build


def test_a_dry_run_says_what_would_be_built_and_writes_nothing(tmp_path: Path, out: Path) -> None:
    rows = drawn_rows(tmp_path, 4)
    rows[0]["image"], rows[1]["label"] = "https://x.org/a.jpg", ""
    table = as_csv(tmp_path, rows)
    before = sorted(tmp_path.rglob("*"))
    said = build_table(table, "--dry-run", "--out", out)
    assert "pictures to fetch" in said and "label-missing" in said
    document = json.loads(build_table(table, "--dry-run", "--json", "--out", out))
    assert document["pictures"] == {"address": 1, "path": 3} and document["dropped"] == {"label-missing": 1}
    assert document["labels"] == {"negative": 1, "neutral": 0, "positive": 2}
    assert sorted(tmp_path.rglob("*")) == before


def test_a_finished_dataset_is_replaced_only_when_asked(tmp_path: Path, out: Path) -> None:
    table = as_csv(tmp_path, drawn_rows(tmp_path))
    built(table, out=out)
    with pytest.raises(OutputExistsError):
        built(table, out=out)
    again = built(table, "--overwrite", "--max-pairs", 2, out=out)
    assert len(again) == 2 and again.manifest.funnel.dropped == {"over-max-pairs": 1}
    assert sorted(path.name for path in out.parent.iterdir()) == ["mine"]


def test_json_has_the_manifest_with_the_columns_and_the_hash_of_the_table(tmp_path: Path, out: Path) -> None:
    table = as_csv(tmp_path, drawn_rows(tmp_path))
    document = json.loads(build_table(table, "--out", out, "--json"))
    assert document["settings"]["image"] == "image" and list(document["settings"]["tables"]) == ["pairs.csv"]
    assert document["funnel"] == {"input": 3, "kept": 3, "dropped": {}}


def test_the_bytes_depend_neither_on_workers_nor_on_where_the_table_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    hashes = set()
    for place, workers in (("a", 1), ("b", 4)):
        folder = tmp_path / place
        rows = drawn_rows(folder, 20)
        built(as_csv(folder, rows), "--workers", workers, "--shard-size", 8, out=folder / "out")
        hashes.add((folder / "out" / "dataset.json").read_bytes())
    assert len(hashes) == 1


@pytest.mark.slow
def test_a_table_and_its_pictures_in_object_storage(bucket: Path, tmp_path: Path, out: Path) -> None:
    rows = drawn_rows(tmp_path)
    for name in [row["image"] for row in rows]:
        (bucket / "mine" / name).write_bytes((tmp_path / name).read_bytes())
    rows[2]["image"] = str(bucket / "mine" / rows[2]["image"])
    rows.append({"image": "nowhere.jpg", "text": "a", "label": "pos"})
    (bucket / "mine" / "pairs.csv").write_bytes(as_csv(tmp_path, rows).read_bytes())
    local = built(bucket / "mine" / "pairs.csv", out=out)
    assert len(local) == 3 and [reason for _, reason, _ in rejected(local)] == ["image-missing"]
    assert column(local, "text") == [row["text"] for row in rows[:3]]


@pytest.mark.slow
def test_a_bucket_that_is_not_the_tables_own_has_to_be_allowed(
    bucket: Path, tmp_path: Path, out: Path
) -> None:
    rows = drawn_rows(tmp_path)
    (bucket / "other" / "a.jpg").write_bytes((tmp_path / rows[0]["image"]).read_bytes())
    rows[0]["image"], rows[1]["image"] = str(bucket / "other" / "a.jpg"), "s3://nowhere/a.jpg"
    csv = as_csv(tmp_path, rows)
    assert [(reason, detail) for _, reason, detail in rejected(built(csv, out=out))] == [
        ("blocked-host", "pairs.csv:2: s3://pairs is not the bucket of the table"),
        ("blocked-host", "pairs.csv:3: s3://nowhere is not the bucket of the table"),
    ]
    assert len(built(csv, "--allow-host", "s3://pairs", out=tmp_path / "allowed")) == 2
    with pytest.raises(StorageError, match=r"^pairs.csv:3: s3://nowhere/: no such bucket"):
        built(csv, "--allow-host", "s3://pairs,s3://nowhere", out=tmp_path / "asked")
