"""Flickr: every quirk of its answers, and the client over real sockets."""

import json
import logging
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from mvsent.reasons import Reason
from mvsent.sources.crawl import http_json
from mvsent.sources.crawl.candidate import Query, SearchPage, Size, Window, sizes_to_try
from mvsent.sources.crawl.failures import (
    AccessRevoked,
    BadAnswer,
    BadKey,
    RequestRefused,
    RetryLater,
    SourceFailure,
)
from mvsent.sources.flickr import BAD_KEY, EXTRAS, FlickrClient, FlickrFailure, FlickrSettings, parse_search
from mvsent.standin.faults import Faults
from mvsent.standin.replay import KEY, Replay
from mvsent.standin.world import World
from tests.api_answers import flickr_answer, flickr_photo, mutated
from tests.fault_server import drip, serving, silence
from tests.raw_server import http, raw_server

HAPPY_DOG = Query(1, "happy dog", "happy_dog", 1.0)
ANY_TIME = Window(1, 0, 2**31 - 1)


@pytest.fixture(scope="module")
def replay() -> Iterator[Replay]:
    with Replay(World({"happy dog": 1.0, "sad cat": -1.0}, photos=30, side=64)) as server:
        yield server


def client(endpoint: str, key: str = KEY, timeout_s: float = 10, **given: Any) -> FlickrClient:
    settings = FlickrSettings(endpoint=endpoint, **given)
    return FlickrClient(settings, {"FLICKR_API_KEY": SecretStr(key)}, timeout_s=timeout_s)


def failure_of(endpoint: str, key: str = KEY, timeout_s: float = 10) -> SourceFailure:
    with pytest.raises(SourceFailure) as caught:
        client(endpoint, key, timeout_s).search(HAPPY_DOG, ANY_TIME)
    return caught.value


# The parser


def test_whole_photo_becomes_a_candidate() -> None:
    page = parse_search(flickr_answer(flickr_photo()))
    [candidate] = page.candidates
    assert (candidate.id, candidate.title, candidate.tags) == ("flickr:5123", "Pier at dawn", ("sea", "pier"))
    assert (candidate.license, candidate.owner) == ("CC BY 2.0", "someone")
    assert candidate.page_url == "https://www.flickr.com/photos/12@N00/5123"
    assert candidate.posted_at == datetime(2020, 2, 10, 7, 16, 51, tzinfo=UTC)
    assert [(size.width, size.height) for size in candidate.sizes] == [(500, 333), (640, 427)]


def test_html_of_a_description_is_kept_raw() -> None:
    [candidate] = parse_search(flickr_answer(flickr_photo())).candidates
    assert "<b>early</b> &amp; cold" in candidate.description


@pytest.mark.parametrize(
    ("total", "read"), [("2204", 2204), (2204, 2204), ("1,204", 1204), (None, None), ("?", None)]
)
def test_total_may_be_text_a_number_or_missing(total: object, read: int | None) -> None:
    answer = flickr_answer(flickr_photo(), total=total)
    if total is None:
        del answer["photos"]["total"]
    assert parse_search(answer).total == read


def test_page_that_the_answer_does_not_name_is_the_one_asked_for() -> None:
    assert parse_search(flickr_answer(page=None), page=7).page == 7


@pytest.mark.parametrize("name", ["url_m", "url_z"])
def test_size_may_be_missing(name: str) -> None:
    [candidate] = parse_search(flickr_answer(flickr_photo(**{name: None}))).candidates
    assert len(candidate.sizes) == 1


def test_photo_without_any_size_is_skipped_with_a_reason() -> None:
    page = parse_search(flickr_answer(flickr_photo(url_m=None, url_z=None)))
    assert not page.candidates
    assert page.skipped == (
        ("flickr:5123", Reason.IMAGE_MISSING, "the answer gives no address for this photo"),
    )


def test_size_without_width_is_a_size_of_unknown_width() -> None:
    [candidate] = parse_search(flickr_answer(flickr_photo(width_z=None, height_z="many"))).candidates
    assert candidate.sizes[1].side == 0


def test_missing_words_and_dates_are_empty() -> None:
    bare = flickr_photo(description=None, title=None, tags=None, dateupload=None, owner=None, ownername=None)
    [candidate] = parse_search(flickr_answer(bare)).candidates
    assert (candidate.description, candidate.title, candidate.tags, candidate.posted_at) == ("", "", (), None)
    assert (candidate.owner, candidate.page_url) == ("", "")


