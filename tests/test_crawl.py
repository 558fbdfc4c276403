"""The search's paging and windows, and what the frontier remembers."""

import logging
import random
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mvsent.errors import DatasetError, Interrupted, StorageError, UsageError
from mvsent.limits import TokenBucket
from mvsent.reasons import Reason
from mvsent.sources.crawl import http_json
from mvsent.sources.crawl.candidate import (
    Candidate,
    Query,
    SearchPage,
    Size,
    Window,
    candidate_from_json,
    candidate_to_json,
)
from mvsent.sources.crawl.crawl_queries import BARREN_PAGES, follow_up, search
from mvsent.sources.crawl.failures import BadAnswer, BadKey, RequestRefused, RetryLater
from mvsent.sources.crawl.frontier import Beginning, Frontier
from mvsent.sources.crawl.patience import Asker
from mvsent.sources.registry import Paging, searched

SPAN = (0, 100_000)
FLICKR_PAGING, GETTY_PAGING = (searched(name).paging for name in ("flickr", "getty"))


def photo(number: int, uploaded: int | None = 0) -> Candidate:
    posted = None if uploaded is None else datetime.fromtimestamp(uploaded, UTC)
    return Candidate(
        f"flickr:{number}", "t", "d", ("a",), (Size("https://x.org/1.jpg", 640, 480),), "", "", "", posted
    )


def begin(path: Path, queries: int = 1, **given: object) -> Frontier:
    asked = [(f"query {n}", f"query_{n}", 1.0 if n % 2 == 0 else -1.0) for n in range(queries)]
    return Frontier.open(path, Beginning({"per_query": 500, **given}, asked, SPAN, 7))


