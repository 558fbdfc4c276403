"""Tasks in processes of their own, several at a time: cells of a benchmark, folds of a run.

A process that is killed costs its task only. None of them outlives the one that started it.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

from tqdm import tqdm

from mvsent.workers.interrupt import interruptible

Task = TypeVar("Task")
Work = Callable[[Connection, Task], None]
"""What a process does: a task, and send its answer."""

_LOOK_EVERY_S = 0.1  # whether Ctrl-C was pressed
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Ended:
    """The answer of a process that gave none."""

    exit_code: int | None

    def __str__(self) -> str:
        """How it ended, as `was killed by signal 9 (SIGKILL)`."""
        if self.exit_code is None or self.exit_code >= 0:
            return f"ended with code {self.exit_code}"
        return f"was killed by signal {-self.exit_code} ({signal.Signals(-self.exit_code).name})"


def apart(
    tasks: Sequence[Task], jobs: int, work: Work[Task], *, gpus: Sequence[str] = ()
) -> Generator[tuple[Task, Any], None, None]:
    """Run `jobs` tasks at once, each in a process of its own; tasks and answers as they come.

    Left early, the iterator ends those that still run: each gets SIGTERM, and the time it takes to obey.
    So it is on Ctrl-C; on a second one they are killed.

    Args:
        gpus: the CUDA devices, each of which one process sees alone; empty: every process sees all.

    Raises: KeyboardInterrupt on Ctrl-C, once all have ended.
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
                    with interrupts_ignored():
                        process.start()
                    sender.close()  # the child's end alone is open: its death is an end of file
                    running[receiver] = (task, place, process)
                if stop.is_set():
                    raise KeyboardInterrupt
                for ready in wait(list(running), _LOOK_EVERY_S):
                    assert isinstance(ready, Connection)
                    task, place, process = running.pop(ready)
                    free.append(place)
                    yield task, _answer(ready, process)
        finally:
            _end([process for _, _, process in running.values()], now)


def _end(processes: Sequence[SpawnProcess], now: threading.Event) -> None:
    """They have ended, each in the time it takes; killed, where it is to be `now`."""
    for process in processes:
        process.terminate()
    for process in processes:
        while process.is_alive():
            process.join(_LOOK_EVERY_S)
            if now.is_set():
                process.kill()


@contextmanager
def interrupts_ignored() -> Iterator[None]:
    """What is started meanwhile leaves Ctrl-C to its parent from its first moment on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def end_with_parent(end: Callable[[], object] = lambda: os._exit(1)) -> None:
    """From here on this process ends when its parent does, by way of `end`."""
    threading.Thread(target=_wait_for_parent, args=(end,), daemon=True).start()


def visible_gpus() -> list[str]:
    """The CUDA devices of this process, by the names that `CUDA_VISIBLE_DEVICES` has for them."""
    import torch

    n = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = [name for name in os.environ.get(VISIBLE, "").split(",") if name]
    return (named or [str(i) for i in range(n)])[:n]


def _answer(receiver: Connection, process: SpawnProcess) -> Any:
    try:
        answer = receiver.recv()
    except EOFError:
        process.join()
        return Ended(process.exitcode)
    process.join()
    return answer


def _child(work: Work[Task], sender: Connection, task: Task, gpu: str | None) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # not at once: locks and semaphores are given back
    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which a process that is killed leaves behind
    end_with_parent()
    if gpu is not None:
        os.environ[VISIBLE] = gpu
    try:
        work(sender, task)
    except KeyboardInterrupt:  # asked for, and what was under way is saved
        sys.exit(1)


def _wait_for_parent(end: Callable[[], object]) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    end()
