"""A source without an answer: it is said once when it takes long, and again for each long wait."""

import logging
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

from mvsent.limits import TokenBucket
from mvsent.sources.crawl.failures import RetryLater
from mvsent.sources.crawl.patience import Asker


class Time:
    """A clock that calls and waits move."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def is_set(self) -> bool:
        return False

    def wait(self, seconds: float) -> bool:
        self.now_s += seconds
        return False


def silent(time: Time, n_times: int, timeout_s: float) -> Callable[[], str]:
    """A call that fails so many times, each after `timeout_s`."""
    left = [timeout_s] * n_times

    def call() -> str:
        if left:
            time.now_s += left.pop()
            raise RetryLater(None, "Flickr does not answer")
        return "answer"

    return call


@pytest.mark.parametrize(("timeout_s", "latest_s"), [(0.0, 11.0), (4.0, 15.0), (30.0, 31.0)])
def test_a_source_that_does_not_answer_is_told_of_soon(
    timeout_s: float, latest_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    time, said = Time(), list[float]()
    monkeypatch.setattr(logging.getLogger("mvsent"), "warning", lambda *_: said.append(time.now_s))
    for seed in range(20):
        time.now_s, stop = 0.0, time
        bucket = TokenBucket(10**6, burst=10**6, clock=lambda: time.now_s)
        asker = Asker(bucket, _event(stop), lambda: None, random.Random(seed), lambda: time.now_s)
        assert asker.ask(silent(time, 7, timeout_s)) == "answer"
        assert said and said[0] <= latest_s, (seed, said)
        said.clear()


def test_an_outage_of_short_waits_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    time = Time()
    bucket = TokenBucket(10**6, burst=10**6, clock=lambda: time.now_s)
    asker = Asker(bucket, _event(time), lambda: None, random.Random(1), lambda: time.now_s)
    with caplog.at_level(logging.WARNING, logger="mvsent"):
        for _ in range(3):  # a call that is answered ends an outage, and a quick failure is none
            asker.ask(silent(time, 3, 30.0))
            asker.ask(silent(time, 1, 1.0))
    assert len(caplog.records) == 3
    assert all(record.message.startswith("Flickr does not answer") for record in caplog.records)


def _event(time: Time) -> threading.Event:
    given: Any = time
    return given  # type: ignore[no-any-return]
