"""Writers of answers beside the input columns, as CSV, JSONL or Parquet, batch by batch."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from typing import IO, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mvsent.errors import InputError
from mvsent.inference.model import Answers
from mvsent.inference.pair_tables import ANSWER_COLUMNS, CSV, JSONL, PairRow, PairTable
from mvsent.pairs import LABEL_NAMES
from mvsent.shards.exports.csv_table import csv_line

_ANSWER_FIELDS = [
    pa.field(name, pa.float32() if name.startswith("p_") else pa.string()) for name in ANSWER_COLUMNS
]


class AnswerWriter(Protocol):
    """Writes batches of rows with their answers; must be closed after the last one."""

    def write(self, rows: Sequence[PairRow], answers: Answers) -> None:
        """Write the rows, and flush them for the reader of a pipe."""

    def close(self) -> None:
        """Write everything to the file, which stays open."""


def answer_writer(kind: str, file: IO[bytes], table: PairTable, first: PairRow) -> AnswerWriter:
    """A writer of format `kind`; if rows have no common columns, those of the `first` row are used."""
    if kind == JSONL:
        return _JsonLines(file)
    columns = table.columns if table.columns is not None else list(first.values)
    if kind == CSV:
        return _Csv(file, columns, table.name)
    fields = table.fields or [pa.field(name, pa.string()) for name in columns]
    return _Parquet(file, fields, table.name)


class _JsonLines:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, rows: Sequence[PairRow], answers: Answers) -> None:
        for row, answer in zip(rows, records(answers), strict=True):
            self._file.write(json.dumps(row.values | answer, default=_plain).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        self._file.flush()


class _Csv:
    """Writes cells of the input unchanged, including those that a spreadsheet would treat as formulas."""

    def __init__(self, file: IO[bytes], columns: list[str], name: str) -> None:
        # Texts from JSON may contain half a surrogate pair, which UTF-8 cannot encode.
        self._text = io.TextIOWrapper(file, "utf-8", errors="backslashreplace", newline="")
        self._columns, self._name = columns, name
        self._text.write(csv_line([*columns, *ANSWER_COLUMNS]))

    def write(self, rows: Sequence[PairRow], answers: Answers) -> None:
        for row, answer in zip(rows, records(answers), strict=True):
            check_columns(row.values, self._columns, self._name)
            values = [_cell(row.values.get(column)) for column in self._columns]
            self._text.write(csv_line([*values, *(_cell(answer[column]) for column in ANSWER_COLUMNS)]))
        self._text.flush()

    def close(self) -> None:
        self._text.flush()
        self._text.detach()  # the caller closes the file


class _Parquet:
    def __init__(self, file: IO[bytes], fields: list[pa.Field], name: str) -> None:
        self._kept, self._name = pa.schema(fields), name
        self._schema = pa.schema([*fields, *_ANSWER_FIELDS])
        self._writer = pq.ParquetWriter(file, self._schema, compression="zstd")
        self._waiting: list[pa.Table] = []

    def write(self, rows: Sequence[PairRow], answers: Answers) -> None:
        for row in rows:
            check_columns(row.values, self._kept.names, self._name)
        kept = [
            pa.array([_typed(row.values.get(field.name), field.type) for row in rows], field.type)
            for field in self._kept
        ]
        given = [pa.array([record[f.name] for record in records(answers)], f.type) for f in _ANSWER_FIELDS]
        self._waiting.append(pa.Table.from_arrays([*kept, *given], schema=self._schema))
        if sum(map(len, self._waiting)) >= _GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting))
            self._waiting = []

    def close(self) -> None:
        self._flush()
        self._writer.close()


_GROUP = 8192  # rows of a row group; a group for each small batch would be slow to read


def records(answers: Answers) -> list[dict[str, Any]]:
    """One dictionary for each pair, with `ANSWER_COLUMNS`; classes that the run does not know have 0."""
    rows = []
    for label, row, missing, error in zip(
        answers.labels, answers.probabilities, answers.missing, answers.errors, strict=True
    ):
        known = dict(zip(answers.classes, row.tolist(), strict=True))
        p = {f"p_{name}": None if error else round(float(known.get(name, 0.0)), 6) for name in LABEL_NAMES}
        rows.append({"label": label or None, **p, "missing": missing, "error": error})
    return rows


def check_columns(values: Mapping[str, Any], columns: Sequence[str], name: str) -> None:
    """Raises: InputError if a row has a value for which there is no column."""
    more = values.keys() - set(columns)
    if more:
        raise InputError(
            f"{name}: a row has {sorted(more)[0]!r}, which the first row lacks",
            "Give every row the same keys, or write JSONL, whose rows may differ",
        )


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float):
        return value
    return json.dumps(value, ensure_ascii=False, default=_plain)


def _typed(value: Any, kind: pa.DataType) -> Any:
    """The value; converted to text in a column of texts."""
    if value is None or not pa.types.is_string(kind):
        return value
    # Arrow refuses halves of surrogate pairs, as UTF-8 does.
    return (
        value.encode("utf-8", "backslashreplace").decode()
        if isinstance(value, str)
        else json.dumps(value, default=_plain)
    )


def _plain(value: Any) -> Any:
    """Convert values that JSON cannot represent: bytes to base64, numpy numbers to numbers, times to text."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, np.generic):
        return value.item()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