@pytest.mark.parametrize("date", ["soon", "-5", "0", 10**17, 1e300, True, []])
def test_date_that_is_none_is_missing(date: object) -> None:
    [candidate] = parse_search(flickr_answer(flickr_photo(dateupload=date))).candidates
    assert candidate.posted_at is None


def test_title_may_be_wrapped_like_a_description() -> None:
    [candidate] = parse_search(flickr_answer(flickr_photo(title={"_content": "Dawn"}))).candidates
    assert candidate.title == "Dawn"


def test_nuls_and_lone_surrogates_leave_text_that_any_file_can_hold() -> None:
    [candidate] = parse_search(flickr_answer(flickr_photo(title="a\0b \ud83d c"))).candidates
    assert candidate.title == "ab \ufffd c"


def test_surrogate_pair_stays_one_character() -> None:
    [candidate] = parse_search(flickr_answer(flickr_photo(title="\ud83d\ude00"))).candidates
    assert candidate.title == "😀"


def test_id_is_no_path() -> None:
    page = parse_search(flickr_answer(flickr_photo(id="../../etc/passwd")))
    assert not page.candidates and page.skipped[0][0].startswith("flickr:without-id-")


def test_photo_without_id_has_the_same_name_on_every_page() -> None:
    nameless = flickr_photo(id=None)
    first, second = (parse_search(flickr_answer(nameless, page=page)).skipped for page in (1, 2))
    assert first == second
    assert first != parse_search(flickr_answer(flickr_photo(id=None, title="Dusk"))).skipped


def test_address_that_is_not_on_the_web_is_no_size() -> None:
    answer = flickr_answer(flickr_photo(url_m="file:///etc/passwd", url_z="javascript:alert(1)"))
    assert not parse_search(answer).candidates


def test_unknown_licence_keeps_its_number() -> None:
    [candidate] = parse_search(flickr_answer(flickr_photo(license=99))).candidates
    assert candidate.license == "Flickr licence 99"


def test_fail_with_http_200_is_a_failure_with_its_code() -> None:
    with pytest.raises(FlickrFailure) as caught:
        parse_search({"stat": "fail", "code": "100", "message": "Invalid API Key (Key has expired)"})
    assert (caught.value.code, caught.value.message) == (100, "Invalid API Key (Key has expired)")
    assert caught.value.code == BAD_KEY


@settings(max_examples=100)
@given(mutated(flickr_answer(flickr_photo(), flickr_photo(id="5124", total="2"))))
def test_mutated_answer_is_parsed_or_refused_with_the_documented_failures(answer: Any) -> None:
    try:
        page = parse_search(answer)
    except (BadAnswer, FlickrFailure):
        return
    assert len(page.candidates) + len(page.skipped) == len(answer["photos"]["photo"])
    check_storable(page, "flickr:")


def check_storable(page: SearchPage, prefix: str) -> None:
    """Everything of a page fits SQLite and Parquet."""
    for number in (page.total, page.page, page.pages):
        assert number is None or 0 <= number < 2**63
    for candidate in page.candidates:
        texts = [candidate.id, candidate.title, candidate.description, candidate.owner, candidate.license]
        texts += [*candidate.tags, candidate.page_url, *(size.url for size in candidate.sizes)]
        assert all("\0" not in text and text.encode() is not None for text in texts)
        assert candidate.id.startswith(prefix) and candidate.sizes
        assert all(0 <= side < 2**31 for size in candidate.sizes for side in (size.width, size.height))
    for name, reason, _ in page.skipped:
        assert name.startswith(prefix) and name.encode() and reason in Reason


@settings(max_examples=100)
@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode), st.integers(0, 400))
def test_damaged_bytes_are_json_or_a_bad_answer(noise: bytes, cut: int) -> None:
    body = json.dumps(flickr_answer(flickr_photo())).encode()
    for damaged in (noise, body[:cut] + noise + body[cut:], body[:cut]):
        try:
            http_json.parse_json(damaged, what="Flickr")
        except BadAnswer as failure:
            assert "instead of JSON" in str(failure)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"\xef\xbb\xbf <!DOCTYPE html><html>", "HTML"),
        (b'jsonFlickrApi({"stat":"ok"})', "JSONP"),
        (b"", "nothing"),
        (b'{"stat":', "not JSON"),
        (b"\xff\xfe{", "not JSON"),
        (b"[" * 200_000, "not JSON"),
    ],
)
def test_bad_answer_is_named_as_what_it_is(body: bytes, named: str) -> None:
    with pytest.raises(BadAnswer, match=named):
        http_json.parse_json(body, what="Flickr")


