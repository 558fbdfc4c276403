"""Flickr: its settings, a pure parser of `photos.search`, a thin client through flickrapi, and the source.

    {"stat": "ok", "photos": {"page": 1, "pages": 5, "perpage": 500, "total": "2204", "photo": [
        {"id": "5123", "owner": "12@N00", "ownername": "someone", "title": "Pier at dawn", "tags": "sea pier",
         "description": {"_content": "Out <b>early</b>"}, "license": "4", "dateupload": "1581319011",
         "url_z": "https://live.staticflickr.com/1/5123_ab_z.jpg", "width_z": 640, "height_z": "427"}]}}

An error is HTTP 200 too: {"stat": "fail", "code": 100, "message": "Invalid API Key (Key has expired)"}.
"""

# Longer than other files, as a source is one file.

import time
from datetime import UTC, date, datetime
from datetime import time as day_time
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import SecretStr, field_validator

from mvsent.config import DATA, MACHINE, TEXT, BuildSettings, language, lexicon, per_query
from mvsent.curate.matching import FIELDS, Field
from mvsent.errors import UsageError
from mvsent.lexicons import Term, load_anps
from mvsent.limits import retry_after
from mvsent.reasons import Reason
from mvsent.setting import Day, setting
from mvsent.sources.crawl import http_json
from mvsent.sources.crawl.candidate import Candidate, Query, SearchPage, Size, Skipped, Window
from mvsent.sources.crawl.failures import (
    AccessRevoked,
    BadAnswer,
    BadKey,
    RequestRefused,
    RetryLater,
    SourceFailure,
)
from mvsent.sources.crawl.http_json import as_count, as_id, as_text, as_url
from mvsent.sources.dump_files import Dump
from mvsent.sources.flickr_dump import DumpRules, open_dump
from mvsent.sources.flickr_licenses import LICENSES, license_numbers
from mvsent.sources.registry import Key, Keys, Paging, SearchedSource, Terms

ENDPOINT = "https://api.flickr.com/services/rest/"
MAX_PER_PAGE = 500  # Flickr's limit
SIZES = ("m", "n", "z", "c", "l", "o")
"""Longer sides of 500, 320, 640, 800 and 1024 pixels, and the original where its owner shows it."""

EXTRAS = "description,license,date_upload,owner_name,tags," + ",".join(f"url_{size}" for size in SIZES)
# Calls without a login see safe photos only, whatever they ask for.
SAFE = {"safe": 1, "moderate": 2, "restricted": 3}
# By upload, new photos come last and shift no page.
SORTS = {"date": "date-posted-asc", "relevance": "relevance", "interesting": "interestingness-desc"}
BEGAN = date(2004, 2, 10)
KEY = Key(
    "FLICKR_API_KEY",
    "https://www.flickr.com/services/apps/create/",
    note="Flickr gives keys to members of Flickr Pro. Without one: mvsent build-flickr --from and a "
    "metadata dump, or mvsent build-table for pictures that you have",
)
LOGIN = tuple(
    Key(name, "https://www.flickr.com/services/api/auth.oauth.html", is_optional=True)
    for name in ("FLICKR_API_SECRET", "FLICKR_OAUTH_TOKEN", "FLICKR_OAUTH_TOKEN_SECRET")
)
"""With all three, calls are signed: Flickr then shows what the account behind the token may see."""
_NEW_KEY = "Put a valid one into FLICKR_API_KEY; the same command then continues"

PASSING = frozenset({0, 10, 105, 201})
"""Codes of failures that may pass: the service (0, 105), the search (10) or the whole site (201) is down."""

BAD_KEY = 100
"""Code of a key that is unknown, expired or of the wrong form."""

BAD_LOGIN = frozenset({96, 97, 98, 99})
"""Codes of a wrong signature (96, 97), of a token that was revoked (98) or may not see this (99)."""

BAD_CALL = frozenset({111, 112, 114, 115, 116})
"""Codes of a method, format or address that the server does not know: it is not Flickr, or has changed."""

GONE = frozenset({1, 2})
"""Codes of `photos.getInfo` for a photo that was removed (1) or is not public (2)."""

_LAST_SECOND = 253_402_300_799  # of the year 9999: datetime knows no later one


