"""Parts of metadata dumps, read once, as a stream of tables."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as arrow_csv

from mvsent.errors import InputError, first_line
from mvsent.sources.dump_files import DumpPart, open_parquet
from mvsent.sources.unpacked import Unpacked
from mvsent.storage import unlike_driver

BLOCK_BYTES = 8 * 2**20
_LINE_BYTES = 2**14  # most lines are shorter
MAX_LINE_BYTES = 32 * 2**20
PARQUET_ROWS = 16_384


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


def _read_parquet(part: DumpPart, wanted: Sequence[str]) -> Iterator[DumpTable]:
    with open_parquet(part.file) as file:
        groups = list(range(part.start, part.stop))
        share = part.n_bytes // max(1, sum(file.metadata.row_group(group).num_rows for group in groups))
        try:
            for batch in file.iter_batches(PARQUET_ROWS, row_groups=groups, columns=list(wanted)):
                yield DumpTable(pa.Table.from_batches([batch]), n_bytes=share * batch.num_rows)
        except (pa.ArrowException, OSError) as error:
            raise InputError(
                f"{part.file.path}: damaged: {first_line(error)}", "Download it again, or leave it out"
            ) from None


def _read_csv(part: DumpPart, wanted: Sequence[str]) -> Iterator[DumpTable]:
    n_rows, unusable = 0, list[tuple[int, str]]()

    def skip(row: Any) -> str:
        unusable.append((n_rows, f"{row.actual_columns} columns instead of {row.expected_columns}"))
        return "skip"

    with Unpacked(part.file.path, part.packing) as stream:
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
                        yield DumpTable(
                            pa.Table.from_batches([waiting]), tuple(unusable), "", stream.n_bytes - before
                        )
                        unusable.clear()
                        before = stream.n_bytes
                    n_rows += batch.num_rows
                    waiting = batch
        except pa.ArrowInvalid as error:
            raise InputError(
                f"{part.file.path}: not readable as CSV after row {n_rows}: {first_line(error)}",
                "Correct it, or leave it out",
            ) from None
        if waiting is not None:
            if stream.broken:  # its last row is cut off somewhere
                waiting = waiting.slice(0, waiting.num_rows - 1)
            broken = stream.broken and f"{stream.broken}, after {n_rows - 1} rows"
            yield DumpTable(
                pa.Table.from_batches([waiting]), tuple(unusable), broken, stream.n_bytes - before
            )


def _read_lines(part: DumpPart, wanted: Sequence[str]) -> Iterator[DumpTable]:
    with Unpacked(part.file.path, part.packing) as stream:
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


def _blocks(stream: Unpacked, part: DumpPart) -> Iterator[tuple[int, bytes, str]]:
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
        # Little beyond the last line of the part; twice as much for each time that the line does not end.
        left = BLOCK_BYTES if stop is None else max(stop - place - len(rest), len(rest), _LINE_BYTES)
        data = stream.read(min(BLOCK_BYTES, left))
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
                _, _, rest = data.partition(b"\n")
                yield place, b"", f"a line of more than {MAX_LINE_BYTES} bytes"
                place += n - len(rest)
                stream.n_whole = place
            continue
        block = b"".join((rest, memoryview(data)[:cut]))  # copied once
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

    if not block[:1].strip(b"\r\n") and not block.strip(b"\r\n"):  # in most cases without a copy of it
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
