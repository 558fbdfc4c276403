"""Tasks in processes of their own, several at a time: cells of a benchmark, folds of a run.

A killed process costs its own task only. No process outlives the one that started it.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

from tqdm import tqdm

from mvsent.errors import LostRankError, MvsentError, first_line
from mvsent.workers.interrupt import handled_by, interruptible

Task = TypeVar("Task")
Result = TypeVar("Result")
Work = Callable[[Connection, Task], None]
"""Does a task in a process, and sends its answer."""

_LOOK_EVERY_S = 0.1  # at whether Ctrl-C was pressed
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Ended:
    """The answer of a process that ended without sending one."""

    exit_code: int | None

    def __str__(self) -> str:
        """How it ended: `was killed by signal 9 (SIGKILL)`."""
        if self.exit_code is None or self.exit_code >= 0:
            return f"ended with code {self.exit_code}"
        return f"was killed by signal {-self.exit_code} ({signal.Signals(-self.exit_code).name})"


@dataclass(frozen=True)
class ProcessFailure:
    """An exception of another process, as it can be sent.

    Attributes:
        is_echo: whether the process failed only because another one had.
    """

    what: str
    next_step: str = ""
    exit_code: int = 1
    is_echo: bool = False

    @classmethod
    def of(cls, error: BaseException, name: str) -> "ProcessFailure":
        """The failure of the process called `name`."""
        if isinstance(error, MvsentError):
            return cls(error.what, error.next_step, error.exit_code, isinstance(error, LostRankError))
        if isinstance(error, KeyboardInterrupt):
            return cls("interrupted", exit_code=130)
        reason = first_line(error)
        return cls(f"{name} failed ({type(error).__name__}: {reason})", "See its traceback above")

    def exception(self) -> BaseException:
        """The exception to raise in this process."""
        if self.exit_code == 130:
            return KeyboardInterrupt()
        error = MvsentError(self.what, self.next_step)
        error.exit_code = self.exit_code
        return error


def apart(
    tasks: Sequence[Task], jobs: int, work: Work[Task], *, gpus: Sequence[str] = ()
) -> Generator[tuple[Task, Any], None, None]:
    """Run `jobs` tasks at once, each in a process of its own; yield tasks with their answers as they come.

    On Ctrl-C, and if the iterator is closed early, the running processes get SIGTERM and are waited for; a
    second Ctrl-C kills them.

    Args:
        gpus: CUDA devices, each of which one process sees alone; empty: every process sees all.

    Raises: KeyboardInterrupt on Ctrl-C, once all processes have ended.
    """
    context = multiprocessing.get_context("spawn")  # torch and its threads do not survive a fork
    waiting, running = deque(tasks), dict[Connection, tuple[Task, int, SpawnProcess]]()
    free, now = deque(range(jobs)), threading.Event()
    with interruptible(again=lambda *_: now.set()) as stop:
        try:
            while waiting or running:
                while waiting and free and not stop.is_set():
                    task, place = waiting.popleft(), free.popleft()
                    receiver, sender = context.Pipe(duplex=False)
                    gpu = gpus[place % len(gpus)] if gpus else None
                    process = context.Process(target=_child, args=(work, sender, task, gpu))
                    with handled_by(signal.SIG_IGN):  # inherited: Ctrl-C is for the parent from the start
                        process.start()
                    sender.close()  # only the child's end is open then, so that its death is an end of file
                    running[receiver] = (task, place, process)
                if stop.is_set():
                    raise KeyboardInterrupt
                for ready in wait(list(running), _LOOK_EVERY_S):
                    assert isinstance(ready, Connection)
                    task, place, process = running.pop(ready)
                    free.append(place)
                    try:
                        answer = ready.recv()
                        process.join()
                    except EOFError:
                        process.join()
                        answer = Ended(process.exitcode)
                    yield task, answer
        finally:
            for _, _, process in running.values():
                process.terminate()
            for _, _, process in running.values():
                while process.is_alive():
                    process.join(_LOOK_EVERY_S)
                    if now.is_set():
                        process.kill()


def spread(
    work: Callable[[Task], Iterable[Result]],
    tasks: Sequence[Task],
    jobs: int,
    on_wait: Callable[[], object],
) -> Iterator[Result]:
    """Yield the results of `work(task)` as tasks complete, in `jobs` processes that stay for all tasks.

    Args:
        work: may be pickled. It is given up between two results if the iterator is closed early.
        on_wait: called several times a second; what it raises ends the processes.

    Raises: MvsentError if a process was killed.
    """
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    waiting, running = deque(tasks), set[Future[list[Result]]]()
    with handled_by(signal.SIG_IGN):  # inherited: Ctrl-C is for this process
        pool = ProcessPoolExecutor(jobs, context, _begin, (stop,))
    try:
        while waiting or running:
            while waiting and len(running) < 2 * jobs:
                with handled_by(signal.SIG_IGN):
                    running.add(pool.submit(_collected, work, waiting.popleft()))
            done, running = wait_for(running, _LOOK_EVERY_S, FIRST_COMPLETED)
            on_wait()
            for each in done:
                yield from each.result()
    except BrokenProcessPool:
        what = "a worker process was killed, perhaps because memory is full"
        raise MvsentError(what, "Give fewer --workers; the same command continues") from None
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


_stopped: Any = None
"""In a process of `spread`: the event that gives up its task."""


def _begin(stop: Any) -> None:
    global _stopped  # noqa: PLW0603 - an event can be inherited, but not sent with a task
    _stopped = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def _collected(work: Callable[[Task], Iterable[Result]], task: Task) -> list[Result]:
    results: list[Result] = []
    for result in work(task):
        if _stopped.is_set():
            break
        results.append(result)
    return results


def _child(work: Work[Task], sender: Connection, task: Task, gpu: str | None) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # not at once: locks and semaphores are released
    tqdm.set_lock(threading.RLock())  # tqdm's own is a semaphore, which a killed process leaves behind
    end_with_parent()
    if gpu is not None:
        os.environ[VISIBLE] = gpu
    try:
        work(sender, task)
    except KeyboardInterrupt:  # by our SIGTERM, and what was under way is saved
        sys.exit(1)


def end_with_parent(end: Callable[[], object] = lambda: os._exit(1)) -> None:
    """Call `end`, which ends this process, once its parent has ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait_for_parent() -> None:
        parent.join()
        end()

    threading.Thread(target=wait_for_parent, daemon=True).start()


def visible_gpus() -> list[str]:
    """The CUDA devices of this process, by their names in `CUDA_VISIBLE_DEVICES`."""
    import torch

    n = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = [name for name in os.environ.get(VISIBLE, "").split(",") if name]
    return (named or [str(i) for i in range(n)])[:n]
