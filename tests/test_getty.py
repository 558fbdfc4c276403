"""Getty: every quirk of its answers, and the client over real sockets."""

import gzip
import json
import logging
import time
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from pydantic import SecretStr

from mvsent.reasons import Reason
from mvsent.sources.crawl import http_json
from mvsent.sources.crawl.candidate import Query, SearchPage, Window
from mvsent.sources.crawl.failures import (
    AccessRevoked,
    BadAnswer,
    BadKey,
    DailyLimit,
    RequestRefused,
    RetryLater,
    SourceFailure,
)
from mvsent.sources.crawl.http_json import HttpAnswer
from mvsent.sources.getty import GettyClient, GettySettings, parse_failure, parse_search, parse_token
from mvsent.standin.faults import Faults
from mvsent.standin.replay import KEY, SECRET, Replay
from mvsent.standin.world import World
from tests.api_answers import GETTY_IMAGE, getty_answer, mutated
from tests.raw_server import http, raw_server
from tests.test_flickr import check_storable, everything_said


@pytest.fixture
def replay() -> Iterator[Replay]:
    with Replay(World({"joy": 1.0, "grief": -1.0}, photos=230, side=64)) as server:
        yield server


JOY = Query(1, "joy", "joy", 1.0)


def page(number: int = 1) -> Window:
    return Window(1, 0, 0, number)


def client(
    server: Replay | str, *, secret: str = "", key: str = KEY, family: str = "creative", **given: Any
) -> GettyClient:
    """A client of the stand-in, or of what answers at an address."""
    at = (
        (server, f"{server}/oauth2/token")
        if isinstance(server, str)
        else (server.getty_endpoint, server.getty_token_url)
    )
    keys = {"GETTY_API_KEY": SecretStr(key)} | ({"GETTY_API_SECRET": SecretStr(secret)} if secret else {})
    return GettyClient(GettySettings(endpoint=at[0], token_url=at[1], family=family), keys, **given)


def failure_of(asker: GettyClient) -> SourceFailure:
    with pytest.raises(SourceFailure) as caught:
        asker.search(JOY, page())
    return caught.value


def refusal(status: int, detail: str = "", **headers: str) -> SourceFailure:
    body = json.dumps({"message": detail}).encode()
    return parse_failure(HttpAnswer(status, headers, body), now=0.0)


# The parser


def test_whole_image_becomes_a_candidate() -> None:
    page = parse_search(getty_answer(GETTY_IMAGE, result_count=204), page=3)
    assert (page.total, page.page, page.pages) == (204, 3, 3)
    [candidate] = page.candidates
    assert (candidate.id, candidate.title) == ("getty:9183", "A pier at dawn")
    assert candidate.description == "A pier stretches into a quiet sea at dawn."
    assert (candidate.license, candidate.owner) == ("royaltyfree", "someone")
    assert candidate.page_url == "https://www.getty.example.com/9183"
    assert candidate.posted_at == datetime(2019, 9, 20, 7, 0, tzinfo=UTC)


def test_sizes_have_the_proportions_of_the_whole_image() -> None:
    [candidate] = parse_search(getty_answer(GETTY_IMAGE)).candidates
    assert [(size.width, size.height) for size in candidate.sizes] == [(612, 469), (170, 130)]


def test_webp_twin_of_a_size_is_left_out() -> None:
    [candidate] = parse_search(getty_answer(GETTY_IMAGE)).candidates
    assert not any(".webp" in size.url for size in candidate.sizes)


def test_caption_may_be_null() -> None:
    [candidate] = parse_search(getty_answer(GETTY_IMAGE | {"caption": None})).candidates
    assert candidate.description == ""


@pytest.mark.parametrize(
    "sizes", [None, [], {}, "comp", [None], [{"name": "comp"}], [{"uri": "ftp://x/1.jpg"}]]
)
def test_image_without_an_address_is_skipped_with_a_reason(sizes: object) -> None:
    page = parse_search(getty_answer(GETTY_IMAGE | {"display_sizes": sizes}))
    assert not page.candidates and page.skipped[0][:2] == ("getty:9183", Reason.IMAGE_MISSING)


def test_image_without_referral_gets_a_page_by_its_number() -> None:
    [candidate] = parse_search(getty_answer(GETTY_IMAGE | {"referral_destinations": None})).candidates
    assert candidate.page_url == "https://www.gettyimages.com/detail/9183"


@pytest.mark.parametrize("date", [None, "yesterday", "0001-01-01T00:00:00+14:00", 5])
def test_date_that_is_none_is_missing(date: object) -> None:
    [candidate] = parse_search(getty_answer(GETTY_IMAGE | {"date_created": date})).candidates
    assert candidate.posted_at is None


