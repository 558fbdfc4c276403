"""The workers of a Ray cluster as an engine."""

import os
import pickle
import shutil
import sys
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any, ParamSpec, TypeVar

import pyarrow as pa

from mvsent import __version__
from mvsent.errors import UsageError
from mvsent.shards.atomic import atomic_write
from mvsent.shards.staging import locked
from mvsent.storage import problem
from mvsent.workers.ray_cluster import (
    LOOK_S,
    another_version,
    checked_address,
    connected,
    installed_ray,
    is_lost,
    refuse_lost,
    result_of,
)

PER_WORKER = 2  # tasks running or waiting, so that no worker idles while a result is taken
RETRIES = 5  # of a task whose worker or node died
_SCRATCH = "mvsent-part-"

Item = TypeVar("Item")
Result = TypeVar("Result")
Shared = TypeVar("Shared")
P = ParamSpec("P")
Files = dict[str, pa.Buffer | None]
"""Contents by name; None for a file that is missing or empty."""


class RayEngine:
    """Runs functions in the workers of a Ray cluster, each of which has one core.

    Args:
        address: HOST:PORT of the cluster's head; `auto` for RAY_ADDRESS, else the cluster of this machine;
            empty for RAY_ADDRESS, else a Ray of our own on this machine, which ends with the connection.
    """

    def __init__(self, address: str = "") -> None:
        if address in ("", "auto"):
            address = os.environ.get("RAY_ADDRESS", "") or address
        self._address = checked_address(address)
        installed_ray()
        self._depth = 0
        self._connection = ExitStack()

    def __enter__(self) -> None:
        if self._depth == 0:
            self._connection.enter_context(connected(self._address))
        self._depth += 1

    def __exit__(self, *error: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._connection.close()

    def threads(self, asked: int) -> int:
        return 1

    def map(
        self,
        work: Callable[[Sequence[Item]], Iterable[Result]],
        items: Sequence[Item],
        *,
        chunk: int = 1,
        gpus: bool = False,
    ) -> Iterator[Result]:
        with self:
            tasks = _Tasks(work, _name(work), gpus=gpus)
            running: deque[Any] = deque()
            try:
                for start in range(0, len(items), chunk):
                    running.append(tasks.start(items[start : start + chunk]))
                    if len(running) > tasks.at_once:
                        yield from result_of(running.popleft())
                while running:
                    yield from result_of(running.popleft())
            finally:
                tasks.cancel(running)

    def as_completed(
        self,
        work: Callable[[Path, Item], Iterable[Result]],
        items: Iterable[Item],
        *,
        folder: Path,
        files: Callable[[Item], Sequence[str]],
        on_wait: Callable[[], object],
    ) -> Iterator[Result]:
        ray = installed_ray()
        with self:
            tasks = _Tasks(partial(_in_scratch_folder, work), _name(work))
            orders = ((item, {name: _read(folder / name) for name in files(item)}) for item in items)
            running: list[Any] = []
            at_once = tasks.at_once
            try:
                while True:
                    room = max(0, at_once - len(running))  # negative after a node has died
                    running.extend(tasks.start([order]) for order in islice(orders, room))
                    if not running:
                        return
                    done, running = ray.wait(running, timeout=LOOK_S)
                    refuse_lost()
                    on_wait()
                    for task in done:
                        for results, written in result_of(task):
                            _replace(folder, written)
                            yield from results
                    if done:  # a head that may be gone is not asked: Ray would end this process
                        at_once = tasks.at_once
            finally:
                tasks.cancel(running)

    def spread(
        self,
        work: Callable[[Path, Item], Iterable[Result]],
        items: Sequence[Item],
        *,
        folder: Path,
        files: Callable[[Item], Sequence[str]],
        on_wait: Callable[[], object],
        workers: int = 0,
    ) -> Iterator[Result]:
        return self.as_completed(work, items, folder=folder, files=files, on_wait=on_wait)

    @contextmanager
    def shared(self, kind: Callable[P, Shared], *args: P.args, **kwargs: P.kwargs) -> Iterator[Shared]:
        ray = installed_ray()
        with self:
            here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
                ray.get_runtime_context().get_node_id(), soft=True
            )
            # Without a core of its own: it only counts, and a worker's task would wait for it.
            actor = ray.remote(kind).options(
                num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here
            )
            handle = actor.remote(*args, **kwargs)
            proxy: Any = _Proxy(handle)
            try:
                yield proxy
            finally:
                if not is_lost():
                    with suppress(Exception):
                        ray.kill(handle)


