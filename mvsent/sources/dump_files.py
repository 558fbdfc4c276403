"""Files of metadata dumps, and the parts in which they are read: tab-separated lines, CSV or Parquet.

A file is divided into parts that can be read independently: plain lines into ranges of bytes, Parquet into
runs of row groups. A compressed file is one part, and so is a CSV file, whose cells may hold line breaks.
"""

import glob
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mvsent.errors import InputError, UsageError, first_line
from mvsent.sources.unpacked import Unpacked

PART_BYTES = 32 * 2**20
_ENDS_BYTES = 2**16
_MAGIC = {b"BZh": "bzip2", b"\x1f\x8b": "gzip", b"PAR1": "parquet"}
_HEAD_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class DumpFile:
    """A file of a dump: path, size and a hash of its first and last bytes, by which a change is noticed."""

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


def find_files(patterns: Sequence[str]) -> list[DumpFile]:
    """The files that paths and patterns (`yfcc100m_dataset-*.bz2`) name, each once.

    Raises: UsageError for a path that is no file, and a pattern without one.
    """
    found: dict[Path, DumpFile] = {}
    for pattern in patterns:
        paths = [Path(pattern)] if Path(pattern).exists() else [Path(p) for p in sorted(glob.glob(pattern))]  # noqa: PTH207 - absolute patterns, too
        if not paths:
            raise UsageError(f"--from {pattern}: no such file", "Name a file, or files by a pattern with *")
        for path in paths:
            if path.is_dir():
                raise UsageError(f"--from {path}: a folder", f"Name the files in it: {path}/*")
            if not path.is_file():
                raise UsageError(f"--from {path}: not an ordinary file", "Write its content into a file")
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
            parts.append(DumpPart(len(parts), file, kind, packing, start, stop, columns, delimiter, n_bytes))
    return tuple(parts)


def _described(
    file: DumpFile, line_columns: Sequence[Sequence[str]], known: frozenset[str], part_bytes: int
) -> Iterator[tuple[str, str, int, int, tuple[str, ...], str]]:
    with Path(file.path).open("rb") as opened:
        magic = opened.read(4)
    packing = next((name for sign, name in _MAGIC.items() if magic.startswith(sign)), "")
    if packing == "parquet":
        with open_parquet(file) as parquet:
            names, n_groups = tuple(parquet.schema_arrow.names), parquet.num_row_groups
        per_part = max(1, -(-n_groups * part_bytes // file.size))
        for first in range(0, n_groups, per_part):
            yield "parquet", "", first, min(first + per_part, n_groups), names, ""
        return
    with Unpacked(file.path, packing) as stream:
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


def open_parquet(file: DumpFile) -> Any:
    """Open a Parquet file. Raises: InputError if it is none."""
    try:
        return pq.ParquetFile(file.path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{file.path}: not readable as Parquet: {first_line(error)}",
            "Download it again, or leave it out",
        ) from None
