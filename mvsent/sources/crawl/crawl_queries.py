"""The search: every query of a lexicon, page after page, into a frontier.

Some sources repeat a search's pages past `Paging.max_results`. Results come in the order of upload, so the
search continues from the last upload it was shown: window [since, until] becomes [last, until], and items
that both list are recorded once. If that overlap would cost a page, it becomes [last + 1, until], and the
second `last` is asked by itself if the totals do not add up. If results are out of order by minutes, the
windows overlap by as much; if they are in no order, the window is halved instead. No page is asked for only
to learn a total. A page that lacks what its total promises is asked again, see `completeness.py`.
"""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from mvsent.sources.crawl.candidate import Query, SearchPage, Window
from mvsent.sources.crawl.completeness import Course, Habits, Lack, disorder, lack
from mvsent.sources.crawl.failures import RequestRefused
from mvsent.sources.crawl.frontier import Frontier
from mvsent.sources.crawl.patience import Asker
from mvsent.sources.registry import Paging, Search

log = logging.getLogger("mvsent")

ORDERLY_S = 3600
"""Results that are out of order by less, and by less than a fourth of what a page spans, count as ordered."""

NOTED = 0.02
"""Share of the promised items that a query may lack without a note."""

COURSE, INCOMPLETE, DRIFT = "course", "incomplete", "drift"
"""Keys of the frontier's notes: how the present query went; queries that listed less than promised; totals
that moved, repeated items."""

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
    crawl = _Crawl(frontier, paging, per_query)
    while (window := frontier.next_window()) is not None:
        query = frontier.query(window.query)
        try:
            page = asker.ask(lambda query=query, window=window: ask(query, window))  # type: ignore[misc]
        except RequestRefused as refusal:
            if frontier.n_candidates == 0:
                raise  # more likely a filter that the source does not know than this one query
            log.warning("%s. Its query %r is left out", refusal.what, query.text)
            frontier.refuse(window.query, refusal.what)
        else:
            if attempt := crawl.take(query, window, page, found_at()):
                asker.pause(attempt)
        on_page()


class _Crawl:
    """Records pages, and decides what is asked after each."""

    def __init__(self, frontier: Frontier, paging: Paging, per_query: int) -> None:
        self._frontier, self._paging, self._per_query = frontier, paging, per_query
        # Noted with every page, so that the result does not depend on when a process was killed.
        state = frontier.notes(COURSE)
        self._course, self._habits = (
            (Course.of(state[0]), Habits.of(state[1])) if state else (Course(), Habits())
        )
        self._n_barren, self._overflowed = 0, False

    def take(self, query: Query, window: Window, page: SearchPage, found_at: int) -> int:
        """Record a page and what follows it. If it is to be asked again, return for which time, else 0."""
        frontier, per_page = self._frontier, self._paging.per_page
        if query.number != self._course.query:
            self._course, self._n_barren, self._overflowed = Course(query.number), 0, False
        course = self._course
        room = self._per_query - query.found if self._per_query else None
        # One transaction, so that a killed process has noted the page and what follows it, or neither.
        with frontier.transaction():
            n_new = frontier.note(window.query, page, room, found_at)
            is_full = room is not None and n_new >= room
            course.note(window, page, None if is_full else n_new, per_page)
            what = None if is_full else lack(window, page, n_new, per_page)
            if what and course.attempts(window):
                self._habits.note(what, n_new)
            elif (
                not (page.n_items or what or page.refusal) and window.page > 1
            ):  # its own total says so by now
                self._habits.note(Lack.NOTHING_AT_THE_END, 0)
            again = what is not None and course.asks_again(window, what, self._habits)
            successors = [window] if again else self._follow_up(window, page, n_new, what, room)
            frontier.replace(window, successors)
            if is_full:
                frontier.end_query(window.query)
            if not frontier.is_left(window.query):
                self._note_end(window.query)
            frontier.write_notes(COURSE, [course.state(), self._habits.state()])
        self._n_barren = 0 if n_new else self._n_barren + 1
        if self._n_barren >= BARREN_PAGES and successors:
            why = f"{BARREN_PAGES} pages in a row brought nothing new"
            log.warning("The query %r is ended: %s", query.text, why)
            frontier.refuse(window.query, why)
        return course.attempts(window) if again else 0

    def _follow_up(
        self, window: Window, page: SearchPage, n_new: int, what: Lack | None, room: int | None
    ) -> list[Window]:
        goes_on = self._course.give_up(window, page, what, self._paging.per_page)
        if self._habits.ends(what, window.page):
            return []
        left = None if room is None else room - n_new
        after = follow_up(window, page, n_new, self._paging, self._course, left, self._overflow)
        # An empty page is passed over once, as more is promised after it.
        return [replace(window, page=window.page + 1, owed=None)] if goes_on and not after else after

    def _overflow(self, second: int) -> None:
        """Warn, once a query, that a second holds more than the source shows."""
        if not self._overflowed:
            log.warning("In second %d more was uploaded than a search shows; the rest is left out", second)
        self._overflowed = True

    def _note_end(self, number: int) -> None:
        """Note what a query that has ended lacks, and whether its results moved. Within a transaction."""
        frontier, course, query = self._frontier, self._course, self._frontier.query(number)
        if course.missing.total() > NOTED * course.promised:
            why = ", ".join(f"{n} items of pages {what}" for what, n in course.missing.most_common())
            told = (query.text, query.found, course.promised, why)
            log.warning("The query %r listed %d of %d that were promised: %s", *told)
            listed = frontier.notes(INCOMPLETE) or {}
            listed[query.text] = {"promised": course.promised, "listed": query.found, "why": why}
            frontier.write_notes(INCOMPLETE, listed)
        if course.doubtful or course.n_repeated:
            drift = Counter(frontier.notes(DRIFT) or {})
            drift.update(queries_with_moving_totals=int(course.doubtful), repeated_items=course.n_repeated)
            frontier.write_notes(DRIFT, {name: n for name, n in drift.items() if n})


