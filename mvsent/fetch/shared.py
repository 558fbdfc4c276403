"""Limits per host that hold for many processes on any number of machines: turns are leased from one office.

Without a limit, a worker asks the office nothing before a picture; it only learns of pauses.
"""

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mvsent.fetch.pace import START_PER_S
from mvsent.fetch.policy import HostLimits

LEASE_S = 0.2
"""Turns are leased for this long: a round trip is a small part of it, and few turns go unused."""

LISTEN_S = 0.2
"""Seconds between two exchanges with the office, by which a worker learns of pauses and of the end."""


class LimitsOffice:
    """Gives out the turns of every host, and knows which hosts asked for a pause."""

    def __init__(
        self,
        per_host_per_s: float | None,
        clock: Callable[[], float] = time.monotonic,
        start_per_s: float = START_PER_S,
    ) -> None:
        self._limits = HostLimits(per_host_per_s, clock, start_per_s)
        self._stopped = False

    def lease(self, host: str) -> list[float]:
        """Take the host's turns of the next LEASE_S, at least one; return the seconds until each."""
        n = max(1, int((self._limits.rate(host) or 0) * LEASE_S))
        return [self._limits.reserve(host) for _ in range(n)]

    def refuse(self, host: str, seconds: float | None) -> dict[str, float]:
        """Slow down for all workers, as the host refused a request; return the seconds of pauses."""
        self._limits.note_refusal(host, seconds)
        return self._limits.paused()

    def exchange(self, answered: dict[str, str], taken: dict[str, tuple[int, str]]) -> "News":
        """Return what a worker has to know.

        Args:
            answered: by host, an address that it answered since the worker's last call.
            taken: by host, number of requests that it answered without a refusal since then, and the address
                of the last picture that it gave.
        """
        for host, url in answered.items():
            self._limits.note_answer(host, url)
        for host, (n, url) in taken.items():
            self._limits.note_taken(host, url, n)
        return News(self._limits.paused(), self._limits.slowed(), self._limits.refusing(), self._stopped)

    def begin_anew(self, host: str) -> None:
        """Give out turns from now on."""
        self._limits.begin_anew(host)

    def slowed(self) -> dict[str, float]:
        """Hosts that are asked less often since they refused, with their requests per second."""
        return self._limits.slowed()

    def answered(self) -> dict[str, str]:
        """By host, the last address that it answered any worker; the latest host is last."""
        return self._limits.answered

    def given(self) -> dict[str, str]:
        """By host, the address of the last picture that it gave any worker; the latest host is last."""
        return self._limits.given

    def stop(self) -> None:
        """Tell every worker to begin nothing new."""
        self._stopped = True


@dataclass(frozen=True, slots=True)
class News:
    """The news for a worker from the office.

    Attributes:
        paused: by host, the seconds that its pause lasts.
        slowed: by host, its requests per second since it refused one.
        refusing: by host, the seconds for which it has refused every request.
        is_over: whether workers must stop.
    """

    paused: dict[str, float]
    slowed: dict[str, float]
    refusing: dict[str, float]
    is_over: bool


class LeasedLimits(HostLimits):
    """The office's limits in one worker, which listens to the office within `with limits:`.

    Args:
        stop: event that is set when the office tells workers to stop, and that fetching has to watch. In this
            process others may share it; pickled limits get an event of their own.
    """

    def __init__(
        self,
        office: LimitsOffice,
        per_host_per_s: float | None,
        stop: threading.Event | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(None, clock)  # the office has the rate; pauses are known here, too
        self.stop = stop or threading.Event()
        self._office, self._rate = office, per_host_per_s
        self._turns: defaultdict[str, deque[float]] = defaultdict(deque)
        self._untold: dict[str, str] = {}
        self._taken: dict[str, tuple[int, str]] = {}
        self._news, self._learnt_at = News({}, {}, {}, False), clock()
        self._lock = threading.RLock()

    def __reduce__(self) -> tuple[Any, ...]:
        return LeasedLimits, (self._office, self._rate)

    def __enter__(self) -> None:
        self._left = threading.Event()
        self._listener = threading.Thread(target=self._listen, name="mvsent-limits", daemon=True)
        self.listen()  # before any request: a late worker learns of pauses and of the end
        self._listener.start()

    def __exit__(self, *error: object) -> None:
        self._left.set()
        self._listener.join()
        self.listen()  # so that the office knows which hosts answered last

    def reserve(self, host: str) -> float:
        """Take the next leased turn, leasing more if needed; return the seconds until it comes."""
        with self._lock:
            if self._rate is None and host not in self._news.slowed:
                return super().reserve(host)
            turns = self._turns[host]
            while turns and turns[0] < self._clock():  # unused turns are lost: saved ones would be a burst
                turns.popleft()
            if not turns:
                waits_s = self._office.lease(host)
                turns.extend(self._clock() + wait_s for wait_s in waits_s)
            return max(0.0, turns.popleft() - self._clock())

    def note_refusal(self, host: str, seconds: float | None) -> None:
        """Slow down for every worker."""
        self.listen()  # first, since the office would take what came before for an end of the refusals
        pauses = self._office.refuse(host, seconds)
        self.listen()  # of the pace that is new
        self._pause_here(host, pauses.get(host, 0.0))

    def note_taken(self, host: str, url: str = "", n: int = 1) -> None:
        with self._lock:
            before, last = self._taken.get(host, (0, ""))
            self._taken[host] = before + n, url or last
            self._news.refusing.pop(host, None)
            if url:
                self._given[host] = url

    def begin_anew(self, host: str) -> None:
        with self._lock:
            super().begin_anew(host)
            self._turns.pop(host, None)
        self._office.begin_anew(host)

    def refused_s(self, host: str) -> float | None:
        with self._lock:
            since = self._news.refusing.get(host)
            return None if since is None else since + self._clock() - self._learnt_at

    def refusing(self) -> dict[str, float]:
        return self._news.refusing

    def paused_s(self, host: str) -> float:
        with self._lock:
            return super().paused_s(host)

    def note_answer(self, host: str, url: str) -> None:
        with self._lock:
            super().note_answer(host, url)
            self._untold[host] = url

    @property
    def answered(self) -> dict[str, str]:
        """By host, the last address that it answered any worker."""
        return self._office.answered() | super().answered

    @property
    def given(self) -> dict[str, str]:
        """By host, the address of the last picture that it gave any worker."""
        return self._office.given() | self._given

    def listen(self) -> None:
        """Tell the office which hosts answered; learn about pauses, and whether to stop."""
        with self._lock:
            told, self._untold = self._untold, {}
            taken, self._taken = self._taken, {}
        news = self._office.exchange(told, taken)
        with self._lock:
            self._news, self._learnt_at = news, self._clock()
        for host, seconds in news.paused.items():
            self._pause_here(host, seconds)
        if news.is_over:
            self.stop.set()

    def _pause_here(self, host: str, seconds: float) -> None:
        with self._lock:
            super().pause(host, seconds)
            self._turns.pop(host, None)  # a turn does not outlive a pause

    def _listen(self) -> None:
        while not self._left.wait(LISTEN_S):
            self.listen()
