"""Rows of Flickr's metadata dumps → candidates: a pure parser.

YFCC100M's lines have 23 tab-separated columns, or 25 with a line number before and a hash after the id; texts
are URL-encoded (`+` is a blank), lists comma-separated:

    6185218911⇥4e2f7a26@N00⇥gudrun⇥2011-09-25 12:19:14.0⇥1317000000⇥Canon+EOS⇥Misty+woods⇥Early%2C+and+cold⇥
    forest,misty+woods⇥⇥-1.2⇥51.7⇥16⇥http://www.flickr.com/photos/4e2f7a26@N00/6185218911/⇥
    http://farm7.staticflickr.com/6176/6185218911_1a2b3c4d5e.jpg⇥Attribution License⇥
    http://creativecommons.org/licenses/by/2.0/⇥6176⇥7⇥1a2b3c4d5e⇥6f7a8b9c0d⇥jpg⇥0

Dumps in Parquet or CSV have the same columns under names of their own, see `NAMES`.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import unquote_plus, unquote_to_bytes

from mvsent.reasons import Reason
from mvsent.sources.crawl.candidate import Candidate, Size, Skipped
from mvsent.sources.crawl.http_json import as_count, as_id, as_text, as_url

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
VIDEO = ("1", "true", "video")


def columns_by_field(columns: Sequence[str]) -> dict[str, str]:
    """Field of `NAMES` → the column that has it.

    >>> columns_by_field(["photoid", "Title", "url"])
    {'id': 'photoid', 'title': 'Title', 'download_url': 'url'}
    """
    by_name = {name.lower(): name for name in reversed(columns)}
    found = {
        each: next((by_name[name] for name in names if name in by_name), "") for each, names in NAMES.items()
    }
    return {each: name for each, name in found.items() if name}


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
    tags = row.get("tags", b"").decode("utf-8", "replace").replace("\0", "")
    if encoded or "\n" in tags or "," in tags:
        parts = tags.split("\n" if "\n" in tags else ",")
    else:
        parts = tags.split()
    if encoded and "%" in tags:
        parts = [unquote_plus(part).replace("\0", "") for part in parts]
    elif encoded and "+" in tags:
        parts = [part.replace("+", " ") for part in parts]
    return RowTexts(
        _decoded(row.get("title", b""), encoded),
        _decoded(row.get("description", b""), encoded),
        tuple(filter(None, map(str.strip, parts))),
    )


def _decoded(cell: bytes, encoded: bool) -> str:
    if encoded and cell.isascii():
        # As `unquote_plus`, which looks for letters that are not ASCII first, in most of its time.
        cell = cell.replace(b"+", b" ")
        text = (unquote_to_bytes(cell) if b"%" in cell else cell).decode("utf-8", "replace")
    else:
        text = cell.decode("utf-8", "replace")
        text = unquote_plus(text) if encoded else text
    # Decoding gives no lone surrogates; NULs are what files refuse.
    return text.replace("\0", "")


def parse_row(
    row: Mapping[str, bytes], texts: RowTexts, license: str, posted_at: datetime | None, *, encoded: bool
) -> Candidate | Skipped:
    """A candidate, or why there is none."""
    plain = {name: str(row[name], "utf-8", "replace").strip() for name in _PLAIN if name in row}
    number = as_id(plain.get("id"))
    if not number:
        return f"flickr:without-id-{hash_of(row)}", Reason.ROW_UNUSABLE, "the dump gives this photo no id"
    id = f"flickr:{number}"
    if plain.get("marker", "").lower() in VIDEO:
        return id, Reason.VIDEO, ""
    sizes = row_sizes(number, plain)
    if not sizes:
        return id, Reason.IMAGE_MISSING, "the dump gives no address for this photo"
    owner = plain.get("owner", "")
    page = _url(plain.get("page_url", "")) or (
        _url(f"https://www.flickr.com/photos/{owner}/{number}") if owner else ""
    )
    return Candidate(
        id=id,
        title=texts.title,
        description=texts.description,
        tags=texts.tags,
        sizes=sizes,
        page_url=page,
        license=license,
        owner=_decoded(row.get("owner_name", b""), encoded) or as_text(owner),
        posted_at=posted_at,
    )


_PLAIN = frozenset({"id", "download_url", "page_url", "owner", "server", "secret", "marker"})


def hash_of(row: Mapping[str, bytes]) -> str:
    """A name for a row without an id, made of its content."""
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


def row_moment(cell: bytes) -> datetime | None:
    """The moment of upload, of seconds since 1970 or a date; None if it is neither.

    >>> row_moment(b"1317000000").isoformat(), row_moment(b"2011-09-26 01:20:00").isoformat()
    ('2011-09-26T01:20:00+00:00', '2011-09-26T01:20:00+00:00')
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
