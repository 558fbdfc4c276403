"""The connection of this process to a Ray cluster, with one-line errors for what can go wrong with it."""

import logging
import os
import re
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from mvsent import __version__
from mvsent.errors import EngineError, MvsentError, UsageError

log = logging.getLogger("mvsent")

LOOK_S = 0.2  # between looks at whether the head is lost, while results are waited for
CONNECT_S = 5.0
WATCH_S = 1.0  # between checks of the head
LOST_AFTER = 2  # missed checks before the head counts as lost; no head restarts within that time

_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|(?:[\w-]{1,63}\.)*[\w-]{1,63}\.?):([0-9]{1,5})", re.ASCII)
_SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""The frame that both sides of HTTP/2, and so of gRPC, send first: type 4 without content."""
_OWN = ("", "local")
"""Addresses of a Ray of our own, which starts and ends with the connection."""

_lost: list[EngineError] = []
"""Why the head that this process is connected to counts as lost; Ray has one connection per process."""


def installed_ray() -> Any:
    """Import Ray. Raises: UsageError if it is not installed; EngineError if the installed one is broken."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        if Path("~/.ray/auth_token").expanduser().is_file():  # then `ray start --head` asks for it
            os.environ.setdefault("RAY_AUTH_MODE", "token")
        import ray
        import ray.util.scheduling_strategies
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--engine ray: needs a package that is not installed ({error.name})", 'pip install "mvsent[ray]"'
        ) from None
    except Exception as error:
        raise EngineError(
            f"--engine ray: the installed Ray cannot be imported ({_one_line(error)})",
            'pip install --force-reinstall "mvsent[ray]"',
        ) from None
    return ray


def checked_address(address: str) -> str:
    """Return the address. Raises: UsageError unless it is HOST:PORT, `auto`, `local` or empty."""
    if address in ("auto", *_OWN):
        return address
    parts = _HOST_PORT.fullmatch(address)
    if not parts or not 0 < int(parts[2]) < 2**16:
        raise UsageError(
            f"--ray-address {address}: not the address of a Ray cluster's head",
            "On a machine of the cluster, give HOST:PORT as `ray start --head` prints it, or auto",
        )
    return address


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect this process to the cluster at a `checked_address` within the block.

    A connection that the program made itself is used, and left open.

    Raises: EngineError if the cluster is unreachable; UsageError for other versions than here, or no token.
    """
    ray = installed_ray()
    if ray.is_initialized():
        yield
        return
    if address == "auto":
        try:
            # ray.init("auto") would wait for a dead cluster without saying which one it is.
            address = checked_address(ray._private.services.canonicalize_bootstrap_address("auto"))
        except Exception as error:
            raise _unreachable("auto", _one_line(error)) from None
    if address not in _OWN:
        _check_head(address)
    with suppress(AttributeError):  # Ray prints deaths of workers on stdout in spite of log_to_driver=False
        ray._private.worker.print_to_stdstream = lambda data, *_, **__: log.debug("Ray: %s", data)
    with _joining_errors(address):
        ray.init(
            address=address or "local",
            include_dashboard=False if address in _OWN else None,
            log_to_driver=False,
            logging_level="CRITICAL",
        )
    with ExitStack() as connection:
        connection.callback(ray.shutdown)
        if address not in _OWN:
            _lost.clear()
            ended = threading.Event()
            connection.callback(ended.set)
            threading.Thread(target=_watch, args=(address, ended), daemon=True).start()
        _refuse_other_versions()
        yield


def is_lost() -> bool:
    """Whether the head counts as lost: calls of Ray would then end this process, or never return."""
    return bool(_lost)


def refuse_lost() -> None:
    """Raises: EngineError if the head counts as lost."""
    if _lost:
        raise _lost[0]


def result_of(task: Any) -> Any:
    """The result of a task, or of a method of an actor.

    Raises: what it raised; EngineError if its workers died again and again, lack a package, or the cluster
        is gone.
    """
    ray = installed_ray()
    try:
        while True:
            with suppress(ray.exceptions.GetTimeoutError):
                return ray.get(task, timeout=LOOK_S)
            refuse_lost()
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, MvsentError | OSError):
            raise error.cause from None
        if isinstance(error.cause, ImportError):
            raise EngineError(
                f"a worker of the Ray cluster lacks a package ({error.cause})",
                "Install the same packages on every machine",
            ) from None
        raise
    except ray.exceptions.RayError as error:
        raise EngineError(
            f"the Ray cluster gave up: {type(error).__name__} ({_one_line(error)})",
            "See its logs (/tmp/ray/session_latest/logs), then run the same command again",
        ) from None


def another_version(node: str, there: str, here: str) -> UsageError:
    """The error for a node whose mvsent is not the driver's."""
    return UsageError(
        f"the Ray node {node} has another mvsent ({there}, here {here})",
        "Install the same version on every machine",
    )


