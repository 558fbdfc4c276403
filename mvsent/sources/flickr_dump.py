"""Metadata dumps of Flickr photos: their columns, and a pure parser of rows to candidates.

YFCC100M's lines have 23 tab-separated columns, or 25 with a line number before and a hash after the id; texts
are URL-encoded (`+` is a blank), lists comma-separated:

    6185218911⇥4e2f7a26@N00⇥gudrun⇥2011-09-25 12:19:14.0⇥1317000000⇥Canon+EOS⇥Misty+woods⇥Early%2C+and+cold⇥
    forest,misty+woods⇥⇥-1.2⇥51.7⇥16⇥http://www.flickr.com/photos/4e2f7a26@N00/6185218911/⇥
    http://farm7.staticflickr.com/6176/6185218911_1a2b3c4d5e.jpg⇥Attribution License⇥
    http://creativecommons.org/licenses/by/2.0/⇥6176⇥7⇥1a2b3c4d5e⇥6f7a8b9c0d⇥jpg⇥0

Dumps in Parquet or CSV have the same columns under names of their own, see `NAMES`.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from typing import Any
from urllib.parse import unquote_plus

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mvsent.curate.matching import Field, PairMatcher
from mvsent.curate.sieve import Mask, Sieve, url_decoded
from mvsent.errors import InputError
from mvsent.reasons import Reason
from mvsent.sources.crawl.candidate import Candidate, Size, Skipped
from mvsent.sources.crawl.http_json import as_count, as_id, as_text, as_url
from mvsent.sources.dump_files import DumpFile, DumpPart, DumpTable, read_part

_BEFORE = ("uid", "unickname", "datetaken", "dateuploaded", "capturedevice", "title", "description")
_AFTER = (
    *("usertags", "machinetags", "longitude", "latitude", "accuracy", "pageurl", "downloadurl"),
    *("licensename", "licenseurl", "serverid", "farmid", "secret", "secretoriginal", "extoriginal", "marker"),
)
YFCC100M = (("photoid", *_BEFORE, *_AFTER), ("line", "photoid", "hash", *_BEFORE, *_AFTER))
"""The columns of YFCC100M's two editions, under the names of other dumps that were made of it."""

NAMES: Mapping[str, tuple[str, ...]] = {
    "id": ("photoid", "photo_id", "flickr_id", "image_id", "id"),
    "title": ("title",),
    "description": ("description", "desc"),
    "tags": ("usertags", "user_tags", "tags"),
    "download_url": ("downloadurl", "download_url", "photo_url", "image_url", "url"),
    "page_url": ("pageurl", "page_url"),
    "license_url": ("licenseurl", "license_url"),
    "license": ("licensename", "license_name", "license"),
    "owner_name": ("unickname", "user_nickname", "ownername", "owner_name", "owner"),
    "owner": ("uid", "user_nsid", "nsid", "owner_id"),
    "uploaded": ("dateuploaded", "date_uploaded", "dateupload", "uploaded"),
    "server": ("serverid", "server_identifier", "server"),
    "secret": ("secret",),
    "marker": ("marker", "media", "is_video"),
}
"""Names that a column may have, in any case, the most telling first."""

ANY_NAME = frozenset(name for names in NAMES.values() for name in names)
SIDES = {"_m": 240, "": 500}
"""Suffix of an address → the longer side in pixels, of the sizes that Flickr has of every photo. Larger ones
are missing where the original is small."""

_FLICKRS = re.compile(r"https?://(?:[a-z0-9-]+\.)*(?:staticflickr|flickr)\.com/", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9]{1,64}")
# Most addresses: `as_url` on each would take longer than all else that is done for a row.
_PLAIN_URL = re.compile(r"https?://[a-z0-9-]+(?:\.[a-z0-9-]+)+(?::[0-9]{1,5})?/[A-Za-z0-9_./@-]{0,1000}")
_CC = re.compile(r"creativecommons\.org/licenses/(by[a-z-]*)/(\d\.\d)", re.IGNORECASE)
_PLACES = (("publicdomain/zero", "9"), ("publicdomain/mark", "10"), ("flickr.com/commons", "7"), ("usa.gov", "8"))
_CC_2 = {"by-nc-sa": "1", "by-nc": "2", "by-nc-nd": "3", "by": "4", "by-sa": "5", "by-nd": "6"}
_CC_4 = {"by": "11", "by-sa": "12", "by-nd": "13", "by-nc": "14", "by-nc-sa": "15", "by-nc-nd": "16"}
_WORDS_OF_CC = {"attribution": "by", "noncommercial": "nc", "sharealike": "sa", "noderivs": "nd", "noderivatives": "nd"}
_VIDEO = ("1", "true", "video")


