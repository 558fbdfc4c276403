"""One call of a web API and its answer: a deadline, a size limit, and JSON that is not trusted.

No key leaves this module: messages are redacted, and no library's exception is passed on.
"""

import hashlib
import json
import logging
import math
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote, quote_plus, urlsplit

from pydantic import SecretStr

from mvsent.errors import UsageError
from mvsent.sources.crawl.failures import BadAnswer, BadKey, RetryLater

MAX_ANSWER_BYTES = 50_000_000
"""Limit of a body, both as sent and after its Content-Encoding is undone."""

MAX_DIGITS = 18
"""Longer integers stay text: 18 digits fit 64 bits, which is what SQLite and Arrow hold."""

KEY = re.compile(r"[!-~]{1,512}")
QUOTED_CHARACTERS = 160
"""Limit of a server's words in a message."""

REDACTED = "[key]"
SHORTEST_SECRET = 8
"""Characters; a shorter one may be an ordinary word in the data."""

_CREDENTIALS = (
    re.compile(r"(?i)(\bauthorization[\"']?\s*(?:[:=]|%3A)\s*).+"),  # a header, to the end of its line
    re.compile(r"(?i)(\bbearer(?:\s|%20)+)[^\s\"'&,;]+"),
    re.compile(
        r"(?i)(\b(?:oauth_(?:signature|token|token_secret|consumer_key|nonce|verifier)|api[-_]?(?:key|sig)"
        r"|(?:access|auth|refresh)_?token|client_secret|password)[\"']?\s*(?:[:=]|%3[AD])\s*(?:[\"']|%22)?)"
        r"[^\s\"'&,;]+"
    ),
)
"""What a server may repeat of a request. A signature, say, is none of the secrets that are known."""

_TALKATIVE = (
    "flickrapi.core",
    "oauthlib",
    "oauthlib.oauth1.rfc5849",
    "httpx",
    "httpcore.connection",
    "httpcore.http11",
    "httpcore.proxy",
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A whole HTTP answer. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def check_key(key: SecretStr, name: str) -> SecretStr:
    """Strip a key. Raises: BadKey, without repeating it, if an HTTP header could not carry it."""
    stripped = key.get_secret_value().strip()
    if not KEY.fullmatch(stripped):
        raise BadKey(f"{name} is empty or holds characters that no key has", "Copy it again")
    return SecretStr(stripped)


def redact(text: str, secrets: Iterable[str]) -> str:
    """Replace every secret in `text`, whether plain or percent-encoded.

    >>> redact("GET /?api_key=a%2Fb failed for a/b", ["a/b"])
    'GET /?api_key=[key] failed for [key]'
    """
    for secret in secrets:
        for form in {secret, quote(secret, safe=""), quote_plus(secret)} - {""}:
            text = text.replace(form, REDACTED)
    return text


def excerpt(text: str, secrets: Iterable[str] = ()) -> str:
    """The start of a server's words as one line, without control characters and secrets.

    >>> excerpt("refused: oauth_signature=b%2Fc&p=1\\nAuthorization: OAuth a=1, b=2\\nBearer d.e.f expired")
    'refused: oauth_signature=[key]&p=1 Authorization: [key] Bearer [key] expired'
    """
    redacted = redact(text, secrets)
    for credential in _CREDENTIALS:
        redacted = credential.sub(rf"\1{REDACTED}", redacted)
    plain = "".join(c if c.isprintable() else " " for c in redacted)
    return " ".join(plain.split())[:QUOTED_CHARACTERS]


def host_of(endpoint: str) -> str:
    """Host and port of an address, the only part that a message may show.

    >>> host_of("https://user:secret@api.example.com:8080/rest/?key=1")
    'api.example.com:8080'
    """
    try:
        return urlsplit(endpoint).netloc.rpartition("@")[2] or "the endpoint"
    except ValueError:
        return "the endpoint"


def check_endpoint(endpoint: str, option: str = "--endpoint") -> tuple[str, int] | None:
    """The host and port of an address that `option` gives; None for an empty one.

    >>> check_endpoint("http://127.0.0.1:8000/services/rest/"), check_endpoint("")
    (('127.0.0.1', 8000), None)

    Raises: UsageError for an address that is not http or holds a password, without repeating it.
    """
    if not endpoint:
        return None
    try:
        parts = urlsplit(endpoint)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    except ValueError:
        raise UsageError(f"{option}: not an address", "Give one like https://HOST/PATH") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{option}: not an http address", "Give one like https://HOST/PATH")
    if "@" in parts.netloc or parts.query:
        raise UsageError(f"{option}: holds a name, a password or parameters", "Leave them out")
    return parts.hostname, port


def within(deadline_s: float, call: Callable[[float], T], *, what: str, give_up: Callable[[], object]) -> T:
    """Return `call(stop_at)`, where `stop_at` is the deadline on the clock `time.monotonic()`.

    The call runs in its own thread, which is abandoned at the deadline: a server that sends its headers byte
    by byte would otherwise hold up the crawl. `give_up` then makes the call fail, so that the thread ends.

    Raises: RetryLater at the deadline; whatever `call` raises.
    """
    results: list[T] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            results.append(call(time.monotonic() + deadline_s))
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work, name=f"asking {what}", daemon=True)
    thread.start()
    thread.join(deadline_s)
    if failures:
        raise failures[0]
    if not results:
        give_up()
        raise RetryLater(None, f"{what} did not answer within {deadline_s:g} seconds")
    return results[0]


