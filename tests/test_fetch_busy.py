"""Hosts that are busy, broken in one picture, or in all: what is lost, what is not, and when a build gives up."""

import itertools
import logging
import re
import threading
import time
from collections import Counter
from functools import partial

import pytest

from mvsent.errors import Interrupted, Refusing
from mvsent.fetch import Dropped, Fetched, FetchPolicy, HostLimits, ImageRequest, fetch_all, fetch_images
from mvsent.fetch.shared import LeasedLimits, LimitsOffice
from mvsent.reasons import Reason
from tests.fault_server import FaultServer, answer, late, redirect, serving
from tests.fetching import PICTURE, outcome, policy
from tests.test_build_table_urls import run, table

BUSY = [
    {"status": "429 No"},
    {"status": "503 Busy"},
    {"status": "503 Busy", "Retry_After": "-5"},
    {"status": "503 Busy", "Retry_After": "soon"},
]


@pytest.fixture
def server():
    with serving() as running:
        yield running


def quick():
    """Limits that let a test be quick, and fall as all do."""
    return HostLimits(200.0, start_per_s=200.0)


def given(server: FaultServer, n: int) -> list[ImageRequest]:
    """Requests for pictures that the server gives."""
    return [ImageRequest(f"good {i}", server.url(f"/good{i}", answer(body=PICTURE))) for i in range(n)]


def decided(requests, limits=None, **changes):
    """Outcomes by id of those that are decided, and the host's refusal if that was the end."""
    taken = []
    try:
        yielded = list(fetch_all(requests, changes.pop("rules"), taken.append, limits=limits, **changes))
    except Refusing as end:
        return {one.id: one for one in taken}, end
    assert Counter(one.id for one in yielded) == Counter(one.id for one in taken)
    return {one.id: one for one in taken}, None


class Mood:
    """Answers with pictures, or with a refusal while `refuses`."""

    def __init__(self, **headers: str) -> None:
        self.refuses = True
        self._refusal = answer("429 No", **headers)

    def __call__(self, peer) -> None:
        (self._refusal if self.refuses else answer(body=PICTURE))(peer)


# One picture that is always refused


@pytest.mark.slow
@pytest.mark.parametrize("busy", BUSY, ids=str)
def test_a_picture_that_is_always_refused_is_dropped_and_the_build_ends(server, busy):
    requests = given(server, 5)
    requests.insert(2, ImageRequest("bad", server.url("/bad", answer(**busy))))
    taken, end = decided(requests, quick(), rules=policy(server, patience_s=0.5))
    assert end is None and len(taken) == 6
    bad = taken.pop("bad")
    assert bad.reason is Reason.HTTP_ERROR
    said = re.fullmatch(r"127.0.0.1: refused (\d+) times in 1 second .*, while others were given", bad.detail)
    assert said and 2 <= int(said[1]) == server.requests.count("/bad")
    assert all(isinstance(one, Fetched) for one in taken.values())


def test_the_next_process_knows_by_an_earlier_picture_that_the_host_gives_others(server):
    (known,) = given(server, 1)
    bad = ImageRequest("bad", server.url("/bad", answer("429 No")))
    taken, end = decided([bad], quick(), rules=policy(server, patience_s=0.3), known=[known.url])
    assert end is None and "refused" in taken["bad"].detail


@pytest.mark.slow
def test_workers_of_one_office_end_with_it_too(server):
    limits = LeasedLimits(LimitsOffice(200.0, start_per_s=200.0), 200.0)
    requests = [*given(server, 5), ImageRequest("bad", server.url("/bad", answer("503 Busy")))]
    with limits:
        taken, end = decided(requests, limits, rules=policy(server, patience_s=0.5))
    assert end is None and len(taken) == 6 and isinstance(taken["bad"], Dropped)


@pytest.mark.slow
def test_more_bad_pictures_than_are_asked_for_at_once_do_not_keep_the_others(server):
    requests = [ImageRequest(f"bad {i}", server.url(f"/bad{i}", answer("429 No"))) for i in range(4)]
    taken, end = decided(
        [*requests, *given(server, 8)], quick(), rules=policy(server, patience_s=0.3, concurrency=2)
    )
    assert end is None
    assert {id for id, one in taken.items() if isinstance(one, Fetched)} == {f"good {i}" for i in range(8)}
    assert len(taken) == 12


def test_a_size_that_is_always_refused_is_replaced_by_another(server):
    sizes = [server.url(f"/{i}", answer("429 No")) for i in range(2)]
    small = server.url("/small", answer(body=PICTURE))
    requests = [*given(server, 2), ImageRequest("a", sizes[0], (sizes[1], small))]
    taken, _ = decided(requests, quick(), rules=policy(server, patience_s=0.3))
    assert taken["a"].asked == small


def test_a_size_that_is_busy_is_no_proof_that_the_picture_is_gone(server):
    gone, busy = server.url("/gone", answer("404 Gone")), server.url("/busy", answer("429 No"))
    taken, end = decided([ImageRequest("a", gone, (busy,))], quick(), rules=policy(server, patience_s=0.0))
    assert taken == {} and end is not None


