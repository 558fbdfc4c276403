"""A server behind `mvsent.serve.gate.Gate` on a real socket, and clients that take their time."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import uvicorn

from mvsent.serve import server
from mvsent.serve.gate import Application, Gate, Limits


@dataclass(frozen=True)
class Serving:
    """What answers, and where."""

    gate: Gate
    server: uvicorn.Server
    port: int


@contextlib.contextmanager
def behind_a_gate(inner: Application, limits: Limits, host: str = "127.0.0.1") -> Iterator[Serving]:
    """A server that answers as `mvsent serve` does, with what `inner` says."""
    with server.bound(host, 0) as listening:
        gate = Gate(inner, server.names(host, listening), limits)
        running = uvicorn.Server(server.configured(gate))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield Serving(gate, running, listening.getsockname()[1])
        finally:
            running.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


def connected(port: int, host: str = "127.0.0.1") -> socket.socket:
    """A connection whose every wait ends after 20 s."""
    return socket.create_connection((host, port), 20)


def begun(port: int, n_bytes: int, headers: str = "") -> socket.socket:
    """A connection whose request is being read: the server has asked for its body, of `n_bytes`."""
    connection = connected(port)
    connection.sendall(
        f"POST /api/predict HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{headers}"
        f"Expect: 100-continue\r\nContent-Length: {n_bytes}\r\n\r\n".encode()
    )
    assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
    return connection


def until_closed(port: int) -> None:
    """Nobody listens at the port any more."""
    with contextlib.suppress(OSError):
        while True:
            with connected(port) as connection:
                connection.recv(1)  # ends when the connection does, with the server's listening