@pytest.mark.parametrize("life", [1800, "1800"])
def test_life_of_a_token_may_be_a_number_or_text(life: object) -> None:
    assert parse_token({"access_token": "abc", "expires_in": life}) == ("abc", 1800.0)


@pytest.mark.parametrize("payload", [None, [], {}, {"access_token": None}, {"access_token": "two words"}])
def test_answer_without_a_token_is_a_bad_answer(payload: object) -> None:
    with pytest.raises(BadAnswer):
        parse_token(payload)


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (refusal(403, "Account Over Queries Per Second Limit"), RetryLater),
        (refusal(403, "", **{"x-error-detail": "Account Over Queries Per Second Limit"}), RetryLater),
        (refusal(429), RetryLater),
        (refusal(503), RetryLater),
        (refusal(403, "Account Over Rate Limit"), DailyLimit),
        (refusal(429, "Account Over Rate Limit"), DailyLimit),
        (refusal(403, "Account Inactive"), BadKey),
        (refusal(403, "Not Authorized"), AccessRevoked),
        (refusal(401), AccessRevoked),
        (refusal(400, "Invalid Request."), RequestRefused),
        (refusal(404), BadAnswer),
        (refusal(302), BadAnswer),
    ],
)
def test_every_refusal_has_its_cause(failure: SourceFailure, kind: type[SourceFailure]) -> None:
    assert type(failure) is kind


def test_wait_that_getty_asks_for_is_kept() -> None:
    failure = refusal(429, **{"retry-after": "12"})
    assert isinstance(failure, RetryLater) and failure.after_s == 12.0


@settings(max_examples=100)
@given(mutated(getty_answer(GETTY_IMAGE, GETTY_IMAGE | {"id": "9184"})))
def test_mutated_answer_is_parsed_or_refused_with_the_documented_failure(answer: Any) -> None:
    try:
        page = parse_search(answer)
    except BadAnswer:
        return
    assert len(page.candidates) + len(page.skipped) == len(answer["images"])
    check_storable(page, "getty:")


# The client


def test_search_finds_every_image_through_all_pages(replay: Replay) -> None:
    asker = client(replay)
    first = asker.search(JOY, page())
    pages = [first, *(asker.search(JOY, page(number)) for number in range(2, (first.pages or 0) + 1))]
    assert sum(len(page.candidates) + len(page.skipped) for page in pages) == first.total


def test_page_after_the_last_is_empty(replay: Replay) -> None:
    after = client(replay).search(JOY, page(40))
    assert (after.candidates, after.skipped) == ((), ())


def test_page_that_getty_refuses_after_the_first_says_why() -> None:
    with raw_server(http(b'{"message": "Invalid Request."}', "400 Bad Request")) as address:
        asker = client(address)
        assert asker.search(JOY, page(2)) == SearchPage(
            None, 2, None, (), (), "Getty refuses the request: Invalid Request."
        )
        assert type(failure_of(asker)) is RequestRefused


@pytest.mark.parametrize("family", ["creative", "editorial"])
def test_families_are_searched_apart(replay: Replay, family: str) -> None:
    client(replay, family=family).search(JOY, page())
    assert f"/v3/search/images/{family}?" in replay.requests[-1].path
    assert "page_size=100" in replay.requests[-1].path


def test_key_alone_searches_without_a_token(replay: Replay) -> None:
    client(replay).search(JOY, page())
    assert replay.calls["getty.token"] == 0


def test_token_is_fetched_once_and_again_before_it_ends(replay: Replay) -> None:
    times: list[float] = []
    asker = client(replay, secret=SECRET, clock=lambda: times[-1])
    for now, tokens in ((0.0, 1), (1700.0, 1), (1750.0, 2), (3400.0, 2), (3500.0, 3)):
        times.append(now)
        asker.search(JOY, page())
        assert replay.calls["getty.token"] == tokens


def test_token_that_is_not_known_any_more_is_replaced_once() -> None:
    with Replay(World(photos=5), faults=Faults(getty_token=1.0, repeats=1)) as server:
        assert client(server, secret=SECRET).search(JOY, page()).total
        assert server.calls["getty.token"] == 2


def test_token_that_is_never_known_ends_the_build() -> None:
    with Replay(faults=Faults(getty_token=1.0, repeats=99)) as server:
        assert type(failure_of(client(server, secret=SECRET))) is AccessRevoked
        assert (server.calls["getty.token"], server.calls["getty.search"]) == (2, 2)


def test_wrong_key_is_a_bad_key(replay: Replay) -> None:
    failure = failure_of(client(replay, key="wrong-key"))
    assert type(failure) is BadKey and "GETTY_API_KEY" in str(failure)


