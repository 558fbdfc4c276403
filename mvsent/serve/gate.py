"""Limits in front of the application: permitted callers, sizes, concurrency and time."""

import asyncio
import ipaddress
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

log = logging.getLogger("mvsent")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
T = TypeVar("T")

RETRY_AFTER = 2  # seconds
FAILED = "the server failed; its log says why"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Limits:
    """Limits of one request, of one connection, and of all together.

    Attributes:
        body: bytes of a request, picture and text together.
        text: characters of a text.
        pixels: pixels of a picture. A file of a few hundred kilobytes can hold 100 million, which take 4 GB
            and more than `seconds` to decode.
        head_seconds: time from the opening of a connection, or its last answer, to a complete request head.
        body_seconds: time from then to a complete body.
        seconds: time from then to the answer.
        under_way: requests with complete bodies that wait or are being answered; more are refused.
        bodies: bytes of all requests that are being read, wait or are being answered; more are refused.
        connections: open connections; see `Connection`.
    """

    body: int = 16 * 2**20
    text: int = 10_000
    pixels: int = 25_000_000
    head_seconds: float = 10
    body_seconds: float = 15
    seconds: float = 30
    under_way: int = 16
    bodies: int = 128 * 2**20
    connections: int = 256

    @property
    def longest_seconds(self) -> float:
        """Seconds from a request's head until its answer is read; `head_seconds` allow for a slow reader."""
        return self.body_seconds + self.seconds + self.head_seconds


class Refused(Exception):
    """A request refused before it reaches the application."""

    def __init__(self, status: int, error: str, **headers: str) -> None:
        super().__init__(error)
        self.status, self.error, self.headers = status, error, headers


def too_many() -> Refused:
    """The refusal of a request that may be repeated later."""
    return Refused(503, "too many requests at once; try again", **{"Retry-After": str(RETRY_AFTER)})


class Gate:
    """The application `inner` behind its limits, with `_HEADERS` on every answer.

    Args:
        names: host names that requests may use; see `is_allowed_host`.
    """

    def __init__(self, inner: Application, names: Iterable[str], limits: Limits) -> None:
        self.inner, self.names, self.limits = inner, frozenset(names), limits
        self.under_way = 0  # requests
        self.held = 0  # bytes

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request. Every refusal is JSON, `{"error": "one line"}`."""
        if scope["type"] != "http":
            return
        answer = _Answer(send)
        if scope["method"] == "HEAD":  # the server leaves the body out
            scope = {**scope, "method": "GET"}
        try:
            check_caller(scope["headers"], self.names)
            if scope["method"] == "POST":
                await self._read_and_answer(scope, receive, answer)
            else:
                await self.inner(scope, receive, answer)
        except Refused as refusal:
            await answer.refuse(refusal)
        except asyncio.CancelledError:  # the server ends, and its time for open requests is over
            await answer.refuse(Refused(503, "the server is ending"))
            raise
        except Exception:
            log.exception("a request failed")
            await answer.refuse(Refused(500, FAILED))

    async def _read_and_answer(self, scope: Message, receive: Receive, answer: "_Answer") -> None:
        body = bytearray()
        try:
            await in_time(
                self._read(scope["headers"], receive, body), self.limits.body_seconds,
                Refused(408, f"the request did not arrive within {self.limits.body_seconds:g} s"),
            )  # fmt: skip
            await self._take_turn(scope, _replayed(bytes(body), receive), answer)
        finally:
            self.held -= len(body)

    async def _read(self, headers: Headers, receive: Receive, body: bytearray) -> None:
        """Read the request's body into `body`. Raises: Refused as soon as it is too large."""
        too_large = Refused(413, f"the request is larger than {self.limits.body:,} bytes")
        said = _only(headers, b"content-length")
        # isdigit also accepts "²"; int refuses more than 4300 digits.
        if said.isascii() and said.isdigit() and int(said[:20]) > self.limits.body:
            raise too_large
        is_more = True
        while is_more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Refused(400, "the request broke off")
            part, is_more = message.get("body", b""), message.get("more_body", False)
            if len(body) + len(part) > self.limits.body:
                raise too_large
            if self.held + len(part) > self.limits.bodies:
                raise too_many()
            self.held += len(part)
            body += part

    async def _take_turn(self, scope: Message, receive: Receive, answer: "_Answer") -> None:
        if self.under_way >= self.limits.under_way:
            raise too_many()
        self.under_way += 1
        try:
            await in_time(
                self.inner(scope, receive, answer), self.limits.seconds,
                Refused(504, f"no answer within {self.limits.seconds:g} s"),
            )  # fmt: skip
        finally:
            self.under_way -= 1


class _Answer:
    """Forwards the application's messages with our headers, and records whether an answer has begun."""

    def __init__(self, send: Send) -> None:
        self.send, self.begun = send, False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            ours = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
            message = {**message, "headers": [*message.get("headers", []), *ours]}
        await self.send(message)

    async def refuse(self, refusal: Refused) -> None:
        """Send the refusal, unless an answer is under way, which then just ends."""
        if self.begun:
            return
        body = json.dumps({"error": refusal.error}).encode()
        headers = {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **refusal.headers,
        }
        pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self({"type": "http.response.start", "status": refusal.status, "headers": pairs})
        await self({"type": "http.response.body", "body": body})


def check_caller(headers: Headers, names: frozenset[str]) -> None:
    """Raises: Refused if the request names another host, or was sent by a page of another site."""
    host = _only(headers, b"host")
    if not is_allowed_host(host, names):
        raise Refused(400, "the Host header names another server")
    origins = [value.decode("latin-1") for key, value in headers if key == b"origin"]
    if origins and [origin.partition("://")[2].lower() for origin in origins] != [host.lower()]:
        raise Refused(403, "a page of another site may not ask")


def is_allowed_host(host: str, names: frozenset[str]) -> bool:
    """Whether the Host header is one of `names` or, if these contain `*`, an IP address.

    In a DNS rebinding attack a hostile page reaches this server under its own name, never by address.

    >>> [is_allowed_host(h, frozenset({"localhost"})) for h in ("localhost:80", "evil.example", "10.0.0.1")]
    [True, False, False]
    >>> [is_allowed_host(h, frozenset({"*"})) for h in ("10.0.0.1:80", "[fe80::1]:80", "evil.example", "")]
    [True, True, False, False]
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name in names:
            return True
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return "*" in names


async def in_time(awaited: Awaitable[T], seconds: float, late: Refused) -> T:
    """Await `awaited`; after `seconds` cancel it and raise `late`."""
    try:
        async with asyncio.timeout(seconds):
            return await awaited
    except TimeoutError:
        raise late from None


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that yields the body in one message, then the messages that follow."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


def _only(headers: Headers, name: bytes) -> str:
    """The header's value; empty if it is absent or occurs twice."""
    values = [value for key, value in headers if key == name]
    return values[0].decode("latin-1") if len(values) == 1 else ""
