"""The files of a table: their format, encoding and columns, and their rows.

pairs.csv, pairs.tsv, pairs.jsonl, pairs.json, pairs.parquet
folder with metadata.csv, metadata.jsonl or metadata.parquet, at its top or in its folders
folder that `datasets.Dataset.save_to_disk` wrote
"""

import glob
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

import pyarrow as pa

from mvsent.errors import InputError, UsageError, first_line
from mvsent.pairs import LABEL_COLUMNS, LABEL_NAMES
from mvsent.sources.tabular import (
    MAX_DOCUMENT,
    Dialect,
    csv_records,
    decoded_lines,
    dialect_of,
    encoding_of,
    json_document,
    json_objects,
    open_parquet,
    parquet_batches,
)
from mvsent.storage import is_remote, local_only

CSV, JSONL, JSON, PARQUET, DISK = "CSV", "JSON lines", "JSON", "Parquet", "dataset on disk"
_SUFFIXES = {
    **dict.fromkeys((".csv", ".tsv", ".tab"), CSV),
    **dict.fromkeys((".jsonl", ".ndjson"), JSONL),
    ".json": JSON,
    ".parquet": PARQUET,
}
_PACKINGS = {
    b"BZh": "bzip2",
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ": "xz",
}
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_STATE, _SPLITS, _MANIFEST = "state.json", "dataset_dict.json", "dataset.json"
_BATCH_ROWS = 1024
_PICTURE_ROWS = 32  # per batch with pictures
_LOOKED_AT = 1000  # rows of a JSON file, for its columns
_NEXT = "Give a CSV, TSV, JSON, JSON lines or Parquet file, or a folder with metadata.csv"

Row = tuple[int, dict[str, Any]]
"""The line, or the number of the row from 1 on, and the cells by column."""


@dataclass(frozen=True)
class TableFile:
    """One file of a table, or one dataset on disk; nothing of it is open.

    Attributes:
        name: in messages and ids; no two files of a table have the same.
        said: what was found out about the format, for people.
        types: of the columns, if the file states them.
        names: the words that the numbers of a column stand for, if the file states them.
        own: whether mvsent exported it as CSV, with an apostrophe before the signs of formulas.
    """

    path: Path
    name: str
    format: str
    columns: tuple[str, ...] = ()
    encoding: str = "utf-8"
    dialect: Dialect = field(default_factory=Dialect)
    types: Mapping[str, pa.DataType] = field(default_factory=dict)
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    own: bool = False

    @property
    def folder(self) -> Path:
        """The folder that paths of pictures are relative to."""
        return self.path if self.format == DISK else self.path.parent

    @property
    def unit(self) -> str:
        """The name of what its rows are counted by."""
        return "line" if self.format in (CSV, JSONL) else "row"

    @property
    def said(self) -> str:
        """The format, for people."""
        details = {CSV: f", {self.dialect}, {self.encoding}", JSON: "", JSONL: ""}.get(self.format, "")
        return f"{self.format}{details}"

    @property
    def sha256(self) -> str:
        """Hash of the content; of a dataset on disk, of its description."""
        hashed = hashlib.sha256()
        with (self.path / _STATE if self.format == DISK else self.path).open("rb") as file:
            while block := file.read(1 << 20):
                hashed.update(block)
        return hashed.hexdigest()

    def refuse(self, row: int, problem: str, next_step: str = "Correct it") -> NoReturn:
        """Raise InputError for a row."""
        raise InputError(f"{self.path}, {self.unit} {row}: {problem}", next_step)

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """The cells of `columns` of every row; a column that a JSON object lacks is None.

        Raises: InputError naming the line that is malformed.
        """
        if self.format == PARQUET:
            with open_parquet(self.path, _NEXT) as file:
                number = 0
                for batch in parquet_batches(file, str(self.path), _BATCH_ROWS, columns=list(columns)):
                    yield from enumerate(batch, number + 1)
                    number += len(batch)
        elif self.format == DISK:
            yield from enumerate(self._on_disk(columns, 0, _BATCH_ROWS), 1)
        elif self.format == CSV:
            yield from self._csv_rows(columns)
        else:
            for number, cells in self._objects():
                yield number, {name: cells.get(name) for name in columns}

    def pictures(self, column: str, start: int) -> Iterator[Any]:
        """The cells of a column of pictures, from row `start` on, counted from 0."""
        if self.format == DISK:
            yield from (cells[column] for cells in self._on_disk([column], start, _PICTURE_ROWS))
            return
        with open_parquet(self.path, _NEXT) as file:
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            first = 0
            while first < len(sizes) and start >= sizes[first]:
                start -= sizes[first]
                first += 1
            selected = {"columns": [column], "row_groups": list(range(first, len(sizes)))}
            batches = parquet_batches(file, str(self.path), _PICTURE_ROWS, **selected)
            yield from islice((row[column] for batch in batches for row in batch), start, None)

    def _csv_rows(self, columns: Sequence[str]) -> Iterator[Row]:
        lines = decoded_lines(opened(self.path), str(self.path), self.encoding)
        records = csv_records(lines, str(self.path), self.dialect)
        next(records, None)  # the header
        places = [(name, self.columns.index(name)) for name in columns]
        for line, record in records:
            if len(record) != len(self.columns):
                problem = f"has {len(record)} cells, the header has {len(self.columns)}"
                self.refuse(line, problem, "Correct that line, or give --delimiter")
            yield line, {name: record[place] for name, place in places}

    def _objects(self) -> Iterator[Row]:
        name = str(self.path)
        if self.format == JSONL:
            yield from json_objects(decoded_lines(opened(self.path), name), name)
            return
        with opened(self.path) as file:
            content = file.read(MAX_DOCUMENT + 1)
        if len(content) > MAX_DOCUMENT:
            raise InputError(
                f"{name}: more than {MAX_DOCUMENT >> 20} MiB of JSON", "Write JSON lines instead"
            )
        try:
            text = content.decode(json.detect_encoding(content))
        except UnicodeDecodeError as error:
            raise InputError(f"{name}: not UTF-8 (byte {error.start + 1})", "Save it as UTF-8") from None
        yield from json_document(text, name)

    def _on_disk(self, columns: Sequence[str], start: int, batch_rows: int) -> Iterator[dict[str, Any]]:
        dataset = _loaded(self.path).select_columns(list(columns)).with_format("arrow")
        for first in range(start, len(dataset), batch_rows):
            yield from dataset[first : first + batch_rows].to_pylist()


