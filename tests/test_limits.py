"""The quota over any hour, restarts, clocks that jump, backoff, and what Retry-After may hold."""

import asyncio
import math
import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvsent.limits import HOUR_S, MAX_RETRY_AFTER_S, TokenBucket, backoff, retry_after


class Time:
    """A clock that moves when somebody sleeps, and a wall clock beside it."""

    def __init__(self, now: float = 1000.0, wall: float = 1.7e9) -> None:
        self.now, self.wall_s = now, wall

    def clock(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.wall_s

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += seconds
        self.wall_s += seconds

    def per_hour(self, calls: int) -> TokenBucket:
        return TokenBucket.per_hour(calls, self.clock, self.sleep, wall=self.wall)


def most_in_an_hour(calls: list[float]) -> int:
    """The most calls in any [t, t + 1 h], by two pointers."""
    most = first = 0
    for last, call in enumerate(calls):
        while call - calls[first] > HOUR_S:
            first += 1
        most = max(most, last - first + 1)
    return most


def calls_for(bucket: TokenBucket, time: Time, seconds: float, latency_s: float = 0.0) -> list[float]:
    """When calls go out, one after the other, each `latency_s` long."""
    calls = []
    end = time.now + seconds
    while True:
        bucket.acquire()
        if time.now >= end:
            return calls
        calls.append(time.now)
        time.sleep(latency_s)


# The quota


@pytest.mark.parametrize("latency_s", [0.0, 0.3, 0.9])
def test_a_simulated_hour_uses_95_percent_of_flickrs_quota_and_no_hour_more_than_all(latency_s):
    time = Time()
    calls = calls_for(time.per_hour(3600), time, 3 * HOUR_S, latency_s)
    for hour in range(3):
        start = calls[0] + hour * HOUR_S
        assert 0.95 * 3600 <= sum(start <= call < start + HOUR_S for call in calls) <= 3600
    assert most_in_an_hour(calls) <= 3600


@pytest.mark.parametrize("quota", [1, 2, 7, 49, 50, 51, 100, 500, 10_000])
def test_other_quotas_are_used_and_kept_as_well(quota):
    time = Time()
    calls = calls_for(time.per_hour(quota), time, 2 * HOUR_S)
    assert sum(call < calls[0] + HOUR_S for call in calls) >= 0.95 * quota
    assert most_in_an_hour(calls) <= quota


@given(
    st.integers(1, 40),
    st.integers(1, 60),
    st.floats(0.001, 1),
    st.lists(st.floats(0, 2000), min_size=1, max_size=80),
)
def test_no_hour_has_more_turns_than_the_quota_whatever_rate_burst_and_pauses_are(quota, burst, rate, pauses):
    time = Time()
    bucket = TokenBucket(
        rate, burst, time.clock, time.sleep, quota=quota, window_s=HOUR_S + 1, wall=time.wall
    )
    calls = []
    for pause in pauses:
        time.sleep(pause)
        bucket.acquire()
        calls.append(time.now)
    assert most_in_an_hour(calls) <= quota


@given(st.integers(1, 20), st.floats(0.01, 100), st.lists(st.floats(0, 10), min_size=1, max_size=60))
def test_without_a_quota_any_span_has_at_most_the_burst_and_what_the_rate_gives(burst, rate, pauses):
    time = Time(now=0)
    bucket = TokenBucket(rate, burst, time.clock, time.sleep)
    calls = []
    for pause in pauses:
        time.sleep(pause)
        bucket.acquire()
        calls.append(time.now)
    for i, start in enumerate(calls):
        for n, end in enumerate(calls[i:], start=1):
            assert n <= burst + (end - start) * rate * (1 + 1e-9) + 1e-6


def test_a_burst_is_saved_up_and_then_the_rate_holds():
    time = Time()
    bucket = TokenBucket(2, 3, time.clock, time.sleep)
    time.sleep(1000)
    assert [bucket.acquire() for _ in range(5)] == [0, 0, 0, 0.5, 0.5]


def test_reserving_does_not_wait_and_turns_come_in_order():
    time = Time()
    bucket = TokenBucket(10, 1, time.clock, time.sleep)
    assert [bucket.reserve() for _ in range(4)] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert time.now == 1000.0


def test_coroutines_share_a_bucket():
    time = Time()
    bucket = TokenBucket(4, 2, time.clock)
    waits = []

    async def fetch():
        waits.append(bucket.reserve())
        await asyncio.sleep(0)

    async def fetch_all():
        await asyncio.gather(*(fetch() for _ in range(6)))

    asyncio.run(fetch_all())
    assert waits == pytest.approx([0, 0, 0.25, 0.5, 0.75, 1.0])


def test_a_pause_holds_every_turn_taken_after_it_and_a_shorter_one_does_not_end_it():
    time = Time()
    bucket = TokenBucket(100, 10, time.clock, time.sleep)
    bucket.pause(30)
    bucket.pause(1)
    assert bucket.acquire() == 30
    assert bucket.acquire() == 0


def test_what_is_left_of_the_quota_is_known():
    time = Time()
    bucket = TokenBucket(1, 10, time.clock, time.sleep, quota=10)
    for _ in range(4):
        bucket.acquire()
    assert bucket.left == 6
    time.sleep(HOUR_S + 1)
    assert bucket.left == 10
    assert TokenBucket(1, 10, time.clock).left is None


@pytest.mark.parametrize(
    ("rate", "burst", "quota"),
    [(0, 1, None), (-1, 1, None), (math.inf, 1, None), (math.nan, 1, None), (1, 0, 5), (1, 1, 0)],
)
def test_a_bucket_that_could_never_give_a_turn_is_refused(rate, burst, quota):
    with pytest.raises(ValueError, match="above zero"):
        TokenBucket(rate, burst, quota=quota)


# Clocks that jump


def test_a_clock_put_back_stops_nothing():
    time = Time()
    bucket = time.per_hour(3600)
    calls_for(bucket, time, 600)
    time.now -= 5000
    assert bucket.acquire() < 2.1  # the second that was slept, and a step back, is not seen
    assert len(calls_for(bucket, time, HOUR_S)) >= 0.95 * 3600


def test_a_clock_that_jumps_far_ahead_gives_a_burst_and_no_more():
    time = Time()
    bucket = time.per_hour(3600)
    calls_for(bucket, time, 600)
    time.now += 1e9
    calls = calls_for(bucket, time, 2 * HOUR_S)
    assert sum(call < calls[0] + 1 for call in calls) <= 61
    assert most_in_an_hour(calls) <= 3600


def test_the_wall_clock_has_no_say_while_the_process_runs():
    time = Time()
    bucket = time.per_hour(3600)
    calls = calls_for(bucket, time, 600)
    time.wall_s += 1e8
    calls += calls_for(bucket, time, HOUR_S)
    time.wall_s -= 2e8
    calls += calls_for(bucket, time, HOUR_S)
    assert most_in_an_hour(calls) <= 3600


# Restarts


def test_a_restart_is_no_way_round_the_quota():
    time = Time()
    calls: list[float] = []
    state: list[float] = []
    for lasts_s in (100, 5, 1, 400, 3, 900, 2000, 1, 3600):
        time.now = 7.0  # another process, another monotonic clock
        bucket = time.per_hour(200)
        bucket.restore(state)
        ends = time.wall_s + lasts_s
        while time.wall_s < ends:
            bucket.acquire()
            calls.append(time.wall_s)
        state = bucket.state()
    assert most_in_an_hour(calls) <= 200
    assert len(calls) >= 0.9 * 200 * (calls[-1] - calls[0]) / HOUR_S


def test_a_restart_does_not_refill_the_burst():
    time = Time()
    bucket = TokenBucket(1, 5, time.clock, time.sleep, quota=1000, wall=time.wall)
    for _ in range(5):
        assert bucket.acquire() == 0
    again = TokenBucket(1, 5, time.clock, time.sleep, quota=1000, wall=time.wall)
    again.restore(bucket.state())
    assert again.reserve() == pytest.approx(1)


def test_the_state_is_the_last_hours_calls_as_wall_clock_stamps():
    time = Time()
    bucket = time.per_hour(3600)
    bucket.acquire()
    time.sleep(5000)
    stamps = [time.wall_s]
    bucket.acquire()
    time.sleep(10)
    stamps.append(time.wall_s)
    bucket.acquire()
    time.sleep(100)
    assert bucket.state() == pytest.approx(stamps)


def test_stamps_from_the_future_cost_at_most_an_hour():
    time = Time()
    bucket = time.per_hour(100)
    bucket.restore([time.wall_s + 1e6] * 100)
    assert bucket.left == 0
    assert bucket.reserve() <= HOUR_S + 1


def test_stamps_out_of_order_and_older_than_an_hour_do_no_harm():
    time = Time()
    bucket = time.per_hour(40)
    bucket.restore([time.wall_s - age for age in (10, 5000, 3, 1e9, 20)])
    assert bucket.left == 37
    assert bucket.state() == pytest.approx([time.wall_s - age for age in (20, 10, 3)])


@settings(max_examples=50)
@given(st.lists(st.floats(0, 4000), max_size=60), st.integers(1, 30))
def test_restored_or_not_no_hour_has_more_than_the_quota(ages, quota):
    time = Time()
    stamps = most_recent_that_fit([time.wall_s - age for age in ages], quota)
    bucket = time.per_hour(quota)
    bucket.restore(stamps)
    calls = list(stamps)
    for _ in range(quota * 2):
        bucket.acquire()
        calls.append(time.wall_s)
    assert most_in_an_hour(calls) <= quota


def most_recent_that_fit(stamps: list[float], quota: int) -> list[float]:
    """Some of the stamps that an earlier process could have left, in order: never over the quota."""
    return sorted(stamps)[-(quota - quota // 50) :]


# Backoff


@given(st.integers(0, 10**6), st.integers(0, 99))
def test_backoff_is_between_nothing_and_its_doubling_bound(attempt, seed):
    wait_s = backoff(attempt, random.Random(seed), base_s=0.5, cap_s=40)
    assert 0 <= wait_s <= min(40, 0.5 * 2 ** min(attempt, 10))


def test_backoff_spreads_over_the_whole_range_and_repeats_with_its_seed():
    waits = [backoff(4, random.Random(seed)) for seed in range(200)]
    assert min(waits) < 2
    assert max(waits) > 14
    assert waits[7] == backoff(4, random.Random(7))


# Retry-After

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        (" 7 ", 7),
        ("0", 0),
        ("1.5", 1.5),
        ("Sun, 01 Mar 2026 12:00:30 GMT", 30),
        ("Sunday, 01-Mar-26 12:00:30 GMT", 30),
        ("Sun Mar  1 12:00:30 2026", 30),
        ("Sun, 01 Mar 2026 13:00:30 +0100", 30),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0),
        ("Sun, 01 Mar 2126 12:00:00 GMT", MAX_RETRY_AFTER_S),
        ("99999999", MAX_RETRY_AFTER_S),
        ("9" * 10_000, MAX_RETRY_AFTER_S),
        ("-5", None),
        ("", None),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("1e3", None),
        ("5, 10", None),
        ("5s", None),
        ("٣", None),
        ("Sun, 99 Mar 2026 12:00:30 GMT", None),
        ("Sun, 01 Mar 99999 12:00:30 GMT", None),
        ("\x00", None),
    ],
)
def test_retry_after_means(value, seconds):
    assert retry_after({"Retry-After": value}, NOW.timestamp()) == seconds


def test_a_date_is_compared_with_the_servers_own_clock():
    headers = {"retry-after": "Sun, 01 Mar 2026 12:00:30 GMT", "date": "Sun, 01 Mar 2026 12:00:20 GMT"}
    assert retry_after(headers, (NOW + timedelta(days=3)).timestamp()) == 10
    assert retry_after(headers | {"date": "yesterday"}, NOW.timestamp()) == 30


def test_no_header_is_none_and_its_case_does_not_matter():
    assert retry_after({}, 0) is None
    assert retry_after({"RETRY-AFTER": "3"}, 0) == 3


@given(st.text(max_size=40), st.text(max_size=40))
def test_any_header_is_none_or_within_the_cap(value, date):
    wait_s = retry_after({"Retry-After": value, "Date": date}, NOW.timestamp(), cap_s=50)
    assert wait_s is None or 0 <= wait_s <= 50
