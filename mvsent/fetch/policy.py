"""What is asked for, under which limits, and what comes of it."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from mvsent import __version__
from mvsent.curate.images import ImageFacts
from mvsent.limits import TokenBucket
from mvsent.pairs import Reason

USER_AGENT = f"mvsent/{__version__} (+https://github.com/mvsent/mvsent)"

_UNLIMITED_PER_S = 1_000_000  # more than one event loop can ask for


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """A picture to fetch."""

    id: str
    url: str


@dataclass(frozen=True, slots=True)
class Fetched:
    """A picture that was fetched and is fit to keep."""

    id: str
    data: bytes  # as the server has it
    facts: ImageFacts
    url: str  # where it was in the end, after redirects


@dataclass(frozen=True, slots=True)
class Dropped:
    """A picture that is not to be had, or not fit to keep."""

    id: str
    reason: Reason
    detail: str
    unanswered: str = ""  # the host that gave no answer to the last attempt: it, or the network, may be down


@dataclass(frozen=True, slots=True)
class FetchPolicy:
    """The limits that every picture is fetched under."""

    concurrency: int = 32  # pictures under way at once, those that wait for a retry included
    timeout_s: float = 30.0  # for all of a picture's requests together; waiting for a turn does not count
    max_bytes: int = 32 * 2**20  # of the body, and of what a compressed body becomes
    max_pixels: int = 100_000_000
    min_side: int = 64  # pixels
    max_redirects: int = 5
    retries: int = 3  # after the first attempt, on 5xx, a cut connection or a cut body
    patience: int = 10  # attempts more that a host may answer with 429, or 503 and Retry-After
    per_host_per_s: float | None = None  # requests a second to one host; None: no limit
    allowed: frozenset[tuple[str, int]] = frozenset()  # (host, port) that may have a private address
    user_agent: str = USER_AGENT
    backoff_s: float = 1.0  # the longest first wait before a retry; it doubles with each
    max_wait_s: float = 60.0  # the longest that a server's Retry-After is obeyed
    workers: int = 0  # threads that check pictures; 0: one a core

    @property
    def n_unanswered(self) -> int:
        """Pictures in a row that a host may leave unanswered before it is asked no more."""
        return max(20, self.concurrency)


class HostLimits:
    """When each host may be asked next. Several calls that get the same one share what hosts asked for.

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
        """Take the host's next turn and give the seconds until it comes."""
        return self._bucket(host).reserve()

    def pause(self, host: str, seconds: float) -> None:
        """No turn that is taken from now on comes before `seconds` have passed."""
        self._bucket(host).pause(seconds)

    def is_free(self, host: str) -> bool:
        """Whether the host is not to be left alone now."""
        return self._bucket(host).paused_s == 0

    def paused(self) -> dict[str, float]:
        """Of each host that is to be left alone, the seconds that are left of it."""
        return {host: s for host, bucket in self._buckets.items() if (s := bucket.paused_s) > 0}

    def note_answer(self, host: str, url: str) -> None:
        """The host is there."""
        self._answered.pop(host, None)
        self._answered[host] = url
        del self._unanswered[host]

    @property
    def answered(self) -> dict[str, str]:
        """By host, the last address that it answered, whatever it said; who was heard last is last."""
        return self._answered

    def note_unanswered(self, host: str) -> None:
        """One more picture was given up because the host did not answer."""
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
