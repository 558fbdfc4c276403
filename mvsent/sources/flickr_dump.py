"""The scan of a metadata dump of Flickr photos: which rows contain a query, and are asked for."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import compress, islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mvsent.curate.matching import Field, PairMatcher
from mvsent.curate.sieve import Sieve, url_decoded
from mvsent.errors import InputError
from mvsent.reasons import Reason
from mvsent.sources.crawl.candidate import Candidate, Skipped
from mvsent.sources.dump_files import Dump, DumpFile, DumpPart, find_files, plan_parts
from mvsent.sources.dump_reader import DumpTable, read_part
from mvsent.sources.flickr_licenses import row_license
from mvsent.sources.flickr_rows import (
    ANY_NAME,
    NAMES,
    YFCC100M,
    columns_by_field,
    parse_row,
    row_moment,
    row_texts,
)


@dataclass(frozen=True, slots=True)
class DumpRules:
    """Decides which rows of a dump are asked for, as the filters of a search do.

    Attributes:
        queries: of the lexicon, in order.
        fields: in which a query is looked for.
        licenses: Flickr's licence numbers; empty: all.
        since, until: the seconds of upload, inclusive; None: any.
    """

    queries: tuple[str, ...]
    fields: tuple[Field, ...]
    licenses: frozenset[str]
    since: int | None
    until: int | None


@dataclass(slots=True)
class DumpMatches:
    """The candidates of a table of rows, in its order, and counts of its other rows.

    Attributes:
        found: a candidate or the reason why there is none, with the numbers of the queries it contains.
        counts: `rows`, `videos`, `unusable`, `other_licence`, `other_dates`.
    """

    found: list[tuple[Candidate | Skipped, list[int]]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    broken: str = ""
    n_bytes: int = 0


def check_columns(fields: Sequence[Field], file: DumpFile, columns: Sequence[str]) -> None:
    """Raise InputError unless a file has an id, an address, and one of the `fields` to look in."""
    have = columns_by_field(columns)
    missing = [] if "id" in have else ["photo id"]
    missing += [] if "download_url" in have or {"server", "secret"} <= have.keys() else ["download URL"]
    missing += [] if set(fields) & have.keys() else [" or ".join(fields)]
    if missing:
        raise InputError(
            f"{file.path}: has no column of {' and none of '.join(missing)} "
            f"(it has {', '.join(columns)[:300]})",
            f"Rename a column to one of {', '.join(NAMES['id' if 'id' not in have else 'download_url'])}"
            if missing[0] in ("photo id", "download URL")
            else "Name other fields with --match",
        )


def scan_part(rules: DumpRules, part: DumpPart) -> Iterator[DumpMatches]:
    """Look for the queries in a part of a dump.

    Raises: InputError for unreadable files, columns of the wrong type, and parts of which most rows are
        unusable.
    """
    scan = _Scan(rules, part)
    wanted = list(dict.fromkeys(columns_by_field(part.columns).values()))
    for rows in read_part(part, wanted):
        yield scan.matches(rows)


class _Scan:
    def __init__(self, rules: DumpRules, part: DumpPart) -> None:
        self._rules, self._part = rules, part
        self._columns = columns_by_field(part.columns)
        self._fields = [each for each in rules.fields if each in self._columns]
        self._sieve, self._matcher = sieve_of(rules.queries), matcher_of(rules.queries, tuple(self._fields))
        self._encoded = True if part.kind == "lines" else None
        self._n_rows = self._n_unusable = 0

    def matches(self, rows: DumpTable) -> DumpMatches:
        """The candidates of some rows. Raises: InputError if most rows so far were unusable."""
        found = DumpMatches(broken=rows.broken, n_bytes=rows.n_bytes)
        n = rows.table.num_rows + len(rows.unusable)
        self._n_rows, self._n_unusable = self._n_rows + n, self._n_unusable + len(rows.unusable)
        if self._n_unusable > max(100, self._n_rows // 2):
            at, why = rows.unusable[0]
            raise InputError(
                f"{self._part.file.path}: most rows are not those of a dump, one near byte {at} ({why})",
                "Name another file",
            )
        found.counts["rows"] += n
        for number, (at, why) in enumerate(rows.unusable):
            name = f"flickr:unusable-{self._part.index}-{at}-{number}"
            detail = f"{self._part.file.name} near byte {at}: {why}"
            found.found.append(((name, Reason.ROW_UNUSABLE, detail), []))
        found.counts["unusable"] += len(rows.unusable)
        if rows.table.num_rows:
            self._match(rows.table, found)
        return found

    def _match(self, table: pa.Table, into: DumpMatches) -> None:
        cells = {
            name: as_cells(table[column], name, self._part.file) for name, column in self._columns.items()
        }
        if self._encoded is None:  # decided by the first rows of a part
            self._encoded = is_url_encoded([cells[name] for name in ("title", "tags") if name in cells])
        texts = {name: url_decoded(cells[name]) if self._encoded else cells[name] for name in self._fields}
        may = {name: self._sieve.may_contain(name, column) for name, column in texts.items()}
        if "marker" in cells:
            # One pass over short cells.
            into.counts["videos"] += int(pc.sum(is_video(cells["marker"])).as_py() or 0)
        chosen = np.flatnonzero(np.logical_or.reduce(list(may.values())))
        taken = [column.take(pa.array(chosen)).to_pylist() for column in cells.values()]
        looked_at = [mask[chosen].tolist() for mask in may.values()]
        for values, are in zip(zip(*taken, strict=True), zip(*looked_at, strict=True), strict=True):
            self._add(dict(zip(cells, values, strict=True)), set(compress(may, are)), into)

    def _add(self, row: Mapping[str, bytes], fields: Set[str], into: DumpMatches) -> None:
        """Add the row if one of the `fields`, which the sieve let through, contains a query."""
        texts = row_texts(row, encoded=bool(self._encoded))
        queries = self._matcher.find(
            texts.title if "title" in fields else "",
            texts.description if "description" in fields else "",
            texts.tags if "tags" in fields else (),
        )
        if not queries:
            return
        number, license = row_license(row)
        if self._rules.licenses and number not in self._rules.licenses:
            into.counts["other_licence"] += 1
            return
        posted_at = row_moment(row.get("uploaded", b""))
        if not _is_between(posted_at, self._rules.since, self._rules.until):
            into.counts["other_dates"] += 1
            return
        into.found.append((parse_row(row, texts, license, posted_at, encoded=bool(self._encoded)), queries))


_made: dict[Any, Any] = {}
"""The last sieve and matchers: a worker reads one part after the other with the same queries."""


def sieve_of(queries: tuple[str, ...]) -> Sieve:
    """A sieve for the queries."""
    if queries not in _made:
        _made.clear()
        _made[queries] = Sieve(queries)
    return _made[queries]  # type: ignore[no-any-return]


def matcher_of(queries: tuple[str, ...], fields: tuple[Field, ...]) -> PairMatcher:
    """A matcher for the queries."""
    if (queries, fields) not in _made:
        _made[queries, fields] = PairMatcher(queries, fields)
    return _made[queries, fields]  # type: ignore[no-any-return]


def as_cells(column: pa.ChunkedArray, name: str, file: DumpFile) -> pa.Array:
    """A column as binary cells without nulls; lists of tags are joined by line breaks.

    Raises: InputError for a column of another type than the field can have.
    """
    kind = column.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if name == "tags" and is_list and _is_text(kind.value_type):
        column = pc.binary_join(column.cast(pa.list_(pa.string())), "\n")
        kind = column.type
    may_be_number = name not in ("title", "description", "tags", "download_url", "page_url", "license_url")
    if pa.types.is_timestamp(kind) and name == "uploaded":
        column = column.cast(pa.timestamp("s"), safe=False).cast(pa.int64()).cast(pa.string())
    elif may_be_number and (pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        column = column.cast(pa.string())
    elif not (_is_text(kind) or pa.types.is_null(kind)):
        allowed = (
            "text or a number" if may_be_number else "text or a list of texts" if name == "tags" else "text"
        )
        raise InputError(
            f"{file.path}: the column of {name.replace('_', ' ')} has the type {kind}, not {allowed}",
            "Convert it, or name another file",
        )
    filled = column.cast(pa.binary())
    if filled.null_count:  # text files have none
        filled = pc.fill_null(filled, b"")
    return filled.combine_chunks() if isinstance(filled, pa.ChunkedArray) else filled


def _is_text(kind: pa.DataType) -> bool:
    return any(
        check(kind)
        for check in (
            *(pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary),
            pa.types.is_string_view,
        )
    ) or (pa.types.is_dictionary(kind) and _is_text(kind.value_type))


def is_url_encoded(columns: Sequence[pa.Array]) -> bool:
    """Whether texts are URL-encoded: none of the first thousand holds a blank, and some a `+` or `%41`.

    >>> is_url_encoded([pa.array([b"Misty+woods", b"IMG_1"])]), is_url_encoded([pa.array([b"1+1 is 2"])])
    (True, False)
    """
    cells = [cell for column in columns for cell in islice(column.slice(0, 1000).to_pylist(), 1000)]
    signs = re.compile(rb"\+|%[0-9A-Fa-f]{2}")
    return not any(b" " in cell for cell in cells) and any(signs.search(cell) for cell in cells)


def is_video(markers: pa.Array) -> pa.Array:
    """Whether each marker is that of a video."""
    return pc.is_in(markers, value_set=pa.array([b"1", b"true", b"video"]))


def _is_between(moment: datetime | None, since: int | None, until: int | None) -> bool:
    if since is None and until is None:
        return True
    if moment is None:  # a search by date does not show it, either
        return False
    second = moment.timestamp()
    return (since is None or since <= second) and (until is None or second <= until)


def open_dump(patterns: Sequence[str], rules: DumpRules) -> Dump:
    """Open the files of a dump.

    Raises: UsageError for a pattern without a file; InputError for a file that is no dump.
    """
    files = find_files(patterns)
    parts = plan_parts(files, YFCC100M, ANY_NAME, partial(check_columns, rules.fields))
    return Dump(tuple(files), parts, partial(scan_part, rules))
