"""Flickr's `photos.search`: a pure parser, and a thin client through flickrapi.

    {"stat": "ok", "photos": {"page": 1, "pages": 5, "perpage": 500, "total": "2204", "photo": [
        {"id": "5123", "owner": "12@N00", "ownername": "someone", "title": "Pier at dawn", "tags": "sea pier",
         "description": {"_content": "Out <b>early</b>"}, "license": "4", "dateupload": "1581319011",
         "url_z": "https://live.staticflickr.com/1/5123_ab_z.jpg", "width_z": 640, "height_z": "427"}]}}

An error is HTTP 200 too: {"stat": "fail", "code": 100, "message": "Invalid API Key (Key has expired)"}.
"""

import time
from datetime import UTC, datetime
from typing import Any

from flickrapi import FlickrAPI
from pydantic import SecretStr

from mvsent.limits import retry_after
from mvsent.pairs import Reason
from mvsent.sources import answers
from mvsent.sources.answers import HttpAnswer, as_count, as_id, as_text, as_url
from mvsent.sources.calls import Caller
from mvsent.sources.candidate import Candidate, SearchPage, Size, Skipped
from mvsent.sources.failures import (
    AccessRevoked,
    BadAnswer,
    BadKey,
    RequestRefused,
    RetryLater,
    SourceFailure,
)

ENDPOINT = "https://api.flickr.com/services/rest/"
MAX_PER_PAGE = 500
SIZES = ("m", "n", "z", "c", "l", "o")
"""Longer sides of 500, 320, 640, 800 and 1024 pixels, and the original where its owner shows it."""

EXTRAS = "description,license,date_upload,owner_name,tags," + ",".join(f"url_{size}" for size in SIZES)
# Flickr added Creative Commons 4.0 in June 2025; their numbers are not documented, so they keep the number.
LICENSES = {
    "0": "All Rights Reserved",
    "1": "CC BY-NC-SA 2.0",
    "2": "CC BY-NC 2.0",
    "3": "CC BY-NC-ND 2.0",
    "4": "CC BY 2.0",
    "5": "CC BY-SA 2.0",
    "6": "CC BY-ND 2.0",
    "7": "No known copyright restrictions",
    "8": "United States Government Work",
    "9": "CC0 1.0",
    "10": "Public Domain Mark 1.0",
}
_NEW_KEY = "Put a valid one into FLICKR_API_KEY; the same command then continues"
_LAST_SECOND = 253_402_300_799  # of the year 9999: datetime knows no later one


class FlickrFailure(SourceFailure):
    """`stat=fail`: what Flickr says instead of an answer. The code is -1 where it names none."""

    def __init__(self, code: int, message: str) -> None:
        self.code, self.message = code, message
        super().__init__(f"Flickr answers with code {code}: {answers.excerpt(message)}")


def is_retryable(code: int) -> bool:
    """Whether a failure may pass: the service (0, 105), the search (10) or the whole site (201) is down."""
    return code in (0, 10, 105, 201)


def is_bad_key(code: int) -> bool:
    """Whether Flickr does not accept the key: unknown, expired or of the wrong form."""
    return code == 100


def is_gone(code: int) -> bool:
    """Whether `photos.getInfo` says that a photo was removed (1) or is not for us to see (2)."""
    return code in (1, 2)