def opened(path: Path) -> BinaryIO:
    """Open a file for reading bytes. Raises: UsageError or InputError for what is no file."""
    if path.is_dir():
        raise InputError(f"{path}: is a folder", _NEXT)
    if not path.exists():
        raise UsageError(f"{path}: no such file", "Name a table or a folder")
    if not is_remote(path) and not path.is_file():
        raise InputError(f"{path}: not an ordinary file", "Write its content into a file")
    return cast("BinaryIO", path.open("rb"))


def open_files(places: Sequence[Path], encoding: str = "", delimiter: str = "") -> list[TableFile]:
    """Find out about each file of a table, and of each folder and pattern among `places`.

    Args:
        encoding, delimiter: of CSV files; empty: found by their content.

    Raises: UsageError or InputError for a place that is no table, and for a table without rows or columns.
    """
    paths = [path for place in places for path in _expanded(place)]
    if repeated := next((path for path in paths if paths.count(path) > 1), None):
        raise UsageError(f"{repeated}: is given twice", "Name each file once")
    names = _distinct(paths)
    return [_examined(path, name, encoding, delimiter) for path, name in zip(paths, names, strict=True)]


def _expanded(place: Path) -> Iterator[Path]:
    """The files and datasets on disk that are meant by a file, a folder, or a pattern in quotes."""
    if is_remote(place) or place.is_file():
        yield place
    elif place.is_dir():
        yield from _in_folder(place)
    elif glob.has_magic(str(place)) and (matched := glob.glob(str(place), recursive=True)):  # noqa: PTH207 - also absolute ones
        for path in map(Path, sorted(matched)):
            yield from _expanded(path)
    elif place.is_symlink():
        raise InputError(f"{place}: a link that leads nowhere", "Correct the link")
    elif place.exists():
        raise InputError(f"{place}: not an ordinary file", "Write its content into a file")
    else:
        raise UsageError(f"{place}: no such file", "Name a table or a folder")


