"""The rate at which a host is asked for pictures: it rises until the host refuses, and falls then.

    start     2 pictures a second, doubled every second, up to the limit of --images-per-second
    refusal   429 or 503: half the rate (multiplicative decrease)
    after it  the rate rises so that it is back within a minute (additive increase)

Without a limit, requests are as fast as the network until the host refuses for the first time.
"""

import time
from collections import deque
from collections.abc import Callable

START_PER_S, FLOOR_PER_S = 2.0, 0.1
RECOVERY_S = 60.0
_SETTLE_S = 1.0  # refusals this soon after a cut are of requests that were under way
_RECENT = 64  # answers by whose times an unlimited rate is measured


class HostPace:
    """The pace of one host.

    Args:
        limit_per_s: the rate that is never passed; None: no limit.
        start_per_s: the first rate.
        clock: seconds that only go forward.

    Attributes:
        rate_per_s: the present rate; None while there is no limit.
    """

    def __init__(
        self,
        limit_per_s: float | None,
        clock: Callable[[], float] = time.monotonic,
        start_per_s: float = START_PER_S,
    ) -> None:
        self._limit, self._clock = limit_per_s, clock
        self.rate_per_s = None if limit_per_s is None else min(start_per_s, limit_per_s)
        self._slope = 0.0  # per second and second; 0 before the first refusal
        self._grown_at = self._cut_at = clock()
        self._refused_since: float | None = None
        self._answers: deque[float] = deque(maxlen=_RECENT)

    def note_answer(self) -> None:
        """Take note that the host gave a picture, or said that there is none."""
        now = self._clock()
        self._refused_since = None
        self._answers.append(now)
        elapsed_s, self._grown_at = min(1.0, now - self._grown_at), now
        if self.rate_per_s is None:
            return
        grown = self.rate_per_s + self._slope * elapsed_s if self._slope else self.rate_per_s * 2**elapsed_s
        self.rate_per_s = grown if self._limit is None else min(grown, self._limit)

    def note_refusal(self) -> None:
        """Take note that the host refused a request for coming too soon."""
        now = self._clock()
        if self._refused_since is None:
            self._refused_since = now
        if self._slope and now - self._cut_at < max(_SETTLE_S, 1 / (self.rate_per_s or _SETTLE_S)):
            return
        before = self.rate_per_s or self._measured(now)
        self.rate_per_s = max(FLOOR_PER_S, before / 2)
        self._slope = max(before - self.rate_per_s, FLOOR_PER_S) / RECOVERY_S
        self._cut_at = self._grown_at = now

    def _measured(self, now: float) -> float:
        if not self._answers:
            return 2 * START_PER_S
        return len(self._answers) / max(1.0, now - self._answers[0])

    @property
    def is_slowed(self) -> bool:
        """Whether the host has refused, and the rate is below the limit since."""
        return self._slope > 0 and self.rate_per_s != self._limit

    @property
    def is_refusing(self) -> bool:
        """Whether the host refused the last request."""
        return self._refused_since is not None

    @property
    def refused_s(self) -> float:
        """Seconds for which the host has refused every request; 0 if it answered the last one."""
        return 0.0 if self._refused_since is None else self._clock() - self._refused_since
