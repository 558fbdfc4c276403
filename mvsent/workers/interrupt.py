"""Ctrl-C asks for an end and gets it once what is under way is saved; a second one does not wait."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

log = logging.getLogger("mvsent")


SIGNALS = (signal.SIGINT, signal.SIGTERM)
TOLD = b"Finishing what is under way; Ctrl-C again stops at once\n"


@contextmanager
def interruptible(
    signals: Sequence[signal.Signals] = SIGNALS,
    *,
    tell: bool = True,
    again: Callable[[int, FrameType | None], object] = signal.default_int_handler,
) -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets within the block, instead of raising KeyboardInterrupt.

    Args:
        signals: which set it.
        tell: the user, that it takes a while.
        again: what the same signal does from then on.
    """
    stop = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, again)
        if tell and log.isEnabledFor(logging.WARNING):
            with suppress(OSError):  # stderr is closed
                os.write(2, TOLD)  # a log record would fail while another one is being written

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, ask) for number in signals}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