def test_huge_numbers_survive() -> None:
    body = b'{"total": ' + b"9" * 10_000 + b', "x": NaN, "y": 1e999}'
    parsed = http_json.parse_json(body, what="Flickr")
    assert isinstance(parsed, dict) and http_json.as_count(parsed["total"]) is None
    assert http_json.as_count(parsed["x"]) is None and http_json.as_count(parsed["y"]) is None


# The size to fetch


@given(
    st.lists(st.builds(Size, st.just("u"), st.integers(0, 5000), st.integers(0, 5000)), max_size=8),
    st.integers(1, 3000),
)
def test_sizes_are_tried_from_the_best_on_and_those_above_1024_pixels_last(
    sizes: list[Size], target: int
) -> None:
    minimum = min(640, target)
    tried = sizes_to_try(sizes, target, minimum)
    assert set(tried) == set(sizes) and len(tried) == len(set(sizes))
    known = [size.side for size in tried if size.side]
    usual = [side for side in known if side <= max(1024, target)]
    assert known[: len(usual)] == usual and known[len(usual) :] == sorted(known[len(usual) :])
    assert [size.side for size in tried if not size.side] == [0] * (len(tried) - len(known))
    if fitting := [side for side in usual if minimum <= side <= target]:
        assert usual[0] == max(fitting)
    elif larger := [side for side in usual if side > target]:
        assert usual[0] == min(larger)
    elif usual:
        assert usual[0] == max(usual)
    smaller = [side for side in usual if side <= usual[0]]
    assert usual == sorted(smaller, reverse=True) + sorted(side for side in usual if side > usual[0])


# The client


def test_search_sends_what_was_asked_for(replay: Replay) -> None:
    client(replay.flickr_endpoint, license="4,5").search(HAPPY_DOG, Window(1, 1, 2**31, page=2))
    sent = replay.requests[-1].path
    for part in (
        "text=happy+dog",
        "min_upload_date=1&",
        "max_upload_date=2147483648",
        "page=2",
        "per_page=500",
    ):
        assert part in sent
    for part in ("license=4%2C5", "safe_search=1", "media=photos", "nojsoncallback=1", "format=json"):
        assert part in sent
    assert "url_z" in EXTRAS and "extras=" in sent


def test_search_finds_every_photo_once_through_all_pages(
    replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = client(replay.flickr_endpoint)
    whole = found.search(HAPPY_DOG, ANY_TIME)
    monkeypatch.setattr("mvsent.sources.flickr.MAX_PER_PAGE", 10)
    pages = [found.search(HAPPY_DOG, replace(ANY_TIME, page=page)) for page in (1, 2, 3, 4)]
    items = [c.id for page in pages[: pages[0].pages] for c in page.candidates]
    assert items == [candidate.id for candidate in whole.candidates]


def test_wrong_key_is_a_bad_key(replay: Replay) -> None:
    failure = failure_of(replay.flickr_endpoint, key="wrong-key-wrong-key")
    assert type(failure) is BadKey and "FLICKR_API_KEY" in str(failure)


@pytest.mark.parametrize("key", ["", "  ", "two words", "line\nbreak", "schlüssel", "nul\0"])
def test_key_that_no_header_can_carry_is_refused_without_repeating_it(key: str) -> None:
    with pytest.raises(BadKey) as caught:
        client("", key)
    assert not key.strip() or key.strip() not in str(caught.value)


@pytest.mark.parametrize("code", [0, 105, 201])
def test_code_of_a_service_that_is_down_is_retry_later(code: int) -> None:
    with Replay(faults=Faults(**{f"fail_{code}": 1.0})) as server:
        failure = failure_of(server.flickr_endpoint)
    assert type(failure) is RetryLater and f"code {code}" in str(failure)


def test_other_code_is_a_refusal() -> None:
    body = json.dumps({"stat": "fail", "code": 3, "message": "Parameterless searches"}).encode()
    with raw_server(http(body)) as address:
        assert type(failure_of(address)) is RequestRefused


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        (96, BadKey, "FLICKR_API_SECRET"),
        (98, BadKey, "FLICKR_OAUTH_TOKEN"),
        (99, BadKey, "FLICKR_OAUTH_TOKEN"),
        (112, BadAnswer, "Check the endpoint"),
        (116, BadAnswer, "Check the endpoint"),
    ],
)
def test_a_refused_login_and_an_unknown_method_say_what_to_do(
    code: int, kind: type[SourceFailure], said: str
) -> None:
    body = json.dumps({"stat": "fail", "code": code, "message": "no"}).encode()
    with raw_server(http(body)) as address:
        failure = failure_of(address)
    assert type(failure) is kind and said in str(failure)


