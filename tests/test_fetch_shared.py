"""Limits of hosts that hold for many workers, in one process and without waiting."""

import pickle
import threading

import pytest

from mvsent import errors
from mvsent.errors import EngineError, Unreachable
from mvsent.fetch.shared import LEASE_S, LeasedLimits, LimitsOffice

HOST, URL = "pictures.example", "https://pictures.example/1.jpg"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def workers(clock: Clock, rate: float | None, n: int = 2) -> list[LeasedLimits]:
    office = LimitsOffice(rate, clock, start_per_s=rate or 1.0)
    return [LeasedLimits(office, rate, clock=clock) for _ in range(n)]


def test_turns_of_two_workers_are_spaced_as_those_of_one(clock: Clock) -> None:
    both = workers(clock, 50.0)
    turns = [worker.reserve(HOST) for _ in range(40) for worker in both]
    gaps = [later - earlier for earlier, later in zip(sorted(turns), sorted(turns)[1:], strict=False)]
    assert min(gaps) == pytest.approx(1 / 50)


def test_a_worker_asks_the_office_once_for_the_turns_of_a_while(clock: Clock) -> None:
    office = LimitsOffice(50.0, clock, start_per_s=50.0)
    n_leases = 0
    lease = office.lease

    def counted(host: str) -> list[float]:
        nonlocal n_leases
        n_leases += 1
        return lease(host)

    office.lease = counted  # type: ignore[method-assign]
    worker = LeasedLimits(office, 50.0, clock=clock)
    for _ in range(100):
        worker.reserve(HOST)
    assert n_leases == 100 / (50 * LEASE_S)


def test_a_worker_without_a_limit_asks_nobody_before_a_picture(clock: Clock) -> None:
    worker = LeasedLimits(None, None, clock=clock)  # type: ignore[arg-type]
    assert [worker.reserve(HOST) for _ in range(1000)] == [0.0] * 1000


def test_a_turn_that_nobody_took_in_time_is_not_saved(clock: Clock) -> None:
    (worker,) = workers(clock, 50.0, n=1)
    worker.reserve(HOST)
    clock.now = 10.0
    turns = sorted(worker.reserve(HOST) for _ in range(5))
    assert turns == pytest.approx([0.0, 0.02, 0.04, 0.06, 0.08])


@pytest.mark.parametrize("rate", [None, 50.0])
def test_a_refusal_that_one_worker_met_slows_all_down(clock: Clock, rate: float | None) -> None:
    first, second = workers(clock, rate)
    second.reserve(HOST)  # so that it has turns in stock
    first.note_refusal(HOST, 7.0)
    assert second.is_free(HOST)
    second.listen()
    for worker in (first, second):
        assert not worker.is_free(HOST)
        assert worker.reserve(HOST) >= 7.0
        assert worker.reserve("other.example") < 1.0
        assert worker.refused_s(HOST) == 0.0 and worker.refused_s("other.example") is None
    clock.now = 7.0
    assert first.is_free(HOST)
    assert second.is_free(HOST)
    assert second.refused_s(HOST) == 7.0
    second.note_taken(HOST)
    second.listen()
    first.listen()
    assert first.refused_s(HOST) is second.refused_s(HOST) is None


def test_a_picture_that_came_before_a_refusal_is_no_end_of_it(clock: Clock) -> None:
    (worker,) = workers(clock, 50.0, n=1)
    worker.note_taken(HOST, URL)
    worker.note_refusal(HOST, None)
    worker.listen()
    assert worker.is_out(HOST, 0.0)
    worker.note_taken(HOST, URL)
    assert not worker.is_out(HOST, 0.0)  # at once, not when the office is told


def test_every_worker_knows_what_a_host_gave_another(clock: Clock) -> None:
    first, second = workers(clock, None)
    first.note_taken(HOST, URL)
    first.note_taken(HOST)
    assert first.given == {HOST: URL} and second.given == {}
    first.listen()
    assert second.given == {HOST: URL}


def test_turns_that_nobody_waits_for_are_given_out_again(clock: Clock) -> None:
    first, second = workers(clock, 1.0)
    assert [first.reserve(HOST) for _ in range(40)][-1] == 39.0
    second.begin_anew(HOST)
    assert second.reserve(HOST) == 0.0
    second.note_refusal(HOST, 7.0)
    second.begin_anew(HOST)
    assert second.reserve(HOST) == 7.0  # the pause stays


def test_every_worker_knows_who_answered_another(clock: Clock) -> None:
    first, second = workers(clock, None)
    first.note_answer(HOST, URL)
    assert first.answered == {HOST: URL}
    assert second.answered == {}
    first.listen()
    assert second.answered == {HOST: URL}


def test_every_worker_that_listens_ends_when_the_office_says_so(clock: Clock) -> None:
    office, stop = LimitsOffice(None, clock), threading.Event()
    with LeasedLimits(office, None, stop, clock):
        office.stop()
        assert stop.wait(10)


def test_limits_in_another_process_stop_there_only(clock: Clock) -> None:
    office, stop = LimitsOffice(None, clock), threading.Event()
    copy = pickle.loads(pickle.dumps(LeasedLimits(office, None, stop)))
    copy.stop.set()
    assert not stop.is_set()


@pytest.mark.parametrize(
    "error", [Unreachable("a.example", "timed out"), EngineError("what", "do this"), errors.Interrupted()]
)
def test_an_error_of_ours_is_the_same_after_a_journey(error: errors.MvsentError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (str(again), again.what, again.next_step) == (str(error), error.what, error.next_step)
    assert again.exit_code == error.exit_code
