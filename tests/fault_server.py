"""A server that answers with exactly the bytes a test wants, or with none, over real sockets on loopback."""

import contextlib
import re
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator

Answer = Callable[[socket.socket], None]


def answer(status: str = "200 OK", body: bytes = b"", **headers: str) -> Answer:
    """A whole answer; `Retry_After="1"` is the header `Retry-After: 1`, and an empty value leaves one out."""
    sent = {"Content-Length": str(len(body))} | {k.replace("_", "-"): v for k, v in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in sent.items() if value)
    return lambda peer: peer.sendall(f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body)


def redirect(location: str, status: str = "302 Found") -> Answer:
    return answer(status, Location=location)


def silence(peer: socket.socket) -> None:
    """Say nothing until the other side gives up."""
    while peer.recv(4096):
        pass


def late(then: Answer, seconds: float) -> Answer:
    """`then`, but not before some time, unless the other side gives up first."""

    def send(peer: socket.socket) -> None:
        peer.settimeout(seconds)
        try:
            peer.recv(1)
        except TimeoutError:
            then(peer)

    return send


def drip(data: bytes, every_s: float = 0.02) -> Answer:
    """One byte at a time, while anybody listens."""

    def send(peer: socket.socket) -> None:
        peer.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(data)}\r\n\r\n".encode())
        peer.settimeout(every_s)
        for i in range(len(data)):
            peer.sendall(data[i : i + 1])
            with contextlib.suppress(TimeoutError):
                if not peer.recv(1):
                    return

    return send


def endless(length: str = "", sent: list[int] | None = None) -> Answer:
    """A body without end, which says it has `length` bytes or says nothing; `sent` gets the size of each part."""
    header = f"Content-Length: {length}\r\n" if length else "Connection: close\r\n"

    def send(peer: socket.socket) -> None:
        peer.sendall(f"HTTP/1.1 200 OK\r\n{header}\r\n\xff\xd8".encode("latin-1"))
        while True:
            peer.sendall(b"\0" * 65536)
            if sent is not None:
                sent.append(65536)

    return send


class FaultServer(socketserver.ThreadingTCPServer):
    """Answers each path with its answers in turn, the last one for ever; every connection serves one request."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__((host, port), _Handler)
        self.answers: dict[str, list[Answer]] = {}
        self.requests: list[str] = []
        self.heads: list[str] = []
        self._lock = threading.Lock()

    @property
    def place(self) -> tuple[str, int]:
        host, port = self.server_address[:2]
        return str(host), int(port)

    def url(self, path: str, *answers: Answer, host: str = "") -> str:
        """The address of `path`, which from now on gives `answers`."""
        self.answers[path] = list(answers)
        return f"http://{host or self.place[0]}:{self.place[1]}{path}"

    def take(self, head: str) -> Answer:
        path = head.split(" ", 2)[1]
        with self._lock:
            self.requests.append(path)
            self.heads.append(head)
            left = self.answers.get(path, [answer("404 Not Found")])
            return left.pop(0) if len(left) > 1 else left[0]

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are what these tests are about."""


class _Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            more = self.request.recv(4096)
            if not more:
                return
            head += more
        head, _, body = head.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        while length and len(body) < int(length[1]):  # an answer before the end of it could be lost
            body += self.request.recv(2**16) or bytes(int(length[1]))
        self.server.take(head.decode("latin-1"))(self.request)


@contextlib.contextmanager
def serving(host: str = "127.0.0.1", port: int = 0) -> Iterator[FaultServer]:
    """A server that runs for the time of the block."""
    with FaultServer(host, port) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
