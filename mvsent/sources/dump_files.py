"""Files of metadata dumps, read once, as a stream of tables: tab-separated lines, CSV or Parquet.

A file is divided into parts that can be read independently: plain lines into ranges of bytes, Parquet into
runs of row groups. A compressed file is one part, and so is a CSV file, whose cells may hold line breaks.
"""

import bz2
import glob
import gzip
import hashlib
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq

from mvsent.errors import InputError, UsageError
from mvsent.storage import unlike_driver

PART_BYTES = 128 * 2**20
BLOCK_BYTES = 8 * 2**20
MAX_LINE_BYTES = 32 * 2**20
PARQUET_ROWS = 16_384
_ENDS_BYTES = 2**16
_PIECE_BYTES = 2**18
_MAGIC = {b"BZh": "bzip2", b"\x1f\x8b": "gzip", b"PAR1": "parquet"}
_HEAD_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class DumpFile:
    """A file of a dump: its path, its size and a hash of its first and last bytes, to tell whether it changed."""

    path: str
    size: int
    ends_sha256: str

    @property
    def name(self) -> str:
        return Path(self.path).name


@dataclass(frozen=True, slots=True)
class DumpPart:
    """A part of a file that is read at once.

    Attributes:
        index: counts the parts of all files, in order.
        kind: `lines`, `csv` or `parquet`.
        packing: `bzip2`, `gzip` or empty.
        start, stop: bytes of lines that begin in this range, or row groups.
        columns: of lines, all in order; of the other kinds, those in the header.
        n_bytes: the share of the file, for the progress.
    """

    index: int
    file: DumpFile
    kind: str
    packing: str
    start: int
    stop: int
    columns: tuple[str, ...]
    delimiter: str
    n_bytes: int


@dataclass(frozen=True, slots=True)
class DumpTable:
    """Rows of a part as they were read.

    Attributes:
        table: columns under the file's names.
        unusable: (bytes or rows before it, why) of what could not be read as a row.
        broken: where and why the file ends early; the rows before are in this and earlier tables.
        n_bytes: read for it, of the part's `n_bytes`.
    """

    table: pa.Table
    unusable: tuple[tuple[int, str], ...] = ()
    broken: str = ""
    n_bytes: int = 0


def find_files(patterns: Sequence[str]) -> list[DumpFile]:
    """The files that paths and patterns (`yfcc100m_dataset-*.bz2`) name, each once.

    Raises: UsageError for a path that is no file, and a pattern without one.
    """
    found: dict[Path, DumpFile] = {}
    for pattern in patterns:
        paths = [Path(pattern)] if Path(pattern).exists() else [Path(p) for p in sorted(glob.glob(pattern))]
        if not paths:
            raise UsageError(f"--from {pattern}: no such file", "Name a file, or files by a pattern with *")
        for path in paths:
            if not path.is_file():
                raise UsageError(f"--from {path}: not a file", f"Name the files in it: {path}/*")
            found.setdefault(path.resolve(), fingerprint(path))
    return list(found.values())