def test_wrong_secret_is_a_bad_key(replay: Replay) -> None:
    failure = failure_of(client(replay, secret="wrong-secret"))
    assert type(failure) is BadKey and "GETTY_API_SECRET" in str(failure)


def test_daily_limit_stops_after_the_calls_of_the_day() -> None:
    with Replay(World(photos=5), faults=Faults(daily_limit=2)) as server:
        asker = client(server)
        asker.search(JOY, page())
        asker.search(JOY, page())
        failure = failure_of(asker)
    assert type(failure) is DailyLimit and failure.exit_code == 3


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("getty_per_second", RetryLater),
        ("api_429_seconds", RetryLater),
        ("api_500", RetryLater),
        ("api_truncated", RetryLater),
        ("api_html", BadAnswer),
        ("api_jsonp", BadAnswer),
        ("api_redirect", BadAnswer),
    ],
)
def test_passing_faults_have_their_cause_and_pass(fault: str, kind: type[SourceFailure]) -> None:
    with Replay(World(photos=5), faults=Faults(**{fault: 1.0}, repeats=1)) as server:
        asker = client(server)
        assert type(failure_of(asker)) is kind
        assert asker.search(JOY, page()).total
        assert not server.trespasses


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["api_silent", "api_drip"])
def test_server_that_dawdles_is_left_at_the_deadline(fault: str) -> None:
    with Replay(World(photos=5), faults=Faults(**{fault: 1.0})) as server:
        start = time.monotonic()
        assert type(failure_of(client(server, timeout_s=0.5))) is RetryLater
        assert time.monotonic() - start < 5


def gzipped(n_bytes: int, layers: int) -> bytes:
    """An answer whose body of so many blanks is compressed again and again."""
    body = bytes(n_bytes)
    for _ in range(layers):
        body = gzip.compress(body)
    return http(body, Content_Encoding=", ".join(["gzip"] * layers))


@pytest.mark.parametrize(("layers", "said"), [(1, "more than 1000000 bytes"), (2, "cannot be read")])
def test_compressed_answer_is_unpacked_no_further_than_the_size_limit(
    layers: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_json, "MAX_ANSWER_BYTES", 1_000_000)
    with raw_server(gzipped(50_000_000, layers)) as address:
        asker = client(address)
        tracemalloc.start()
        try:
            failure = failure_of(asker)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert type(failure) is BadAnswer and said in str(failure)
    assert peak < 10_000_000


def test_compressed_answer_is_an_answer() -> None:
    body = gzip.compress(json.dumps(getty_answer(GETTY_IMAGE)).encode())
    with raw_server(http(body, Content_Encoding="gzip")) as address:
        assert client(address).search(JOY, page()).total == 1


# The key

KEYS = "f00dface-f00dface", "c0ffee00-c0ffee00", "deadbeef-deadbeef"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        http(" ".join(KEYS).encode(), "500 Oops"),
        http(b"{}", "403 Forbidden", X_Error_Detail="x" * 150 + " ".join(KEYS)),
        http(json.dumps({"message": " ".join(KEYS)}).encode(), "401 Unauthorized"),
        http(b"", "302 Found", Location=f"http://127.0.0.2/{KEYS[0]}"),
        http(json.dumps(getty_answer(GETTY_IMAGE)).encode()),
    ],
)
def test_keys_and_tokens_are_in_no_message_log_or_traceback(
    answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    token = http(json.dumps({"access_token": KEYS[2], "expires_in": "1800"}).encode())
    with raw_server(token, answer) as address:
        asker = client(address, key=KEYS[0], secret=KEYS[1])
        for name in ("", "httpcore"):
            caplog.set_level(logging.DEBUG, logger=name)
        said = ""
        try:
            asker.search(JOY, page())
        except SourceFailure as failure:
            said += everything_said(failure)
        said += repr(asker) + str(vars(asker))
    for text in (said, caplog.text):
        assert not any(key[:8] in text for key in KEYS)


def test_keys_and_tokens_that_the_answer_repeats_are_in_no_candidate() -> None:
    token = http(json.dumps({"access_token": KEYS[2], "expires_in": "1800"}).encode())
    image = GETTY_IMAGE | {"title": KEYS[0], "caption": f"secret {KEYS[1]}", "artist": KEYS[2]}
    with raw_server(token, http(json.dumps(getty_answer(image)).encode())) as address:
        asker = client(address, key=KEYS[0], secret=KEYS[1])
        [candidate] = asker.search(JOY, page()).candidates
    assert (candidate.title, candidate.description, candidate.owner) == ("[key]", "secret [key]", "[key]")
