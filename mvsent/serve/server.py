"""Serve a run's model on a port until Ctrl-C: the job behind `mvsent serve`."""

import contextlib
import errno
import importlib.util
import ipaddress
import logging
import math
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from mvsent.errors import UsageError
from mvsent.inference.model import Model, load
from mvsent.serve.gate import Gate, Limits

if TYPE_CHECKING:
    import uvicorn

log = logging.getLogger("mvsent")

HOST, PORT = "127.0.0.1", 8000
_NEEDS = ("fastapi", "uvicorn", "python_multipart")
_BACKLOG = 2048  # connections that the system queues until they are accepted
_FAREWELL = 5  # seconds for requests under way when the server is told to end


def serve(
    run: Path,
    *,
    host: str = HOST,
    port: int = PORT,
    fold: int | None = None,
    device: str = "auto",
    ready: Callable[[str], object] = print,
) -> None:
    """Serve the run's model on `host` and `port` (0: a free one) until Ctrl-C.

    Args:
        ready: called with the page's address once it can be opened.

    Raises: UsageError for an unusable address or if the extra `serve` is not installed; also as `load`.
    """
    check_extra()
    with bound(host, port) as listening:
        if is_open(listening):
            log.warning("WARNING: %s can be reached from other machines, and there is no password", host)
        limits = Limits()
        model = load(run, fold, device, max_pixels=limits.pixels)
        address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}/"
        answer_on(listening, model, names(host, listening), limits, lambda: ready(address))


def answer_on(
    listening: socket.socket,
    model: Model,
    called: frozenset[str],
    limits: Limits,
    ready: Callable[[], object],
) -> None:
    """Answer requests to the open socket until the process is told to end.

    Args:
        called: host names that requests may use; see `Gate`.
    """
    import uvicorn

    from mvsent.serve.application import application

    worker = ThreadPoolExecutor(1, thread_name_prefix="model")
    server = uvicorn.Server(configured(Gate(application(model, limits, worker), called, limits)))
    ready()  # the socket listens already: the system queues clients until the server accepts them
    try:
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn shuts down in order, then raises it again
            server.run(sockets=[listening])
    finally:
        worker.shutdown(wait=False, cancel_futures=True)


def configured(gate: Gate) -> "uvicorn.Config":
    """The configuration of uvicorn.

    Uvicorn and the form parser are silenced: they log faults of clients, which the answer reports to them.
    The gate logs our own faults.
    """
    import uvicorn

    from mvsent.serve.connection import Connection

    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    return uvicorn.Config(
        gate, http=Connection, ws="none", lifespan="off", log_config=None, log_level="critical",
        access_log=False, server_header=False, proxy_headers=False,
        timeout_keep_alive=math.ceil(gate.limits.head_seconds), timeout_graceful_shutdown=_FAREWELL,
    )  # fmt: skip


def check_extra() -> None:
    """Raises: UsageError if a library of the extra `serve` is not installed."""
    lacking = [name for name in _NEEDS if importlib.util.find_spec(name) is None]
    if lacking:
        raise UsageError(f"serve: {lacking[0]} is not installed", 'pip install "mvsent[serve]"')


def bound(host: str, port: int) -> socket.socket:
    """A socket listening at the address; clients that connect now wait for the model.

    Raises: UsageError if the address is unusable or taken.
    """
    if not host.strip():  # an unset shell variable; the system would take it for every address
        raise UsageError("--host: is empty", f"Leave it out for {HOST}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError):
        raise UsageError(f"--host {host}: no such address", f"Leave it out for {HOST}") from None
    try:
        if os.name == "posix":  # allows a port that was in use a moment ago
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        if error.errno in {errno.EADDRINUSE, errno.EACCES}:
            raise UsageError(f"{host}:{port}: {error.strerror}", "Choose another --port, or 0") from None
        raise UsageError(f"--host {host}: {error.strerror}", f"Leave it out for {HOST}") from None
    return listening


def names(host: str, listening: socket.socket) -> frozenset[str]:
    """The host names that requests may use; see `is_allowed_host`."""
    own = {host.lower(), "localhost", str(listening.getsockname()[0])}
    if not is_open(listening):
        return frozenset(own | {"127.0.0.1", "::1"})
    return frozenset(own | {socket.gethostname().lower(), "*"})


def is_open(listening: socket.socket) -> bool:
    """Whether other machines can reach the socket."""
    return not ipaddress.ip_address(listening.getsockname()[0].partition("%")[0]).is_loopback
