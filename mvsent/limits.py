"""Limits on requests to a server: a quota that holds over any hour, and the wait after a refusal.

Clocks and `sleep` are arguments, so that an hour takes no time in a test.
"""

import math
import random
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

HOUR_S = 3600.0
MAX_RETRY_AFTER_S = HOUR_S
_SECONDS = re.compile(r"[0-9]+(?:\.[0-9]*)?")  # float() would also accept nan, inf and 1_000


class TokenBucket:
    """A token bucket: turns at `rate_per_s`, up to `burst` of which accumulate while idle, within a quota.

    With `quota`, at most that many turns fall into any `window_s`, regardless of the burst. `restore` takes
    over the turns of an earlier process, so that a restart does not evade the quota. A bucket belongs to one
    thread or event loop; `reserve` does not wait and may be called from a coroutine.

    Args:
        clock: a monotonic clock in seconds. A step back counts as no time.
        wall: seconds since 1970 (`time.time`), for time stamps that another process can read.

    >>> bucket = TokenBucket(rate_per_s=2, burst=2, clock=lambda: 0.0)
    >>> [bucket.reserve() for _ in range(4)]
    [0.0, 0.0, 0.5, 1.0]
    """

    def __init__(
        self,
        rate_per_s: float,
        burst: int = 1,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
        *,
        quota: int | None = None,
        window_s: float = HOUR_S,
        wall: Callable[[], float] = time.time,
    ) -> None:
        if not (0 < rate_per_s < math.inf) or burst < 1 or (quota is not None and quota < 1) or window_s <= 0:
            raise ValueError("rate, burst, quota and window must be above zero")
        self._interval_s, self._burst = 1 / rate_per_s, burst
        self._quota, self._window_s = quota, window_s
        self._clock, self._sleep, self._wall = clock, sleep, wall
        self._last_reading = clock()
        self._now_s = 0.0  # the bucket's own time since its start
        self._due_s = 0.0  # when a turn would be due if turns did not accumulate
        self._paused_until_s = 0.0
        self._turns: deque[float] = deque(maxlen=quota or 0)  # the last `quota` turns, in the bucket's time

    @classmethod
    def per_hour(
        cls,
        calls: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
        *,
        wall: Callable[[], float] = time.time,
    ) -> "TokenBucket":
        """A bucket for a quota of `calls` an hour, with a burst of a minute's worth to catch up after delays.

        It stays 2% below the quota (if that is at least 50), and its window is a second longer than an hour,
        because the server counts calls when they arrive, not when they are sent.
        """
        return cls(
            calls / HOUR_S,
            max(1, calls // 60),
            clock,
            sleep,
            quota=calls - calls // 50,
            window_s=HOUR_S + 1,
            wall=wall,
        )

    @property
    def rate_per_s(self) -> float:
        """Turns per second, which may be changed."""
        return 1 / self._interval_s

    @rate_per_s.setter
    def rate_per_s(self, rate: float) -> None:
        self._interval_s = 1 / rate

    def reserve(self) -> float:
        """Take the next turn; return the seconds until it is due, 0.0 if now. Turns are due in order."""
        now = self._time()
        # The generic cell rate algorithm: one due time stands for the number of accumulated turns.
        turn = max(now, self._due_s - (self._burst - 1) * self._interval_s, self._paused_until_s)
        if self._quota is not None:
            if len(self._turns) == self._quota:
                turn = max(turn, self._turns[0] + self._window_s)
            self._turns.append(turn)
        self._due_s = max(self._due_s, turn) + self._interval_s
        return turn - now

    def reserve_now(self) -> float:
        """Take a turn that is due now: 0.0; else take none: the seconds until the next. Without a quota."""
        due_s = self._due_s
        wait_s = self.reserve()
        if wait_s > 0:
            self._due_s = due_s
        return wait_s

    def acquire(self) -> float:
        """Wait for the next turn; return the seconds waited."""
        wait_s = self.reserve()
        if wait_s > 0:
            self._sleep(wait_s)
        return wait_s

    def pause(self, seconds: float) -> None:
        """Delay all turns taken from now on by at least `seconds`, as `Retry-After` demands."""
        self._paused_until_s = max(self._paused_until_s, self._time() + seconds)

    @property
    def paused_s(self) -> float:
        """The remaining seconds of a pause."""
        return max(0.0, self._paused_until_s - self._time())

    @property
    def left(self) -> int | None:
        """Unused turns of the quota in the last window; None without a quota."""
        return None if self._quota is None else self._quota - len(self._recent())

    def state(self) -> list[float]:
        """The turns of the last window as wall-clock time stamps, in order, for `restore`."""
        offset = self._wall() - self._time()
        return [turn + offset for turn in self._recent()]

    def restore(self, stamps: Iterable[float]) -> None:
        """Count the turns of an earlier process, as returned by its `state`, as if they had been taken here.

        A time stamp in the future (the wall clock was set back) counts as a turn taken now, so that the wait
        is at most one window. Must be called before the first turn is taken.
        """
        now, wall = self._time(), self._wall()
        due_s = -math.inf
        for turn in sorted(now - max(0.0, wall - stamp) for stamp in stamps):
            if turn > now - self._window_s:
                self._turns.append(turn)
                due_s = max(due_s, turn) + self._interval_s
        self._due_s = max(self._due_s, due_s)  # their accumulated turns are spent

    def _recent(self) -> list[float]:
        start = self._time() - self._window_s
        return [turn for turn in self._turns if turn > start]

    def _time(self) -> float:
        reading = self._clock()
        # Time is summed, not subtracted from a start: a clock that is set back must not stop all turns.
        self._now_s += max(0.0, reading - self._last_reading)
        self._last_reading = reading
        return self._now_s


def backoff(
    attempt: int, rng: random.Random | None = None, *, base_s: float = 1.0, cap_s: float = 60.0
) -> float:
    """Seconds to wait before retry `attempt` (from 0): random, up to base_s · 2^attempt and at most cap_s.

    Full jitter: clients that were refused at the same time do not retry at the same time.

    >>> 0 <= backoff(3, random.Random(0)) <= 8, backoff(10_000, random.Random(0)) <= 60
    (True, True)

    Reference: Brooker 2015, "Exponential backoff and jitter", AWS Architecture Blog.
    """
    longest_s = min(cap_s, base_s * 2.0 ** min(attempt, 100))  # 2.0**1024 overflows
    return (rng or random).uniform(0, longest_s)


def retry_after(headers: Mapping[str, str], now: float, *, cap_s: float = MAX_RETRY_AFTER_S) -> float | None:
    """Seconds that a response asks to wait, between 0 and `cap_s`; None if absent or unparseable.

    `Retry-After` holds seconds or a date. A date is compared with the response's own `Date`, which makes the
    clocks irrelevant, or else with `now` (seconds since 1970).

    >>> retry_after({"Retry-After": "120"}, now=0)
    120.0
    >>> retry_after({"retry-after": "Thu, 01 Jan 1970 00:00:30 GMT"}, now=10)
    20.0
    >>> retry_after({"Retry-After": "soon"}, now=0), retry_after({}, now=0)
    (None, None)
    """
    lower = {name.lower(): value.strip() for name, value in headers.items()}
    value = lower.get("retry-after", "")
    if _SECONDS.fullmatch(value):
        return min(float(value), cap_s)
    until = _http_date(value)
    if until is None:
        return None
    sent = _http_date(lower.get("date", ""))
    return min(max(until - (now if sent is None else sent), 0.0), cap_s)


def _http_date(value: str) -> float | None:
    """Seconds since 1970 of a date in any of HTTP's three formats; UTC if it names no zone."""
    try:
        moment = parsedate_to_datetime(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, IndexError, OverflowError):  # a header may hold anything
        return None
