"""Routes of the stand-in: one function each, pure except for its counters."""

import json
import math
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.message import Message
from email.utils import formatdate
from typing import NamedTuple
from urllib.parse import urlsplit

from mvsent.limits import TokenBucket
from mvsent.pairs import Label
from mvsent.standin import damage
from mvsent.standin.faults import Chance, Faults
from mvsent.standin.world import (
    FIRST_UPLOAD,
    LAST_UPLOAD,
    Photo,
    World,
    draw_jpeg,
    flickr_photo,
    getty_image,
)

UNAVAILABLE = "/images/photo_unavailable.png"


class Request(NamedTuple):
    """A request that arrived: its path with parameters but without keys; its time in seconds since 1970."""

    method: str
    path: str
    time: float


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer to send.

    Attributes:
        length: the Content-Length to claim; None: the true one.
        pace_s: seconds between two bytes.
        endless: send zeros after the body until the client or the stand-in ends.
    """

    status: int
    body: bytes
    kind: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    length: int | None = None
    pace_s: float = 0.0
    endless: bool = False


@dataclass
class Stage:
    """The state that answers depend on."""

    world: World
    faults: Faults
    key: str
    secret: str
    address: str = ""
    elsewhere: str = ""
    removed: set[str] = field(default_factory=set)
    chance: Chance = field(default_factory=Chance)
    calls: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)
    host: TokenBucket | None = None

    def seconds_to_wait(self) -> float:
        """Seconds until the picture host gives the next picture; 0 if it gives it now."""
        faults = self.faults
        if not faults.image_burst:
            return 0.0
        with self.lock:
            if self.host is None:
                self.host = TokenBucket(faults.image_per_s, burst=faults.image_burst)
            return self.host.reserve_now()

    def count(self, call: str) -> int:
        """Count a call; return its number among calls of that name, from 1."""
        with self.lock:
            self.calls[call] += 1
            return self.calls[call]

    def fault(self, request: str, *kinds: str) -> str:
        """The fault that this attempt at `request` meets; "" if none."""
        return self.chance.fault(self.faults, request, *kinds)


def answer(
    stage: Stage, request: Request, path: str, given: Mapping[str, str], headers: Message
) -> Reply | None:
    """The answer to a request; None if the server stays silent."""
    if path == "/services/rest/":
        return _flickr(stage, request, given, headers)
    if path == "/oauth2/token":
        return _token(stage, given)
    if path.startswith("/v3/search/images/"):
        return _getty(stage, request, path.rsplit("/", 1)[-1], given, headers)
    if path.startswith("/images/"):
        return _image(stage, request, path)
    return Reply(404, b"not here", "text/plain")


def _flickr(stage: Stage, request: Request, given: Mapping[str, str], headers: Message) -> Reply | None:
    method = given.get("method", "")
    n_calls = stage.count(method)
    signed = f'oauth_consumer_key="{stage.key}"' in headers.get("Authorization", "")
    if given.get("api_key") != stage.key and not signed:
        return _fail(100, "Invalid API Key (Key has invalid format)")
    fault = stage.fault(request.path, "api_", "fail_")
    if fault.startswith("fail_"):
        return _fail(
            int(fault.removeprefix("fail_")), "Sorry, the Flickr API service is not currently available"
        )
    if _revoked(stage, n_calls):
        return Reply(403, b"<html>Forbidden</html>", "text/html")
    if method == "flickr.photos.search":
        reply = _flickr_search(stage, given, fault, signed=signed)
    elif method == "flickr.photos.getInfo":
        photo_id = given.get("photo_id", "")
        gone = photo_id in stage.removed or stage.fault(photo_id, "photo_gone")
        if gone or not photo_id.isdigit():
            reply = _fail(1, f'Photo "{photo_id}" not found (invalid ID)')
        else:
            reply = _json({"photo": {"id": photo_id, "visibility": {"ispublic": 1}}, "stat": "ok"})
    else:
        reply = _fail(112, f'Method "{method}" not found')
    return _damaged(stage, fault, request, reply)


def _flickr_search(stage: Stage, given: Mapping[str, str], fault: str, *, signed: bool) -> Reply:
    query = given.get("text", "")
    if not query:
        return _fail(
            3, "Parameterless searches have been disabled. Please use flickr.photos.getRecent instead."
        )
    page, per_page = max(1, _number(given, "page", 1)), min(500, max(1, _number(given, "per_page", 100)))
    since, until = (
        _number(given, "min_upload_date", FIRST_UPLOAD),
        _number(given, "max_upload_date", LAST_UPLOAD),
    )
    licenses = set(given["license"].split(",")) if given.get("license") else None
    results = stage.world.search_flickr(
        query,
        since,
        until,
        page=page,
        per_page=per_page,
        licenses=licenses,
        sort=given.get("sort", "date-posted-desc"),
        moderate=signed and _number(given, "safe_search", 1) > 1,  # without a login, whatever it asks for
        disorder_s=stage.faults.disorder_s,
    )
    total = _stated_total(stage, query, results.total, page)
    photos = {
        "page": page,
        "pages": results.pages,
        "perpage": per_page,
        # Flickr gives the total now as a number, now as text.
        "total": str(total) if (total + page) % 2 else total,
        "photo": [flickr_photo(photo, stage.address) for photo in _shown(results.photos, fault)],
    }
    return _json({"photos": photos, "stat": "ok"})


def _stated_total(stage: Stage, query: str, total: int, page: int) -> int:
    """The total as a page states it, which may be off."""
    off = stage.faults.total_off * (zlib.crc32(f"{query} {page}".encode()) % 201 - 100) / 100
    return max(0, round(total * (1 + off)))


def _shown(photos: Sequence[Photo], fault: str) -> Sequence[Photo]:
    """The photos of a page that a fault leaves on it."""
    if fault == "api_empty":
        return ()
    return [photo for photo in photos if photo.number % 10] if fault == "api_short" else photos


def _token(stage: Stage, given: Mapping[str, str]) -> Reply:
    n_calls = stage.count("getty.token")
    if (given.get("client_id"), given.get("client_secret")) != (stage.key, stage.secret):
        return _json({"error": "invalid_client"}, status=400)
    life: int | str = 1800 if n_calls % 2 else "1800"  # now a number, now text
    return _json({"access_token": f"token{n_calls}", "token_type": "Bearer", "expires_in": life})


def _getty(
    stage: Stage, request: Request, family: str, given: Mapping[str, str], headers: Message
) -> Reply | None:
    n_calls = stage.count("getty.search")
    fault = stage.fault(request.path, "api_", "getty_")
    if headers.get("Api-Key") != stage.key:
        return _refusal(stage, 403, "InvalidApiKey", "Account Inactive")
    if 0 < stage.faults.daily_limit < n_calls:
        return _over("Account Over Rate Limit")
    if _revoked(stage, n_calls):
        return _refusal(stage, 403, "NotAuthorized", "Not Authorized")
    if fault == "getty_per_second":
        return _over("Account Over Queries Per Second Limit")
    if fault == "getty_token" and "Authorization" in headers:
        return _refusal(stage, 401, "InvalidToken", "Invalid token")
    if stage.faults.getty_no_comp and "comp" in given.get("fields", "").split(","):
        return _refusal(stage, 403, "UnauthorizedDisplaySize", "Not authorized for display size: comp")
    page, page_size = _number(given, "page", 1), _number(given, "page_size", 30)
    late = 0 < stage.faults.getty_last_page < page
    if page < 1 or not 1 <= page_size <= 100 or not given.get("phrase") or late:
        message = "Invalid Request. Possible required parameter missing."
        return _refusal(stage, 400, "InvalidParameterValue", message)
    results = stage.world.search_getty(
        given["phrase"],
        family,
        page=page,
        page_size=page_size,
        newest=given.get("sort_order") == "newest",
        wide=stage.world.like_reality and given.get("enhanced_search", "true") != "false",
    )
    fields = set(given.get("fields", "comp,preview,thumb").split(","))
    images = [getty_image(photo, stage.address, fields) for photo in _shown(results.photos, fault)]
    total = _stated_total(stage, given["phrase"], results.total, page)
    return _damaged(stage, fault, request, _json({"result_count": total, "images": images}))


def _refusal(stage: Stage, status: int, code: str, message: str) -> Reply:
    """An error of Getty, in the older form or the newer one."""
    newer = stage.faults.getty_error_codes
    return _json(
        {"ErrorCode": code, "ErrorMessage": message} if newer else {"message": message}, status=status
    )


def _over(detail: str) -> Reply:
    return Reply(403, json.dumps({"message": detail}).encode(), headers={"X-Error-Detail": detail})


def _revoked(stage: Stage, n_calls: int) -> bool:
    return 0 < stage.faults.revoked_after < n_calls


def _image(stage: Stage, request: Request, path: str) -> Reply | None:
    stage.count("image")
    if path == UNAVAILABLE:
        return Reply(200, damage.placeholder(), "image/png")
    picture, _, hop = path.partition("/hop/")
    try:
        mood, seed, shape = picture.rsplit("/", 1)[-1].removesuffix(".jpg").split("-")
        width, height = (int(side) for side in shape.split("x"))
        data = draw_jpeg(Label.parse(mood), int(seed), width, height)
    except (ValueError, KeyError):
        return Reply(404, b"not here", "text/plain")
    if hop:
        left = int(hop) if hop.isdigit() else 0
        return _redirect(f"{picture}/hop/{left - 1}") if left > 1 else Reply(200, data, "image/jpeg")
    if stage.faults.image_refused_above and max(width, height) > stage.faults.image_refused_above:
        return Reply(403, b"<html>Forbidden</html>", "text/html")
    if (wait_s := stage.seconds_to_wait()) > 0:
        return _busy(str(math.ceil(wait_s)) if stage.faults.image_retry_after else None)
    fault = stage.fault(path, "image_")
    return _damaged(stage, fault, request, Reply(200, data, "image/jpeg"))


def _damaged(stage: Stage, fault: str, request: Request, reply: Reply) -> Reply | None:
    """The reply after `fault`; None if the server stays silent."""
    kind = fault.partition("_")[2]
    return DAMAGES[kind](stage, request, reply) if kind in DAMAGES else reply


def _redirect(where: str) -> Reply:
    return Reply(302, b"", "text/plain", headers={"Location": where})


def _busy(retry_after: str | None) -> Reply:
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return Reply(429, b"Too many requests", "text/plain", headers=headers)


def _fail(code: int, message: str) -> Reply:
    return _json({"stat": "fail", "code": code, "message": message})


def _json(document: object, status: int = 200) -> Reply:
    return Reply(status, json.dumps(document).encode())


def _number(given: Mapping[str, str], name: str, default: int) -> int:
    text = given.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else default


def _half(reply: Reply, length: int) -> Reply:
    return Reply(200, reply.body[: len(reply.body) // 2], reply.kind, length=length)


Damage = Callable[[Stage, Request, Reply], Reply | None]

DAMAGES: dict[str, Damage] = {
    "429": lambda stage, request, reply: _busy(None),
    "429_seconds": lambda stage, request, reply: _busy(str(stage.faults.retry_after_s)),
    "429_date": lambda stage, request, reply: _busy(
        formatdate(time.time() + stage.faults.retry_after_s, usegmt=True)
    ),
    "500": lambda stage, request, reply: Reply(500, b"<html>Oops</html>", "text/html"),
    "truncated": lambda stage, request, reply: _half(reply, len(reply.body)),
    "drip": lambda stage, request, reply: Reply(
        200, reply.body, reply.kind, length=len(reply.body), pace_s=stage.faults.drip_s
    ),
    "silent": lambda stage, request, reply: None,
    "html": lambda stage, request, reply: Reply(200, b"<!DOCTYPE html><html>Hello</html>", reply.kind),
    "jsonp": lambda stage, request, reply: Reply(200, b"jsonFlickrApi(" + reply.body + b")"),
    "redirect": lambda stage, request, reply: _redirect(stage.elsewhere + "/services/rest/"),
    "404": lambda stage, request, reply: Reply(404, b"gone", "text/plain"),
    "svg": lambda stage, request, reply: Reply(200, damage.SVG, "image/svg+xml"),
    "corrupt": lambda stage, request, reply: Reply(200, reply.body[: len(reply.body) // 2], reply.kind),
    "short_length": lambda stage, request, reply: Reply(
        200, reply.body, reply.kind, length=len(reply.body) // 2
    ),
    "endless": lambda stage, request, reply: Reply(
        200, reply.body, reply.kind, length=10 * 2**30, endless=True
    ),
    "bomb": lambda stage, request, reply: Reply(200, damage.bomb(), "image/png"),
    "noai": lambda stage, request, reply: Reply(
        200, reply.body, reply.kind, headers={"X-Robots-Tag": "noai, noimageai"}
    ),
    "unavailable": lambda stage, request, reply: _redirect(UNAVAILABLE),
    "chain": lambda stage, request, reply: _redirect(urlsplit(request.path).path + "/hop/3"),
    "loop": lambda stage, request, reply: _redirect(request.path),
    "private": lambda stage, request, reply: _redirect(f"{stage.elsewhere}{request.path}"),
}
