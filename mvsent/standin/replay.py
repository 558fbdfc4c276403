"""A local stand-in for Flickr's REST API, Getty's search and the hosts of their pictures, over real sockets.

    POST /services/rest/               photos.search, photos.getInfo; errors with HTTP 200
    POST /oauth2/token                 Getty's tokens
    GET  /v3/search/images/FAMILY      creative, editorial
    GET  /images/NUMBER/MOOD-SEED-WxH.jpg

It is deterministic: `world.World` decides which photos exist, `faults.Faults` which requests fail.
"""

import contextlib
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from mvsent.standin.faults import Faults
from mvsent.standin.routes import Reply, Request, Stage, answer
from mvsent.standin.world import World

KEY = "mvsent-replay-key"
SECRET = "mvsent-replay-secret"  # noqa: S105
OTHER_LOOPBACK = "127.0.0.2"
"""A second loopback address. Faults redirect here, and a client that follows is recorded in `trespasses`."""

KEY_PARAMETERS = ("api_key", "client_id", "client_secret", "oauth_consumer_key")


class Replay:
    """The stand-in's servers; a context manager that starts and stops them.

    Args:
        world: the photos that searches return.
        faults: the faults of its answers.
        port: port to listen on at 127.0.0.1; 0 takes a free one.
        key, secret: the only key and secret it accepts, for Flickr and Getty alike.
    """

    def __init__(
        self,
        world: World | None = None,
        *,
        faults: Faults | None = None,
        port: int = 0,
        key: str = KEY,
        secret: str = SECRET,
    ) -> None:
        self._stage = Stage(world or World(), faults or Faults(), key, secret)
        self.requests: list[Request] = []
        self.trespasses: list[Request] = []
        """Requests that followed a redirect to another loopback address."""
        self.stopped = threading.Event()
        self._servers = [_Server(("127.0.0.1", port), self)]
        with contextlib.suppress(OSError):  # only Linux listens on all of 127.0.0.0/8 unasked
            self._servers.append(_Server((OTHER_LOOPBACK, 0), self))
        self._stage.address = f"http://127.0.0.1:{self._servers[0].server_port}"
        self._stage.elsewhere = f"http://{OTHER_LOOPBACK}:{self._servers[-1].server_port}"

    @property
    def world(self) -> World:
        """The photos that searches return."""
        return self._stage.world

    @property
    def faults(self) -> Faults:
        """The faults of its answers; may be replaced while it runs."""
        return self._stage.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._stage.faults = faults

    @property
    def calls(self) -> Counter[str]:
        """Number of calls by name: `flickr.photos.search`, `getty.search`, `getty.token`, `image`, …"""
        return self._stage.calls

    @property
    def removed(self) -> set[str]:
        """Numbers of the photos that `photos.getInfo` reports as not found."""
        return self._stage.removed

    @property
    def address(self) -> str:
        """The stand-in's address, without a path."""
        return self._stage.address

    @property
    def flickr_endpoint(self) -> str:
        """The `--endpoint` for `build-flickr`."""
        return f"{self.address}/services/rest/"

    @property
    def getty_endpoint(self) -> str:
        """The `--endpoint` for `build-getty`."""
        return f"{self.address}/v3"

    @property
    def getty_token_url(self) -> str:
        """The address that issues Getty's tokens."""
        return f"{self.address}/oauth2/token"

    def environment(self) -> dict[str, str]:
        """The environment variables that point mvsent here."""
        return {
            "MVSENT_FLICKR_ENDPOINT": self.flickr_endpoint,
            "MVSENT_GETTY_ENDPOINT": self.getty_endpoint,
            "MVSENT_GETTY_TOKEN_URL": self.getty_token_url,
            "FLICKR_API_KEY": self._stage.key,
            "GETTY_API_KEY": self._stage.key,
            "GETTY_API_SECRET": self._stage.secret,
        }

    def start(self) -> "Replay":
        """Start listening in background threads."""
        for server in self._servers:
            # It looks every 0.05 s whether to stop, instead of every half second.
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Stop listening, and close the connections that a fault kept open."""
        self.stopped.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def __enter__(self) -> "Replay":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a handler may be stuck in a fault
    request_queue_size = 128  # the default, 5, is too few for a burst

    def __init__(self, address: tuple[str, int], replay: Replay) -> None:
        self.replay = replay
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: clients that hang up are expected."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # which keeps connections open, as the real services do
    server_version, sys_version = "mvsent-replay", ""
    disable_nagle_algorithm = True  # else a small answer may wait 40 ms for an acknowledgement
    wbufsize = 2**16
    timeout = 120
    server: _Server

    def do_GET(self) -> None:
        self._answer("GET", "")

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self._answer("POST", self.rfile.read(length).decode("utf-8", "replace"))

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing: requests are kept in `Replay.requests`."""

    def _answer(self, method: str, body: str) -> None:
        replay, parts = self.server.replay, urlsplit(self.path)
        given = dict(parse_qsl(parts.query) + parse_qsl(body))
        shown = sorted((name, value) for name, value in given.items() if name not in KEY_PARAMETERS)
        request = Request(method, parts.path + ("?" + urlencode(shown) if shown else ""), time.time())
        if self.server.server_address[0] == OTHER_LOOPBACK:
            replay.trespasses.append(request)
            return self._send(Reply(200, b"{}"))
        replay.requests.append(request)
        return self._send(answer(replay._stage, request, parts.path, given, self.headers))

    def _send(self, reply: Reply | None) -> None:
        """Send `reply`; for None send nothing until the stand-in stops or `silent_s` has passed."""
        replay = self.server.replay
        if reply is None:
            replay.stopped.wait(replay.faults.silent_s)
            self.close_connection = True
            return
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.kind)
        self.send_header("Content-Length", str(len(reply.body) if reply.length is None else reply.length))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.length is not None:
            # With a wrong length, the client would take what is left for the next answer.
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if reply.pace_s:
            for byte in reply.body:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                if replay.stopped.wait(reply.pace_s):
                    self.close_connection = True
                    return
        else:
            self.wfile.write(reply.body)
        while reply.endless and not replay.stopped.is_set():
            self.wfile.write(bytes(2**16))
