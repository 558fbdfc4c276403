"""Getty Images: its settings, a pure parser of the search (API v3), a thin client, and the source.

{"result_count": 204, "images": [
    {"id": "9183", "title": "A pier at dawn", "caption": null, "artist": "someone",
     "date_created": "2019-09-20T00:00:00-07:00", "license_model": "royaltyfree",
     "max_dimensions": {"height": 3682, "width": 4800}, "display_sizes": [
         {"is_watermarked": false, "name": "comp", "uri": "https://media.example.com/9183.jpg?s=612x612"}],
     "referral_destinations": [{"site_name": "gettyimages", "uri": "https://www.example.com/9183"}]}]}
"""

# Longer than other files, as a source is one file.

import logging
import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import SecretStr

from mvsent.config import DATA, MACHINE, PICTURES, BuildSettings, lexicon, per_query
from mvsent.lexicons import Term, load_keywords
from mvsent.limits import retry_after
from mvsent.reasons import Reason
from mvsent.setting import setting
from mvsent.sources.crawl import http_json
from mvsent.sources.crawl.candidate import Candidate, Query, SearchPage, Size, Skipped, Window
from mvsent.sources.crawl.failures import (
    AccessRevoked,
    BadAnswer,
    BadKey,
    DailyLimit,
    RequestRefused,
    RetryLater,
    SourceFailure,
)
from mvsent.sources.crawl.http_json import HttpAnswer, as_count, as_id, as_text, as_url
from mvsent.sources.registry import Key, Keys, Paging, SearchedSource, Terms

log = logging.getLogger("mvsent")

ENDPOINT = "https://api.gettyimages.com/v3"
TOKEN_URL = "https://authentication.gettyimages.com/oauth2/token"  # noqa: S105
KEY = Key(
    "GETTY_API_KEY",
    "https://developer.gettyimages.com/",
    note="Getty gives keys to its customers. Without one: mvsent build-table for pictures that you have",
)
SECRET = Key("GETTY_API_SECRET", KEY.url, is_optional=True)
_NEW_KEY = "Put a valid one into GETTY_API_KEY; the same command then continues"
MAX_PAGE_SIZE = 100  # Getty's limit
FIELDS = "id,title,caption,artist,license_model,date_created,max_dimensions,referral_destinations"
DISPLAY_SIZES = ("comp", "preview", "thumb")
"""Sizes that are asked for; a key may not be allowed all of them."""

SORTS = {"best": "best_match", "newest": "newest"}
SIDES = {"thumb": 170, "preview": 412, "comp": 612, "mid_res_comp": 1024, "high_res_comp": 2048}
"""Longer sides in pixels of the sizes that Getty names; an address with `s=612x612` says it itself."""

TOKEN_LIFE_S = 1800.0  # unless the answer states another
TOKEN_MARGIN_S = 60.0
_SIDE_IN_ADDRESS = re.compile(r"[?&]s=(\d{2,5})x(\d{2,5})(?:&|$)")


class GettySettings(BuildSettings):
    """The settings of `build-getty`."""

    keywords: str = lexicon(unset="the 101 keywords")
    per_query: int = per_query(10_000)
    family: Literal["creative", "editorial"] = setting("creative", DATA, "Getty's family of pictures.")
    sort: Literal["best", "newest"] = setting("best", DATA, "Order in which Getty lists pictures.")
    watermarked: Literal["keep", "drop"] = setting(
        "keep", PICTURES, "Keep or drop pictures that have a watermark in every size."
    )
    endpoint: str = setting(
        "",
        MACHINE,
        "Another base address, …/v3.",
        unset="Getty's",
        changes_result=False,
        variable="MVSENT_GETTY_ENDPOINT",
    )
    token_url: str = setting(
        "",
        MACHINE,
        "Address that hands out tokens.",
        unset="Getty's",
        changes_result=False,
        variable="MVSENT_GETTY_TOKEN_URL",
    )

    @property
    def drops_watermarked(self) -> bool:
        """See BuildSettings."""
        return self.watermarked == "drop"