def _in_folder(folder: Path) -> Iterable[Path]:
    if (folder / _STATE).is_file():
        return [folder]
    if (folder / _SPLITS).is_file():
        return sorted(path.parent for path in folder.glob(f"*/{_STATE}"))
    if (folder / _MANIFEST).is_file():
        raise UsageError(f"{folder}: is a dataset of mvsent already", "Train on it, or merge it with others")
    for pattern in ("", "*/"):
        if found := sorted(path for name in _METADATA for path in folder.glob(pattern + name)):
            return found
    raise InputError(f"{folder}: has no {', '.join(_METADATA)}", _NEXT)


def _distinct(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths by which all of them differ."""
    for n_parts in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-n_parts:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return list(map(str, paths))


def _examined(path: Path, name: str, encoding: str, delimiter: str) -> TableFile:
    if path.is_dir():
        return _of_disk(TableFile(local_only(path, "the dataset"), name, DISK))
    sniffed = _sniffed(path)
    table = TableFile(path, name, _SUFFIXES.get(path.suffix.lower()) or sniffed)
    if table.format == PARQUET:
        with open_parquet(path, _NEXT) as file:
            return _typed(table, file.schema_arrow)
    if table.format == CSV:
        return _of_csv(table, encoding, delimiter)
    if table.format == JSON and sniffed == JSONL:  # Hugging Face calls JSON lines .json
        table = replace(table, format=JSONL)
    columns = dict.fromkeys(key for _, cells in islice(table._objects(), _LOOKED_AT) for key in cells)
    return _marked(replace(table, columns=tuple(columns)))


def _sniffed(path: Path) -> str:
    """The format by the first bytes of a file."""
    with opened(path) as file:
        head = file.read(1 << 20)
    if head.startswith(b"PAR1"):
        return PARQUET
    if packing := next((name for sign, name in _PACKINGS.items() if head.startswith(sign)), ""):
        raise InputError(f"{path}: is compressed ({packing})", "Unpack it first")
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"["):
        return JSON
    if not start.startswith(b"{"):
        return CSV
    line, _, rest = start.partition(b"\n")
    try:
        first = json.loads(line)
    except (ValueError, RecursionError):
        return JSON
    # A document on one line holds its rows; a row holds no rows.
    rows = [
        value for value in first.values() if isinstance(value, list) and isinstance((value or [0])[0], dict)
    ]
    return JSON if rows and not rest.strip() else JSONL


def _of_csv(table: TableFile, encoding: str, delimiter: str) -> TableFile:
    name = str(table.path)
    encoding = encoding or encoding_of(opened(table.path), name)
    dialect = (
        Dialect(delimiter)
        if delimiter
        else dialect_of(decoded_lines(opened(table.path), name, encoding), name)
    )
    records = csv_records(decoded_lines(opened(table.path), name, encoding), name, dialect)
    _, header = next(records, (0, None))
    if header is None:
        raise InputError(f"{name}: is empty", _NEXT)
    return _marked(replace(table, columns=tuple(header), encoding=encoding, dialect=dialect))


def _marked(table: TableFile) -> TableFile:
    """The file, and what its numbers mean if mvsent exported it."""
    if {"id", "label_name", "phash", *LABEL_COLUMNS} <= set(table.columns):
        return replace(table, names=dict.fromkeys(LABEL_COLUMNS, LABEL_NAMES), own=table.format == CSV)
    return table


def _of_disk(table: TableFile) -> TableFile:
    return _typed(table, _loaded(table.path).features.arrow_schema)


def _typed(table: TableFile, schema: pa.Schema) -> TableFile:
    types = {column.name: column.type for column in schema}
    return replace(table, columns=tuple(schema.names), types=types, names=_class_names(schema.metadata))


def _class_names(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """The names of Hugging Face's ClassLabel columns, from the metadata of a schema."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return {
            str(name): list(map(str, kind["names"]))
            for name, kind in features.items()
            if isinstance(kind, dict) and kind.get("_type") == "ClassLabel"
        }
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}  # no metadata, or somebody else's


def _loaded(path: Path) -> Any:
    try:
        import datasets
    except ImportError:
        raise UsageError(
            f"{path}: a dataset on disk needs the package datasets", "pip install 'mvsent[datasets]'"
        ) from None
    try:
        return datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise InputError(
            f"{path}: not a dataset that can be loaded ({first_line(error)})", "Save it again"
        ) from None
