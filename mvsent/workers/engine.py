"""Where rows are processed: by this process, or by the workers of a Ray cluster (`--engine ray`).

A stage has one function, from an item to its result: pure, so that an engine may call it anywhere, and
idempotent, so that it may be called again where a worker died. What comes of it is the same with each engine.
Ray is imported by nothing here before it is asked for.
"""

import logging
import os
import pickle
import re
import socket
import sys
import tempfile
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, TypeVar

from mvsent import __version__
from mvsent.errors import EngineError, MvsentError, UsageError
from mvsent.storage import problem

log = logging.getLogger("mvsent")

READ_AHEAD = 4  # items a thread, so that memory holds few results however large they are
PER_WORKER = 2  # tasks under way or waiting, so that no worker is idle while a result is taken
RETRIES = 5  # of a task whose worker or node died
LOOK_S = 0.2
CONNECT_S = 5.0
WATCH_S, LOST_AFTER = 1.0, 2  # looks; nobody starts a head anew in the time of two

Item = TypeVar("Item")
Result = TypeVar("Result")


class Engine(Protocol):
    """Maps a function over items; a context within which what it needs is kept ready."""

    elsewhere: bool
    """Whether other processes do the work: it is pickled then, and paths in it have to be absolute."""

    def __enter__(self) -> "Engine": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def map(
        self,
        work: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        threads: int = 0,
        batch: int = 1,
        gpus: bool = False,
    ) -> Iterator[Result]:
        """`map(work, items)`, in order, with a bounded number under way.

        Args:
            threads: that work in this process; 0: none, the results are made as they are asked for.
            batch: items that are sent to a worker together.
            gpus: whether each worker is to have a GPU, where the cluster has any.
        """


class LocalEngine:
    """This process and its threads."""

    elsewhere = False

    def __enter__(self) -> "LocalEngine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def map(
        self,
        work: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        threads: int = 0,
        batch: int = 1,
        gpus: bool = False,
    ) -> Iterator[Result]:
        if threads == 0:
            yield from map(work, items)
            return
        running: deque[Future[Result]] = deque()
        pool = ThreadPoolExecutor(threads)
        try:
            for item in items:
                running.append(pool.submit(work, item))
                if len(running) > READ_AHEAD * threads:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


LOCAL = LocalEngine()


def choose(name: str, ray_address: str = "") -> Engine:
    """The engine called so; nothing is begun yet.

    Raises: UsageError for an address without Ray or of no cluster, or where Ray is not installed.
    """
    if name == "ray":
        return RayEngine(ray_address)
    if ray_address:
        raise UsageError("--ray-address: the engine is local", "Add --engine ray, or leave it out")
    return LOCAL


class RayEngine:
    """The workers of a Ray cluster. It is connected within the context, or while something is mapped.

    Args:
        address: HOST:PORT of the cluster's head, or `auto` for the cluster that this machine is in; where
            RAY_ADDRESS says which, that one. Empty: what RAY_ADDRESS says, else a Ray of our own on this
            machine, which ends with us.
    """

    elsewhere = True

    def __init__(self, address: str = "") -> None:
        said = os.environ.get("RAY_ADDRESS", "")
        self._address = _checked(said or address if address in ("", "auto") else address)
        _installed_ray()
        self._depth = 0
        self._connection = ExitStack()  # what is to be done when it ends; nothing where it is somebody else's

    def __enter__(self) -> "RayEngine":
        if self._depth == 0:
            self._connect()
        self._depth += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._connection.close()

    def map(
        self,
        work: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        threads: int = 0,
        batch: int = 1,
        gpus: bool = False,
    ) -> Iterator[Result]:
        with self:
            tasks = _Tasks(work, gpus=gpus)
            running: deque[Any] = deque()
            try:
                for chunk in _chunks(items, batch):
                    running.append(tasks.start(chunk))
                    if len(running) > tasks.at_once:
                        yield from tasks.results(running.popleft())
                while running:
                    yield from tasks.results(running.popleft())
            finally:
                tasks.cancel(running)

    def as_completed(
        self, work: Callable[[Item], Result], items: Iterable[Item], *, look: Callable[[], object]
    ) -> Iterator[Result]:
        """The results as they come; the next item is asked for when there is room.

        `look` is called every LOOK_S at least.
        """
        ray = _installed_ray()
        with self:
            tasks = _Tasks(work)
            running: list[Any] = []
            waiting = iter(items)
            at_once = tasks.at_once
            try:
                while True:
                    room = max(0, at_once - len(running))  # less than none where a node has died
                    running += map(tasks.start, _chunks(islice(waiting, room), 1))
                    if not running:
                        return
                    done, running = ray.wait(running, timeout=LOOK_S)
                    _refuse_lost()
                    look()
                    for task in done:
                        yield from tasks.results(task)
                    if done:  # else the head may be gone, and to ask it the end of this process
                        at_once = tasks.at_once
            finally:
                tasks.cancel(running)

    @contextmanager
    def shared(self, kind: type[Any], *arguments: Any) -> Iterator["Shared"]:
        """One object for all workers, which lives near this process and as long as the block."""
        ray = _installed_ray()
        with self:
            here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
                ray.get_runtime_context().get_node_id(), soft=True
            )
            actor = ray.remote(kind).options(
                num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here
            )
            handle = actor.remote(*arguments)
            try:
                yield Shared(handle)
            finally:
                if not _lost:
                    with suppress(Exception):
                        ray.kill(handle)

    def _connect(self) -> None:
        ray = _installed_ray()
        if ray.is_initialized():  # by somebody who will also end it
            return
        address = _of_this_machine() if self._address == "auto" else self._address
        if address not in ("", "local"):
            _reach(address)
        with suppress(AttributeError):  # deaths of workers, which `log_to_driver` lets through, on stdout
            ray._private.worker.print_to_stdstream = lambda data, *_, **__: log.debug("Ray: %s", data)
        with _plainly(address):
            ray.init(
                address=address or "local",
                include_dashboard=False if address in ("", "local") else None,
                log_to_driver=False,
                logging_level="CRITICAL",
            )
        with ExitStack() as connection:
            connection.callback(ray.shutdown)
            if address not in ("", "local"):
                _lost.clear()
                ended = threading.Event()
                connection.callback(ended.set)
                threading.Thread(target=_watch, args=(address, ended), daemon=True).start()
            _refuse_other_versions()
            self._connection = connection.pop_all()