def fingerprint(path: Path) -> DumpFile:
    """The file with its size and the hash of its ends. Raises: InputError if it cannot be read."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            ends = file.read(_ENDS_BYTES)
            file.seek(max(0, size - _ENDS_BYTES))
            ends += file.read(_ENDS_BYTES)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", "Name a file that can be read") from None
    if not size:
        raise InputError(f"{path}: is empty", "Leave it out, or download it again")
    return DumpFile(str(path.resolve()), size, hashlib.sha256(ends).hexdigest())


@dataclass(frozen=True, slots=True)
class Dump:
    """The files of a dump, and how they are searched.

    Attributes:
        parts: what is scanned at once; candidates come in their order.
        scan: yields the matches of a part; it can be pickled.
    """

    files: tuple[DumpFile, ...]
    parts: tuple[DumpPart, ...]
    scan: Callable[[DumpPart], "Iterator[Any]"]


Layout = Callable[[DumpFile, Sequence[str]], None]
"""Raises InputError if a file with these columns is not usable."""


def plan_parts(
    files: Sequence[DumpFile],
    line_columns: Sequence[Sequence[str]],
    known: frozenset[str],
    check: Layout,
    part_bytes: int = PART_BYTES,
) -> tuple[DumpPart, ...]:
    """Divide files into parts, in their order.

    Args:
        line_columns: names of the columns of tab-separated lines without a header, by number of columns.
        known: names of columns, in lower case, by which a header is recognised.
        check: called with the columns of each file.

    Raises: InputError for a file of another kind.
    """
    parts: list[DumpPart] = []
    for file in files:
        for kind, packing, start, stop, columns, delimiter in _described(
            file, line_columns, known, part_bytes
        ):
            if not parts or parts[-1].file != file:
                check(file, columns)
            n_bytes = stop - start if kind == "lines" and not packing else file.size
            parts.append(
                DumpPart(len(parts), file, kind, packing, start, stop, columns, delimiter, n_bytes)
            )
    return tuple(parts)


def _described(
    file: DumpFile, line_columns: Sequence[Sequence[str]], known: frozenset[str], part_bytes: int
) -> Iterator[tuple[str, str, int, int, tuple[str, ...], str]]:
    with Path(file.path).open("rb") as opened:
        magic = opened.read(4)
    packing = next((name for sign, name in _MAGIC.items() if magic.startswith(sign)), "")
    if packing == "parquet":
        with _open_parquet(file) as parquet:
            names, n_groups = tuple(parquet.schema_arrow.names), parquet.num_row_groups
        per_part = max(1, -(-n_groups * part_bytes // file.size))
        for first in range(0, n_groups, per_part):
            yield "parquet", "", first, min(first + per_part, n_groups), names, ""
        return
    with _Unpacked(file, packing) as stream:
        head = stream.read(_HEAD_BYTES)
    line = head.partition(b"\n")[0].rstrip(b"\r").decode("utf-8-sig", "replace")
    for delimiter in ("\t", ",", ";"):
        names = tuple(name.strip().strip('"') for name in line.split(delimiter))
        if len(names) > 1 and len({name.lower() for name in names} & known) >= 3:
            yield "csv", packing, 0, file.size, names, delimiter
            return
    columns = next((each for each in line_columns if len(each) == line.count("\t") + 1), None)
    if columns is None:
        numbers = " or ".join(str(len(each)) for each in line_columns)
        why = stream.broken or f"its first line has {line.count(chr(9)) + 1} tab-separated columns"
        raise InputError(
            f"{file.path}: not a dump: {why}",
            f"Name files with {numbers} columns a line, or CSV or Parquet with names of columns",
        )
    step = file.size if packing else part_bytes
    for start in range(0, file.size, step):
        yield "lines", packing, start, min(start + step, file.size), tuple(columns), "\t"


def read_part(part: DumpPart, wanted: Sequence[str]) -> Iterator[DumpTable]:
    """Read the `wanted` columns of a part, as tables of a few thousand rows.

    Columns of text files are binary; those of Parquet have their types. Rows of text files with another
    number of columns are unusable.

    Raises: InputError for a file that is not readable as what it seemed to be, or another one than planned.
    """
    path = Path(part.file.path)
    if not path.exists() or path.stat().st_size != part.file.size:
        raise unlike_driver(part.file.path, "the file is missing or of another size")
    if part.kind == "parquet":
        yield from _read_parquet(part, wanted)
    elif part.kind == "csv":
        yield from _read_csv(part, wanted)
    else:
        yield from _read_lines(part, wanted)


def _open_parquet(file: DumpFile) -> Any:
    try:
        return pq.ParquetFile(file.path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{file.path}: not readable as Parquet: {_first_line(error)}", "Download it again, or leave it out"
        ) from None


def _read_parquet(part: DumpPart, wanted: Sequence[str]) -> Iterator[DumpTable]:
    with _open_parquet(part.file) as file:
        groups = list(range(part.start, part.stop))
        share = part.n_bytes // max(1, sum(file.metadata.row_group(group).num_rows for group in groups))
        try:
            for batch in file.iter_batches(PARQUET_ROWS, row_groups=groups, columns=list(wanted)):
                yield DumpTable(pa.Table.from_batches([batch]), n_bytes=share * batch.num_rows)
        except (pa.ArrowException, OSError) as error:
            raise InputError(
                f"{part.file.path}: damaged: {_first_line(error)}", "Download it again, or leave it out"
            ) from None


def _read_csv(part: DumpPart, wanted: Sequence[str]) -> Iterator[DumpTable]:
    n_rows, unusable = 0, list[tuple[int, str]]()

    def skip(row: Any) -> str:
        unusable.append((n_rows, f"{row.actual_columns} columns instead of {row.expected_columns}"))
        return "skip"

    with _Unpacked(part.file, part.packing) as stream:
        try:
            with arrow_csv.open_csv(
                pa.PythonFile(stream, "r"),
                arrow_csv.ReadOptions(
                    use_threads=False, block_size=MAX_LINE_BYTES // 4, column_names=part.columns, skip_rows=1
                ),
                arrow_csv.ParseOptions(
                    delimiter=part.delimiter, newlines_in_values=True, invalid_row_handler=skip
                ),
                _as_binary(part.columns, wanted),
            ) as reader:
                before = 0
                waiting: pa.RecordBatch | None = None
                for batch in reader:
                    if waiting is not None:
                        yield DumpTable(pa.Table.from_batches([waiting]), tuple(unusable), "", stream.n_bytes - before)
                        unusable.clear()
                        before = stream.n_bytes
                    n_rows += batch.num_rows
                    waiting = batch
        except pa.ArrowInvalid as error:
            raise InputError(
                f"{part.file.path}: not readable as CSV after row {n_rows}: {_first_line(error)}",
                "Correct it, or leave it out",
            ) from None
        if waiting is not None:
            if stream.broken:  # its last row is cut off somewhere
                waiting = waiting.slice(0, waiting.num_rows - 1)
            broken = stream.broken and f"{stream.broken}, after {n_rows - 1} rows"
            yield DumpTable(pa.Table.from_batches([waiting]), tuple(unusable), broken, stream.n_bytes - before)


def _read_lines(part: DumpPart, wanted: Sequence[str]) -> Iterator[DumpTable]:
    with _Unpacked(part.file, part.packing) as stream:
        for at, block, fault in _blocks(stream, part):
            table, unusable = parse_lines(block, part.columns, wanted, at)
            if fault:
                unusable = (*unusable, (at + len(block), fault))
            # Taken after the block, since the stream breaks while it is read ahead.
            yield DumpTable(table, unusable, "", stream.n_new_bytes())
        if stream.broken:
            n_lost = stream.at - stream.n_whole
            lost = f"; the last {n_lost} bytes are no whole line" if n_lost else ""
            where = f"{stream.broken}, after {stream.n_whole} bytes of whole lines{lost}"
            yield DumpTable(parse_lines(b"", part.columns, wanted, 0)[0], (), where, stream.n_new_bytes())


def _blocks(stream: "_Unpacked", part: DumpPart) -> Iterator[tuple[int, bytes, str]]:
    """Whole lines that begin in the part's range: (place, bytes, what is wrong with the line after them)."""
    place, stop = (part.start, part.stop) if not part.packing else (0, None)
    rest = b""
    if place:
        # From the byte before, which is the line break if a line begins at `place`.
        stream.seek(place - 1)
        skipped = stream.readline()
        place += len(skipped) - 1
    stream.n_whole = place
    while stop is None or place < stop:
        data = stream.read(BLOCK_BYTES)
        if not data:
            if rest and not stream.broken:
                stream.n_whole = place + len(rest)
                yield place, rest, ""
            return
        # Two searches rather than one through `rest`, which may be long.
        cut = data.rfind(b"\n") + 1
        if not cut:
            rest += data
            if len(rest) > MAX_LINE_BYTES:
                n = len(rest)
                while data and b"\n" not in data:
                    data = stream.read(BLOCK_BYTES)
                    n += len(data)
                head, _, rest = data.partition(b"\n")
                yield place, b"", f"a line of more than {MAX_LINE_BYTES} bytes"
                place += n - len(rest)
                stream.n_whole = place
            continue
        block = rest + data[:cut] if rest else data[:cut]
        rest = data[cut:]
        if stop is not None and place + len(block) > stop:
            # The line that begins last before `stop` is the last one.
            end = block.find(b"\n", max(0, stop - 1 - place)) + 1
            if end:
                block = block[:end]
        stream.n_whole = place + len(block)
        yield place, block, ""
        place += len(block)