def read_capped(chunks: Iterable[bytes], stop_at: float, *, what: str) -> bytes:
    """Join the bytes of a body. Raises: BadAnswer past MAX_ANSWER_BYTES; RetryLater past `stop_at`."""
    body = bytearray()  # chunks may be of one byte each
    for chunk in chunks:
        body += capped(chunk, what=what, n_before=len(body))
        if time.monotonic() > stop_at:
            raise RetryLater(None, f"{what} sends too slowly")
    return bytes(body)


def capped(data: bytes, *, what: str, n_before: int = 0) -> bytes:
    """Return `data`. Raises: BadAnswer if it passes MAX_ANSWER_BYTES with the `n_before` bytes before it."""
    if n_before + len(data) > MAX_ANSWER_BYTES:
        raise BadAnswer(f"{what} sent more than {MAX_ANSWER_BYTES} bytes")
    return data


def parse_json(body: bytes, *, what: str, secrets: Iterable[str] = ()) -> object:
    """Parse a JSON document, with integers of more than 18 digits as text and NaN as None.

    Answers are stored, and a server may repeat a key in its answer: every text is redacted of `secrets`.

    Raises: BadAnswer for anything else, which names HTML and JSONP.
    """
    try:
        text = body.decode("utf-8-sig")
        document = json.loads(text, parse_int=_integer_or_text, parse_constant=lambda _: None)
        return _without(document, [secret for secret in secrets if len(secret) >= SHORTEST_SECRET])
    except (ValueError, RecursionError):
        start = body.lstrip(b"\xef\xbb\xbf \t\r\n")[:64]
    # Below the handler: a traceback would also show the parser's exception, which holds the whole answer.
    if start[:1] == b"<":
        kind = "HTML"
    elif re.match(rb"[A-Za-z_$][\w$.]*\s*\(", start):
        kind = "JSONP"
    else:
        kind = "something that is not JSON, or a part of it," if start else "nothing"
    raise BadAnswer(f"{what} sent {kind} instead of JSON")


def _integer_or_text(digits: str) -> object:
    return int(digits) if len(digits) <= MAX_DIGITS else digits  # int() refuses 4300 digits


def _without(document: Any, secrets: Sequence[str]) -> Any:
    """Redact the texts of a document. Raises: RecursionError if it is nested too deeply."""
    if isinstance(document, str):
        return redact(document, secrets)
    if isinstance(document, list):
        return [_without(item, secrets) for item in document]
    if isinstance(document, dict):
        return {redact(name, secrets): _without(item, secrets) for name, item in document.items()}
    return document


def as_count(value: object) -> int | None:
    """Parse a whole number from 0 to 10^18, which may be text; None for anything else.

    >>> as_count("1,204"), as_count(7), as_count(7.0), as_count("many"), as_count(-1), as_count(True)
    (1204, 7, 7, None, None, None)
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value)
    if isinstance(value, str):
        digits = value.strip().replace(",", "")
        value = int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= MAX_DIGITS else None
    return value if isinstance(value, int) and 0 <= value < 10**MAX_DIGITS else None


def as_text(value: object) -> str:
    """Text, or a number's digits, without NULs and lone surrogates, which files refuse; "" for anything else.

    >>> as_text("a\\0b\\ud800"), as_text(12), as_text(None), as_text(["x"])
    ('ab\ufffd', '12', '', '')
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    text = str(value).replace("\0", "")
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def as_url(value: object) -> str:
    """An http or https address with a host and no blanks or control characters; "" for anything else.

    An address in which a key was redacted is useless, and so "".

    >>> as_url("https://live.example.com/1.jpg"), as_url("javascript:alert(1)"), as_url(None)
    ('https://live.example.com/1.jpg', '', '')
    """
    text = as_text(value).strip()
    if len(text) > 4096 or not text.isprintable() or " " in text or REDACTED in text:
        return ""
    try:
        parts = urlsplit(text)
    except ValueError:
        return ""
    return text if parts.scheme in ("http", "https") and parts.hostname else ""


def as_id(value: object) -> str:
    """An id of up to 64 ASCII letters and digits, or a number; "" for anything else.

    >>> as_id("49514337848"), as_id(7), as_id("../7"), as_id(None)
    ('49514337848', '7', '', '')
    """
    text = value if isinstance(value, str) else as_text(value)
    return text if text.isascii() and text.isalnum() and len(text) <= 64 else ""


def content_name(item: object) -> str:
    """A name for an item without an id, made of its content, so that it is the same on every page."""
    try:
        content = json.dumps(item, sort_keys=True)
    except (TypeError, ValueError, RecursionError):
        content = type(item).__name__
    return "without-id-" + hashlib.sha256(content.encode()).hexdigest()[:16]


def silence_libraries() -> None:
    """Keep the libraries' loggers from writing requests and answers, whatever level is set above them."""
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