class Shared:
    """An object that is elsewhere: its methods are called as if it were here."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def __getstate__(self) -> Any:
        return self._handle

    def __setstate__(self, handle: Any) -> None:
        self._handle = handle

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._handle, name)
        return lambda *arguments: _got(method.remote(*arguments))


class _Tasks:
    """Calls of one function by the cluster's workers, to which it is sent once."""

    def __init__(self, work: Callable[[Any], Any], *, gpus: bool = False) -> None:
        ray = _installed_ray()
        self._needs = "GPU" if gpus and ray.cluster_resources().get("GPU", 0) >= 1 else "CPU"
        name = getattr(getattr(work, "func", work), "__name__", type(work).__name__)
        self._token = uuid.uuid4().hex
        box = __version__, ray.cloudpickle.dumps(work)
        self._boxed = [ray.put(box)]  # in a list: fetched by who has not got it yet
        self._remote = ray.remote(_do).options(
            name=name,
            num_cpus=1,
            num_gpus=int(self._needs == "GPU"),
            max_retries=RETRIES,
            retry_exceptions=False,
        )

    @property
    def at_once(self) -> int:
        """Tasks to have under way, on the nodes that there are by now."""
        return PER_WORKER * max(1, int(_installed_ray().cluster_resources().get(self._needs, 0)))

    def start(self, items: Sequence[Any]) -> Any:
        return self._remote.remote(self._token, self._boxed, items)

    def results(self, task: Any) -> list[Any]:
        found: list[Any] = _got(task)
        return found

    def cancel(self, tasks: Iterable[Any]) -> None:
        for task in () if _lost else tasks:
            with suppress(Exception):  # it is done
                _installed_ray().cancel(task, force=True)


_work: dict[str, Any] = {}
"""In a worker: what it was sent to do last, by its token."""


def _do(token: str, boxed: Sequence[Any], items: Sequence[Any]) -> list[Any]:
    """What a task is: `work` on each of the items, by a worker that unpickles `work` once."""
    if token not in _work:
        ray = _installed_ray()
        if not ray.get_gpu_ids():
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # those that it sees are for tasks that asked
        version, work = ray.get(boxed[0])
        if version != __version__:  # a node that joined after the driver had looked
            raise _another_version(ray.util.get_node_ip_address(), __version__, version)
        _work.clear()
        _work[token] = pickle.loads(work)  # noqa: S301 - what this driver sent
    try:
        return [_work[token](item) for item in items]
    except Exception as error:  # here, since on its way to the driver an error loses its cause
        if "upath" in sys.modules and (known := problem(error)):
            raise known from None
        raise


def _chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _installed_ray() -> Any:
    """Ray. Raises: UsageError where it is not installed; EngineError where what is installed is broken."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to Ray's makers
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
            f"--engine ray: the installed Ray cannot be imported ({_words(error)})",
            'pip install --force-reinstall "mvsent[ray]"',
        ) from None
    return ray


_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|(?:[\w-]{1,63}\.)*[\w-]{1,63}\.?):([0-9]{1,5})", re.ASCII)


def _checked(address: str) -> str:
    """The address. Raises: UsageError for what is none of a cluster's head."""
    if address in ("", "auto", "local"):
        return address
    parts = _HOST_PORT.fullmatch(address)
    if not parts or not 0 < int(parts[2]) < 2**16:
        raise UsageError(
            f"--ray-address {address}: not the address of a Ray cluster's head",
            "On a machine of the cluster, give HOST:PORT as `ray start --head` prints it, or auto",
        )
    return address


