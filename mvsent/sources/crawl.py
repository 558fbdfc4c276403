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
    while (window := frontier.next_window()) is not None:
        query = frontier.query(window.query)
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
                frontier.replace(window, follow_up(window, page, n_new, source.paging))
                if room is not None and n_new >= room:
                    frontier.end_query(window.query)
        on_page()


def follow_up(window: Window, page: SearchPage, n_new: int, paging: Paging) -> list[Window]:
    """What to ask after a window's page: nothing more, the next page, or other windows.

    Args:
        n_new: items of the page that the query had not found before.
    """
    successors = _successors(replace(window, owed=None), page, n_new, paging)
    if window.owed is None or page.total == window.owed:
        return successors
    second = window.since - 1  # more happened in it than was shown, or a total was wrong
    return [Window(window.query, second, second, overlaps=True), *successors]


def _successors(window: Window, page: SearchPage, n_new: int, paging: Paging) -> list[Window]:
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


def _halves(window: Window) -> list[Window]:
    """Two windows in the place of one: seconds are whole, so nothing lies between `middle` and the next."""
    if window.since >= window.until:
        return _too_full(window)
    middle = (window.since + window.until) // 2
    return [
        Window(window.query, window.since, middle, overlaps=True),
        Window(window.query, middle + 1, window.until, overlaps=True),
    ]


def _rest(window: Window, page: SearchPage, paging: Paging) -> list[Window]:
    """From the last upload shown to the end; that second is asked again, for more may have happened in it.

    Where a last window follows whose pages it would overfill, that is put off until the totals are compared.
    """
    uploads = _uploads(page)
    if not uploads:
        return _halves(window)
    last = max(uploads)
    if last <= window.since:  # the whole window's reach was one second
        return _too_full(window)
    n_asked = window.page * paging.per_page
    if page.total is not None and last < window.until:
        owed, room = page.total - n_asked, -(page.total - n_asked) % paging.per_page
        if owed <= n_asked and uploads.count(last) > room:
            return [Window(window.query, last + 1, window.until, owed=owed)]
    return [Window(window.query, last, window.until, overlaps=True)] if last <= window.until else []


def _too_full(window: Window) -> list[Window]:
    log.warning("In second %d more was uploaded than Flickr shows; the rest is left out", window.since)
    if window.since >= window.until:
        return []
    return [Window(window.query, window.since + 1, window.until, overlaps=True)]
