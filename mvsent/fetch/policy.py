"""Requests for pictures, their outcomes, and the limits that they are fetched under."""

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from mvsent import __version__
from mvsent.curate.images import ImageFacts
from mvsent.fetch.pace import START_PER_S, HostPace
from mvsent.limits import TokenBucket
from mvsent.reasons import Reason

USER_AGENT = f"mvsent/{__version__} (+https://github.com/mvsent/mvsent)"

_UNLIMITED_PER_S = 1_000_000  # more than an event loop can request


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """A picture to fetch.

    Attributes:
        others: addresses of its other sizes, tried in order if `url` is refused, missing or corrupt.
    """

    id: str
    url: str
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fetched:
    """A picture that was fetched and passed every check."""

    id: str
    data: bytes  # without a Content-Encoding, otherwise as sent
    facts: ImageFacts
    url: str  # after redirects
    asked: str = ""  # the one of its addresses that gave it


@dataclass(slots=True)
class Refusals:
    """How often a picture was refused by a host that is busy (429 or 503).

    Attributes:
        host: the last one.
        n: 0 if the picture was not asked for, as the host refuses all others.
        since: when it was refused first, as `time.monotonic()`.
    """

    host: str = ""
    n: int = 0
    since: float = math.inf

    def add(self, host: str) -> None:
        """Count one more."""
        self.host, self.n, self.since = host, self.n + 1, min(self.since, time.monotonic())


@dataclass(frozen=True, slots=True)
class Dropped:
    """A picture that cannot be downloaded, or failed a check."""

    id: str
    reason: Reason
    detail: str
    unanswered: str = ""  # the host, if it did not answer the last attempt: it, or the network, may be down
    refusals: Refusals | None = None  # if the picture is only put off, as its host is busy


@dataclass(frozen=True, slots=True)
class FetchPolicy:
    """The limits under which each picture is fetched."""

    concurrency: int = 32  # pictures in flight at once, including those that wait for a retry
    timeout_s: float = 30.0  # for all requests for a picture together, without waiting for turns
    max_bytes: int = 32 * 2**20  # of the body, compressed and decompressed
    max_pixels: int = 100_000_000
    min_side: int = 64  # pixels
    max_redirects: int = 5
    retries: int = 3  # after the first attempt, on 500, 502 or 504, a cut connection or a cut body
    patience_s: float = 600.0  # for a host that refuses every request with 429 or 503
    per_host_per_s: float | None = None  # requests per second to one host; None: no limit
    allowed: frozenset[tuple[str, int]] = frozenset()  # (host, port) that may have a private address
    user_agent: str = USER_AGENT
    backoff_s: float = 1.0  # the longest wait before the first retry; it doubles with each
    max_wait_s: float = 60.0  # the longest Retry-After that is honoured, unless the patience is shorter
    workers: int = 0  # threads that check pictures; 0: one per core

    @property
    def n_unanswered(self) -> int:
        """Pictures in a row that a host may leave unanswered before no more are requested from it."""
        return max(20, self.concurrency)