@dataclass
class Shelf:
    """A source that holds photos as Flickr does: inclusive dates, and pages that repeat past a limit."""

    uploads: list[int]
    paging: Paging = field(default_factory=lambda: Paging(per_page=5, max_results=20))
    sorts: bool = True
    asked: list[Window] = field(default_factory=list)

    def page(self, query: Query, window: Window) -> SearchPage:
        self.asked.append(window)
        numbered = sorted((uploaded, number) for number, uploaded in enumerate(self.uploads))
        fitting = [one for one in numbered if window.since <= one[0] <= window.until]
        if not self.sorts:
            fitting = sorted(fitting, key=lambda one: one[1] * 7919 % 104729)
        pages = max(1, -(-min(len(fitting), self.paging.max_results or 10**9) // self.paging.per_page))
        shown = min(window.page, pages)
        start = (shown - 1) * self.paging.per_page
        found = tuple(
            photo(number, uploaded) for uploaded, number in fitting[start : start + self.paging.per_page]
        )
        return SearchPage(len(fitting), shown, pages, found, ())


def asker(sleep: Callable[[float], object] = lambda s: None) -> Asker:
    bucket = TokenBucket(1000, burst=10**6, sleep=sleep)
    return Asker(bucket, threading.Event(), lambda: None)


def crawl(path: Path, shelf: Shelf, **given: int) -> set[str]:
    with begin(path) as frontier:
        search(frontier, shelf.page, shelf.paging, asker(), found_at=lambda: 0, **given)
        return set(frontier.ids(frontier.numbers().tolist()))


def test_a_query_of_more_than_the_api_shows_is_found_whole(tmp_path: Path) -> None:
    shelf = Shelf([n * 10 for n in range(203)])
    assert len(crawl(tmp_path / "c.sqlite", shelf)) == 203


@pytest.mark.parametrize("n", [4000, 4001, 4499, 4500, 8000, 10_000])
def test_calls_stay_within_a_tenth_of_the_fewest_possible(tmp_path: Path, n: int) -> None:
    shelf = Shelf([i * 5 for i in range(n)], FLICKR_PAGING)
    assert len(crawl(tmp_path / "c.sqlite", shelf)) == n
    assert len(shelf.asked) <= 1.1 * -(-n // 500)


@pytest.mark.parametrize("n", [1, 99, 100, 101, 1000])
def test_getty_is_asked_for_no_page_too_many(tmp_path: Path, n: int) -> None:
    shelf = Shelf([0] * n, GETTY_PAGING)
    assert len(crawl(tmp_path / "c.sqlite", shelf)) == n
    assert len(shelf.asked) == -(-n // 100)


@given(st.lists(st.integers(0, 60), min_size=1, max_size=90), st.booleans())
@example([n // 3 for n in range(25)], True)  # a page would be saved, but the second has more than was shown
@settings(max_examples=40)
def test_nothing_is_missed_wherever_the_windows_are_cut(uploads: list[int], sorts: bool) -> None:
    fullest = max(uploads.count(second) for second in set(uploads))
    if fullest > 15:  # one second holds more than is shown: nothing helps
        return
    shelf = Shelf([second * 1000 for second in uploads], sorts=sorts)
    path = Path(":memory:")
    assert len(crawl(path, shelf)) == len(uploads)


def cut(n: int) -> Window:
    """The window after one that showed 4000 of `n` photos, the last of them in second 40."""
    shown = SearchPage(n, 8, 9, (photo(1, 39), photo(2, 40)), ())
    (window,) = follow_up(Window(1, 0, 99, page=8), shown, 2, FLICKR_PAGING)
    return window


def test_the_second_of_the_cut_is_left_out_only_where_that_saves_a_page() -> None:
    assert cut(4499) == Window(1, 40, 99, overlaps=True)
    assert cut(4500) == Window(1, 41, 99, owed=500)
    assert cut(9000) == Window(1, 40, 99, overlaps=True)  # another cut follows, and the page is not saved


@pytest.mark.parametrize("total", [None, 0, 499, 501])
def test_the_second_of_the_cut_is_asked_once_the_totals_do_not_add_up(total: int | None) -> None:
    found = () if total == 0 else (photo(3, 41),)
    first, *others = follow_up(cut(4500), SearchPage(total, 1, 1, found, ()), len(found), FLICKR_PAGING)
    assert first == Window(1, 40, 40, overlaps=True)
    assert all(other.owed is None for other in others)
    assert follow_up(cut(4500), SearchPage(500, 1, 1, (photo(3, 41),), ()), 1, FLICKR_PAGING) == []


def test_a_window_in_no_order_is_cut_in_the_middle() -> None:
    page = SearchPage(4001, 1, 9, (photo(1, 50), photo(2, 40)), ())
    halves = follow_up(Window(1, 0, 99), page, 2, FLICKR_PAGING)
    assert [(one.since, one.until) for one in halves] == [(0, 49), (50, 99)]


def test_a_second_fuller_than_the_api_shows_is_passed_by() -> None:
    page = SearchPage(9000, 8, 18, (photo(1, 10),), ())
    assert [one.since for one in follow_up(Window(1, 10, 99, page=8), page, 1, FLICKR_PAGING)] == [11]
    assert follow_up(Window(1, 10, 10, page=8), page, 1, FLICKR_PAGING) == []


@pytest.mark.parametrize("total", [None, 10**6])
def test_a_page_that_repeats_the_last_ends_the_query(total: int | None) -> None:
    page = SearchPage(total, 2, None, (photo(1),), ())
    assert follow_up(Window(1, 0, 0, page=2), page, 0, GETTY_PAGING) == []
    assert follow_up(Window(1, 0, 0, page=2), page, 1, GETTY_PAGING) == [Window(1, 0, 0, page=3)]


def test_an_empty_page_ends_the_query_whatever_its_total_says() -> None:
    assert follow_up(Window(1, 0, 0), SearchPage(500, 1, 5, (), ()), 0, GETTY_PAGING) == []


def test_per_query_takes_so_many_and_asks_for_no_more(tmp_path: Path) -> None:
    shelf = Shelf(list(range(100)))
    assert len(crawl(tmp_path / "c.sqlite", shelf, per_query=7)) == 7
    assert len(shelf.asked) == 2


class Deaf(Shelf):
    """A source that pays no heed to the window: the same photos for every one of them."""

    def page(self, query: Query, window: Window) -> SearchPage:
        self.asked.append(window)
        given = tuple(photo(number, uploaded) for number, uploaded in enumerate(self.uploads))
        return SearchPage(5000, window.page, 10, given, ())


@pytest.mark.slow
@pytest.mark.parametrize("uploads", [[50, 40, 30], [30, 40, 50], [-3, -2, -1], [7, 7, 7]])
def test_a_query_whose_answers_are_always_the_same_is_ended_with_one_warning(
    uploads: list[int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shelf = Deaf([second + 1000 for second in uploads])
    with begin(tmp_path / "c.sqlite", queries=2) as frontier:
        search(frontier, shelf.page, shelf.paging, asker(), found_at=lambda: 0)
        assert (frontier.n_candidates, frontier.n_queries_left) == (3, 0)
        assert len(shelf.asked) <= 2 * (1 + BARREN_PAGES)
        n_ended = len(frontier.refusals())
    assert caplog.text.count("in a row brought nothing new") == n_ended


def test_a_second_after_the_other_that_is_too_full_is_said_once_a_query(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shelf = Shelf([second for second in range(4) for _ in range(30)])
    crawl(tmp_path / "c.sqlite", shelf)
    assert caplog.text.count("more was uploaded than a search shows") == 1


@pytest.mark.parametrize("sorts", [True, False])
def test_uploads_in_one_moment_of_two_decades_are_found_all_the_same(sorts: bool, tmp_path: Path) -> None:
    shelf = Shelf([400_000_000 + number // 4 for number in range(100)], sorts=sorts)
    asked = [("query", "query", 1.0)]
    start = Beginning({}, asked, (0, 700_000_000), 7)
    with Frontier.open(tmp_path / "c.sqlite", start) as frontier:
        search(frontier, shelf.page, shelf.paging, asker(), found_at=lambda: 0)
        assert frontier.n_candidates == 100


def test_an_id_found_by_two_queries_is_one_candidate_with_both(tmp_path: Path) -> None:
    with begin(tmp_path / "c.sqlite", queries=2) as frontier:
        shelf = Shelf([1, 2, 3])
        search(frontier, shelf.page, shelf.paging, asker(), found_at=lambda: 5)
        assert frontier.n_candidates == 3
        found = frontier.found(1)
        assert [query.text for query in found.queries] == ["query 0", "query 1"]
        assert found.found_at == datetime.fromtimestamp(5, UTC)


def test_a_skipped_item_keeps_its_reason(tmp_path: Path) -> None:
    page = SearchPage(1, 1, 1, (), (("flickr:9", Reason.IMAGE_MISSING, "no address"),))
    with begin(tmp_path / "c.sqlite") as frontier, frontier.transaction():
        frontier.note(1, page, None, 0)
        found = frontier.found(1)
    assert (found.candidate, found.reason, found.detail) == (None, Reason.IMAGE_MISSING, "no address")


def test_the_search_goes_on_where_a_failure_stopped_it(tmp_path: Path) -> None:
    path, shelf = tmp_path / "c.sqlite", Shelf(list(range(50)))
    give, n_good = shelf.page, 3

    def fails_later(query: Query, window: Window) -> SearchPage:
        if len(shelf.asked) >= n_good:
            raise BadKey("no", "no")
        return give(query, window)

    shelf.page = fails_later  # type: ignore[method-assign]
    with pytest.raises(BadKey):
        crawl(path, shelf)
    shelf.page = give  # type: ignore[method-assign]
    assert len(crawl(path, shelf)) == 50
    asked = [(one.since, one.page) for one in shelf.asked]
    assert len(asked) == len(set(asked))


def test_a_refused_query_is_left_out_and_remembered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shelf = Shelf([1])
    give = shelf.page

    def refuses(query: Query, window: Window) -> SearchPage:
        if query.text == "query 1":
            raise RequestRefused("too many tags")
        return give(query, window)

    shelf.page = refuses  # type: ignore[method-assign]
    with begin(tmp_path / "c.sqlite", queries=3) as frontier:
        search(frontier, shelf.page, shelf.paging, asker(), found_at=lambda: 0)
        assert frontier.refusals() == {"query 1": "too many tags"}
    assert "query 1" in caplog.text


def test_a_refusal_of_the_very_first_query_ends_the_build(tmp_path: Path) -> None:
    shelf = Shelf([1])
    shelf.page = lambda query, window: (_ for _ in ()).throw(RequestRefused("bad licence"))  # type: ignore[method-assign]
    with begin(tmp_path / "c.sqlite") as frontier, pytest.raises(RequestRefused):
        search(frontier, shelf.page, shelf.paging, asker(), found_at=lambda: 0)


def test_candidates_survive_the_database() -> None:
    candidate = photo(3, 1_500_000_000)
    assert candidate_from_json("flickr:3", candidate_to_json(candidate)) == candidate
    assert candidate_from_json("flickr:3", candidate_to_json(photo(3, None))) == photo(3, None)


def test_another_setting_is_named_and_refused(tmp_path: Path) -> None:
    begin(tmp_path / "c.sqlite").close()
    with pytest.raises(UsageError, match="per_query was 500 and is 10"):
        begin(tmp_path / "c.sqlite", per_query=10)


def test_a_crawl_begun_before_a_setting_existed_continues_with_its_default(tmp_path: Path) -> None:
    begin(tmp_path / "c.sqlite").close()
    with_default = Beginning({"per_query": 500, "new": "off"}, [], SPAN, 7, {"per_query": 0, "new": "off"})
    Frontier.open(tmp_path / "c.sqlite", with_default).close()
    with pytest.raises(UsageError, match='new was "off" and is "on"'):
        Frontier.open(tmp_path / "c.sqlite", replace(with_default, settings={"per_query": 500, "new": "on"}))


def test_another_version_is_refused(tmp_path: Path) -> None:
    begin(tmp_path / "c.sqlite").close()
    with sqlite3.connect(tmp_path / "c.sqlite") as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(DatasetError, match="schema 99"):
        begin(tmp_path / "c.sqlite")


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.sqlite").write_bytes(b"not a database, but long enough to look at" * 50)
    with pytest.raises(DatasetError, match="not a crawl"):
        begin(tmp_path / "c.sqlite")


def test_a_full_disk_is_a_clear_line_and_loses_nothing(tmp_path: Path) -> None:
    shelf = Shelf(list(range(2000)), FLICKR_PAGING)
    with begin(tmp_path / "c.sqlite") as frontier:
        frontier._db.execute("PRAGMA max_page_count = 20")
        with pytest.raises(StorageError, match=r"c\.sqlite: database or disk is full"):
            search(frontier, shelf.page, shelf.paging, asker(), found_at=lambda: 0)
        frontier._db.execute("PRAGMA max_page_count = 100000")
        search(frontier, shelf.page, shelf.paging, asker(), found_at=lambda: 0)
        assert frontier.n_candidates == 2000


def test_calls_are_remembered_across_processes(tmp_path: Path) -> None:
    with begin(tmp_path / "c.sqlite") as frontier:
        frontier.note_call(1000.0)
        frontier.note_call(1001.0)
    with begin(tmp_path / "c.sqlite") as frontier:
        assert frontier.calls() == [1000.0, 1001.0]


class Waits:
    """An event that notes how long it is waited for, and does not wait."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    def is_set(self) -> bool:
        return False

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        return False


def failing(*failures: Exception) -> Callable[[], str]:
    left = list(failures)

    def call() -> str:
        if left:
            raise left.pop(0)
        return "answer"

    return call


def test_a_busy_source_is_asked_again_after_as_long_as_it_says() -> None:
    waits = Waits()
    asks = Asker(TokenBucket(10**6, burst=10**6), waits, lambda: None)  # type: ignore[arg-type]
    assert asks.ask(failing(RetryLater(17.0, "busy"), BadAnswer("HTML"))) == "answer"
    assert waits.waits[0] == 17.0
    assert 0 <= waits.waits[1] <= 2


@pytest.mark.parametrize("asked_s", [0.0, None])
def test_a_source_that_asks_for_no_wait_is_asked_less_and_less_often(asked_s: float | None) -> None:
    waits = Waits()
    bucket = TokenBucket(10**6, burst=10**6)
    asks = Asker(bucket, waits, lambda: None, random.Random(1))  # type: ignore[arg-type]
    with pytest.raises(RetryLater):
        asks.ask(failing(*[RetryLater(asked_s, "busy")] * 100))
    assert len(waits.waits) == 8 and min(waits.waits) > 0 and sum(waits.waits) > 60


def test_long_waits_are_said_and_short_ones_are_not(caplog: pytest.LogCaptureFixture) -> None:
    bucket = TokenBucket(10**6, burst=10**6)
    asks = Asker(bucket, Waits(), lambda: None, random.Random(1))  # type: ignore[arg-type]
    waits_s = [9.0, 11.0, 3600.0, None, None, None, None]
    with caplog.at_level(logging.WARNING, logger="mvsent"):
        asks.ask(failing(*(RetryLater(wait_s, "Flickr answers with HTTP 429") for wait_s in waits_s)))
    assert [record.message for record in caplog.records] == [
        "Flickr answers with HTTP 429: waiting 11 seconds, as it asks",
        "Flickr answers with HTTP 429: waiting 60 minutes, as it asks",
        "Flickr answers with HTTP 429: waiting 14 seconds",
        "Flickr answers with HTTP 429: waiting 39 seconds",
    ]


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("Authorization: OAuth oauth_token='abc', oauth_nonce='d'", "Authorization: [key]"),
        ('{"authorization":"Bearer abc.def"}', '{"authorization":[key]'),
        ("bad token: Bearer abc.def-ghi expired", "bad token: Bearer [key] expired"),
        (
            "signature oauth_signature=ab%2Fc%3D&page=1 is wrong",
            "signature oauth_signature=[key]&page=1 is wrong",
        ),
        ("oauth_signature%3Dabc was wrong", "oauth_signature%3D[key] was wrong"),
        (
            'oauth_token_secret="abc", api_key: a, Api-Key: b',
            'oauth_token_secret="[key]", api_key: [key], Api-Key: [key]',
        ),
        ("access_token=abc client_secret=abc", "access_token=[key] client_secret=[key]"),
        ("oauth_problem=signature_invalid", "oauth_problem=signature_invalid"),
        ("Invalid API Key (Key has expired)", "Invalid API Key (Key has expired)"),
        ("The Authorization header is missing", "The Authorization header is missing"),
    ],
)
def test_credentials_that_a_server_repeats_are_not_shown(words: str, shown: str) -> None:
    assert http_json.excerpt(words) == shown


def test_a_source_that_stays_down_ends_the_build_for_now() -> None:
    asks = Asker(TokenBucket(10**6, burst=10**6), Waits(), lambda: None)  # type: ignore[arg-type]
    with pytest.raises(RetryLater) as failure:
        asks.ask(failing(*[RetryLater(None, "down")] * 100))
    assert failure.value.exit_code == 3


def test_once_stopped_nothing_is_asked() -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        Asker(TokenBucket(10**6), stop, lambda: None).ask(failing())


# Sources that are not kind


@pytest.mark.slow
@pytest.mark.parametrize("drift", [-60, -7, 7, 60])
def test_totals_that_shrink_or_grow_while_paging_lose_nothing(drift: int, tmp_path: Path) -> None:
    shelf = Shelf([n * 10 for n in range(1234)], FLICKR_PAGING)
    plain = shelf.page

    def moving(query: Query, window: Window) -> SearchPage:
        page = plain(query, window)
        return replace(page, total=max(0, (page.total or 0) + drift * window.page))

    with begin(tmp_path / "c.sqlite") as frontier:
        search(frontier, moving, shelf.paging, asker(), found_at=lambda: 0)
        assert frontier.n_candidates == 1234


def test_photos_of_another_query_or_owner_are_those_of_their_first_listing(tmp_path: Path) -> None:
    """A page that lists a photo twice, with two owners, and one that repeats another query's photos."""
    twice = [photo(1, 5), replace(photo(1, 5), owner="somebody else"), photo(2, 6)]

    def same(query: Query, window: Window) -> SearchPage:
        return SearchPage(3, window.page, 1, tuple(twice), ())

    with begin(tmp_path / "c.sqlite", queries=2) as frontier:
        search(frontier, same, GETTY_PAGING, asker(), found_at=lambda: 0)
        assert frontier.ids(frontier.numbers().tolist()) == ["flickr:1", "flickr:2"]
        first = frontier.found(1)
        assert first.candidate is not None and first.candidate.owner == ""
        assert [query.number for query in first.queries] == [1, 2]
        assert frontier.notes("drift") == {"repeated_items": 2}