def parse_search(payload: object, page: int = 1) -> SearchPage:
    """Parse an answer to `search/images`; the answer does not say which page it is.

    Raises: BadAnswer for anything but a search answer.
    """
    images = payload.get("images") if isinstance(payload, dict) else None
    if not isinstance(payload, dict) or not isinstance(images, list):
        raise BadAnswer("Getty's answer holds no list of images")
    total = as_count(payload.get("result_count"))
    parsed = [_parse_image(image) for image in images]
    return SearchPage(
        total=total,
        page=page,
        pages=None if total is None else -(-total // MAX_PAGE_SIZE),
        candidates=tuple(item for item in parsed if isinstance(item, Candidate)),
        skipped=tuple(item for item in parsed if not isinstance(item, Candidate)),
    )


def _parse_image(image: object) -> Candidate | Skipped:
    """A candidate, or why there is none; an item without an id is named by its content."""
    number = as_id(image.get("id")) if isinstance(image, dict) else ""
    if not isinstance(image, dict) or not number:
        name = http_json.content_name(image)
        return f"getty:{name}", Reason.IMAGE_MISSING, "the answer gives this image no id"
    sizes = _sizes(image)
    if not sizes:
        return f"getty:{number}", Reason.IMAGE_MISSING, "the answer gives no address for this image"
    listed = image.get("referral_destinations")
    places = [place for place in listed if isinstance(place, dict)] if isinstance(listed, list) else []
    own = [place for place in places if place.get("site_name") == "gettyimages"]
    urls = [as_url(place.get("uri")) for place in own + places]
    return Candidate(
        id=f"getty:{number}",
        title=as_text(image.get("title")),
        description=as_text(image.get("caption")),
        tags=(),
        sizes=sizes,
        page_url=next((url for url in urls if url), f"https://www.gettyimages.com/detail/{number}"),
        license=as_text(image.get("license_model")),
        owner=as_text(image.get("artist")),
        posted_at=_moment(image.get("date_created")),
    )


def _sizes(image: dict[str, Any]) -> tuple[Size, ...]:
    """The JPEGs on offer; each has a WebP twin (`comp_webp`, …) that shows the same."""
    listed = image.get("display_sizes")
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    shape = image.get("max_dimensions")
    full = (
        (as_count(shape.get("width")), as_count(shape.get("height"))) if isinstance(shape, dict) else (0, 0)
    )
    sizes = []
    for entry in entries:
        name, url = as_text(entry.get("name")), as_url(entry.get("uri"))
        if url and not name.endswith("_webp"):
            width, height = _scaled(_side(name, url), full[0] or 0, full[1] or 0)
            marked = entry.get("is_watermarked")
            sizes.append(Size(url, width, height, name, marked if isinstance(marked, bool) else None))
    return tuple(sizes)


def _side(name: str, url: str) -> int:
    found = _SIDE_IN_ADDRESS.search(url)
    return max(int(found[1]), int(found[2])) if found else SIDES.get(name, 0)


def _scaled(side: int, width: int, height: int) -> tuple[int, int]:
    """Width and height with the longer side `side` and the proportions of width × height, if these are known.

    >>> _scaled(612, 4800, 3682), _scaled(612, 0, 0)
    ((612, 469), (612, 612))
    """
    if not (side and width and height):
        return side, side
    longer = max(width, height)
    return max(1, round(side * width / longer)), max(1, round(side * height / longer))


def _moment(value: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(as_text(value))
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def parse_token(payload: object) -> tuple[str, float]:
    """Parse an access token and its life in seconds; `expires_in` may be a number, text, or missing.

    >>> parse_token({"access_token": "abc", "expires_in": "1800"})
    ('abc', 1800.0)

    Raises: BadAnswer if there is no token.
    """
    token = as_text(payload.get("access_token")) if isinstance(payload, dict) else ""
    if not isinstance(payload, dict) or not http_json.KEY.fullmatch(token):
        raise BadAnswer(
            "Getty's answer holds no access token", "Check the address of the token, then run again"
        )
    life = as_count(payload.get("expires_in"))
    return token, TOKEN_LIFE_S if life is None else float(life)


def parse_failure(answer: HttpAnswer, now: float, secrets: Sequence[str] = ()) -> SourceFailure:
    """The cause behind a status that is not 200, in words without `secrets`; `now` is in seconds since 1970.

    403, X-Error-Detail: Account Over Queries Per Second Limit   → RetryLater
    403, X-Error-Detail: Account Over Rate Limit                 → DailyLimit
    403, {"message": "Account Inactive"}                         → BadKey
    403, {"ErrorCode": "UnauthorizedDisplaySize", …}             → RefusedSize
    """
    code, message = _error(answer.body)
    said = http_json.excerpt(message or answer.headers.get("x-error-detail", "") or code, secrets)
    detail = answer.headers.get("x-error-detail", "")
    status, lower, wait_s = (
        answer.status,
        f"{code} {detail} {message}".lower(),
        retry_after(answer.headers, now),
    )
    failure: SourceFailure
    if "unauthorizeddisplaysize" in lower:
        return RefusedSize(f"Getty refuses a display size to this key: {said}", "Ask Getty about the key")
    if status in (403, 429) and "over rate limit" in lower:
        failure = DailyLimit(f"Getty's quota for the day is used up: {said}", wait_s)
    elif status == 429 or status >= 500 or (status == 403 and "per second" in lower):
        failure = RetryLater(wait_s, f"Getty answers with HTTP {status}: {said}")
    elif status in (401, 403) and any(sign in lower for sign in _BAD_KEY):
        failure = BadKey(f"Getty does not accept the key: {said}", _NEW_KEY)
    elif status in (401, 403):
        next_step = "Ask Getty about the key, then run the same command"
        failure = AccessRevoked(f"Getty refuses access (HTTP {status}): {said}", next_step)
    elif status == 400:
        failure = RequestRefused(f"Getty refuses the request: {said}")
    else:
        failure = BadAnswer(f"Getty answers with HTTP {status}: {said}")
    return failure


_BAD_KEY = ("inactive", "invalidapikey", "invalid api key", "missing api key", "unknown api key")
"""In lower case, what Getty says about a key that it does not know."""


def _error(body: bytes) -> tuple[str, str]:
    """The code and the message of an error, in either of the forms that Getty sends."""
    try:
        payload = http_json.parse_json(body[: 2**16], what="Getty")
    except BadAnswer:
        return "", ""
    if not isinstance(payload, dict):
        return "", ""
    return as_text(payload.get("ErrorCode")), as_text(payload.get("ErrorMessage") or payload.get("message"))


class RefusedSize(SourceFailure):
    """The key may not have one of the display sizes that were asked for."""


class GettyClient:
    """Makes one call at a time, without retries or waits.

    Args:
        settings: its addresses, and the family to search in.
        keys: which travel in headers, and are in no address, message or repr. With the secret, searches carry
            a token, which is fetched when needed.
        timeout_s: seconds for one call, from its first byte to its last.
        clock: a monotonic clock in seconds, by which tokens expire.

    Raises: BadKey; UsageError for a bad address of the token.
    """

    def __init__(
        self,
        settings: GettySettings,
        keys: Keys,
        *,
        timeout_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        from mvsent.sources.crawl.calls import (
            Caller,  # httpx takes as long to import as all else that --help needs
        )

        http_json.check_endpoint(settings.token_url, "--token-url")
        self._key = http_json.check_key(keys[KEY.name], KEY.name)
        self._secret = http_json.check_key(keys[SECRET.name], SECRET.name) if SECRET.name in keys else None
        self._endpoint = (settings.endpoint or ENDPOINT).rstrip("/")
        self._token_url = settings.token_url or TOKEN_URL
        self._family, self._sort = settings.family, settings.sort
        self._display_sizes: tuple[str, ...] = DISPLAY_SIZES
        self._clock = clock
        self._token, self._token_ends = SecretStr(""), 0.0
        self._caller = Caller(timeout_s)

    def __repr__(self) -> str:
        return f"GettyClient({http_json.host_of(self._endpoint)})"

    def search(self, query: Query, window: Window) -> SearchPage:
        """A page of the images that match the query; one after the first may be refused (400).

        Raises: RetryLater after a refusal of a display size, which is then no longer asked for;
            SourceFailure, see `sources/crawl/failures.py`.
        """
        url = f"{self._endpoint}/search/images/{self._family}"
        parameters: dict[str, str | int] = {
            "phrase": query.text,
            "page": window.page,  # all there is to a window, as Getty cannot search by upload date
            "page_size": MAX_PAGE_SIZE,
            "fields": ",".join((FIELDS, *self._display_sizes)),
            "sort_order": SORTS[self._sort],
            "graphical_styles": "photography",  # no drawings
        }
        if self._family == "creative":  # Getty's OpenAPI description lists it for this family alone
            parameters["enhanced_search"] = "false"  # else results for words of its own are added
        answer = self._get(url, parameters)
        if answer.status != 200:
            failure = parse_failure(answer, time.time(), self._secrets())
            if answer.status == 400 and window.page > 1:  # the last page is not documented
                return SearchPage(None, window.page, None, (), (), refusal=failure.what)
            if isinstance(failure, RefusedSize) and len(self._display_sizes) > 1:
                words, sizes = re.findall(r"\w+", failure.what), self._display_sizes
                refused = next((name for name in sizes if name in words), sizes[0])
                log.warning("%s. Pictures are fetched in other sizes than %s", failure.what, refused)
                self._display_sizes = tuple(name for name in self._display_sizes if name != refused)
                raise RetryLater(0.0, failure.what)
            raise failure
        payload = http_json.parse_json(
            answer.body, what=f"Getty ({http_json.host_of(url)})", secrets=self._secrets()
        )
        return parse_search(payload, window.page)

    def _get(self, url: str, parameters: dict[str, str | int]) -> HttpAnswer:
        """Ask for a search; a token that Getty no longer knows (401) is renewed once."""
        answer = self._ask("GET", url, params=parameters, headers=self._headers())
        if answer.status == 401 and self._secret:
            self._token_ends = 0.0
            answer = self._ask("GET", url, params=parameters, headers=self._headers())
        return answer

    def _headers(self) -> dict[str, str]:
        headers = {"Api-Key": self._key.get_secret_value()}
        if self._secret:
            if self._clock() >= self._token_ends:
                self._renew_token()
            headers["Authorization"] = f"Bearer {self._token.get_secret_value()}"
        return headers

    def _renew_token(self) -> None:
        assert self._secret is not None
        form = {
            "grant_type": "client_credentials",
            "client_id": self._key.get_secret_value(),
            "client_secret": self._secret.get_secret_value(),
        }
        answer = self._ask("POST", self._token_url, data=form)
        if answer.status in (400, 401):
            raise BadKey(
                "Getty does not accept the key with its secret", "Check GETTY_API_KEY and GETTY_API_SECRET"
            )
        if answer.status != 200:
            raise parse_failure(answer, time.time(), self._secrets())
        token, life_s = parse_token(http_json.parse_json(answer.body, what="Getty's token address"))
        self._token = SecretStr(token)
        self._token_ends = self._clock() + max(life_s - TOKEN_MARGIN_S, life_s / 2)  # half of a short life

    def _ask(self, method: str, url: str, **given: Any) -> HttpAnswer:
        return self._caller.call(method, url, name=f"Getty ({http_json.host_of(url)})", **given)

    def _secrets(self) -> list[str]:
        return [value.get_secret_value() for value in (self._key, self._secret, self._token) if value]


def _lexicon(settings: GettySettings) -> list[Term]:
    return load_keywords(Path(settings.keywords) if settings.keywords else None)


SOURCE = SearchedSource(
    name="getty",
    title="Getty",
    about="""
It is written to data/getty, by the paper's rules. Needs GETTY_API_KEY; uses GETTY_API_SECRET if it is set.
Getty's licence restricts machine-learning use: read your agreement first. Stop it at any time: the
same command continues. The default of --per-query, 10000, is a hundred calls per query.

Example: mvsent build-getty --family editorial --per-query 200 --dry-run""",
    settings=GettySettings,
    keys=(KEY, SECRET),
    paging=Paging(MAX_PAGE_SIZE),
    lexicon=_lexicon,
    columns={"size": "string", "watermarked": "bool"},
    search=lambda settings, keys: GettyClient(settings, keys).search,
    terms=Terms(
        """Pictures and captions belong to Getty Images and its contributors. Its licence restricts
machine-learning use: read your agreement before you train on them, and do not pass them on. Pictures may
carry a watermark. Unless a lexicon was given, the keywords are not the paper's but a reconstruction.""",
        "https://www.gettyimages.com/eula",
    ),
)
