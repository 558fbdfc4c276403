"""Fetching pictures from servers that are broken, slow, lying or hostile: real sockets, on loopback only."""

import gzip
import itertools
import struct
import threading
import time
import zlib
from collections import Counter

import pytest

from mvsent import fetch
from mvsent.errors import Interrupted, Unreachable
from mvsent.fetch import Dropped, Fetched, HostLimits, ImageRequest, fetch_all, fetch_images
from mvsent.fetch.responses import refuses_ai
from mvsent.reasons import Reason
from tests.fault_server import answer, drip, endless, late, redirect, serving, silence
from tests.fetching import PICTURE, outcome, picture, policy, reason


@pytest.fixture
def server():
    with serving() as running:
        yield running


# What is kept


def test_a_good_picture_is_kept_byte_for_byte_with_its_facts(server):
    found = outcome(server, server.url("/a.jpg", answer(body=PICTURE)))
    assert isinstance(found, Fetched)
    assert found.data == PICTURE
    assert (found.facts.width, found.facts.height, found.facts.format) == (160, 120, "JPEG")


def test_outcomes_come_in_the_order_of_the_requests(server):
    names = [f"/{i}.jpg" for i in range(40)]
    urls = [server.url(name, answer(body=picture(i))) for i, name in enumerate(names)]
    urls[3] = server.url("/slow.jpg", answer("500 Internal Server Error"), answer(body=PICTURE))
    urls[7] = server.url("/gone.jpg", answer("404 Not Found"))
    requests = [ImageRequest(str(i), url) for i, url in enumerate(urls)]
    found = list(fetch_images(requests, policy(server, concurrency=4)))
    assert [one.id for one in found] == [str(i) for i in range(40)]
    assert [one.id for one in found if isinstance(one, Dropped)] == ["7"]


def test_no_requests_give_no_outcomes(server):
    assert list(fetch_images([], policy(server))) == []


def test_the_request_says_who_asks_and_wants_no_compression(server):
    outcome(server, server.url("/a.jpg", answer(body=PICTURE)))
    (head,) = server.heads
    assert "User-Agent: mvsent/" in head
    assert "(+https://" in head
    assert "Accept-Encoding: identity" in head


def test_a_mistake_of_the_program_is_no_reason_to_drop_a_picture(server):
    url = server.url("/a.jpg", answer(body=PICTURE))
    with pytest.raises(ValueError, match="rate, burst"):
        outcome(server, url, per_host_per_s=-1.0)


def test_progress_is_told_of_every_outcome(server):
    url = server.url("/a.jpg", answer(body=PICTURE))
    told = []
    requests = [ImageRequest(str(i), url) for i in range(5)]
    found = list(fetch_images(requests, policy(server), on_progress=told.append))
    assert sorted(one.id for one in told) == [one.id for one in found]


# What the content says


def svg(_):
    return b'<svg xmlns="http://www.w3.org/2000/svg" width="200" height="200"/>'


@pytest.mark.parametrize("body", [svg(0), b"<!DOCTYPE html><html>sorry</html>", b"{}"])
def test_a_body_that_is_no_picture_is_none_whatever_its_content_type(server, body):
    url = server.url("/a.jpg", answer(body=body, Content_Type="image/jpeg"))
    assert reason(server, url) is Reason.IMAGE_NOT_AN_IMAGE


def test_an_empty_body_is_a_corrupt_image(server):
    assert reason(server, server.url("/a.jpg", answer())) is Reason.IMAGE_CORRUPT


def test_a_picture_that_declares_a_billion_pixels_is_never_decoded(server):
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    assert reason(server, server.url("/a.png", answer(body=bomb))) is Reason.IMAGE_TOO_LARGE


@pytest.mark.parametrize(("side", "expected"), [(63, Reason.IMAGE_TOO_SMALL), (64, None)])
def test_a_side_under_64_pixels_is_too_small(server, side, expected):
    found = outcome(server, server.url("/a.jpg", answer(body=picture(0, 200, side))))
    assert getattr(found, "reason", None) is expected


# How much comes


def test_a_picture_of_10_gb_is_refused_by_its_declared_length(server):
    url = server.url("/a.jpg", endless(str(10 * 2**30)))
    found = outcome(server, url)
    assert found.reason is Reason.IMAGE_TOO_LARGE
    assert str(10 * 2**30) in found.detail


def test_a_body_without_end_is_cut_at_the_byte_cap(server):
    sent = []
    url = server.url("/a.jpg", endless(sent=sent))
    assert reason(server, url, max_bytes=200_000) is Reason.IMAGE_TOO_LARGE
    assert sum(sent) < 20_000_000  # what fits into the buffers of two sockets comes on top