@pytest.mark.parametrize(
    ("fault", "after_s"),
    [("api_429", None), ("api_429_seconds", 7.0), ("api_429_date", 7.0), ("api_500", None)],
)
def test_busy_server_is_retry_later_for_as_long_as_it_says(fault: str, after_s: float | None) -> None:
    with Replay(faults=Faults(**{fault: 1.0}, retry_after_s=7)) as server:
        failure = failure_of(server.flickr_endpoint)
    assert isinstance(failure, RetryLater)
    assert failure.after_s == (None if after_s is None else pytest.approx(after_s, abs=1.5))


@pytest.mark.parametrize(
    ("fault", "named"), [("api_html", "HTML"), ("api_jsonp", "JSONP"), ("api_redirect", "302")]
)
def test_what_is_not_an_answer_is_a_bad_answer(fault: str, named: str) -> None:
    with Replay(faults=Faults(**{fault: 1.0})) as server:
        failure = failure_of(server.flickr_endpoint)
        assert type(failure) is BadAnswer and named in str(failure)
        assert not server.trespasses


def test_cut_off_answer_is_retry_later() -> None:
    with Replay(faults=Faults(api_truncated=1.0)) as server:
        assert type(failure_of(server.flickr_endpoint)) is RetryLater


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["api_silent", "api_drip"])
def test_server_that_dawdles_is_left_at_the_deadline(fault: str) -> None:
    with Replay(faults=Faults(**{fault: 1.0})) as server:
        start = time.monotonic()
        failure = failure_of(server.flickr_endpoint, timeout_s=0.5)
        assert type(failure) is RetryLater and time.monotonic() - start < 5


@pytest.mark.slow
def test_server_that_drips_its_headers_is_left_at_the_deadline() -> None:
    with raw_server(http(b"{}", X_Long="x" * 2000), byte_pause_s=0.05) as address:
        start = time.monotonic()
        assert type(failure_of(address, timeout_s=0.5)) is RetryLater
        assert time.monotonic() - start < 5


def test_answer_beyond_the_size_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_json, "MAX_ANSWER_BYTES", 1000)
    with raw_server(http(b" " * 5000)) as address:
        failure = failure_of(address)
    assert type(failure) is BadAnswer and "more than 1000 bytes" in str(failure)


def calls_left_behind() -> list[threading.Thread]:
    """Threads that still wait for an answer when their deadline is long over."""
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("asking ")]
    for thread in threads:
        thread.join(5)
    return [thread for thread in threads if thread.is_alive()]


def continuing(peer: socket.socket) -> None:
    """One `100 Continue` after the other, and never an answer."""
    while True:
        peer.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)


@pytest.mark.slow
@pytest.mark.parametrize("flood", [continuing, silence, drip(b" " * 10_000, every_s=0.2)])
def test_no_thread_stays_behind_the_deadline(flood: Callable[[socket.socket], None]) -> None:
    with serving() as server:
        assert type(failure_of(server.url("/rest/", flood), timeout_s=0.3)) is RetryLater
        assert calls_left_behind() == []


