"""Rows of CSV, JSON lines, JSON and Parquet files, each with its line, as strangers wrote them.

Every function raises InputError with the file and the line of what it cannot read.
"""

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

import pyarrow as pa
import pyarrow.parquet as pq

from mvsent.errors import InputError, first_line
from mvsent.storage import is_remote

MAX_LINE = 16 * 2**20  # bytes of a line of a table
MAX_DOCUMENT = 2**30  # bytes of a JSON document, which is read whole

_SAMPLE_BYTES = 2**20
_DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}
_WIDE = ("utf-16", "utf-16-le", "utf-16-be", "utf-32")  # in these, a byte 10 need not be a line feed
_UNREADABLE = (OSError, pa.ArrowException, ValueError, OverflowError)


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a CSV separates its cells, and whether a quotation mark at the start of a cell has a meaning."""

    delimiter: str = ","
    quoted: bool = True

    def __str__(self) -> str:
        separated = f"separated by {_DELIMITERS.get(self.delimiter, repr(self.delimiter))}"
        return separated if self.quoted else f"{separated}, without quoting"


def broken(name: str, line: int, problem: str, next_step: str = "Correct that line") -> NoReturn:
    """Raise InputError for a line of the file `name`."""
    raise InputError(f"{name}, line {line}: {problem}", next_step)


def decoded_lines(file: BinaryIO, name: str, encoding: str = "utf-8") -> Iterator[str]:
    """The lines of a file, without a byte order mark. Lines end with a line feed, never a lone CR."""
    next_step = "Save the table as UTF-8" if encoding == "utf-8" else "Save it as UTF-8, or give --encoding"
    number = 0
    with _buffered(file) as buffered:
        if encoding in _WIDE:
            yield from _wide_lines(buffered, name, encoding)
            return
        # With a limit, as a file without line breaks would fill the memory.
        while data := buffered.readline(MAX_LINE + 1):
            number += 1
            if len(data) > MAX_LINE:
                broken(name, number, f"longer than {MAX_LINE} bytes")
            try:
                yield data.decode("utf-8-sig" if (number, encoding) == (1, "utf-8") else encoding)
            except UnicodeDecodeError as error:
                problem = f"not {encoding.upper()} (byte {error.start + 1} of the line)"
                broken(name, number, problem, next_step)


def _buffered(file: BinaryIO) -> BinaryIO:
    # A file of object storage cannot read a line of limited length.
    return file if isinstance(file, io.BufferedIOBase) else io.BufferedReader(cast("io.RawIOBase", file))


def _wide_lines(file: BinaryIO, name: str, encoding: str) -> Iterator[str]:
    number = 0
    try:
        with io.TextIOWrapper(file, encoding, newline="\n") as text:
            while line := text.readline(MAX_LINE):
                number += 1
                if len(line) == MAX_LINE:
                    broken(name, number, f"longer than {MAX_LINE} characters")
                yield line
    except UnicodeError as error:
        broken(
            name, number + 1, f"not {encoding.upper()} ({first_line(error)})", "Correct or omit --encoding"
        )


def csv_records(
    lines: Iterable[str], name: str, dialect: Dialect | None = None
) -> Iterator[tuple[int, list[str]]]:
    """The records of a CSV, each with the line on which it begins; empty lines are skipped."""
    dialect = dialect or Dialect()
    csv.field_size_limit(MAX_LINE)
    # Strict, as broken quotes would otherwise be accepted.
    reader = csv.reader(
        lines,
        strict=True,
        delimiter=dialect.delimiter,
        quoting=csv.QUOTE_MINIMAL if dialect.quoted else csv.QUOTE_NONE,
    )
    while True:
        line = reader.line_num + 1
        try:
            record = next(reader, None)
        except csv.Error as error:
            broken(name, reader.line_num, f"not CSV ({error})")
        if record is None:
            return
        if record:
            yield line, record


def json_objects(lines: Iterable[str], name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of JSON lines, with their lines; empty lines are skipped."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            with _reading_json(name, number):
                cells = json.loads(line, **_STRICT)
                json.dumps(cells)  # raises if it is nested too deeply to be written again
            yield number, _checked_object(cells, name, number)


def json_document(text: str, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSON list, or of the only list in a JSON object, numbered from 1 on."""
    decoder = json.JSONDecoder(**_STRICT)
    place, line = _skipped(text, 0), 1
    if text[place : place + 1] == "{":
        with _reading_json(name, 1):
            whole = decoder.decode(text)
        lists = [value for value in whole.values() if isinstance(value, list)]
        if len(lists) != 1:
            raise InputError(f"{name}: not a list of rows but one JSON object", "Write a list of objects")
        for number, cells in enumerate(lists[0], 1):
            yield number, _checked_object(cells, name, 1)
        return
    if text[place : place + 1] != "[":
        broken(name, 1, "not JSON (neither a list nor an object)")
    number, start, place = 0, 0, _skipped(text, place + 1)
    while text[place : place + 1] != "]":
        line, start = line + text.count("\n", start, place), place
        with _reading_json(name, line):
            cells, place = decoder.raw_decode(text, place)
        number += 1
        yield number, _checked_object(cells, name, line)
        place = _skipped(text, place)
        if text[place : place + 1] == ",":
            place = _skipped(text, place + 1)
        elif text[place : place + 1] != "]":
            broken(name, line + text.count("\n", start, place), "not JSON (the list does not end)")


