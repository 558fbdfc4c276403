"""The search: every query of a lexicon, page after page, into a frontier.

Flickr repeats a search's pages past 4000 results. Results come in the order of their upload, so the search
goes on from the last upload that it was shown: [since, until] becomes [last, until], and what both list is
found once. Where that overlap would cost a page, it becomes [last + 1, until], and the second `last` is asked
by itself if the totals do not add up. Where results are in no order, the window is cut in the middle instead.
No page is asked for only to learn a total.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from mvsent.sources import flickr, getty
from mvsent.sources.candidate import SearchPage
from mvsent.sources.failures import RequestRefused
from mvsent.sources.flickr import FlickrClient
from mvsent.sources.frontier import Frontier, Query, Window
from mvsent.sources.getty import GettyClient
from mvsent.sources.patience import Asker

log = logging.getLogger("mvsent")

FLICKR_MAX_RESULTS = 4000
"""Past so many results, a search's pages repeat."""

BARREN_PAGES = 64
"""Pages in a row that bring nothing new, after which a query ends. Cutting two decades down to one second
takes 30 cuts into two halves each, so a source that knows its windows brings something before."""


@dataclass(frozen=True, slots=True)
class Paging:
    """How far a source pages: items of a page, and of a search; None where no limit is known."""

    per_page: int
    max_results: int | None = None


FLICKR_PAGING = Paging(flickr.MAX_PER_PAGE, FLICKR_MAX_RESULTS)
GETTY_PAGING = Paging(getty.MAX_PAGE_SIZE)


class Source(Protocol):
    """Where to search."""

    @property
    def paging(self) -> Paging:
        """How far it pages."""

    def page(self, query: Query, window: Window) -> SearchPage:
        """The window's page. Raises: SourceFailure."""


@dataclass(frozen=True)
class FlickrSearch:
    """Flickr, with the filters of a build."""

    client: FlickrClient
    license: str = ""
    safe: int = 1
    paging: Paging = FLICKR_PAGING

    def page(self, query: Query, window: Window) -> SearchPage:
        return self.client.search(
            query.text,
            window.since,
            window.until,
            window.page,
            per_page=self.paging.per_page,
            license=self.license or None,
            safe=self.safe,
        )


@dataclass(frozen=True)
class GettySearch:
    """Getty, creative or editorial; it knows no windows."""

    client: GettyClient
    family: str = "creative"
    paging: Paging = GETTY_PAGING

    def page(self, query: Query, window: Window) -> SearchPage:
        return self.client.search(query.text, window.page, page_size=self.paging.per_page, family=self.family)


def search(
    frontier: Frontier,
    source: Source,
    asker: Asker,
    *,
    per_query: int = 0,
    found_at: Callable[[], int],
    on_page: Callable[[], object] = lambda: None,
) -> None:
    """Everything that is left to ask has been asked, and the frontier holds what was found.

    Args:
        per_query: candidates of one query at most; 0 for all.
        found_at: now, in seconds since 1970.
        on_page: called after every page.

    Raises: Interrupted; SourceFailure. The frontier then knows where to go on.
    """
    course = _Course()
    while (window := frontier.next_window()) is not None:
        query = frontier.query(window.query)
        if query.number != course.query:
            course = _Course(query.number)
        try:
            page = asker.ask(lambda query=query, window=window: source.page(query, window))  # type: ignore[misc]
        except RequestRefused as refusal:
            if frontier.n_candidates == 0:
                raise  # more likely a filter that the source does not know than this one query
            log.warning("%s. Its query %r is left out", refusal.what, query.text)
            frontier.refuse(window.query, refusal.what)
        else:
            room = per_query - query.found if per_query else None
            with frontier.transaction():
                n_new = frontier.note(window.query, page, room, found_at())
                successors = follow_up(window, page, n_new, source.paging, course.overflow)
                frontier.replace(window, successors)
                if room is not None and n_new >= room:
                    frontier.end_query(window.query)
            if course.is_barren(n_new) and successors:
                why = f"{BARREN_PAGES} pages in a row brought nothing new"
                log.warning("The query %r is ended: %s", query.text, why)
                frontier.refuse(window.query, why)
        on_page()


