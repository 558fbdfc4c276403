"""Calls of an API within its quota, repeated where that may help, until the user interrupts."""

import random
import threading
from collections.abc import Callable
from typing import TypeVar

from mvsent.errors import Interrupted
from mvsent.limits import TokenBucket, backoff
from mvsent.sources.crawl.failures import BadAnswer, RetryLater

RETRIES = 8
"""Further attempts while the source is busy or down: about three minutes, unless it says how long to wait."""

BAD_ANSWER_RETRIES = 4

T = TypeVar("T")


class Asker:
    """Makes calls one at a time.

    Args:
        bucket: the key's quota.
        stop: once set, no call is made and every wait ends.
        note_call: called before each call, so that the quota outlives the process.
    """

    def __init__(
        self,
        bucket: TokenBucket,
        stop: threading.Event,
        note_call: Callable[[], object],
        rng: random.Random | None = None,
    ) -> None:
        self.bucket = bucket
        self._stop, self._note_call, self._rng = stop, note_call, rng

    def ask(self, call: Callable[[], T]) -> T:
        """Return `call()`, repeated after failures that may pass.

        Raises: Interrupted once `stop` is set; SourceFailure for a failure that stays.
        """
        n_failed = 0
        while True:
            self._wait(self.bucket.reserve())
            # Before the call: the server counts it, even if this process is killed during it.
            self._note_call()
            try:
                return call()
            except (RetryLater, BadAnswer) as failure:
                if n_failed == (RETRIES if isinstance(failure, RetryLater) else BAD_ANSWER_RETRIES):
                    raise
                asked_s = failure.after_s if isinstance(failure, RetryLater) else None
            self._wait(backoff(n_failed, self._rng) if asked_s is None else asked_s)
            n_failed += 1

    def pause(self, attempt: int) -> None:
        """Wait before a page is asked again, longer with each attempt, from 1. Raises: Interrupted."""
        self._wait(backoff(attempt - 1, self._rng))

    def _wait(self, seconds: float) -> None:
        if self._stop.wait(seconds) if seconds > 0 else self._stop.is_set():
            raise Interrupted
