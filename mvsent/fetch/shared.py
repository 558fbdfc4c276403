"""Hosts' limits that hold for many processes, on however many machines: turns are leased from one office.

A worker that may ask without limit asks the office nothing before a picture: it hears of pauses now and then.
"""

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from mvsent.fetch.policy import HostLimits

LEASE_S = 0.2
"""Turns are leased for so long at once: a round trip is a small part of it, and few of them go unused."""

LISTEN_S = 0.2
"""How often a worker hears what the others were told."""


class Office(Protocol):
    """What a worker asks of `LimitsOffice`, wherever that is."""

    def lease(self, host: str, n: int) -> list[float]: ...

    def pause(self, host: str, seconds: float) -> None: ...

    def hear(self, answered: dict[str, str]) -> tuple[dict[str, float], bool]: ...

    def heard(self) -> dict[str, str]: ...


class LimitsOffice:
    """The one place that gives out every host's turns, and knows which hosts want to be left alone."""

    def __init__(self, per_host_per_s: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = HostLimits(per_host_per_s, clock)
        self._stopped = False

    def lease(self, host: str, n: int) -> list[float]:
        """Take the host's next `n` turns and give the seconds until each comes."""
        return [self._limits.reserve(host) for _ in range(n)]

    def pause(self, host: str, seconds: float) -> None:
        """No turn that is leased from now on comes before `seconds` have passed."""
        self._limits.pause(host, seconds)

    def hear(self, answered: dict[str, str]) -> tuple[dict[str, float], bool]:
        """Of each host to be left alone the seconds that are left of it, and whether all is to end.

        Args:
            answered: by host, an address that it answered since the caller was here last.
        """
        for host, url in answered.items():
            self._limits.note_answer(host, url)
        return self._limits.paused(), self._stopped

    def heard(self) -> dict[str, str]:
        """By host, the last address that it answered anybody; who was heard last is last."""
        return self._limits.answered

    def stop(self) -> None:
        """Every worker that listens begins nothing new."""
        self._stopped = True


class LeasedLimits(HostLimits):
    """The office's limits in a worker: within the block it listens to what other workers were told.

    Args:
        stop: set when the office says that all is to end.
    """

    def __init__(
        self,
        office: Office,
        per_host_per_s: float | None,
        stop: threading.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(None, clock)
        self._office, self._stop, self._rate = office, stop, per_host_per_s
        self._turns: defaultdict[str, deque[float]] = defaultdict(deque)
        self._untold: dict[str, str] = {}
        self._lock = threading.Lock()
        self._left = threading.Event()
        self._is_open = False
        self._listener = threading.Thread(target=self._listen, name="mvsent-limits", daemon=True)

    def __enter__(self) -> "LeasedLimits":
        self._listener.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        if self._is_open:  # else the listener ends by itself, once the office has opened
            self._listener.join()
            self.listen()  # what was heard since is told

    def reserve(self, host: str) -> float:
        """Take the next of the turns that were leased, or lease more, and give the seconds until it comes."""
        with self._lock:
            if self._rate is None:
                return super().reserve(host)
            turns = self._turns[host]
            while turns and turns[0] < self._clock():  # a turn that nobody took is not saved
                turns.popleft()
            if not turns:
                waits_s = self._office.lease(host, max(1, int(self._rate * LEASE_S)))
                turns.extend(self._clock() + wait_s for wait_s in waits_s)
            return max(0.0, turns.popleft() - self._clock())

    def pause(self, host: str, seconds: float) -> None:
        """No turn that anybody takes from now on comes before `seconds` have passed."""
        self._office.pause(host, seconds)
        self._leave_alone(host, seconds)

    def is_free(self, host: str) -> bool:
        with self._lock:
            return super().is_free(host)

    def note_answer(self, host: str, url: str) -> None:
        with self._lock:
            super().note_answer(host, url)
            self._untold[host] = url

    @property
    def answered(self) -> dict[str, str]:
        """By host, the last address that it answered anybody."""
        return self._office.heard() | super().answered

    def listen(self) -> None:
        """What the office knows is known here, and what was heard here is known there."""
        with self._lock:
            told, self._untold = self._untold, {}
        pauses, stopped = self._office.hear(told)
        for host, seconds in pauses.items():
            self._leave_alone(host, seconds)
        if stopped:
            self._stop.set()

    def _leave_alone(self, host: str, seconds: float) -> None:
        with self._lock:
            super().pause(host, seconds)
            self._turns.pop(host, None)

    def _listen(self) -> None:
        self.listen()  # beside the first pictures: an office that was just begun takes a second to open
        self._is_open = True
        while not self._left.wait(LISTEN_S):
            self.listen()