def parse_lines(
    block: bytes, columns: Sequence[str], wanted: Sequence[str], at: int = 0
) -> tuple[pa.Table, tuple[tuple[int, str], ...]]:
    r"""Parse tab-separated lines without quotes into binary columns, and say which lines cannot be read.

    >>> table, unusable = parse_lines(b"1\ta\n2\n3\tc\n", ["id", "title"], ["title"], at=100)
    >>> table["title"].to_pylist(), unusable
    ([b'a', b'c'], ((100, '1 columns instead of 2'),))
    """
    unusable: list[tuple[int, str]] = []

    def skip(row: Any) -> str:
        unusable.append((at, f"{row.actual_columns} columns instead of {row.expected_columns}"))
        return "skip"

    if not block.strip(b"\r\n"):
        return pa.table({name: pa.array([], pa.binary()) for name in wanted}), ()
    table = arrow_csv.read_csv(
        pa.BufferReader(block),
        arrow_csv.ReadOptions(use_threads=False, block_size=len(block) + 1, column_names=list(columns)),
        arrow_csv.ParseOptions(
            delimiter="\t", quote_char=False, double_quote=False, invalid_row_handler=skip
        ),
        _as_binary(columns, wanted),
    )
    return table.combine_chunks(), tuple(unusable)


def _as_binary(columns: Sequence[str], wanted: Sequence[str]) -> arrow_csv.ConvertOptions:
    return arrow_csv.ConvertOptions(
        include_columns=list(wanted),
        column_types=dict.fromkeys(columns, pa.binary()),
        null_values=[],
        strings_can_be_null=False,
        quoted_strings_can_be_null=False,
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


class _Unpacked:
    """The decompressed bytes of a file; it ends early, and says why, where the file is damaged."""

    def __init__(self, file: DumpFile, packing: str) -> None:
        self._raw = Path(file.path).open("rb")  # noqa: SIM115 - closed with this object
        self._stream: Any = self._raw
        if packing == "bzip2":
            self._stream = bz2.BZ2File(self._raw)
        elif packing == "gzip":
            self._stream = gzip.GzipFile(fileobj=self._raw)
        self._packing, self.at, self.n_whole = packing, 0, 0
        self.broken, self.closed, self._told = "", False, 0

    def __enter__(self) -> "_Unpacked":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self.closed = True
        self._stream.close()
        self._raw.close()

    @property
    def n_bytes(self) -> int:
        """Bytes of the file that were read."""
        return self._raw.tell()

    def n_new_bytes(self) -> int:
        """Bytes of the file that were read since the last call."""
        before, self._told = self._told, self.n_bytes
        return self._told - before

    def seek(self, place: int) -> None:
        """Go to a place of a file that is not compressed."""
        self.at = self._told = self._stream.seek(place)

    def readline(self) -> bytes:
        """The rest of the line."""
        line: bytes = self._stream.readline()
        self.at += len(line)
        return line

    def read(self, n: int = -1) -> bytes:
        """Up to `n` bytes; none at the end, or from where the file is damaged."""
        if self.broken:
            return b""
        if not self._packing:
            data = self._stream.read(n)
        else:
            data = self._unpack(n)
        self.at += len(data)
        return data

    def _unpack(self, n: int) -> bytes:
        pieces: list[bytes] = []
        left = n if n >= 0 else sys.maxsize
        try:
            # Piece by piece: `read` would lose all of its bytes where the data breaks off.
            while left and (piece := self._stream.read1(min(left, _PIECE_BYTES))):
                pieces.append(piece)
                left -= len(piece)
        except (EOFError, OSError, ValueError, zlib.error) as error:
            self.broken = f"the {self._packing} data breaks off ({_first_line(error)})"
        return b"".join(pieces)