class _Proxy:
    """An actor whose methods are called like those of a local object."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def __reduce__(self) -> tuple[Any, ...]:
        # Otherwise pickle asks an object without `_handle` for methods, and `__getattr__` never ends.
        return _Proxy, (self._handle,)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._handle, name)
        return lambda *args: result_of(method.remote(*args))


class _Tasks:
    """Calls of one function, which is sent to each worker once."""

    def __init__(self, work: Callable[[Any], Any], name: str, *, gpus: bool = False) -> None:
        ray = installed_ray()
        self._needs = "GPU" if gpus and ray.cluster_resources().get("GPU", 0) >= 1 else "CPU"
        self._token = uuid.uuid4().hex
        # In a list, so that Ray does not fetch it for workers that have it already.
        self._boxed = [ray.put((__version__, ray.cloudpickle.dumps(work)))]
        self._remote = ray.remote(_run).options(
            name=name,
            num_cpus=1,
            num_gpus=int(self._needs == "GPU"),
            max_retries=RETRIES,
            retry_exceptions=False,  # an error of the work would only repeat
        )

    @property
    def at_once(self) -> int:
        """Number of tasks to keep under way on the nodes that the cluster has now."""
        return PER_WORKER * max(1, int(installed_ray().cluster_resources().get(self._needs, 0)))

    def start(self, items: Sequence[Any]) -> Any:
        return self._remote.remote(self._token, self._boxed, items)

    def cancel(self, tasks: Iterable[Any]) -> None:
        for task in () if is_lost() else tasks:
            with suppress(Exception):  # the task has ended
                installed_ray().cancel(task, force=True)


def _name(work: Any) -> str:
    """The function's name, as `ray status` and process lists show it."""
    while isinstance(work, partial):
        work = work.func
    return str(getattr(work, "__name__", type(work).__name__))


_work: dict[str, Any] = {}
"""In a worker: the function that it was sent last, by its token."""


def _run(token: str, boxed: Sequence[Any], items: Sequence[Any]) -> list[Any]:
    """A task: call the function on the items, in a worker that unpickles each function once."""
    if token not in _work:
        ray = installed_ray()
        if not ray.get_gpu_ids():
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the node's GPUs are for tasks that asked for one
        version, work = ray.get(boxed[0])
        if version != __version__:  # on a node that joined after the cluster was checked
            raise another_version(ray.util.get_node_ip_address(), __version__, version)
        _work.clear()
        _work[token] = pickle.loads(work)  # noqa: S301 - sent by our own driver
    try:
        return list(_work[token](items))
    except Exception as error:  # translated here: an error loses its cause on its way to the driver
        if "upath" in sys.modules and (known := problem(error)):
            raise known from None
        raise


def _in_scratch_folder(
    work: Callable[[Path, Item], Iterable[Result]], orders: Sequence[tuple[Item, Files]]
) -> Iterator[tuple[list[Result], Files]]:
    """Call `work` on each item in a temporary folder; yield its results and the files that it left.

    The files return as buffers, which Ray keeps in its object store and spills to disk: neither side holds
    them on its heap.
    """
    # Folders of workers that were killed: a living one holds its lock, and took it before it made `files`.
    for left in [files.parent for files in Path(gettempdir()).glob(f"{_SCRATCH}*/files")]:
        with suppress(UsageError, OSError), locked(left / "lock"):
            shutil.rmtree(left, ignore_errors=True)
    for item, files in orders:
        # Another worker may lock, and then remove, a folder that this one is removing.
        scratch_folder = TemporaryDirectory(prefix=_SCRATCH, ignore_cleanup_errors=True)
        with scratch_folder as scratch, locked(Path(scratch, "lock")):
            folder = Path(scratch, "files")
            folder.mkdir()
            for name, data in files.items():
                if data is not None:
                    (folder / name).write_bytes(data)
            results = list(work(folder, item))
            yield results, {name: _read(folder / name) for name in files}


def _read(path: Path) -> pa.Buffer | None:
    """The file's bytes, memory-mapped; None if it is empty or missing."""
    try:
        with pa.memory_map(str(path)) as file:
            return file.read_buffer() if file.size() else None
    except FileNotFoundError:
        return None


def _replace(folder: Path, files: Mapping[str, pa.Buffer | None]) -> None:
    """Make the files in `folder` those of the worker; none is removed before all are written."""
    for name, data in files.items():
        if data is not None:
            with atomic_write(folder / name) as file:
                file.write(memoryview(data))
    for name, data in files.items():
        if data is None:
            (folder / name).unlink(missing_ok=True)