def _check_head(address: str) -> None:
    """Raise EngineError if nothing, or something other than Ray, listens: ray.init would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_S) as head:
            if os.environ.get("RAY_USE_TLS", "0") != "0":
                return
            head.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _SETTINGS)
            if head.recv(4)[3:] != _SETTINGS[3:4]:
                raise _unreachable(address, "the server there is not a Ray head")
    except OSError as error:
        raise _unreachable(address, error.strerror or str(error)) from None


def _watch(address: str, ended: threading.Event) -> None:
    """Give up a head that misses checks: Ray would wait a minute, and for a new head without end."""
    n_missed = 0
    while not ended.wait(WATCH_S):
        try:
            _check_head(address)
            n_missed = 0
        except EngineError as error:
            n_missed += 1
            if n_missed == LOST_AFTER:
                _lost.append(error)
                return


def _unreachable(address: str, why: str) -> EngineError:
    if address in _OWN:
        return EngineError(f"Ray cannot be started here ({why})", "Correct that, or leave --engine ray out")
    place = "of this machine" if address == "auto" else f"at {address}"
    return EngineError(
        f"the Ray cluster {place} is unreachable ({why})",
        "Start it with `ray start --head`, or correct --ray-address or RAY_ADDRESS",
    )


@contextmanager
def _joining_errors(address: str) -> Iterator[None]:
    """Raise an EngineError or a UsageError of one line instead of Ray's errors about joining a cluster."""
    with _stderr_kept() as written:
        try:
            yield
        except Exception as error:
            message = _one_line(error)
            written.seek(0)
            if "mismatch" in message.lower():
                raise UsageError(
                    f"the Ray cluster has other versions than this Python ({message})",
                    "Install the same versions of Python and Ray on every machine",
                ) from None
            if b"AuthToken" in written.read() or "authentication token" in message:
                raise UsageError(
                    f"the Ray cluster at {address} requires its token",
                    "Copy ~/.ray/auth_token from its head, and set RAY_AUTH_MODE=token",
                ) from None
            raise _unreachable(address, message) from None


def _one_line(error: Exception) -> str:
    """The error's message on one line of at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__


@contextmanager
def _stderr_kept() -> Iterator[IO[bytes]]:
    """Redirect stderr to a file within the block: Ray's C++ core writes there and cannot be silenced."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield written
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)


def _refuse_other_versions() -> None:
    """Raise UsageError unless every node has this version of mvsent."""
    ray = installed_ray()
    nodes = [node for node in ray.nodes() if node["Alive"]]
    asked = [
        ray.remote(_version)
        .options(
            num_cpus=0,
            scheduling_strategy=ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
                node["NodeID"], soft=False
            ),
        )
        .remote()
        for node in nodes
    ]
    for node, answer in zip(nodes, asked, strict=True):
        try:
            version = ray.get(answer)
        except (ray.exceptions.NodeDiedError, ray.exceptions.TaskUnschedulableError):
            continue  # it has left the cluster since
        except Exception:  # `_version` cannot be unpickled: there is no mvsent, or one without this module
            version = "none that knows --engine"
        if version != __version__:
            raise another_version(node["NodeManagerAddress"], version, __version__)


def _version() -> str:
    return __version__