def parse_search(payload: object, page: int = 1) -> SearchPage:
    """The page of an answer to `photos.search`; `page` is what was asked for, if the answer does not say.

    Raises: FlickrFailure for `stat=fail`; BadAnswer for what is no answer of Flickr's.
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
    """The answer, if it is one. Raises: FlickrFailure for `stat=fail`; BadAnswer for anything else."""
    if not isinstance(payload, dict):
        raise BadAnswer("Flickr's answer is not a JSON object")
    if payload.get("stat") == "fail":
        code = as_count(payload.get("code"))
        raise FlickrFailure(-1 if code is None else code, as_text(payload.get("message")))
    if payload.get("stat") != "ok":
        raise BadAnswer("Flickr's answer has no stat")
    return payload


def _parse_photo(photo: object) -> Candidate | Skipped:
    """A candidate, or why there is none; what has no id gets one of its content, the same on every page."""
    number = as_id(photo.get("id")) if isinstance(photo, dict) else ""
    if not isinstance(photo, dict) or not number:
        name = answers.content_name(photo)
        return f"flickr:{name}", Reason.IMAGE_MISSING, "the answer gives this photo no id"
    sizes = tuple(size for size in (_size(photo, name) for name in SIZES) if size)
    if not sizes:
        return f"flickr:{number}", Reason.IMAGE_MISSING, "the answer gives no address for this photo"
    return Candidate(
        id=f"flickr:{number}",
        title=_content(photo.get("title")),
        description=_content(photo.get("description")),
        tags=tuple(as_text(photo.get("tags")).split()),
        sizes=sizes,
        page_url=_page_url(as_text(photo.get("owner")), number),
        license=_license(photo.get("license")),
        owner=as_text(photo.get("ownername")) or as_text(photo.get("owner")),
        posted_at=_moment(photo.get("dateupload")),
    )


def _size(photo: dict[str, Any], name: str) -> Size | None:
    url = as_url(photo.get(f"url_{name}"))
    width, height = (_pixels(photo.get(f"{side}_{name}")) for side in ("width", "height"))
    return Size(url, width, height) if url else None


def _pixels(value: object) -> int:
    count = as_count(value)
    return count if count is not None and count < 10**6 else 0


def _content(value: object) -> str:
    """The text of `"…"` or `{"_content": "…"}`."""
    return as_text(value.get("_content") if isinstance(value, dict) else value)


def _page_url(owner: str, number: str) -> str:
    return as_url(f"https://www.flickr.com/photos/{owner}/{number}") if owner else ""


def _license(value: object) -> str:
    number = as_text(value)
    return LICENSES.get(number, f"Flickr licence {number}" if number else "")


def _moment(value: object) -> datetime | None:
    seconds = as_count(value)
    return datetime.fromtimestamp(seconds, UTC) if seconds and seconds <= _LAST_SECOND else None


def _is_public(payload: dict[str, Any]) -> bool:
    info = payload.get("photo")
    if not isinstance(info, dict):
        raise BadAnswer("Flickr's answer holds no photo")
    visibility = info.get("visibility")
    return not (isinstance(visibility, dict) and as_count(visibility.get("ispublic")) == 0)


class FlickrClient:
    """Asks Flickr, one call at a time and without retries; how long to wait is for the caller to decide.

    Args:
        key: the API key; it travels in the body of a request, and is in no address, message or repr.
        endpoint: the whole REST address; Flickr's own by default.
        timeout_s: seconds for one call, from its first byte to its last.
    """

    def __init__(self, key: str, *, endpoint: str | None = None, timeout_s: float = 30.0) -> None:
        transport = _Transport(SecretStr(answers.check_key(key, "Flickr API key")), timeout_s)
        # flickrapi gets no key: it would write it into its logs, and sign with a secret that we do not need.
        self._api = FlickrAPI("", "", format="json", store_token=False)
        self._api.REST_URL = endpoint or ENDPOINT
        self._api.flickr_oauth = transport
        self._transport = transport

    def __repr__(self) -> str:
        return f"FlickrClient({answers.host_of(self._api.REST_URL)})"

    def search(
        self,
        query: str,
        since: int,
        until: int,
        page: int,
        *,
        per_page: int = MAX_PER_PAGE,
        license: str | None = None,
        safe: int = 1,
    ) -> SearchPage:
        """A page of photos whose words match `query`, uploaded from `since` to `until` (seconds, inclusive).

        Args:
            license: Flickr's numbers, separated by commas; None for all.
            safe: 1 safe, 2 moderate, 3 restricted.

        Raises: SourceFailure, see `sources/failures.py`.
        """
        payload = self._call(
            self._api.photos.search,
            text=query,
            min_upload_date=since,
            max_upload_date=until,
            page=page,
            per_page=per_page,
            license=license or None,
            safe_search=safe,
            content_type=1,  # photos, no screenshots and no drawings
            media="photos",
            sort="date-posted-asc",  # new uploads come last and shift no page
            extras=EXTRAS,
        )
        try:
            return parse_search(payload, page)
        except FlickrFailure as failure:
            cause = self._cause(failure)
        raise cause

    def is_public(self, photo_id: str) -> bool:
        """Whether the photo can still be seen by everyone; `flickr:` before its number is left out.

        Raises: SourceFailure where Flickr does not say.
        """
        payload = self._call(self._api.photos.getInfo, photo_id=photo_id.removeprefix("flickr:"))
        try:
            return _is_public(parse_ok(payload))
        except FlickrFailure as failure:
            if is_gone(failure.code):
                return False
            cause = self._cause(failure)
        raise cause

    def _call(self, method: Any, **parameters: Any) -> object:
        body = method(**parameters)
        return answers.parse_json(body, what=self._transport.name, secrets=self._transport.secrets)

    def _cause(self, failure: FlickrFailure) -> SourceFailure:
        """The cause behind Flickr's code."""
        message = answers.excerpt(failure.message, self._transport.secrets)
        if is_bad_key(failure.code):
            return BadKey(
                f"Flickr does not accept the key: {message}",
                _NEW_KEY,
            )
        if is_retryable(failure.code):
            return RetryLater(None, f"Flickr answers with code {failure.code}: {message}")
        return RequestRefused(f"Flickr refuses the request with code {failure.code}: {message}")


class _Transport:
    """What flickrapi sends its calls through: the key goes along unsigned, and nothing of the answer is lost.

    flickrapi's own `do_request` drops the headers, logs whole bodies, and waits for each byte anew.
    """

    key = "…"  # what flickrapi's representation prints

    def __init__(self, key: SecretStr, timeout_s: float) -> None:
        self._key, self._caller = key, Caller(timeout_s)
        self.name = "Flickr"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no message may hold."""
        return (self._key.get_secret_value(),)

    def do_request(self, url: str, params: dict[str, Any], timeout: float | None = None) -> bytes:
        """The body of Flickr's answer. Raises: SourceFailure unless the status is 200."""
        self.name = f"Flickr ({answers.host_of(url)})"
        given = {name: value for name, value in params.items() if value is not None}
        form = {**given, "api_key": self._key.get_secret_value()}
        answer = self._caller.call("POST", url, name=self.name, data=form)
        if answer.status != 200:
            raise _status_failure(answer, self.name, time.time())
        return answer.body


def _status_failure(answer: HttpAnswer, name: str, now: float) -> SourceFailure:
    """The cause behind a status that is not 200."""
    if answer.status == 429 or answer.status >= 500:
        return RetryLater(retry_after(answer.headers, now), f"{name} answers with HTTP {answer.status}")
    if answer.status == 401:
        return BadKey(
            f"{name} does not accept the key (HTTP 401)",
            _NEW_KEY,
        )
    if answer.status == 403:
        return AccessRevoked(f"{name} refuses access (HTTP 403)", "Ask Flickr about the key, then continue")
    return BadAnswer(f"{name} answers with HTTP {answer.status}")
