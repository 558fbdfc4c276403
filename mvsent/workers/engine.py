"""Where a stage's work runs: in this process, or in the workers of a Ray cluster (`--engine ray`).

A stage gives an engine a function and items. The function depends on nothing but its arguments and may be
called twice, so an engine may run it anywhere, and again after a worker died: the results are the same.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar

from mvsent.errors import UsageError

READ_AHEAD, AHEAD_BYTES = 32, 32 * 2**20
"""Items per thread, and bytes of their results, that wait for a consumer that is busy with earlier ones."""

Item = TypeVar("Item")
Result = TypeVar("Result")
Shared = TypeVar("Shared")
P = ParamSpec("P")


class Engine(Protocol):
    """Runs functions on items. A connection to workers is kept open within `with engine:`."""

    def __enter__(self) -> object: ...

    def __exit__(self, *error: object) -> object: ...

    def threads(self, asked: int) -> int:
        """Threads that a function may use where it runs: `asked` of this process, 0 meaning one per core."""

    def map(
        self,
        work: Callable[[Sequence[Item]], Iterable[Result]],
        items: Sequence[Item],
        *,
        chunk: int = 1,
        gpus: bool = False,
    ) -> Iterator[Result]:
        """Yield the results of `work` in the order of the items, with a bounded number of calls under way.

        Args:
            work: maps one or more consecutive items to any number of results. It may be pickled, so paths in
                it must be absolute.
            chunk: items per call in a cluster; this process makes one call with all items.
            gpus: whether a call needs a GPU, if the cluster has any.
        """

    def as_completed(
        self,
        work: Callable[[Path, Item], Iterable[Result]],
        items: Iterable[Item],
        *,
        folder: Path,
        files: Callable[[Item], Sequence[str]],
        on_wait: Callable[[], object],
    ) -> Iterator[Result]:
        """Yield the results of `work(folder, item)` as items complete; items are taken as there is room.

        A worker elsewhere gets a temporary folder with the item's files, and its files replace those in
        `folder` before the results are yielded.

        Args:
            work: may be pickled; keeps its files in the folder that it is given.
            files: names of an item's files. The last one marks the item as done, so it is written last.
            on_wait: called several times a second while this process only waits.
        """

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
        """Do as `as_completed` for work that keeps a core busy: on this machine, with a process per worker.

        Args:
            workers: on this machine; 0 for one per core.
        """

    def shared(
        self, kind: Callable[P, Shared], *args: P.args, **kwargs: P.kwargs
    ) -> AbstractContextManager[Shared]:
        """Create one object for all calls of a function; it lives near this process until the block ends."""


class LocalEngine(nullcontext[None]):
    """Runs functions in this process."""

    def threads(self, asked: int) -> int:
        return asked or os.cpu_count() or 1

    def map(
        self,
        work: Callable[[Sequence[Item]], Iterable[Result]],
        items: Sequence[Item],
        *,
        chunk: int = 1,
        gpus: bool = False,
    ) -> Iterator[Result]:
        if items:
            yield from work(items)

    def as_completed(
        self,
        work: Callable[[Path, Item], Iterable[Result]],
        items: Iterable[Item],
        *,
        folder: Path,
        files: object = None,
        on_wait: object = None,
    ) -> Iterator[Result]:
        for item in items:
            yield from work(folder, item)

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
        n = min(self.threads(workers), len(items))
        if n > 1:
            from mvsent.workers.processes import spread  # imports multiprocessing

            yield from spread(partial(work, folder), items, n, on_wait)
        else:
            for result in self.as_completed(work, items, folder=folder):
                on_wait()
                yield result

    @contextmanager
    def shared(self, kind: Callable[P, Shared], *args: P.args, **kwargs: P.kwargs) -> Iterator[Shared]:
        yield kind(*args, **kwargs)


LOCAL = LocalEngine()


def choose(name: str, ray_address: str = "") -> Engine:
    """The engine called `name`, not yet connected.

    Raises: UsageError for an invalid address, an address without Ray, or if Ray is not installed.
    """
    if name == "ray":
        from mvsent.workers.ray_engine import RayEngine

        return RayEngine(ray_address)
    if ray_address:
        raise UsageError("--ray-address: the engine is local", "Add --engine ray, or leave it out")
    return LOCAL


def map_in_threads(
    work: Callable[[Item], Result],
    n_threads: int,
    items: Iterable[Item],
    n_bytes: Callable[[Result], int] = lambda result: 0,
) -> Iterator[Result]:
    """Yield `work(item)` in the order of the items.

    Threads work ahead of the consumer: up to READ_AHEAD items each, while their results, of `n_bytes`, take
    less than AHEAD_BYTES.
    """
    running: deque[Future[Result]] = deque()
    room = threading.Condition()
    n_taken = n_held = 0
    ended = False

    def ahead(place: int, item: Item) -> Result:
        nonlocal n_held
        with room:
            # The items that the consumer waits for never wait for it.
            room.wait_for(lambda: n_held < AHEAD_BYTES or place < n_taken + n_threads or ended)
        result = work(item)
        with room:
            n_held += n_bytes(result)
        return result

    def taken() -> Result:
        nonlocal n_taken, n_held
        result = running.popleft().result()
        with room:
            n_taken, n_held = n_taken + 1, n_held - n_bytes(result)
            room.notify_all()
        return result

    pool = ThreadPoolExecutor(n_threads)
    try:
        for place, item in enumerate(items):
            running.append(pool.submit(ahead, place, item))
            if len(running) > READ_AHEAD * n_threads:
                yield taken()
        while running:
            yield taken()
    finally:
        with room:
            ended = True
            room.notify_all()
        pool.shutdown(cancel_futures=True)