def test_a_body_of_exactly_the_byte_cap_is_kept(server):
    url = server.url("/a.jpg", answer(body=PICTURE))
    assert isinstance(outcome(server, url, max_bytes=len(PICTURE)), Fetched)
    assert reason(server, url, max_bytes=len(PICTURE) - 1) is Reason.IMAGE_TOO_LARGE


def test_a_gzip_bomb_is_never_unpacked_beyond_the_byte_cap(server):
    bomb = gzip.compress(b"\xff\xd8" + b"\0" * 50_000_000)
    url = server.url("/a.jpg", answer(body=bomb, Content_Encoding="gzip"))
    assert reason(server, url, max_bytes=1_000_000) is Reason.IMAGE_TOO_LARGE


def test_a_picture_that_was_compressed_without_being_asked_is_unpacked(server):
    url = server.url("/a.jpg", answer(body=gzip.compress(PICTURE), Content_Encoding="GZIP"))
    assert outcome(server, url).data == PICTURE


@pytest.mark.parametrize(
    ("encoding", "expected"), [("br", Reason.HTTP_ERROR), ("gzip", Reason.IMAGE_CORRUPT)]
)
def test_an_encoding_that_cannot_be_undone_is_a_reason(server, encoding, expected):
    url = server.url("/a.jpg", answer(body=PICTURE, Content_Encoding=encoding))
    assert reason(server, url) is expected


def test_a_truncated_body_is_fetched_again(server):
    cut = answer(body=PICTURE[:1000], Content_Length=str(len(PICTURE)))
    url = server.url("/a.jpg", cut, answer(body=PICTURE))
    assert outcome(server, url).data == PICTURE
    assert len(server.requests) == 2


def test_a_body_that_is_truncated_every_time_is_an_http_error(server):
    url = server.url("/a.jpg", answer(body=PICTURE[:1000], Content_Length=str(len(PICTURE))))
    assert reason(server, url, retries=2) is Reason.HTTP_ERROR
    assert len(server.requests) == 3


