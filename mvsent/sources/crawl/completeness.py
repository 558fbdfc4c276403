"""Whether a page of a search lists what its total promises, and how often it is asked again if not.

Services now and then answer with an empty page, a page of fewer items, or one that was listed before, and
state totals that are off and move. A page is asked again only while that may help. What is still missing is
said.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from mvsent.sources.crawl.candidate import SearchPage, Window

MARGIN = 0.1
"""Share by which totals may be off: fewer items than this at the end of a search are no sign of a fault."""

USELESS = 3
"""Pages in a row that were asked again in vain, after which short pages count as a habit of the source."""


class Lack(Enum):
    """A lack of a page, and how often the page is asked again."""

    REFUSED = "refused", 2
    EMPTY = "empty", 4
    NOTHING_AT_THE_END = "without new items at the end", 1
    REPEATED = "listed before", 1
    SHORT = "shorter than promised", 1
    SHORT_AT_THE_END = "shorter than promised at the end", 1

    @property
    def tries(self) -> int:
        """Number of further attempts."""
        return int(self.value[1])

    def __str__(self) -> str:
        return str(self.value[0])


def lack(window: Window, page: SearchPage, n_new: int, per_page: int) -> Lack | None:
    """The lack of a page; None if there is none, or if the source states no total.

    >>> lack(Window(1, 0, 9), SearchPage(1200, 1, 3, (), ()), 0, 500)
    <Lack.EMPTY: ('empty', 4)>

    Args:
        n_new: items that the query had not found before.
    """
    if page.refusal:
        return Lack.REFUSED
    if page.total is None:
        return None
    n_before, total = (window.page - 1) * per_page, page.total
    expected = min(per_page, total - n_before)
    is_far = total - n_before > MARGIN * total
    if not page.n_items:
        return None if expected <= 0 else Lack.EMPTY if is_far else Lack.NOTHING_AT_THE_END
    if n_new == 0 and window.page > 1 and not window.overlaps:
        return Lack.REPEATED if is_far else Lack.NOTHING_AT_THE_END  # some repeat the last page after it
    if page.n_items >= expected:
        return None
    return Lack.SHORT if total - n_before - page.n_items > MARGIN * total else Lack.SHORT_AT_THE_END


_AT_THE_END = (Lack.SHORT_AT_THE_END, Lack.NOTHING_AT_THE_END)
_LONG = 10  # pages, to which one more adds a tenth


@dataclass
class Course:
    """How the pages of one query went.

    Attributes:
        query: its number.
        doubtful: whether its totals moved, or were less than what was listed.
        disorder_s: seconds by which an upload was listed after a later one, at most.
        missing: why pages lack items → items that they lack.
    """

    query: int | None = None
    doubtful: bool = False
    disorder_s: int = 0
    promised: int = 0
    n_repeated: int = 0
    missing: Counter[Lack] = field(default_factory=Counter)
    _attempts: Counter[tuple[int, int, int]] = field(default_factory=Counter)
    _totals: dict[tuple[int, int], int] = field(default_factory=dict)
    _n_empty: int = 0

    def state(self) -> dict[str, Any]:
        """Everything about it, for JSON."""
        return {
            "query": self.query,
            "doubtful": self.doubtful,
            "disorder_s": self.disorder_s,
            "promised": self.promised,
            "n_repeated": self.n_repeated,
            "missing": {what.name: n for what, n in self.missing.items()},
            "attempts": [[*key, n] for key, n in self._attempts.items()],
            "totals": [[*place, total] for place, total in self._totals.items()],
            "n_empty": self._n_empty,
        }

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "Course":
        """The course with this state."""
        return cls(
            state["query"],
            state["doubtful"],
            state["disorder_s"],
            state["promised"],
            state["n_repeated"],
            Counter({Lack[name]: n for name, n in state["missing"].items()}),
            Counter({(since, until, page): n for since, until, page, n in state["attempts"]}),
            {(since, until): total for since, until, total in state["totals"]},
            state["n_empty"],
        )

    def note(self, window: Window, page: SearchPage, n_new: int | None, per_page: int) -> None:
        """Take note of a page that was answered; `n_new` is None if not all of its items were wanted."""
        place = window.since, window.until
        if page.total is not None:
            listed = (window.page - 1) * per_page + page.n_items
            self.doubtful |= self._totals.get(place, page.total) != page.total or listed > page.total
            self._totals[place] = page.total
            self.promised = max(self.promised, page.total)
        self.disorder_s = max(self.disorder_s, disorder(page.uploads))
        if not window.overlaps and not self._attempts[window.since, window.until, window.page]:
            self.n_repeated += page.n_items - n_new if n_new else 0

    def asks_again(self, window: Window, what: Lack, habits: "Habits") -> bool:
        """Whether the window is to be asked again, which counts as an attempt."""
        key = window.since, window.until, window.page
        if self._attempts[key] >= what.tries or habits.is_one(what, window.page):
            return False
        self._attempts[key] += 1
        return True

    def attempts(self, window: Window) -> int:
        """Number of times that the page was asked again."""
        return self._attempts[window.since, window.until, window.page]

    def give_up(self, window: Window, page: SearchPage, what: Lack | None, per_page: int) -> bool:
        """Take note of what the page lacks for good; return whether the next page is worth asking."""
        if what is None:
            self._n_empty = 0
            return False
        left = (page.total or self.promised) - (window.page - 1) * per_page - page.n_items
        if what not in _AT_THE_END:  # totals are not that exact
            self.missing[what] += max(0, left if what is Lack.REFUSED else min(left, per_page - page.n_items))
        self._n_empty = self._n_empty + 1 if what is Lack.EMPTY else 0
        return self._n_empty == 1 and left > per_page


@dataclass
class Habits:
    """Which lacks are habits of a source: pages with them were asked again in vain several times in a row."""

    _useless: Counter[Lack] = field(default_factory=Counter)

    def state(self) -> dict[str, int]:
        """Everything about them, for JSON."""
        return {what.name: n for what, n in self._useless.items()}

    @classmethod
    def of(cls, state: Mapping[str, int]) -> "Habits":
        """The habits with this state."""
        return cls(Counter({Lack[name]: n for name, n in state.items()}))

    def note(self, what: Lack, n_new: int) -> None:
        """Take note that a page with this lack was asked again, with so many new items."""
        self._useless[what] = 0 if n_new else self._useless[what] + 1

    def is_one(self, what: Lack, page: int) -> bool:
        """Whether asking again for what page number `page` lacks is of no use, or costs too much."""
        if what is Lack.SHORT:
            return self._useless[what] >= USELESS
        return what in _AT_THE_END and page < _LONG and self._useless[what] >= USELESS

    def ends(self, what: Lack | None, page: int) -> bool:
        """Whether a page that lacks this is the last one, as pages after such ones were empty before."""
        return what in _AT_THE_END and self.is_one(Lack.NOTHING_AT_THE_END, page)


def disorder(uploads: list[int]) -> int:
    """Seconds by which an upload comes after a later one, at most.

    >>> disorder([5, 9, 7, 20]), disorder([])
    (2, 0)
    """
    latest = most = 0
    for upload in uploads:
        latest = max(latest, upload)
        most = max(most, latest - upload)
    return most
