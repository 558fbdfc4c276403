"""Pairs of a user: a CSV, JSONL or Parquet table, a folder of pictures, a dataset, or a pipe.

    image,text,shop          {"image": "a.jpg", "text": "so good", "shop": 7}
    a.jpg,so good,7          {"text": "never again", "shop": 8}
    ,never again,8

A table has a column `image`, with paths relative to its own folder, or `text`, or both; a row may lack
either.
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from mvsent.curate.text import clean_text, decode_text
from mvsent.errors import InputError, UsageError
from mvsent.pairs import LABEL_NAMES
from mvsent.runs.inputs.pictures import ImageLike
from mvsent.shards.manifest import MANIFEST_FILE
from mvsent.shards.reader import Dataset
from mvsent.sources.tabular import (
    broken,
    csv_records,
    decoded_lines,
    json_objects,
    open_parquet,
    parquet_batches,
)

CSV, JSONL, PARQUET = KINDS = ("csv", "jsonl", "parquet")
SUFFIXES = {".csv": CSV, ".jsonl": JSONL, ".ndjson": JSONL, ".parquet": PARQUET}
PICTURES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff")
IMAGE, TEXT = "image", "text"

MAX_TEXT = 2**20  # bytes read of a text file beside a picture
_BATCH = 64
_WANTED = "A table has a column image (paths), a column text, or both"
_URL = re.compile(r"[a-z][a-z0-9+.-]+://|data:", re.IGNORECASE)

ANSWER_COLUMNS = ("label", *(f"p_{name}" for name in LABEL_NAMES), "missing", "error")


@dataclass(frozen=True)
class PairRow:
    """One row of the input.

    Attributes:
        values: values that are copied to the output.
        image: None if absent.
        text: cleaned as the texts of every dataset; None or empty if absent.
        error: the reason why the row cannot be predicted; empty if it can.
    """

    values: dict[str, Any]
    image: ImageLike | None = None
    text: str | None = None
    error: str = ""


@dataclass(frozen=True)
class PairTable:
    """Rows in the order of the input, read on demand.

    Attributes:
        name: name for messages.
        kind: csv, jsonl or parquet.
        rows: raises InputError naming the line if the input is malformed.
        columns: columns that are copied to the output; None if every row has its own.
        fields: their Arrow types, if known.
    """

    name: str
    kind: str
    rows: Iterator[PairRow]
    columns: list[str] | None = None
    fields: list[pa.Field] | None = None


def open_table(source: Path | BinaryIO, kind: str = CSV) -> PairTable:
    """Open a table, a folder of pictures, a dataset folder, or a pipe in format `kind`.

    Raises: InputError, DatasetError or UsageError for anything else.
    """
    if hasattr(source, "readline"):
        return _of_lines(cast("BinaryIO", source), "stdin", kind, Path())
    assert not isinstance(source, BinaryIO)
    if source.is_dir():
        if not (source / MANIFEST_FILE).exists():
            return _of_folder(source)
        batches = Dataset.open(source).batches(["id", "image", "text", "label"], _BATCH)
        label = kept_name("label")
        rows = (
            PairRow(
                {"id": row["id"], label: row["label"]}, row["image"] and row["image"]["bytes"], row["text"]
            )
            for batch in batches
            for row in batch.to_pylist()
        )
        fields = [pa.field("id", pa.string()), pa.field(label, pa.int8())]
        return PairTable(str(source), PARQUET, rows, ["id", label], fields)
    format = SUFFIXES.get(source.suffix.lower())
    if format is None:
        raise UsageError(
            f"{source}: unknown kind of input",
            f"Give a folder, or a file that ends in {', '.join(SUFFIXES)}",
        )
    if not source.is_file():
        if source.exists():
            raise InputError(f"{source}: not an ordinary file", "Give - and pipe it in")
        raise InputError(f"{source}: no such file", "Give a table, a folder of pictures or a dataset")
    if format == PARQUET:
        return _of_parquet(source)
    return _of_lines(source.open("rb"), str(source), format, source.parent)


def kept_name(column: str) -> str:
    """The name of an input column beside the answers.

    >>> kept_name("shop"), kept_name("label")
    ('shop', 'given_label')
    """
    return f"given_{column}" if column in ANSWER_COLUMNS else column


def _of_lines(file: BinaryIO, name: str, kind: str, folder: Path) -> PairTable:
    if kind == PARQUET:
        raise UsageError(
            f"{name}: Parquet cannot be read from a pipe", "Give --format csv or jsonl, or the file"
        )
    lines = decoded_lines(file, name)
    if kind == JSONL:
        return PairTable(name, JSONL, _json_rows(lines, name, folder))
    records = csv_records(lines, name)
    _, header = next(records, (0, None))
    if header is None:
        raise InputError(f"{name}: is empty", _WANTED)
    columns = _checked(header, name)

    def rows() -> Iterator[PairRow]:
        for line, record in records:
            if len(record) != len(columns):
                broken(name, line, f"has {len(record)} cells, the header has {len(columns)}")
            yield _row(dict(zip(columns, record, strict=True)), folder)

    return PairTable(name, CSV, rows(), [kept_name(column) for column in columns])


def _json_rows(lines: Iterable[str], name: str, folder: Path) -> Iterator[PairRow]:
    for number, cells in json_objects(lines, name):
        if not cells.keys() & {IMAGE, TEXT}:
            broken(name, number, "has neither image nor text")
        if twice := next((key for key in cells if kept_name(key) != key and kept_name(key) in cells), None):
            broken(name, number, f"has both {twice} and {kept_name(twice)}", "Rename one of them")
        yield _row(cells, folder)


def _of_parquet(path: Path) -> PairTable:
    file = open_parquet(path, _WANTED)
    schema = file.schema_arrow
    columns = _checked(schema.names, str(path))
    # Paths are copied to the answers, pictures are not.
    texts = (pa.string(), pa.large_string())
    kinds = {field.name: getattr(field.type, "value_type", field.type) for field in schema}
    kept = [name for name in columns if name != IMAGE or kinds[name] in texts]
    fields = [schema.field(name).with_name(kept_name(name)) for name in kept]
    rows = _parquet_rows(file, path, kept)
    return PairTable(str(path), PARQUET, rows, [field.name for field in fields], fields)


def _parquet_rows(file: pq.ParquetFile, path: Path, kept: list[str]) -> Iterator[PairRow]:
    with file:
        for batch in parquet_batches(file, str(path), _BATCH):
            for row in batch:
                yield replace(_row(row, path.parent), values={kept_name(name): row[name] for name in kept})


def _of_folder(folder: Path) -> PairTable:
    """The pictures in a folder and its subfolders, by path; `a.txt` is the text of `a.jpg`."""
    paths = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]  # in place: os.walk skips them
        paths += [
            Path(parent, name)
            for name in names
            if name.lower().endswith(PICTURES) and not name.startswith(".")
        ]
    if not paths:
        raise InputError(f"{folder}: contains no picture", f"Their names end in {', '.join(PICTURES)}")
    rows = (_picture_row(path, folder) for path in sorted(paths))
    return PairTable(
        str(folder), CSV, rows, [IMAGE, TEXT], [pa.field(IMAGE, pa.string()), pa.field(TEXT, pa.string())]
    )


def _picture_row(path: Path, folder: Path) -> PairRow:
    name, beside = str(path.relative_to(folder)), path.with_suffix(".txt")
    if not beside.is_file():
        return PairRow({IMAGE: name, TEXT: ""}, path)
    try:
        with beside.open("rb") as file:
            text = clean_text(decode_text(file.read(MAX_TEXT)))  # as for the files of MVSA
    except OSError as error:
        return PairRow({IMAGE: name, TEXT: ""}, path, error=f"{beside.name}: {error.strerror}")
    return PairRow({IMAGE: name, TEXT: text}, path, text)


def _row(cells: dict[str, Any], folder: Path) -> PairRow:
    """The row with these cells; an unusable image or text is an error of the row."""
    values = {kept_name(name): value for name, value in cells.items()}
    text = cells.get(TEXT)
    if text is not None and not isinstance(text, str):
        return PairRow(values, error=f"text is not a string but {type(text).__name__}")
    text = text and clean_text(text)
    try:
        return PairRow(values, _image(cells.get(IMAGE), folder), text)
    except ValueError as error:
        return PairRow(values, None, text, str(error))


def _image(cell: Any, folder: Path) -> ImageLike | None:
    """A picture given by its path or bytes, also as a Hugging Face struct. Raises: ValueError if unusable."""
    if isinstance(cell, dict) and cell.keys() <= {"bytes", "path"}:
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, bytes):
        return cell
    if cell is not None and not isinstance(cell, str):
        raise ValueError(f"image is not a path but {type(cell).__name__}")
    if not cell or not cell.strip():
        return None
    if _URL.match(cell):
        raise ValueError("image is an address, and nothing is downloaded: give a path")
    return folder / cell


def _checked(columns: Iterable[str], name: str) -> list[str]:
    """Return the columns of a table. Raises: InputError if they are not those of pairs."""
    names = list(columns)
    if not {IMAGE, TEXT} & set(names):
        shown = ", ".join(names[:8]) or "none"
        raise InputError(
            f"{name}: has neither a column image nor a column text, only: {shown}"[:500], _WANTED
        )
    kept = [kept_name(each) for each in names]
    twice = next((each for each in kept if kept.count(each) > 1), None)
    if twice is not None:
        given = " and ".join(dict.fromkeys(each for each in names if kept_name(each) == twice))
        raise InputError(f"{name}: has two columns {given}", "Rename one of them")
    return names