def test_a_body_that_is_longer_than_declared_is_never_kept(server):
    url = server.url("/a.jpg", answer(body=PICTURE, Content_Length=str(len(PICTURE) // 2)))
    # Cut where it was said to end, or no HTTP if the rest came in the same packet.
    assert reason(server, url) in (Reason.IMAGE_CORRUPT, Reason.HTTP_ERROR)


def test_a_truncated_body_of_no_declared_length_is_corrupt(server):
    url = server.url("/a.jpg", answer(body=PICTURE[:1000], Content_Length="", Connection="close"))
    assert reason(server, url) is Reason.IMAGE_CORRUPT


@pytest.mark.parametrize("length", ["-5", "many", "1, 2", "99999999999999999999999999"])
def test_a_senseless_length_is_a_reason_and_no_crash(server, length):
    url = server.url("/a.jpg", answer(body=PICTURE, Content_Length=length))
    assert reason(server, url) in (Reason.HTTP_ERROR, Reason.IMAGE_TOO_LARGE)


@pytest.mark.parametrize(
    "raw", [b"", b"220 smtp ready\r\n", b"HTTP/1.1 200 OK\r\nA: " + b"a" * 100_000, b"\0" * 500]
)
def test_an_answer_that_is_not_http_is_an_http_error(server, raw):
    assert reason(server, server.url("/a.jpg", lambda peer: peer.sendall(raw))) is Reason.HTTP_ERROR


# How long it takes


def test_a_host_that_accepts_and_says_nothing_is_a_timeout(server):
    assert reason(server, server.url("/a.jpg", silence), timeout_s=0.1) is Reason.TIMEOUT


def test_a_slow_drip_cannot_outlast_the_deadline(server):
    start = time.monotonic()
    assert reason(server, server.url("/a.jpg", drip(PICTURE)), timeout_s=0.2) is Reason.TIMEOUT
    assert time.monotonic() - start < 0.02 * len(PICTURE) / 2


@pytest.mark.slow
def test_the_deadline_is_for_all_redirects_together(server):
    for i in range(5):
        server.url(f"/{i}", late(redirect(f"/{i + 1}"), 0.2))
    url = server.url("/5", answer(body=PICTURE)).replace("/5", "/0")
    assert reason(server, url, timeout_s=0.5) is Reason.TIMEOUT
    assert "/5" not in server.requests


@pytest.mark.slow
def test_waiting_for_the_hosts_turn_is_not_held_against_a_picture(server):
    url = server.url("/a.jpg", answer(body=PICTURE))
    requests = [ImageRequest(str(i), url) for i in range(8)]
    limits = policy(server, per_host_per_s=10.0, timeout_s=0.5)
    found = list(fetch_images(requests, limits))
    assert all(isinstance(one, Fetched) for one in found)


def test_a_closed_port_is_an_http_error_after_the_retries():
    with serving() as gone:
        place = gone.place
    url = f"http://{place[0]}:{place[1]}/a.jpg"
    assert reason(gone, url) is Reason.HTTP_ERROR


# When nobody answers


def nothing(_):
    """Hang up without an answer."""


def fetched(requests, limits, **given):
    """What was taken, by id, and whether the end was that nobody answers."""
    taken = []
    try:
        yielded = list(fetch_all(requests, limits, taken.append, **given))
        assert Counter(one.id for one in yielded) == Counter(one.id for one in taken)
    except Unreachable as end:
        assert end.exit_code == 3
        return {one.id: one for one in taken}, True
    return {one.id: one for one in taken}, False


def test_a_host_that_leaves_many_unanswered_is_asked_no_more_and_no_picture_is_decided(server):
    requests = [ImageRequest(str(i), server.url(f"/{i}", nothing)) for i in range(200)]
    assert fetched(requests, policy(server, retries=0, concurrency=4)) == ({}, True)
    assert 20 <= len(set(server.requests)) <= 24


def test_a_host_that_answered_before_is_asked_again_before_it_is_held_to_be_down(server):
    requests = [ImageRequest("a", server.url("/a", answer(body=PICTURE), nothing))]
    requests += [ImageRequest(str(i), server.url(f"/{i}", nothing)) for i in range(5)]
    taken, is_out = fetched(requests, policy(server))
    assert (list(taken), is_out) == (["a"], True)
    assert server.requests[-1] == "/a"


def test_pictures_of_a_short_outage_are_asked_for_again(server):
    over = threading.Event()

    def end_it(peer):
        over.set()
        answer(body=PICTURE)(peer)

    def answer_after_it(peer):
        if over.is_set():
            answer(body=PICTURE)(peer)

    requests = [ImageRequest("a", server.url("/a", answer(body=PICTURE), end_it))]
    requests += [ImageRequest(str(i), server.url(f"/{i}", answer_after_it)) for i in range(50)]
    taken, is_out = fetched(requests, policy(server, concurrency=2))
    assert not is_out
    assert len(taken) == 51
    assert all(isinstance(one, Fetched) for one in taken.values())


@pytest.mark.parametrize("n_dead", [1, 70])
def test_a_host_that_is_dead_alone_costs_its_pictures_and_not_the_others(server, n_dead):
    with serving("127.0.0.2") as dead:
        pass
    requests = [ImageRequest(f"dead {i}", f"http://127.0.0.2:{dead.place[1]}/{i}") for i in range(n_dead)]
    requests += [ImageRequest(str(i), server.url(f"/{i}", answer(body=PICTURE))) for i in range(5)]
    both = policy(server, allowed=frozenset({server.place, dead.place}), concurrency=2)
    taken, is_out = fetched(requests, both)
    assert not is_out
    assert len(taken) == n_dead + 5
    assert {one.reason for id, one in taken.items() if "dead" in id} == {Reason.HTTP_ERROR}
    assert all(isinstance(taken[str(i)], Fetched) for i in range(5))


def test_a_picture_that_an_earlier_process_fetched_tells_a_dead_host_from_a_dead_network(server):
    with serving("127.0.0.2") as dead:
        pass
    requests = [ImageRequest("a", f"http://127.0.0.2:{dead.place[1]}/a")]
    both = policy(server, allowed=frozenset({server.place, dead.place}))
    assert fetched(requests, both) == ({}, True)
    known = [server.url("/known", answer(body=PICTURE))]
    taken, is_out = fetched(requests, both, known=known)
    assert (list(taken), is_out) == (["a"], False)
    server.url("/known", nothing)
    assert fetched(requests, both, known=known) == ({}, True)


@pytest.mark.slow
def test_a_picture_that_comes_too_slowly_is_no_outage(server):
    requests = [ImageRequest("a", server.url("/a", drip(PICTURE)))]
    taken, is_out = fetched(requests, policy(server, timeout_s=0.1))
    assert not is_out
    assert taken["a"].reason is Reason.TIMEOUT


def test_an_end_that_the_user_wants_comes_before_the_question_who_answers(server):
    stop = threading.Event()

    requests = [ImageRequest("a", server.url("/a", lambda _: stop.set()))]
    with pytest.raises(Interrupted):
        list(fetch_all(requests, policy(server, retries=0), lambda _: None, stop=stop))
    assert set(server.requests) == {"/a"}


# What the status says


@pytest.mark.parametrize("status", ["404 Not Found", "410 Gone"])
def test_a_picture_that_is_gone_is_http_404_and_not_asked_for_again(server, status):
    assert reason(server, server.url("/a.jpg", answer(status))) is Reason.HTTP_404
    assert len(server.requests) == 1


@pytest.mark.slow
@pytest.mark.parametrize("status", ["500 Oops", "502 Bad", "503 Busy", "504 Late", "408 Slow"])
def test_a_failure_that_passes_is_tried_again(server, status):
    url = server.url("/a.jpg", answer(status), answer(body=PICTURE))
    assert isinstance(outcome(server, url), Fetched)


def test_a_500_that_stays_is_an_http_error_after_the_retries(server):
    assert reason(server, server.url("/a.jpg", answer("500 Oops")), retries=3) is Reason.HTTP_ERROR
    assert len(server.requests) == 4


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified", "401 No", "403 No", "302 Found"])
def test_any_other_answer_is_an_http_error_at_once(server, status):
    assert reason(server, server.url("/a.jpg", answer(status))) is Reason.HTTP_ERROR
    assert len(server.requests) == 1


@pytest.mark.slow
def test_a_429_is_not_a_failure_of_the_picture(server):
    busy = [answer("429 Slow down", Retry_After="0")] * 5
    url = server.url("/a.jpg", *busy, answer(body=PICTURE))
    assert isinstance(outcome(server, url, retries=0), Fetched)


@pytest.mark.slow
def test_a_host_that_refuses_every_second_request_gives_every_picture(server):
    answers = [answer("429 No"), answer(body=PICTURE)]
    requests = [ImageRequest(str(i), server.url(f"/{i}", *answers)) for i in range(6)]
    taken = []
    limits = HostLimits(50.0, start_per_s=50.0)
    list(fetch_all(requests, policy(server, patience_s=60.0), taken.append, limits=limits))
    assert [type(one) for one in taken] == [Fetched] * 6
    assert limits.slowed()["127.0.0.1"] < 50.0


@pytest.mark.slow
@pytest.mark.parametrize("status", ["429 Slow down", "503 Busy"])
def test_retry_after_is_obeyed_for_the_whole_host_up_to_the_cap(server, status):
    limits = HostLimits(None, clock=time.monotonic)
    paused = []
    limits.pause = lambda host, seconds: paused.append((host, seconds))
    url = server.url("/a.jpg", answer(status, Retry_After="7"), answer(status, Retry_After="9999"), answer())
    list(fetch_images([ImageRequest("a", url)], policy(server, max_wait_s=60.0), limits=limits))
    assert paused == [("127.0.0.1", 7.0), ("127.0.0.1", 60.0)]


def test_a_429_without_retry_after_pauses_the_host_too(server):
    limits = HostLimits(None, clock=time.monotonic)
    paused = []
    limits.pause = lambda host, seconds: paused.append(host)
    url = server.url("/a.jpg", answer("429 Slow down"), answer(body=PICTURE))
    list(fetch_images([ImageRequest("a", url)], policy(server), limits=limits))
    assert paused == ["127.0.0.1"]


def test_a_turn_that_was_taken_before_a_pause_counts_no_more(server):
    limits, taken = HostLimits(None), []
    is_free = iter([False, True])
    limits.reserve = lambda host: taken.append(host) or 0.0
    limits.is_free = lambda host: next(is_free)
    url = server.url("/a.jpg", answer(body=PICTURE))
    list(fetch_images([ImageRequest("a", url)], policy(server), limits=limits))
    assert taken == ["127.0.0.1"] * 2


def test_a_paused_host_has_no_turn_before_its_time_and_others_have():
    limits = HostLimits(None, clock=itertools.repeat(0.0).__next__)
    limits.pause("a", 5.0)
    assert limits.reserve("a") == 5.0
    assert limits.reserve("b") == 0.0


def test_turns_of_one_host_are_spaced_and_of_two_are_not():
    limits = HostLimits(4.0, clock=itertools.repeat(0.0).__next__, start_per_s=4.0)
    assert [limits.reserve("a") for _ in range(3)] == [0.0, 0.25, 0.5]
    assert limits.reserve("b") == 0.0


# What hosts wish


@pytest.mark.parametrize(
    "value", ["noai", "noindex, NOIMAGEAI", "mvsent: noai", "otherbot: noindex, noai, mvsent: noai"]
)
def test_a_picture_whose_host_forbids_machine_learning_is_left_alone(server, value):
    url = server.url("/a.jpg", answer(body=PICTURE, X_Robots_Tag=value))
    assert reason(server, url) is Reason.ROBOTS_NOAI


@pytest.mark.parametrize(
    "value",
    [
        "noindex",
        "otherbot: noai",
        "max-snippet: 20, nosnippet",
        "unavailable_after: 25 Jun 2030 15:00:00 PST",
    ],
)
def test_a_wish_about_something_else_or_someone_else_is_no_reason(value):
    assert not refuses_ai([value])


@pytest.mark.parametrize("name", ["photo_unavailable.gif", "photo_unavailable_l.png"])
def test_flickrs_placeholder_is_a_missing_image_and_never_asked_for(server, name):
    placeholder = server.url(f"/pw/images/en-us/{name}", answer(body=PICTURE))
    assert reason(server, server.url("/a.jpg", redirect(placeholder))) is Reason.IMAGE_MISSING
    assert server.requests == ["/a.jpg"]


# Stopping, and memory


def test_after_stop_requests_in_flight_are_finished_and_the_others_left_out(server):
    seen = threading.Event()

    class Stop(threading.Event):
        def is_set(self):
            if super().is_set():
                seen.set()  # the client, which is the one that looks, begins nothing from here on
            return super().is_set()

    stop, asked = Stop(), threading.Semaphore(0)

    def answer_once_stopped(peer):
        asked.release()
        seen.wait()
        answer(body=PICTURE)(peer)

    def interrupt():
        asked.acquire()
        asked.acquire()
        stop.set()

    requests = [ImageRequest(str(i), server.url(f"/{i}", answer_once_stopped)) for i in range(50)]
    running = fetch_images(requests, policy(server, concurrency=2), stop=stop)
    threading.Thread(target=interrupt).start()
    found = list(running)
    assert [one.id for one in found] == ["0", "1"]
    assert all(isinstance(one, Fetched) for one in found)
    assert len(server.requests) == 2


def test_a_wait_for_a_paused_host_ends_with_stop(server):
    stop = threading.Event()
    url = server.url("/a.jpg", answer("429 Slow down", Retry_After="600"))
    limits = HostLimits(None)
    pause = limits.pause
    limits.pause = lambda host, seconds: (pause(host, seconds), stop.set())
    requests = [ImageRequest(str(i), url) for i in range(3)]
    assert list(fetch_images(requests, policy(server, max_wait_s=600.0), limits=limits, stop=stop)) == []


def test_a_caller_who_stops_reading_leaves_no_thread_behind(server):
    before = threading.active_count()
    requests = [ImageRequest("a", server.url("/a.jpg", answer(body=PICTURE)))]
    requests += [ImageRequest(str(i), server.url(f"/{i}", silence)) for i in range(20)]
    running = fetch_images(requests, policy(server))
    assert next(running).id == "a"
    running.close()
    assert not [one for one in threading.enumerate() if one.name.startswith("mvsent")], before


def test_an_error_of_ours_reaches_the_caller(server):
    def fail(_):
        raise RuntimeError("our own mistake")

    requests = [ImageRequest("a", server.url("/a.jpg", answer(body=PICTURE)))]
    with pytest.raises(RuntimeError, match="our own mistake"):
        list(fetch_images(requests, policy(server), on_progress=fail))


def n_done_before_the_second_is_read(server, **changes):
    """How many of 100 pictures are done while the caller holds the first; then all are read, and in order."""
    done = threading.Semaphore(0)
    url = server.url("/a.jpg", answer(body=PICTURE))
    requests = [ImageRequest(str(i), url) for i in range(100)]
    running = fetch_images(requests, policy(server, **changes), on_progress=lambda _: done.release())
    first = next(running)
    n_done = 0
    while done.acquire(timeout=0.5):
        n_done += 1
    assert [one.id for one in [first, *running]] == [str(i) for i in range(100)]
    return n_done


@pytest.mark.slow
def test_little_is_fetched_ahead_of_a_caller_who_takes_his_time(server):
    assert n_done_before_the_second_is_read(server, concurrency=2) <= 2 * fetch.downloads.AHEAD + 1


@pytest.mark.slow
def test_large_pictures_are_not_piled_up(server, monkeypatch):
    monkeypatch.setattr("mvsent.fetch.downloads.AHEAD_BYTES", 3 * len(PICTURE))
    assert n_done_before_the_second_is_read(server, concurrency=8) <= 3 + 8 + 1
