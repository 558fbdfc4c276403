"""The search: every query of a lexicon, page after page, into a frontier.

Some sources repeat a search's pages past `Paging.max_results`. Results come in the order of upload, so the
search continues from the last upload it was shown: window [since, until] becomes [last, until], and items
that both list are recorded once. If that overlap would cost a page, it becomes [last + 1, until], and the
second `last` is asked by itself if the totals do not add up. If results are in no order, the window is halved
instead. No page is asked for only to learn a total.
"""

import logging
from collections.abc import Callable
from dataclasses import replace

from mvsent.sources.crawl.candidate import SearchPage, Window
from mvsent.sources.crawl.failures import RequestRefused
from mvsent.sources.crawl.frontier import Frontier
from mvsent.sources.crawl.patience import Asker
from mvsent.sources.registry import Paging, Search

log = logging.getLogger("mvsent")

BARREN_PAGES = 64
"""Pages in a row that bring nothing new, after which a query ends. Halving two decades down to one second
takes 30 cuts into two windows each, so a source that respects windows brings something before."""


def search(
    frontier: Frontier,
    ask: Search,
    paging: Paging,
    asker: Asker,
    *,
    per_query: int = 0,
    found_at: Callable[[], int],
    on_page: Callable[[], object] = lambda: None,
) -> None:
    """Ask every window that is left, and record the answers in the frontier.

    Args:
        ask: the source's search, see `registry.SearchedSource`.
        paging: the source's.
        per_query: candidates of one query at most; 0 for all.
        found_at: now, in seconds since 1970.
        on_page: called after every page.

    Raises: Interrupted; SourceFailure. The same call then continues.
    """
    course = _Course()
    while (window := frontier.next_window()) is not None:
        query = frontier.query(window.query)
        if query.number != course.query:
            course = _Course(query.number)
        try:
            page = asker.ask(lambda query=query, window=window: ask(query, window))  # type: ignore[misc]
        except RequestRefused as refusal:
            if frontier.n_candidates == 0:
                raise  # more likely a filter that the source does not know than this one query
            log.warning("%s. Its query %r is left out", refusal.what, query.text)
            frontier.refuse(window.query, refusal.what)
        else:
            room = per_query - query.found if per_query else None
            # One transaction, so that a killed process has noted the page and what follows it, or neither.
            with frontier.transaction():
                n_new = frontier.note(window.query, page, room, found_at())
                successors = follow_up(window, page, n_new, paging, course.overflow)
                frontier.replace(window, successors)
                if room is not None and n_new >= room:
                    frontier.end_query(window.query)
            if course.is_barren(n_new) and successors:
                why = f"{BARREN_PAGES} pages in a row brought nothing new"
                log.warning("The query %r is ended: %s", query.text, why)
                frontier.refuse(window.query, why)
        on_page()


class _Course:
    """How the pages of one query went."""

    def __init__(self, query: int | None = None) -> None:
        self.query = query
        self._n_barren, self._overflowed = 0, False

    def is_barren(self, n_new: int) -> bool:
        """Count a page of `n_new` new items; return whether too many pages in a row brought nothing."""
        self._n_barren = 0 if n_new else self._n_barren + 1
        return self._n_barren >= BARREN_PAGES

    def overflow(self, second: int) -> None:
        """Warn, once a query, that a second holds more than the source shows."""
        if not self._overflowed:
            log.warning("In second %d more was uploaded than a search shows; the rest is left out", second)
        self._overflowed = True


def follow_up(
    window: Window,
    page: SearchPage,
    n_new: int,
    paging: Paging,
    on_overflow: Callable[[int], object] = lambda second: None,
) -> list[Window]:
    """Windows to ask after a window's page: none, its next page, or others.

    Args:
        n_new: items of the page that the query had not found before.
        on_overflow: called with a second that holds more uploads than the source shows; it is skipped.
    """
    successors = _successors(replace(window, owed=None), page, n_new, paging)
    if successors is None:
        on_overflow(window.since)
        successors = []
        if window.since < window.until:
            successors = [Window(window.query, window.since + 1, window.until, overlaps=True)]
    if window.owed is None or page.total == window.owed:
        return successors
    second = window.since - 1  # more was uploaded in it than was shown, or a total was wrong
    return [Window(window.query, second, second, overlaps=True), *successors]


def _successors(window: Window, page: SearchPage, n_new: int, paging: Paging) -> list[Window] | None:
    """Windows that follow; None if the first second alone holds more than is shown, so that no cut helps."""
    n_asked = window.page * paging.per_page
    if not (page.candidates or page.skipped):
        return []
    if n_new == 0 and window.page > 1 and not window.overlaps:
        return []  # a page that repeats an earlier one
    if page.total is not None and n_asked >= page.total:
        return []
    if paging.max_results is not None:
        overfull, uploads = page.total is not None and page.total > paging.max_results, _uploads(page)
        if overfull and (not uploads or uploads != sorted(uploads)):
            return _halves(window)
        if n_asked >= paging.max_results:
            return _rest(window, page, paging)
    return [replace(window, page=window.page + 1)]


def _uploads(page: SearchPage) -> list[int]:
    return [int(one.posted_at.timestamp()) for one in page.candidates if one.posted_at]


def _halves(window: Window) -> list[Window] | None:
    """Halve the window; None if it is one second, as uploads are dated to the second."""
    if window.since >= window.until:
        return None
    middle = (window.since + window.until) // 2
    return [
        Window(window.query, window.since, middle, overlaps=True),
        Window(window.query, middle + 1, window.until, overlaps=True),
    ]


def _rest(window: Window, page: SearchPage, paging: Paging) -> list[Window] | None:
    """The window from the last upload shown to the end; that second is asked again, as it may hold more.

    If repeating it would cost one page more, that is put off until the totals are compared.
    """
    uploads = _uploads(page)
    if not uploads:
        return _halves(window)
    last = max(uploads)
    if last <= window.since:  # all results shown are of one second
        return None
    n_asked = window.page * paging.per_page
    if page.total is not None and last < window.until:
        owed, room = page.total - n_asked, -(page.total - n_asked) % paging.per_page
        if owed <= n_asked and uploads.count(last) > room:
            return [Window(window.query, last + 1, window.until, owed=owed)]
    return [Window(window.query, last, window.until, overlaps=True)] if last <= window.until else []
