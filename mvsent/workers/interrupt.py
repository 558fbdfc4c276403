"""Ctrl-C ends a command once what is under way is saved; a second Ctrl-C does not wait."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from multiprocessing import parent_process
from types import FrameType
from typing import Any

log = logging.getLogger("mvsent")

SIGNALS = (signal.SIGINT, signal.SIGTERM)
LAUNCHED = "MVSENT_LAUNCHED"  # in the environment of ranks that mvsent itself started
TOLD = b"Finishing what is under way; Ctrl-C again stops at once\n"


@contextmanager
def interruptible(
    signals: Sequence[signal.Signals] = SIGNALS,
    *,
    tell: bool = True,
    again: Callable[[int, FrameType | None], object] = signal.default_int_handler,
) -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C or SIGTERM sets within the block, instead of raising KeyboardInterrupt.

    In a thread, which receives no signals, nothing sets the event.

    Args:
        signals: those that set it.
        tell: whether to log that ending takes a while.
        again: the signals' handler once the event is set.
    """
    stop = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, again)
        if tell and log.isEnabledFor(logging.WARNING):
            with suppress(OSError):  # stderr is closed
                os.write(2, TOLD)  # a log record would fail while another one is being written

    with handled_by(ask, signals):
        yield stop


def interruptible_by_parent() -> AbstractContextManager[threading.Event]:
    """Do as `interruptible`, but let a process that mvsent started be interrupted by its parent alone.

    A rank gets SIGINT, since SIGTERM tells it that another rank failed, and ends it at once. Other processes
    get SIGTERM.
    """
    if parent_process() is None:
        return interruptible()
    return interruptible((signal.SIGINT if os.environ.get(LAUNCHED) else signal.SIGTERM,), tell=False)


@contextmanager
def handled_by(handler: Any, signals: Sequence[signal.Signals] = (signal.SIGINT,)) -> Iterator[None]:
    """Let `handler` handle the signals within the block; in a thread, which cannot set one, do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in signals}
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)