@pytest.mark.slow
def test_a_bad_picture_that_asks_for_long_pauses_is_put_off_until_the_others_are_there(server):
    bad = ImageRequest("bad", server.url("/bad", answer("429 No", Retry_After="9")))
    rules = policy(server, patience_s=1.5, max_wait_s=0.4, concurrency=4)
    taken, end = decided([bad, *given(server, 30)], HostLimits(60.0, start_per_s=60.0), rules=rules)
    assert end is None and len(taken) == 31
    before = server.requests[: server.requests.index("/good29")]
    assert before.count("/bad") == 3


@pytest.mark.slow
def test_a_busy_host_that_answers_slowly_uses_up_no_pictures_time(server):
    slow = [late(answer("503 Busy"), 0.3)] * 3
    url = server.url("/a.jpg", *slow, answer(body=PICTURE))
    assert isinstance(outcome(server, url, timeout_s=0.6, retries=0), Fetched)


# A host that refuses everything


@pytest.mark.slow
def test_a_host_that_turns_busy_loses_no_picture_and_the_next_run_has_them_all(server):
    mood = Mood()
    requests = given(server, 1)
    requests += [ImageRequest(str(i), server.url(f"/{i}", mood)) for i in range(30)]
    server.url("/good0", answer(body=PICTURE), mood)
    rules = policy(server, patience_s=1.1, concurrency=4)
    taken, end = decided(requests, quick(), rules=rules)
    assert list(taken) == ["good 0"]
    assert end.exit_code == 3
    assert str(end) == (
        "127.0.0.1 has refused every request for 1 second (HTTP 429 or 503). "
        "The same command continues later; all that was fetched is kept"
    )
    mood.refuses = False
    taken, end = decided(requests[1:], quick(), rules=rules)
    assert end is None and [type(one) for one in taken.values()] == [Fetched] * 30


@pytest.mark.slow
def test_a_ban_that_ends_with_the_patience_loses_no_picture(server):
    """The picture that the host gave before is given again, and from then on everything is, without a pause."""
    mood = Mood(Retry_After="1000000000")

    def end_it(peer):
        mood.refuses = False
        mood(peer)

    requests = [ImageRequest("first", server.url("/first", answer(body=PICTURE), end_it))]
    requests += [ImageRequest(str(i), server.url(f"/{i}", mood)) for i in range(12)]
    limits, begun = quick(), []
    begin_anew = limits.begin_anew
    limits.begin_anew = lambda host: begun.append(host) or begin_anew(host)
    start = time.monotonic()
    rules = policy(server, patience_s=0.4, concurrency=4, max_wait_s=60.0)
    taken, end = decided(requests, limits, rules=rules)
    assert end is None and [type(one) for one in taken.values()] == [Fetched] * 13
    assert begun == ["127.0.0.1"] and time.monotonic() - start < 20


@pytest.mark.slow
def test_a_host_that_gives_a_picture_now_and_then_loses_none_by_one_refusal_after_it(server):
    """It gives one picture and refuses again: that says nothing about the one that is asked for next."""
    mood = Mood()
    ends = iter([False, True])

    def first(peer):
        mood.refuses = not next(ends)
        answer(body=PICTURE)(peer)

    url = server.url("/first", answer(body=PICTURE), first, answer("429 No"), first)
    requests = [ImageRequest("first", url), ImageRequest("a", server.url("/a", mood))]
    taken, end = decided(requests, quick(), rules=policy(server, patience_s=0.3))
    assert end is None and [type(one) for one in taken.values()] == [Fetched] * 2


def test_a_host_that_redirects_everything_to_a_refusal_refuses(server):
    busy = server.url("/busy", answer("429 No"))
    requests = [ImageRequest(str(i), server.url(f"/{i}", redirect(busy))) for i in range(3)]
    limits, noted = quick(), []
    limits.note_taken = lambda host, url="", n=1: noted.append(host)
    taken, end = decided(requests, limits, rules=policy(server, patience_s=0.3))
    assert taken == {} and end is not None and noted == []


@pytest.mark.slow
def test_a_host_whose_answers_look_like_pictures_of_others_does_not_hold_the_build(server):
    """Redirects to another host and back count as answers, so that it never refuses everything."""
    with serving("127.0.0.2") as other:
        back = other.url("/back", redirect(server.url("/busy", answer("429 No"))))
        requests = [ImageRequest("a", server.url("/a", redirect(back)))]
        rules = policy(server, patience_s=0.2, allowed=frozenset({server.place, other.place}))
        taken, end = decided(requests, quick(), rules=rules)
    assert end is None and "refused" in taken["a"].detail


