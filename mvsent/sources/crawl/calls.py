"""Calls of a web API over HTTP, within a deadline and a size limit; redirects are not followed."""

import socket
import threading
from contextlib import suppress
from typing import Any

import httpx

from mvsent import __version__
from mvsent.encoding import EncodingError, decoded
from mvsent.sources.crawl import http_json
from mvsent.sources.crawl.failures import BadAnswer, RetryLater
from mvsent.sources.crawl.http_json import HttpAnswer


class Caller:
    """Makes one call at a time, without retries.

    Args:
        timeout_s: seconds for one call, from its first byte to its last.
    """

    def __init__(self, timeout_s: float) -> None:
        http_json.silence_libraries()
        self._timeout_s = timeout_s
        self._http = httpx.Client(
            timeout=timeout_s,
            follow_redirects=False,  # a key goes to no other host
            headers={"User-Agent": f"mvsent/{__version__}", "Accept-Encoding": "gzip"},
        )
        self._sockets: list[socket.socket] = []

    def call(self, method: str, url: str, *, name: str, **given: Any) -> HttpAnswer:
        """Return the answer, whatever its status; `name` is the server's name in messages.

        Raises: RetryLater if none came in time; BadAnswer if it is too long or cannot be decoded.
        """
        over = threading.Event()

        def hang_up() -> None:
            """Make the abandoned thread end: its next read fails."""
            over.set()
            for one in self._sockets:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

        return http_json.within(
            self._timeout_s,
            lambda stop_at: self._send(method, url, name, stop_at, over, **given),
            what=name,
            give_up=hang_up,
        )

    def _send(
        self, method: str, url: str, name: str, stop_at: float, over: threading.Event, **given: Any
    ) -> HttpAnswer:
        """Make the request, in a thread that may be abandoned."""

        def watch(event: str, info: dict[str, Any]) -> None:
            """Remember the socket of every new connection, and open none for a call that is over."""
            stream = info.get("return_value")
            if event.endswith(("connect_tcp.complete", "start_tls.complete")) and stream is not None:
                still_open = [one for one in self._sockets if one.fileno() >= 0]
                self._sockets = [*still_open, stream.get_extra_info("socket")]
                if over.is_set():
                    raise RetryLater(None, f"{name} took too long to connect")

        try:
            with self._http.stream(method, url, extensions={"trace": watch}, **given) as response:
                headers = {key.lower(): value for key, value in response.headers.items()}
                # Raw: httpx decodes what it reads without a bound, layer upon layer.
                body = http_json.read_capped(response.iter_raw(), stop_at, what=name)
                return HttpAnswer(response.status_code, headers, _plain(body, headers, name))
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            problem = type(error).__name__  # its text may hold the address, its request the key
        # Outside the handler: a traceback would also show the exception that is handled.
        raise RetryLater(None, f"{name} cannot be reached ({problem})")


def _plain(body: bytes, headers: dict[str, str], name: str) -> bytes:
    encoding = headers.get("content-encoding", "").strip().lower()
    try:
        return http_json.capped(decoded(body, encoding, http_json.MAX_ANSWER_BYTES), what=name)
    except EncodingError as error:
        raise BadAnswer(f"{name} sent a body that cannot be read: {http_json.excerpt(str(error))}") from None