class HostLimits:
    """When each host may get the next request; calls that share one also share the paces of hosts.

    Args:
        per_host_per_s: the highest rate; None for none.
        start_per_s: the first rate.
        clock: seconds that only go forward.
    """

    def __init__(
        self,
        per_host_per_s: float | None,
        clock: Callable[[], float] = time.monotonic,
        start_per_s: float = START_PER_S,
    ) -> None:
        self._per_host_per_s, self._start_per_s = per_host_per_s, start_per_s
        self._clock = clock
        self._buckets: dict[str, TokenBucket] = {}
        self._paces: dict[str, HostPace] = {}
        self._unlimited: set[str] = set()
        self._unanswered: Counter[str] = Counter()
        self._answered: dict[str, str] = {}
        self._given: dict[str, str] = {}

    def reserve(self, host: str) -> float:
        """Take the host's next turn; return the seconds until it comes."""
        return self._bucket(host).reserve()

    def pause(self, host: str, seconds: float) -> None:
        """Delay every turn that is taken from now on by at least `seconds`."""
        self._bucket(host).pause(seconds)

    def note_refusal(self, host: str, seconds: float | None) -> None:
        """Slow down, as the host refused a request; pause for the `seconds` that it asks for, if it does."""
        pace = self._pace(host)
        pace.note_refusal()
        self._heed(host)
        self.pause(host, 1 / (pace.rate_per_s or 1) if seconds is None else seconds)

    def note_taken(self, host: str, url: str = "", n: int = 1) -> None:
        """Take note that the host answered `n` requests without a refusal.

        Args:
            url: the last of which it gave the picture, or said that it is gone; empty if there is none.
        """
        for _ in range(n):
            self._pace(host).note_answer()
        self._heed(host)
        if url:
            self._given.pop(host, None)  # so that the latest host is last
            self._given[host] = url

    def begin_anew(self, host: str) -> None:
        """Give out turns from now on; those that pictures took and did not wait for are far away by then."""
        paused_s = self.paused_s(host)
        del self._buckets[host]
        self.pause(host, paused_s)

    @property
    def given(self) -> dict[str, str]:
        """By host, the last address of which it gave the picture; the latest host is last."""
        return self._given

    def refused_s(self, host: str) -> float | None:
        """Seconds for which the host has refused every request; None if it answered the last one."""
        pace = self._pace(host)
        return pace.refused_s if pace.is_refusing else None

    def is_out(self, host: str, patience_s: float) -> bool:
        """Whether the host has refused every request for as long as the patience lasts."""
        refused_s = self.refused_s(host)
        return refused_s is not None and refused_s >= patience_s

    def refusing(self) -> dict[str, float]:
        """Hosts that refused their last requests, with the seconds for which they have."""
        return {host: pace.refused_s for host, pace in self._paces.items() if pace.is_refusing}

    def slowed(self) -> dict[str, float]:
        """Hosts that are asked less often since they refused, with their requests per second."""
        return {host: pace.rate_per_s or 0.0 for host, pace in self._paces.items() if pace.is_slowed}

    def rate(self, host: str) -> float | None:
        """Requests per second to the host at present; None for no limit."""
        return self._pace(host).rate_per_s

    def _pace(self, host: str) -> HostPace:
        if host not in self._paces:
            self._paces[host] = HostPace(self._per_host_per_s, self._clock, self._start_per_s)
        return self._paces[host]

    def _heed(self, host: str) -> None:
        """Give out turns at the present pace."""
        rate = self._pace(host).rate_per_s
        if rate is None:
            return
        if host in self._unlimited:  # its turns accumulate, as if without end
            self._unlimited.remove(host)
            self._buckets[host] = TokenBucket(rate, clock=self._clock)
        self._bucket(host).rate_per_s = rate

    def is_free(self, host: str) -> bool:
        """Whether the host is not paused."""
        return self.paused_s(host) == 0

    def paused_s(self, host: str) -> float:
        """The seconds left of the host's pause."""
        return self._bucket(host).paused_s

    def paused(self) -> dict[str, float]:
        """The seconds left of each paused host's pause."""
        return {host: s for host, bucket in self._buckets.items() if (s := bucket.paused_s) > 0}

    def note_answer(self, host: str, url: str) -> None:
        """Record that the host answered, whatever it said."""
        self._answered.pop(host, None)  # so that the latest host is last
        self._answered[host] = url
        del self._unanswered[host]  # a Counter ignores a missing key

    @property
    def answered(self) -> dict[str, str]:
        """By host, the last address that it answered; the latest host is last."""
        return self._answered

    def note_unanswered(self, host: str) -> None:
        """Count a picture that was given up because the host did not answer."""
        self._unanswered[host] += 1

    def n_unanswered(self, host: str) -> int:
        """Pictures in a row that the host left unanswered."""
        return self._unanswered[host]

    def forget_unanswered(self) -> None:
        """Count unanswered pictures from zero for every host."""
        self._unanswered.clear()

    def _bucket(self, host: str) -> TokenBucket:
        if host not in self._buckets:
            rate = self._pace(host).rate_per_s
            if rate is None:
                self._unlimited.add(host)
                self._buckets[host] = TokenBucket(_UNLIMITED_PER_S, burst=_UNLIMITED_PER_S, clock=self._clock)
            else:
                self._buckets[host] = TokenBucket(rate, clock=self._clock)
        return self._buckets[host]