def follow_up(
    window: Window,
    page: SearchPage,
    n_new: int,
    paging: Paging,
    course: Course | None = None,
    room: int | None = None,
    on_overflow: Callable[[int], object] = lambda second: None,
) -> list[Window]:
    """Windows to ask after a window's page: none, its next page, or others.

    Args:
        n_new: items of the page that the query had not found before.
        course: how its earlier pages went.
        room: items that are still wanted; None for all.
        on_overflow: called with a second that holds more uploads than the source shows; it is skipped.
    """
    course = course or Course()
    successors = _successors(replace(window, owed=None), page, n_new, paging, course, room)
    if successors is None:
        on_overflow(window.since)
        successors = []
        if window.since < window.until:
            successors = [Window(window.query, window.since + 1, window.until, overlaps=True)]
    if window.owed is None or page.total == window.owed or course.doubtful:
        return successors
    second = window.since - 1  # more was uploaded in it than was shown, or a total was wrong
    return [Window(window.query, second, second, overlaps=True), *successors]


def _successors(
    window: Window, page: SearchPage, n_new: int, paging: Paging, course: Course, room: int | None
) -> list[Window] | None:
    """Windows that follow; None if the first second alone holds more than is shown, so that no cut helps."""
    n_asked = window.page * paging.per_page
    if not page.n_items:
        return []
    if n_new == 0 and window.page > 1 and not window.overlaps:
        return []  # a page that repeats an earlier one
    # A total that moves ends no search while its pages are full.
    is_open = course.doubtful and page.n_items >= paging.per_page
    if page.total is not None and n_asked >= page.total and not is_open:
        return []
    if paging.max_results is not None:
        is_enough = room is not None and room <= paging.max_results - n_asked
        overfull = page.total is not None and page.total > paging.max_results and not is_enough
        if overfull and not _is_orderly(page, course):
            return _halves(window)
        if n_asked >= paging.max_results:
            return _rest(window, page, paging, course)
    return [replace(window, page=window.page + 1)]


def _is_orderly(page: SearchPage, course: Course) -> bool:
    """Whether results come in the order of upload, but for some that are a little late."""
    uploads = page.uploads
    if not uploads:
        return False
    late_s = max(course.disorder_s, disorder(uploads))
    return late_s <= min(ORDERLY_S, (max(uploads) - min(uploads)) / 4)


def _halves(window: Window) -> list[Window] | None:
    """Halve the window; None if it is one second, as uploads are dated to the second."""
    if window.since >= window.until:
        return None
    middle = (window.since + window.until) // 2
    return [
        Window(window.query, window.since, middle, overlaps=True),
        Window(window.query, middle + 1, window.until, overlaps=True),
    ]


def _rest(window: Window, page: SearchPage, paging: Paging, course: Course) -> list[Window] | None:
    """The window from the last upload shown to the end; that second is asked again, as it may hold more.

    If repeating it would cost one page more, that is put off until the totals are compared.
    """
    uploads = page.uploads
    if not uploads:
        return _halves(window)
    last = max(uploads)
    if last <= window.since:  # all results shown are of one second
        return None
    if late_s := max(course.disorder_s, disorder(uploads)):
        start = last - 2 * late_s  # earlier uploads may be listed later
        if start <= window.since:
            return _halves(window)
        return [Window(window.query, start, window.until, overlaps=True)]
    n_asked = window.page * paging.per_page
    if page.total is not None and last < window.until and not course.doubtful:
        owed, room = page.total - n_asked, -(page.total - n_asked) % paging.per_page
        if owed <= n_asked and uploads.count(last) > room:
            return [Window(window.query, last + 1, window.until, owed=owed)]
    return [Window(window.query, last, window.until, overlaps=True)] if last <= window.until else []
