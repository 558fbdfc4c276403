"""Calls of an API within its quota, repeated where that may help, until the user interrupts."""

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from mvsent.errors import Interrupted, in_words
from mvsent.limits import TokenBucket, backoff
from mvsent.sources.crawl.failures import BadAnswer, RetryLater

RETRIES = 8
"""Further attempts while the source is busy or down: about three minutes, unless it says how long to wait."""

BAD_ANSWER_RETRIES = 4

LONG_S = 10.0
"""A wait that is longer is said; so is, once, that a call goes without an answer for so long."""

log = logging.getLogger("mvsent")

T = TypeVar("T")


class Asker:
    """Makes calls one at a time.

    Args:
        bucket: the key's quota.
        stop: once set, no call is made and every wait ends.
        note_call: called before each call, so that the quota outlives the process.
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self,
        bucket: TokenBucket,
        stop: threading.Event,
        note_call: Callable[[], object],
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.bucket = bucket
        self._stop, self._note_call, self._rng, self._clock = stop, note_call, rng, clock

    def ask(self, call: Callable[[], T]) -> T:
        """Return `call()`, repeated after failures that may pass.

        Raises: Interrupted once `stop` is set; SourceFailure for a failure that stays.
        """
        n_failed, is_said, began_s = 0, False, 0.0
        while True:
            self._wait(self.bucket.reserve())
            began_s = began_s if n_failed else self._clock()
            # Before the call: the server counts it, even if this process is killed during it.
            self._note_call()
            try:
                return call()
            except (RetryLater, BadAnswer) as failure:
                if n_failed == (RETRIES if isinstance(failure, RetryLater) else BAD_ANSWER_RETRIES):
                    raise
                asked_s = (failure.after_s or 0.0) if isinstance(failure, RetryLater) else 0.0
                # A source may ask for no wait at all, or for one that has passed, and still be down.
                wait_s = max(asked_s, backoff(n_failed, self._rng))
                is_long = self._clock() - began_s + wait_s > LONG_S
                if wait_s > LONG_S or (is_long and not is_said):
                    is_said = True
                    wish = ", as it asks" if wait_s == asked_s else ""
                    log.warning("%s: waiting %s%s", failure.what, in_words(wait_s), wish)
            self._wait(wait_s)
            n_failed += 1

    def pause(self, attempt: int) -> None:
        """Wait before a page is asked again, longer with each attempt, from 1. Raises: Interrupted."""
        self._wait(backoff(attempt - 1, self._rng))

    def _wait(self, seconds: float) -> None:
        if self._stop.wait(seconds) if seconds > 0 else self._stop.is_set():
            raise Interrupted