class _Course:
    """What the pages of one query gave lately."""

    def __init__(self, query: int | None = None) -> None:
        self.query = query
        self._n_barren, self._overflowed = 0, False

    def is_barren(self, n_new: int) -> bool:
        """Whether a page with `n_new` new items is one too many of those that brought nothing."""
        self._n_barren = 0 if n_new else self._n_barren + 1
        return self._n_barren >= BARREN_PAGES

    def overflow(self, second: int) -> None:
        """It is said once that a second holds more than the source shows."""
        if not self._overflowed:
            log.warning("In second %d more was uploaded than Flickr shows; the rest is left out", second)
        self._overflowed = True


def follow_up(
    window: Window,
    page: SearchPage,
    n_new: int,
    paging: Paging,
    on_overflow: Callable[[int], object] = lambda second: None,
) -> list[Window]:
    """What to ask after a window's page: nothing more, the next page, or other windows.

    Args:
        n_new: items of the page that the query had not found before.
        on_overflow: told of a second in which more was uploaded than the source shows: it is passed by.
    """
    successors = _successors(replace(window, owed=None), page, n_new, paging)
    if successors is None:
        on_overflow(window.since)
        successors = _past_first_second(window)
    if window.owed is None or page.total == window.owed:
        return successors
    second = window.since - 1  # more happened in it than was shown, or a total was wrong
    return [Window(window.query, second, second, overlaps=True), *successors]


def _successors(window: Window, page: SearchPage, n_new: int, paging: Paging) -> list[Window] | None:
    """What comes after; None where its first second alone is more than is shown, so that no cut helps."""
    n_asked = window.page * paging.per_page
    if not (page.candidates or page.skipped):
        return []
    if n_new == 0 and window.page > 1 and not window.overlaps:
        return []  # a page that repeats an earlier one
    if page.total is not None and n_asked >= page.total:
        return []
    if paging.max_results is not None:
        overfull = page.total is not None and page.total > paging.max_results
        if overfull and not _in_order(page):
            return _halves(window)
        if n_asked >= paging.max_results:
            return _rest(window, page, paging)
    return [replace(window, page=window.page + 1)]


def _uploads(page: SearchPage) -> list[int]:
    return [int(one.posted_at.timestamp()) for one in page.candidates if one.posted_at]


def _in_order(page: SearchPage) -> bool:
    uploads = _uploads(page)
    return bool(uploads) and uploads == sorted(uploads)


def _halves(window: Window) -> list[Window] | None:
    """Two windows in the place of one: seconds are whole, so nothing lies between `middle` and the next."""
    if window.since >= window.until:
        return None
    middle = (window.since + window.until) // 2
    return [
        Window(window.query, window.since, middle, overlaps=True),
        Window(window.query, middle + 1, window.until, overlaps=True),
    ]


def _rest(window: Window, page: SearchPage, paging: Paging) -> list[Window] | None:
    """From the last upload shown to the end; that second is asked again, for more may have happened in it.

    Where a last window follows whose pages it would overfill, that is put off until the totals are compared.
    """
    uploads = _uploads(page)
    if not uploads:
        return _halves(window)
    last = max(uploads)
    if last <= window.since:  # the whole window's reach was one second
        return None
    n_asked = window.page * paging.per_page
    if page.total is not None and last < window.until:
        owed, room = page.total - n_asked, -(page.total - n_asked) % paging.per_page
        if owed <= n_asked and uploads.count(last) > room:
            return [Window(window.query, last + 1, window.until, owed=owed)]
    return [Window(window.query, last, window.until, overlaps=True)] if last <= window.until else []


def _past_first_second(window: Window) -> list[Window]:
    if window.since >= window.until:
        return []
    return [Window(window.query, window.since + 1, window.until, overlaps=True)]