def test_body_of_a_redirect_is_read_no_further_than_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_json, "MAX_ANSWER_BYTES", 1_000_000)
    sent: list[int] = []

    def elsewhere(peer: socket.socket) -> None:
        peer.sendall(b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 1000000000000\r\n\r\n")
        while True:
            peer.sendall(bytes(65536))
            sent.append(65536)

    with serving() as server:
        failure = failure_of(server.url("/rest/", elsewhere))
    assert type(failure) is BadAnswer and "more than 1000000 bytes" in str(failure)
    assert sum(sent) < 100_000_000


@pytest.mark.parametrize(("status", "kind"), [("401 Unauthorized", BadKey), ("403 Forbidden", AccessRevoked)])
def test_refused_access_ends_the_build(status: str, kind: type[SourceFailure]) -> None:
    with raw_server(http(b"<html>no</html>", status)) as address:
        assert type(failure_of(address)) is kind


def test_unreachable_server_is_retry_later() -> None:
    with raw_server(b"") as address:
        pass
    assert type(failure_of(address)) is RetryLater


@pytest.mark.parametrize(
    "garbage", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"]
)
def test_what_is_not_http_is_a_passing_failure(garbage: bytes) -> None:
    with raw_server(garbage) as address:
        assert type(failure_of(address)) in (RetryLater, BadAnswer)


def test_removed_photo_is_not_public(replay: Replay) -> None:
    asker = client(replay.flickr_endpoint)
    assert asker.is_public("flickr:5123")
    replay.removed.add("5123")
    assert not asker.is_public("flickr:5123")


def test_private_photo_is_not_public() -> None:
    body = json.dumps({"stat": "ok", "photo": {"id": "1", "visibility": {"ispublic": "0"}}}).encode()
    with raw_server(http(body)) as address:
        assert not client(address).is_public("1")


def test_failure_of_the_service_says_nothing_about_a_photo() -> None:
    with Replay(faults=Faults(fail_105=1.0)) as server, pytest.raises(RetryLater):
        client(server.flickr_endpoint).is_public("1")


# The key

SECRET_KEY = "f00dfacef00dfacef00dface"


def everything_said(failure: BaseException) -> str:
    """A failure's message, representation and traceback, with every exception behind it."""
    said = [str(failure), repr(failure), *traceback.format_exception(failure, chain=True)]
    behind = failure.__cause__ or failure.__context__
    return "".join(said) + (everything_said(behind) if behind else "")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        http(f"<html>{SECRET_KEY}</html>".encode()),
        http(f"key {SECRET_KEY}".encode(), "500 Oops"),
        http(b"", "302 Found", Location=f"http://127.0.0.2/?api_key={SECRET_KEY}"),
        http(json.dumps({"stat": "fail", "code": 100, "message": "x" * 150 + SECRET_KEY}).encode()),
        http(json.dumps({"stat": "fail", "code": 105, "message": f"bad {SECRET_KEY}"}).encode()),
        http(json.dumps({"stat": "ok"}).encode()),
        http(json.dumps(flickr_answer(flickr_photo())).encode()),
    ],
)
def test_key_is_in_no_message_log_or_traceback(answer: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with raw_server(answer) as address:
        asker = client(f"{address}/services/rest/", SECRET_KEY)
        for name in ("", "urllib3", "requests", "flickrapi", "flickrapi.core"):
            caplog.set_level(logging.DEBUG, logger=name)
        said = repr(asker) + str(vars(asker)) + str(vars(asker._transport))
        try:
            asker.search(HAPPY_DOG, ANY_TIME)
        except SourceFailure as failure:
            said += everything_said(failure)
    for text in (said, caplog.text):
        assert SECRET_KEY[:8] not in text


def test_key_is_in_no_address(replay: Replay) -> None:
    client(replay.flickr_endpoint).search(HAPPY_DOG, ANY_TIME)
    assert all(KEY not in request.path for request in replay.requests)


def test_key_that_the_answer_repeats_is_in_no_candidate() -> None:
    escaped = json.dumps(SECRET_KEY).replace("f", "\\u0066").strip('"')
    photo = flickr_photo(
        title=SECRET_KEY, tags=f"a {SECRET_KEY}", url_m=f"https://x.org/1.jpg?k={SECRET_KEY}"
    )
    body = json.dumps(flickr_answer(photo | {"ownername": "OWNER"})).replace("OWNER", escaped)
    with raw_server(http(body.encode())) as address:
        [candidate] = client(address, SECRET_KEY).search(HAPPY_DOG, ANY_TIME).candidates
    assert SECRET_KEY not in repr(candidate)
    assert (candidate.title, candidate.owner, candidate.tags) == ("[key]", "[key]", ("a", "[key]"))
    assert [size.width for size in candidate.sizes] == [640]  # the address that held the key is left out
