"""Requests for pictures, their outcomes, and the limits that they are fetched under."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from mvsent import __version__
from mvsent.curate.images import ImageFacts
from mvsent.limits import TokenBucket
from mvsent.reasons import Reason

USER_AGENT = f"mvsent/{__version__} (+https://github.com/mvsent/mvsent)"

_UNLIMITED_PER_S = 1_000_000  # more than an event loop can request


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """A picture to fetch."""

    id: str
    url: str


@dataclass(frozen=True, slots=True)
class Fetched:
    """A picture that was fetched and passed every check."""

    id: str
    data: bytes  # without a Content-Encoding, otherwise as sent
    facts: ImageFacts
    url: str  # after redirects


@dataclass(frozen=True, slots=True)
class Dropped:
    """A picture that cannot be downloaded, or failed a check."""

    id: str
    reason: Reason
    detail: str
    unanswered: str = ""  # the host, if it did not answer the last attempt: it, or the network, may be down


@dataclass(frozen=True, slots=True)
class FetchPolicy:
    """The limits under which each picture is fetched."""

    concurrency: int = 32  # pictures in flight at once, including those that wait for a retry
    timeout_s: float = 30.0  # for all requests for a picture together, without waiting for turns
    max_bytes: int = 32 * 2**20  # of the body, compressed and decompressed
    max_pixels: int = 100_000_000
    min_side: int = 64  # pixels
    max_redirects: int = 5
    retries: int = 3  # after the first attempt, on 5xx, a cut connection or a cut body
    patience: int = 10  # further attempts after 429, or 503 with Retry-After
    per_host_per_s: float | None = None  # requests per second to one host; None: no limit
    allowed: frozenset[tuple[str, int]] = frozenset()  # (host, port) that may have a private address
    user_agent: str = USER_AGENT
    backoff_s: float = 1.0  # the longest wait before the first retry; it doubles with each
    max_wait_s: float = 60.0  # the longest Retry-After that is honoured
    workers: int = 0  # threads that check pictures; 0: one per core

    @property
    def n_unanswered(self) -> int:
        """Pictures in a row that a host may leave unanswered before no more are requested from it."""
        return max(20, self.concurrency)


class HostLimits:
    """When each host may get the next request; calls that share one also share the pauses of hosts.

    Args:
        clock: seconds that only go forward.
    """

    def __init__(self, per_host_per_s: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_host_per_s = per_host_per_s
        self._clock = clock
        self._buckets: dict[str, TokenBucket] = {}
        self._unanswered: Counter[str] = Counter()
        self._answered: dict[str, str] = {}

    def reserve(self, host: str) -> float:
        """Take the host's next turn; return the seconds until it comes."""
        return self._bucket(host).reserve()

    def pause(self, host: str, seconds: float) -> None:
        """Delay every turn that is taken from now on by at least `seconds`."""
        self._bucket(host).pause(seconds)

    def is_free(self, host: str) -> bool:
        """Whether the host is not paused."""
        return self._bucket(host).paused_s == 0

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
            rate = self._per_host_per_s
            self._buckets[host] = (
                TokenBucket(_UNLIMITED_PER_S, burst=_UNLIMITED_PER_S, clock=self._clock)
                if rate is None
                else TokenBucket(rate, clock=self._clock)
            )
        return self._buckets[host]