@pytest.mark.slow
@pytest.mark.parametrize(("n", "is_dropped"), [(1, True), (20, True), (21, False)])
def test_a_host_that_never_gave_anything_costs_only_its_few_pictures(server, n, is_dropped):
    with serving("127.0.0.2") as broken:
        requests = [ImageRequest(f"{i}", broken.url(f"/{i}", answer("503 Busy"))) for i in range(n)]
        requests += given(server, 3)
        rules = policy(server, patience_s=0.3, allowed=frozenset({server.place, broken.place}))
        taken, end = decided(requests, quick(), rules=rules)
    assert len(taken) == 3 + n * is_dropped
    assert (end is None) == is_dropped
    if is_dropped:
        assert "127.0.0.2: refused every request for 0 seconds, while other hosts gave theirs" in str(
            taken["0"]
        )


def test_a_host_that_is_the_only_one_ends_the_build_and_loses_nothing(server):
    requests = [ImageRequest("a", server.url("/a", answer("503 Busy")))]
    taken, end = decided(requests, quick(), rules=policy(server, patience_s=0.3))
    assert taken == {} and "has refused a request" in str(end)


# How long it takes


def test_without_patience_the_first_refusal_ends_it(server):
    requests = [ImageRequest(str(i), server.url(f"/{i}", answer("429 No"))) for i in range(9)]
    rules = policy(server, patience_s=0.0, concurrency=1)
    taken, end = decided([*given(server, 1), *requests], quick(), rules=rules)
    assert list(taken) == ["good 0"] and server.requests == ["/good0", "/0"]
    assert str(end).startswith("127.0.0.1 has refused a request (HTTP 429 or 503). The same command")


def test_workers_without_patience_end_at_the_first_refusal_too(server):
    requests = [ImageRequest(str(i), server.url(f"/{i}", answer("429 No"))) for i in range(9)]
    with (limits := LeasedLimits(LimitsOffice(200.0, start_per_s=200.0), 200.0)):
        rules = policy(server, patience_s=0.0, concurrency=1)
        taken, end = decided([*given(server, 3), *requests], limits, rules=rules)
    assert len(taken) == 3 and end is not None and server.requests[3:] == ["/0"]


@pytest.mark.slow
@pytest.mark.parametrize("wait", ["1000000000", "3600", "Fri, 01 Jan 2100 00:00:00 GMT"])
def test_no_pause_that_a_host_asks_for_outlasts_the_patience(server, wait):
    refusal = answer("429 No", Retry_After=wait)
    requests = [ImageRequest(str(i), server.url(f"/{i}", refusal)) for i in range(9)]
    start = time.monotonic()
    rules = policy(server, patience_s=0.5, max_wait_s=60.0, concurrency=4)
    taken, end = decided(requests, quick(), rules=rules)
    assert taken == {} and end is not None
    assert time.monotonic() - start < 20  # not 60


@pytest.mark.slow
def test_turns_of_a_slow_host_that_are_far_away_do_not_outlast_the_patience(server):
    url = server.url("/a", answer("429 No"))
    start = time.monotonic()
    limits = HostLimits(0.02, start_per_s=0.02)  # one turn in 50 s
    requests = [ImageRequest(str(i), url) for i in range(4)]
    _, end = decided(requests, limits, rules=policy(server, patience_s=0.5))
    assert end is not None and time.monotonic() - start < 20


def test_a_long_pause_is_said_once(server, caplog):
    url = server.url("/a", *[answer("429 No", Retry_After="90")] * 2, answer(body=PICTURE))
    limits = HostLimits(None, clock=itertools.count(0.0, 100.0).__next__)
    with caplog.at_level(logging.WARNING, logger="mvsent"):
        list(
            fetch_images(
                [ImageRequest("a", url)], policy(server, max_wait_s=60.0, patience_s=1e9), limits=limits
            )
        )
    said = [record.message for record in caplog.records]
    assert said == ["127.0.0.1 is busy, and is asked for nothing for 60 seconds"]


def test_a_stop_ends_the_search_for_what_is_broken(server):
    stop = threading.Event()

    def witness(peer):
        stop.set()
        answer(body=PICTURE)(peer)

    requests = [ImageRequest("first", server.url("/first", answer(body=PICTURE), witness))]
    requests += [ImageRequest("bad", server.url("/bad", answer("429 No")))]
    with pytest.raises(Interrupted):
        decided(requests, quick(), rules=policy(server, patience_s=0.3), stop=stop)


# A whole build


@pytest.mark.slow
def test_a_table_with_a_broken_picture_and_a_broken_host_becomes_a_dataset(server, tmp_path, monkeypatch):
    monkeypatch.setattr("mvsent.build.fetch.FetchPolicy", partial(FetchPolicy, backoff_s=0.01))
    with serving("127.0.0.2") as broken:
        places = [one.url for one in given(server, 4)]
        places += [server.url("/bad", answer("503 Busy")), broken.url("/bad", answer("429 No"))]
        hosts = ["{}:{}".format(*one.place) for one in (server, broken)]
        result = run(table(tmp_path, places), tmp_path / "out", server, patience=0.01, allow_hosts=hosts)
    assert result.manifest.funnel.dropped["http-error"] == 2