@dataclass(frozen=True, slots=True)
class DumpRules:
    """Decides which rows of a dump are asked for, as the filters of a search do.

    Attributes:
        queries: of the lexicon, in order.
        fields: in which a query is looked for.
        licenses: Flickr's licence numbers; empty: all.
        since, until: the seconds of upload, inclusive; None: any.
        license_names: number → the string that a candidate has.
    """

    queries: tuple[str, ...]
    fields: tuple[Field, ...]
    licenses: frozenset[str]
    since: int | None
    until: int | None
    license_names: Mapping[str, str]


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


def columns_by_field(columns: Sequence[str]) -> dict[str, str]:
    """Field of `NAMES` → the column that has it.

    >>> columns_by_field(["photoid", "Title", "url"])
    {'id': 'photoid', 'title': 'Title', 'download_url': 'url'}
    """
    by_name = {name.lower(): name for name in reversed(columns)}
    found = {each: next((by_name[name] for name in names if name in by_name), "") for each, names in NAMES.items()}
    return {each: name for each, name in found.items() if name}


def check_columns(fields: Sequence[Field], file: DumpFile, columns: Sequence[str]) -> None:
    """Raise InputError unless a file has an id, an address, and one of the `fields` to look in."""
    have = columns_by_field(columns)
    missing = [] if "id" in have else ["photo id"]
    missing += [] if "download_url" in have or {"server", "secret"} <= have.keys() else ["download URL"]
    missing += [] if set(fields) & have.keys() else [" or ".join(fields)]
    if missing:
        raise InputError(
            f"{file.path}: has no column of {' and none of '.join(missing)} (it has {', '.join(columns)[:300]})",
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
                f"{self._part.file.path}: most rows are not those of a dump, the first near byte {at} ({why})",
                "Name another file",
            )
        found.counts["rows"] += n
        for number, (at, why) in enumerate(rows.unusable):
            name = f"flickr:unusable-{self._part.index}-{at}-{number}"
            found.found.append(((name, Reason.ROW_UNUSABLE, f"{self._part.file.name} near byte {at}: {why}"), []))
        found.counts["unusable"] += len(rows.unusable)
        if rows.table.num_rows:
            self._match(rows.table, found)
        return found

    def _match(self, table: pa.Table, into: DumpMatches) -> None:
        cells = {name: as_cells(table[column], name, self._part.file) for name, column in self._columns.items()}
        if self._encoded is None:  # decided by the first rows of a part
            self._encoded = is_url_encoded([cells[name] for name in ("title", "tags") if name in cells])
        texts = {name: url_decoded(cells[name]) if self._encoded else cells[name] for name in self._fields}
        may: Mask = np.zeros(table.num_rows, np.bool_)
        for name, column in texts.items():
            may |= self._sieve.may_contain(name, column)
        if "marker" in cells:
            # One pass over short cells.
            into.counts["videos"] += int(pc.sum(is_video(cells["marker"])).as_py() or 0)
        chosen = pa.array(np.flatnonzero(may))
        taken = {name: column.take(chosen).to_pylist() for name, column in cells.items()}
        for place in range(len(chosen)):
            row = {name: values[place] for name, values in taken.items()}
            self._add(row, into)

    def _add(self, row: Mapping[str, bytes], into: DumpMatches) -> None:
        texts = row_texts(row, encoded=bool(self._encoded))
        queries = self._matcher.find(texts.title, texts.description, texts.tags)
        if not queries:
            return
        number, license = row_license(row, self._rules.license_names)
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
    if name == "tags" and (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        if _is_text(kind.value_type):
            lists = column.cast(pa.list_(pa.string()))
            column = pc.binary_join(lists, "\n")
            kind = column.type
    may_be_number = name not in ("title", "description", "tags", "download_url", "page_url", "license_url")
    if pa.types.is_timestamp(kind) and name == "uploaded":
        column = column.cast(pa.timestamp("s"), safe=False).cast(pa.int64()).cast(pa.string())
    elif may_be_number and (pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        column = column.cast(pa.string())
    elif not (_is_text(kind) or pa.types.is_null(kind)):
        allowed = "text or a number" if may_be_number else "text or a list of texts" if name == "tags" else "text"
        raise InputError(
            f"{file.path}: the column of {name.replace('_', ' ')} has the type {kind}, not {allowed}",
            "Convert it, or name another file",
        )
    filled = pc.fill_null(column.cast(pa.binary()), b"")
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


@dataclass(frozen=True, slots=True)
class RowTexts:
    """The decoded texts of a row."""

    title: str
    description: str
    tags: tuple[str, ...]


def row_texts(row: Mapping[str, bytes], *, encoded: bool) -> RowTexts:
    """Decode the texts of a row; tags are divided at commas, without commas at blanks.

    >>> row_texts({"title": b"Misty+woods%21", "tags": b"forest,new+york"}, encoded=True)
    RowTexts(title='Misty woods!', description='', tags=('forest', 'new york'))
    """
    tags = row.get("tags", b"").decode("utf-8", "replace")
    if encoded or "\n" in tags or "," in tags:
        parts = re.split("[\n,]" if "\n" not in tags else "\n", tags)
    else:
        parts = tags.split()
    decoded = map(unquote_plus, parts) if encoded and ("%" in tags or "+" in tags) else parts
    return RowTexts(
        _decoded(row.get("title", b""), encoded),
        _decoded(row.get("description", b""), encoded),
        tuple(filter(None, (part.replace("\0", "").strip() for part in decoded))),
    )


def _decoded(cell: bytes, encoded: bool) -> str:
    text = cell.decode("utf-8", "replace")
    # Decoding gives no lone surrogates; NULs are what files refuse.
    return (unquote_plus(text) if encoded else text).replace("\0", "")


def parse_row(
    row: Mapping[str, bytes], texts: RowTexts, license: str, posted_at: datetime | None, *, encoded: bool
) -> Candidate | Skipped:
    """A candidate, or why there is none."""
    plain = {name: value.decode("utf-8", "replace").strip() for name, value in row.items() if name in _PLAIN}
    number = as_id(plain.get("id"))
    if not number:
        return f"flickr:without-id-{hash_of(row)}", Reason.ROW_UNUSABLE, "the dump gives this photo no id"
    id = f"flickr:{number}"
    if plain.get("marker", "").lower() in _VIDEO:
        return id, Reason.VIDEO, ""
    sizes = row_sizes(number, plain)
    if not sizes:
        return id, Reason.IMAGE_MISSING, "the dump gives no address for this photo"
    owner = plain.get("owner", "")
    page = _url(plain.get("page_url", "")) or (f"https://www.flickr.com/photos/{owner}/{number}" if owner else "")
    return Candidate(
        id=id,
        title=texts.title,
        description=texts.description,
        tags=texts.tags,
        sizes=sizes,
        page_url=_url(page),
        license=license,
        owner=_decoded(row.get("owner_name", b""), encoded) or as_text(owner),
        posted_at=posted_at,
    )


_PLAIN = frozenset({"id", "download_url", "page_url", "owner", "server", "secret", "marker"})


def hash_of(row: Mapping[str, bytes]) -> str:
    """A name for a row without an id, made of its content."""
    import hashlib

    return hashlib.sha256(repr(sorted(row.items())).encode()).hexdigest()[:16]


def row_sizes(number: str, row: Mapping[str, str]) -> tuple[Size, ...]:
    """The addresses of a photo: Flickr's present host by server and secret; elsewhere the address given.

    >>> [size.url for size in row_sizes("7", {"server": "65", "secret": "ab"})]
    ['https://live.staticflickr.com/65/7_ab_m.jpg', 'https://live.staticflickr.com/65/7_ab.jpg']
    >>> [size.url for size in row_sizes("7", {"server": "65", "secret": "ab", "download_url": "http://a.org/7.jpg"})]
    ['http://a.org/7.jpg']
    """
    given = row.get("download_url", "")
    is_flickrs = not given or _FLICKRS.match(given)
    server, secret = row.get("server", ""), row.get("secret", "")
    if is_flickrs and _NAME.fullmatch(server) and _NAME.fullmatch(secret):
        place = f"https://live.staticflickr.com/{server}/{number}_{secret}"
        return tuple(Size(f"{place}{suffix}.jpg", side, 0) for suffix, side in SIDES.items())
    given = _url(given)
    return (Size(given, 0, 0),) if given else ()


def _url(text: str) -> str:
    return text if _PLAIN_URL.fullmatch(text) else as_url(text)


def row_license(row: Mapping[str, bytes], names: Mapping[str, str]) -> tuple[str, str]:
    """Flickr's number of a row's licence ("" if it has none there) and its name, as `names` has it.

    >>> row_license({"license_url": b"http://creativecommons.org/licenses/by-nc/2.0/"}, {"2": "CC BY-NC 2.0"})
    ('2', 'CC BY-NC 2.0')
    >>> row_license({"license": b"Attribution-ShareAlike License"}, {"5": "CC BY-SA 2.0"})
    ('5', 'CC BY-SA 2.0')
    >>> row_license({"license_url": b"https://creativecommons.org/licenses/by/3.0/"}, {})
    ('', 'CC BY 3.0')
    """
    return _license(row.get("license_url", b""), row.get("license", b""), tuple(names.items()))


@lru_cache(maxsize=4096)
def _license(url_cell: bytes, name_cell: bytes, known: tuple[tuple[str, str], ...]) -> tuple[str, str]:
    names = dict(known)
    url, given = _decoded(url_cell, False).strip(), _decoded(name_cell, True).strip()
    number, name = "", given or url
    for text in (url, given):
        if match := _CC.search(text):
            kind, version = match[1].lower(), match[2]
            number = {"2.0": _CC_2, "4.0": _CC_4}.get(version, {}).get(kind, "")
            name = f"CC {kind.upper()} {version}"
        number = number or next((n for place, n in _PLACES if place in text), "")
        if number or match:
            break
    else:
        words = re.findall("[a-z]+", given.lower().replace("non-commercial", "noncommercial"))
        kind = "-".join(_WORDS_OF_CC[word] for word in words if word in _WORDS_OF_CC)
        by_name = {text: n for n, text in names.items()}
        number = given if given in names else by_name.get(given, _CC_2.get(kind, ""))
    return number, names.get(number, f"Flickr licence {number}" if number else name)


def row_moment(cell: bytes) -> datetime | None:
    """The moment of upload, of seconds since 1970 or a date; None if it is neither.

    >>> row_moment(b"1317000000"), row_moment(b"2011-09-26 01:20:00"), row_moment(b"soon")
    (datetime.datetime(2011, 9, 26, 1, 20, tzinfo=datetime.timezone.utc), datetime.datetime(2011, 9, 26, 1, 20, tzinfo=datetime.timezone.utc), None)
    """
    text = cell.decode("utf-8", "replace").strip().removesuffix(".0")
    seconds = as_count(text)
    try:
        if seconds is not None:
            return datetime.fromtimestamp(seconds, UTC) if seconds else None
        moment = datetime.fromisoformat(unquote_plus(text))
    except (ValueError, OverflowError, OSError):
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _is_between(moment: datetime | None, since: int | None, until: int | None) -> bool:
    if since is None and until is None:
        return True
    if moment is None:  # a search by date does not show it, either
        return False
    second = moment.timestamp()
    return (since is None or since <= second) and (until is None or second <= until)