class FlickrSettings(BuildSettings):
    """The settings of `build-flickr`."""

    anps: str = lexicon(unset="the 1200 ANPs")
    per_query: int = per_query(500)
    language: str = language("en")
    since: Day = setting(None, DATA, "First day of upload (UTC), as 2020-12-31.", unset="2004-02-10")
    until: Day = setting(None, DATA, "Last day of upload (UTC), as 2020-12-31.", unset="now")
    license: str = setting(
        "",
        DATA,
        "Licences, any of them: as cc-by,cc0 or 4,11 or commercial (docs/flickr.md#licences).",
        unset="all",
    )
    dumps: tuple[str, ...] = setting(
        (),
        DATA,
        "Metadata dumps, in which the pairs are looked for instead of asking Flickr: files or patterns.",
        flags=("--from",),
        path="several",
        changes_result=False,  # a crawl compares the files, not where they lie
    )
    match: tuple[Field, ...] = setting(
        ("tags", "title"), DATA, "Fields of a dump that contain the pair, separated by commas."
    )
    require_query: tuple[Literal["any", "none", "tags", "title", "description"], ...] = setting(
        ("any",),
        DATA,
        "Fields of which one must contain the pair; any: one of tags, title, description; none: no field.",
    )
    sort: Literal["date", "relevance", "interesting"] = setting(
        "date", DATA, "Order in which Flickr lists photos: by upload, or what it holds for best first."
    )
    per_owner: int = setting(20, DATA, "Photos of one owner per query at most; 0 takes all.", ge=0)
    repeated_texts: Literal["drop", "keep"] = setting(
        "drop", TEXT, "Drop or keep photos with nearly the text of an earlier one of their owner."
    )
    safe: Literal["safe", "moderate", "restricted"] = setting("safe", DATA, "Flickr's safe-search level.")
    endpoint: str = setting(
        "",
        MACHINE,
        "Address of another REST server.",
        unset="Flickr's",
        changes_result=False,
        variable="MVSENT_FLICKR_ENDPOINT",
    )

    @property
    def query_fields(self) -> tuple[Field, ...]:
        """See BuildSettings."""
        if "none" in self.require_query:
            return ()
        return FIELDS if "any" in self.require_query else cast("tuple[Field, ...]", self.require_query)

    @property
    def owner_limit(self) -> int:
        """See BuildSettings."""
        return self.per_owner

    @property
    def drops_repeated_texts(self) -> bool:
        """See BuildSettings."""
        return self.repeated_texts == "drop"

    @field_validator("require_query")
    @classmethod
    def _any_none_or_fields(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        value = tuple(dict.fromkeys(value))
        if not value or (len(value) > 1 and {"any", "none"} & set(value)):
            raise ValueError("should be any, none, or some of tags, title, description")
        return value

    @field_validator("match")
    @classmethod
    def _some_field(cls, value: tuple[Field, ...]) -> tuple[Field, ...]:
        if not value:
            raise ValueError("name at least one of tags, title, description")
        return tuple(dict.fromkeys(value))

    @field_validator("license")
    @classmethod
    def _as_numbers(cls, value: str) -> str:
        return ",".join(license_numbers(value))


class FlickrFailure(SourceFailure):
    """Flickr answers `stat=fail`. The code is -1 if it names none."""

    def __init__(self, code: int, message: str) -> None:
        self.code, self.message = code, message
        super().__init__(f"Flickr answers with code {code}: {http_json.excerpt(message)}")


def parse_search(payload: object, page: int = 1) -> SearchPage:
    """Parse an answer to `photos.search`; `page` is its number if the answer does not say.

    Raises: FlickrFailure for `stat=fail`; BadAnswer for anything but a search answer.
    """
    photos = parse_ok(payload).get("photos")
    listed = photos.get("photo") if isinstance(photos, dict) else None
    if not isinstance(photos, dict) or not isinstance(listed, list):
        raise BadAnswer("Flickr's answer holds no list of photos")
    parsed = [_parse_photo(photo) for photo in listed]
    return SearchPage(
        total=as_count(photos.get("total")),
        page=as_count(photos.get("page")) or page,
        pages=as_count(photos.get("pages")),
        candidates=tuple(item for item in parsed if isinstance(item, Candidate)),
        skipped=tuple(item for item in parsed if not isinstance(item, Candidate)),
    )


def parse_ok(payload: object) -> dict[str, Any]:
    """Return an answer with `stat=ok`. Raises: FlickrFailure for `stat=fail`; BadAnswer for anything else."""
    if not isinstance(payload, dict):
        raise BadAnswer("Flickr's answer is not a JSON object")
    if payload.get("stat") == "fail":
        code = as_count(payload.get("code"))
        raise FlickrFailure(-1 if code is None else code, as_text(payload.get("message")))
    if payload.get("stat") != "ok":
        raise BadAnswer("Flickr's answer has no stat")
    return payload


def _parse_photo(photo: object) -> Candidate | Skipped:
    """A candidate, or why there is none; an item without an id is named by its content."""
    number = as_id(photo.get("id")) if isinstance(photo, dict) else ""
    if not isinstance(photo, dict) or not number:
        name = http_json.content_name(photo)
        return f"flickr:{name}", Reason.IMAGE_MISSING, "the answer gives this photo no id"
    sizes = tuple(size for size in (_size(photo, name) for name in SIZES) if size)
    if not sizes:
        return f"flickr:{number}", Reason.IMAGE_MISSING, "the answer gives no address for this photo"
    owner, license = as_text(photo.get("owner")), as_text(photo.get("license"))
    return Candidate(
        id=f"flickr:{number}",
        title=_content(photo.get("title")),
        description=_content(photo.get("description")),
        tags=tuple(as_text(photo.get("tags")).split()),
        sizes=sizes,
        page_url=as_url(f"https://www.flickr.com/photos/{owner}/{number}") if owner else "",
        license=LICENSES.get(license, f"Flickr licence {license}" if license else ""),
        owner=as_text(photo.get("ownername")) or owner,
        posted_at=_moment(photo.get("dateupload")),
    )


def _size(photo: dict[str, Any], name: str) -> Size | None:
    url = as_url(photo.get(f"url_{name}"))
    width, height = (as_count(photo.get(f"{side}_{name}")) or 0 for side in ("width", "height"))
    width, height = (side if side < 10**6 else 0 for side in (width, height))
    return Size(url, width, height, name) if url else None


def _content(value: object) -> str:
    """The text of `"…"` or `{"_content": "…"}`."""
    return as_text(value.get("_content") if isinstance(value, dict) else value)


def _moment(value: object) -> datetime | None:
    seconds = as_count(value)
    return datetime.fromtimestamp(seconds, UTC) if seconds and seconds <= _LAST_SECOND else None


class FlickrClient:
    """Makes one call at a time, without retries or waits.

    Args:
        settings: its endpoint, and what to search for.
        keys: of which the key travels in the body of a request, and is in no address, message or repr.
        timeout_s: seconds for one call, from its first byte to its last.
    """

    def __init__(self, settings: FlickrSettings, keys: Keys, *, timeout_s: float = 30.0) -> None:
        from flickrapi import FlickrAPI  # takes as long to import as all else that --help needs

        self._settings = settings
        _check(settings, keys)
        key = http_json.check_key(keys[KEY.name], KEY.name)
        self._transport = _Transport(key, _login(keys), timeout_s)
        # flickrapi gets no key: it would write it into its logs, and sign with a secret that we do not need.
        # "json" gives the bytes; "parsed-json" would fail on numbers of 5000 digits, which `http_json` reads.
        self._api = FlickrAPI("", "", format="json", store_token=False)
        self._api.REST_URL = settings.endpoint or ENDPOINT
        self._api.flickr_oauth = self._transport

    def __repr__(self) -> str:
        return f"FlickrClient({http_json.host_of(self._api.REST_URL)})"

    def search(self, query: Query, window: Window) -> SearchPage:
        """A page of the photos that match the query and were uploaded in the window.

        Raises: SourceFailure, see `sources/crawl/failures.py`.
        """
        payload = self._call(
            self._api.photos.search,
            text=query.text,
            min_upload_date=window.since,
            max_upload_date=window.until,
            page=window.page,
            per_page=MAX_PER_PAGE,
            license=self._settings.license or None,
            safe_search=SAFE[self._settings.safe],
            content_type=1,  # photos; no screenshots, no drawings
            content_types=0,  # the same, as Flickr's present clients say it
            media="photos",
            sort=SORTS[self._settings.sort],
            extras=EXTRAS,
        )
        try:
            return parse_search(payload, window.page)
        except FlickrFailure as failure:
            cause = self._cause(failure)
        raise cause  # outside, since a traceback also shows the failure in whose handler it was raised

    def is_public(self, photo_id: str) -> bool:
        """Whether everyone can still see the photo, which is named by its number or `flickr:NUMBER`.

        Raises: SourceFailure if Flickr does not say.
        """
        payload = self._call(self._api.photos.getInfo, photo_id=photo_id.removeprefix("flickr:"))
        try:
            photo = parse_ok(payload).get("photo")
        except FlickrFailure as failure:
            if failure.code in GONE:
                return False
            cause = self._cause(failure)
        else:
            if not isinstance(photo, dict):
                raise BadAnswer("Flickr's answer holds no photo")
            visibility = photo.get("visibility")
            return not (isinstance(visibility, dict) and as_count(visibility.get("ispublic")) == 0)
        raise cause

    def _call(self, method: Any, **parameters: Any) -> object:
        body = method(**parameters)
        return http_json.parse_json(body, what=self._transport.name, secrets=self._transport.secrets)

    def _cause(self, failure: FlickrFailure) -> SourceFailure:
        message = http_json.excerpt(failure.message, self._transport.secrets)
        if failure.code == BAD_KEY:
            return BadKey(f"Flickr does not accept the key: {message}", _NEW_KEY)
        if failure.code in BAD_LOGIN:
            names = ", ".join(key.name for key in LOGIN)
            return BadKey(f"Flickr does not accept the login: {message}", f"Renew or unset {names}")
        if failure.code in BAD_CALL:
            return BadAnswer(f"Flickr answers with code {failure.code}: {message}")
        if failure.code in PASSING:
            return RetryLater(None, f"Flickr answers with code {failure.code}: {message}")
        return RequestRefused(
            f"Flickr refuses the request with code {failure.code}: {message}",
            "Look the code up at https://www.flickr.com/services/api/flickr.photos.search.html",
        )


def _login(keys: Keys) -> tuple[SecretStr, ...]:
    """The secrets of LOGIN, in order; none if none is set. Raises: UsageError if only some are."""
    missing = [key.name for key in LOGIN if key.name not in keys]
    if len(missing) == len(LOGIN):
        return ()
    if missing:
        raise UsageError(f"A login needs {' and '.join(missing)}, too", "Set all three, or none")
    return tuple(http_json.check_key(keys[key.name], key.name) for key in LOGIN)


def _check(settings: FlickrSettings, keys: Keys) -> None:
    """Raise UsageError for settings that need a login, without one."""
    if settings.safe != "safe" and not _login(keys):
        raise UsageError(
            f"--safe {settings.safe}: calls without a login see safe photos only",
            f"Set {', '.join(key.name for key in LOGIN)}, or leave --safe out",
        )


class _Transport:
    """Transport for flickrapi's calls, which adds the key; with a login, it signs them (OAuth 1.0a).

    flickrapi's own `do_request` drops the headers, logs whole bodies, and restarts its timeout at each byte.
    """

    key = "…"  # what flickrapi's representation prints

    def __repr__(self) -> str:
        return f"_Transport({self.name})"

    def __init__(self, key: SecretStr, login: tuple[SecretStr, ...], timeout_s: float) -> None:
        from mvsent.sources.crawl.calls import Caller

        self._key, self._login, self._caller = key, login, Caller(timeout_s)
        self.name = "Flickr"

    @property
    def secrets(self) -> tuple[str, ...]:
        """Texts that no message may contain."""
        return tuple(each.get_secret_value() for each in (self._key, *self._login))

    def do_request(self, url: str, params: dict[str, Any], timeout: float | None = None) -> bytes:
        """Return the body of the answer. Raises: SourceFailure unless the status is 200."""
        self.name = f"Flickr ({http_json.host_of(url)})"
        given = {name: value for name, value in params.items() if value is not None}
        # POST, so that no address contains the key.
        if self._login:
            answer = self._caller.call(
                "POST", url, name=self.name, data=given, headers=self._signed(url, given)
            )
        else:
            form = {**given, "api_key": self._key.get_secret_value()}
            answer = self._caller.call("POST", url, name=self.name, data=form)
        status, name = answer.status, self.name
        if status == 429 or status >= 500:
            pause = retry_after(answer.headers, time.time())
            raise RetryLater(pause, f"{name} answers with HTTP {status}")
        if status == 401:
            raise BadKey(f"{name} does not accept the key (HTTP 401)", _NEW_KEY)
        if status == 403:
            raise AccessRevoked(
                f"{name} refuses access (HTTP 403)", "Ask Flickr about the key, then continue"
            )
        if status != 200:
            raise BadAnswer(f"{name} answers with HTTP {status}")
        return answer.body

    def _signed(self, url: str, form: dict[str, Any]) -> dict[str, str]:
        """The headers of a signed call."""
        from oauthlib.oauth1 import Client

        client = Client(*self.secrets)
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        text = {name: str(value) for name, value in form.items()}
        _, headers, _ = client.sign(url, "POST", text, kind)
        return {"Authorization": str(headers["Authorization"])}


def _lexicon(settings: FlickrSettings) -> list[Term]:
    return load_anps(Path(settings.anps) if settings.anps else None)


def _span(settings: FlickrSettings, now: datetime) -> tuple[int, int]:
    """The first and the last second of upload to search for. Raises: UsageError if there is none between."""
    first, last = settings.since or BEGAN, settings.until
    since = int(datetime.combine(first, day_time.min, UTC).timestamp())
    until = int((datetime.combine(last, day_time(23, 59, 59), UTC) if last else now).timestamp())
    if since > until:
        raise UsageError(f"--since {first} is after --until {last or 'now'}", "Swap them")
    return since, until


def _dump(settings: FlickrSettings, words: list[Term]) -> Dump | None:
    if not settings.dumps:
        if settings.match != FlickrSettings().match:
            raise UsageError("--match: is about metadata dumps", "Name them with --from, or leave it out")
        return None
    for name in ("safe", "sort"):
        if getattr(settings, name) != getattr(FlickrSettings(), name):
            raise UsageError(f"--{name}: is about searches of Flickr, not dumps", "Leave it, or --from, out")
    since, until = _span(settings, datetime.now(UTC))
    rules = DumpRules(
        queries=tuple(word.query for word in words),
        fields=settings.match,
        licenses=frozenset(license_numbers(settings.license)),
        since=since if settings.since else None,
        until=until if settings.until else None,
    )
    return open_dump(settings.dumps, rules)


SOURCE = SearchedSource(
    name="flickr",
    title="Flickr",
    about="""
It is written to data/flickr, by the paper's rules. Needs FLICKR_API_KEY; or, with --from, metadata dumps such
as YFCC100M. Takes hours, or days under a lower quota; --dry-run estimates them. Stop it at any time: the same
command continues. The default of --per-query, 500, is one call per query.

Example: mvsent build-flickr --per-query 100 --license cc-by,cc-by-sa,cc0 --dry-run""",
    settings=FlickrSettings,
    keys=(KEY, *LOGIN),
    paging=Paging(MAX_PER_PAGE, max_results=4000),  # past about 4000 results, pages repeat
    lexicon=_lexicon,
    columns={"found_in": "string", "size": "string"},
    span=_span,
    check=_check,
    search=lambda settings, keys: FlickrClient(settings, keys).search,
    dump=_dump,
    still_public=lambda settings, keys: FlickrClient(settings, keys).is_public,
    terms=Terms(
        """This product uses the Flickr API but is not endorsed or certified by SmugMug, Inc. Each
picture keeps its owner's licence, given in the column `license`; remove what its owner removes, as
`mvsent refresh` does. As others quote them in November 2026, Flickr's terms allow caching for up to 24 hours,
demand attribution, and restrict some uses for machine learning: read them yourself.""",
        "https://www.flickr.com/help/terms/api",
        cache_days=1,
    ),
)