def _skipped(text: str, place: int) -> int:
    while text[place : place + 1] in (" ", "\t", "\r", "\n"):
        place += 1
    return place


@contextmanager
def _reading_json(name: str, line: int) -> Iterator[None]:
    try:
        yield
    except (ValueError, RecursionError) as error:
        broken(name, line, f"not JSON ({error})")


def _checked_object(cells: Any, name: str, line: int) -> dict[str, Any]:
    if not isinstance(cells, dict):
        broken(name, line, "not a JSON object")
    return cells


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Of equal keys, Python's json silently keeps the last.
    cells = dict(pairs)
    if len(cells) < len(pairs):
        raise ValueError("an object has a key twice")
    return cells


def _finite(text: str) -> float:
    number = float(text)  # json reads 1e999 as infinity
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:40]} is too large")
    return number


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")  # Python's json accepts NaN and Infinity


_STRICT: dict[str, Any] = {
    "parse_constant": _refuse,
    "parse_float": _finite,
    "object_pairs_hook": _each_once,
}


def open_parquet(path: Path, next_step: str) -> pq.ParquetFile:
    """Open a Parquet file, here or in object storage."""
    try:
        # Without `pre_buffer`, a row group of pictures is not loaded before its first row is asked for.
        return pq.ParquetFile(path.open("rb") if is_remote(path) else path, pre_buffer=False)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a Parquet file ({first_line(error)})", next_step) from None


def parquet_batches(
    file: pq.ParquetFile, name: str, batch_rows: int, **selected: Any
) -> Iterator[list[dict[str, Any]]]:
    """Batches of rows; `selected` are the keywords `columns` and `row_groups` of `iter_batches`."""
    batches = file.iter_batches(batch_size=batch_rows, **selected)
    while True:
        try:
            batch = next(batches, None)
            values = None if batch is None else batch.to_pylist()
        except _UNREADABLE as error:
            raise InputError(
                f"{name}: cannot be read to its end ({first_line(error)})", "Write it again"
            ) from None
        if values is None:
            return
        yield values


def dialect_of(lines: Iterable[str], name: str) -> Dialect:
    """The dialect of a CSV, by the first megabyte of its lines.

    >>> str(dialect_of(["image;text, cleaned;label\\n", "a.jpg;b, c, d;neutral\\n"], "pairs.csv"))
    'separated by semicolons'
    """
    sample, n_characters = list[str](), 0
    for line in lines:
        sample.append(line)
        n_characters += len(line)
        if n_characters > _SAMPLE_BYTES:
            break
    header = next((line for line in sample if line.strip()), "")
    cells = {one: _widths([header], Dialect(one)) or [1] for one in _DELIMITERS}
    delimiter = max(_DELIMITERS, key=lambda one: cells[one][0])
    quoted, unquoted = Dialect(delimiter), Dialect(delimiter, quoted=False)
    # Programs that write tabs often leave quotation marks as they are, and one may begin a tweet.
    if delimiter == "\t" and _is_uneven(sample, quoted) and not _is_uneven(sample, unquoted):
        return unquoted
    return quoted


def _is_uneven(sample: list[str], dialect: Dialect) -> bool:
    return len(set(_widths(sample, dialect))) != 1


def _widths(sample: list[str], dialect: Dialect) -> list[int]:
    """Numbers of cells of the records in the sample; empty if it is not CSV."""
    try:
        return [len(record) for _, record in csv_records(sample, "", dialect)]
    except InputError:
        return []


_CANDIDATES = (
    *("cp1252", "gb18030", "big5", "cp932", "euc_jp", "cp949"),
    *("cp1251", "koi8_r", "cp1253", "cp1254", "cp1255", "cp1256"),
)
"""Encodings that are guessed at; --encoding names any other."""

_BOMS = {b"\xef\xbb\xbf": "utf-8", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def encoding_of(file: BinaryIO, name: str) -> str:
    """The encoding of a text file: by its byte order mark, else UTF-8, else a guess from all other lines.

    Raises: InputError for a file that is partly UTF-8, naming the first line that is not.
    """
    with _buffered(file) as buffered:
        start = buffered.read(4)
        for mark, encoding in _BOMS.items():
            if start.startswith(mark):
                return encoding
        buffered.seek(0)
        sample, n_utf8, first_other, number = bytearray(), 0, 0, 0
        while data := buffered.readline(MAX_LINE):
            number += 1
            if data.isascii():
                continue
            try:
                data.decode()
                n_utf8 += 1
            except UnicodeDecodeError:
                first_other = first_other or number
                if len(sample) < _SAMPLE_BYTES // 8:
                    sample += data
    if not first_other:
        return "utf-8"
    if n_utf8:
        problem = f"not UTF-8, but {n_utf8} of the other lines are: the file mixes encodings"
        broken(name, first_other, problem, "Save the table as UTF-8, or give --encoding")
    from charset_normalizer import from_bytes  # takes a tenth of a second to import

    guess = from_bytes(bytes(sample), cp_isolation=list(_CANDIDATES)).best()
    if guess is None:
        broken(name, first_other, "neither UTF-8 nor another known encoding", "Give --encoding")
    return str(guess.encoding)