def _of_this_machine() -> str:
    """The address of the cluster that this machine is in. Raises: EngineError where it is in none."""
    try:
        found: str = _installed_ray()._private.services.canonicalize_bootstrap_address("auto")
    except Exception as error:
        raise _unreachable("auto", _words(error)) from None
    return _checked(found)


def _reach(address: str) -> None:
    """Raise EngineError where nobody listens, or nothing like Ray, which itself would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_S) as head:
            if os.environ.get("RAY_USE_TLS", "0") != "0":
                return
            head.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _SETTINGS)
            if head.recv(4)[3:] != _SETTINGS[3:4]:
                raise _unreachable(address, "what listens there is no Ray head")
    except OSError as error:
        raise _unreachable(address, error.strerror or str(error)) from None


_SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""The frame that both sides of gRPC, which is HTTP/2, send first: no content, type 4."""


_lost: list[EngineError] = []
"""Why the head that this process is connected to is given up: Ray has one connection a process."""


def _watch(address: str, ended: threading.Event) -> None:
    """A head that is gone at some looks is given up: Ray would wait a minute, and for a new one forever."""
    n_missed = 0
    while not ended.wait(WATCH_S):
        try:
            _reach(address)
            n_missed = 0
        except EngineError as error:
            n_missed += 1
            if n_missed == LOST_AFTER:
                _lost.append(error)
                return


def _refuse_lost() -> None:
    if _lost:
        raise _lost[0]


def _unreachable(address: str, why: str) -> EngineError:
    if address in ("", "local"):
        return EngineError(f"Ray cannot be started here ({why})", "Mend that, or leave --engine ray out")
    place = "of this machine" if address == "auto" else f"at {address}"
    return EngineError(
        f"the Ray cluster {place} is unreachable ({why})",
        "Start it with `ray start --head`, or mend --ray-address or RAY_ADDRESS",
    )


@contextmanager
def _plainly(address: str) -> Iterator[None]:
    """Raises: EngineError or UsageError in one line for what Ray raises where it cannot be joined."""
    with _unheard() as words:
        try:
            yield
        except Exception as error:
            said = _words(error)
            words.seek(0)
            if "mismatch" in said.lower():
                raise UsageError(
                    f"the Ray cluster has other versions than this Python ({said})",
                    "Install the same versions of Python and Ray on every machine",
                ) from None
            if b"AuthToken" in words.read() or "authentication token" in said:
                raise UsageError(
                    f"the Ray cluster at {address} wants its token",
                    "Copy ~/.ray/auth_token from its head, and set RAY_AUTH_MODE=token",
                ) from None
            raise _unreachable(address, said) from None


def _words(error: Exception) -> str:
    """What the error says, on one line of no more than 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__


@contextmanager
def _unheard() -> Iterator[IO[bytes]]:
    """A file with what the block writes to stderr: Ray's own core speaks there, and cannot be told not to."""
    sys.stderr.flush()
    before = os.dup(2)
    with tempfile.TemporaryFile() as words:
        os.dup2(words.fileno(), 2)
        try:
            yield words
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)


def _refuse_other_versions() -> None:
    """Raise UsageError unless every node has this version of mvsent."""
    ray = _installed_ray()
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
            found = ray.get(answer)
        except (ray.exceptions.NodeDiedError, ray.exceptions.TaskUnschedulableError):
            continue  # it is gone by now
        except Exception:  # unpickling `_version` failed: there is no mvsent, or one without engines
            found = "none that knows --engine"
        if found != __version__:
            raise _another_version(node["NodeManagerAddress"], found, __version__)


def _another_version(node: str, there: str, here: str) -> UsageError:
    return UsageError(
        f"the Ray node {node} has another mvsent ({there}, here {here})",
        "Install the same version on every machine",
    )


def _version() -> str:
    return __version__


def _got(task: Any) -> Any:
    """The task's result, or what its work raised.

    Raises: EngineError where workers died over it again and again, or the cluster is gone.
    """
    ray = _installed_ray()
    try:
        while True:
            with suppress(ray.exceptions.GetTimeoutError):
                return ray.get(task, timeout=LOOK_S)
            _refuse_lost()
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, MvsentError | OSError):
            raise error.cause from None
        if isinstance(error.cause, ImportError):
            raise EngineError(
                f"a worker of the Ray cluster lacks a package ({error.cause})",
                "Install the same on every machine",
            ) from None
        raise
    except ray.exceptions.RayError as error:
        raise EngineError(
            f"the Ray cluster gave up: {type(error).__name__} ({_words(error)})",
            "See its logs (/tmp/ray/session_latest/logs), then run the same command again",
        ) from None
