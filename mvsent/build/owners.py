"""Candidates that are dropped because of others of their owner, whose albums would otherwise fill a query."""

import re
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field

from mvsent.build.filters import Draft, compose_text, limit_words, require_query
from mvsent.config import BuildSettings
from mvsent.curate.duplicates import account_of
from mvsent.reasons import Reason, Rejection
from mvsent.sources.crawl.frontier import Found, Frontier

ALIKE = 0.8
"""Texts of an owner repeat each other if they share this part of the words that either has."""

_REMEMBERED = 200  # texts of an owner that are compared with


@dataclass
class Owners:
    """The earlier candidates of each owner; candidates are given in the order of fetching."""

    settings: BuildSettings
    _counts: Counter[tuple[str, int]] = field(default_factory=Counter)
    _texts: defaultdict[str, deque[tuple[frozenset[str], str]]] = field(
        default_factory=lambda: defaultdict(lambda: deque(maxlen=_REMEMBERED))
    )

    def rejection(self, found: Found) -> Rejection | None:
        """Why a candidate is dropped because of earlier ones of its owner; None if it is not."""
        if found.candidate is None:
            return None
        owner = account_of(found.candidate.owner, found.candidate.page_url)
        if not owner:
            return None
        draft = require_query(Draft(found, found.candidate), self.settings)
        if isinstance(draft, Rejection):
            return None  # the filters say so themselves, and it counts for nothing
        draft = compose_text(draft, self.settings)
        if isinstance(limit_words(draft, self.settings), Rejection):
            return None
        if self.settings.drops_repeated_texts and (repeated := self._repeated(owner, draft)):
            return Rejection(Reason.DUPLICATE_TEXT, f"the text of {repeated}")
        queries, limit = draft.found.queries, self.settings.owner_limit
        if limit and all(self._counts[owner, query.number] >= limit for query in queries):
            return Rejection(Reason.OVER_PER_OWNER, f"{limit} others of {draft.candidate.owner[:80]}")
        self._counts.update((owner, query.number) for query in queries)
        return None

    def _repeated(self, owner: str, draft: Draft) -> str:
        """The id of an earlier candidate of the owner with nearly this text; empty if there is none."""
        words = words_of(draft.text)
        for earlier, id in self._texts[owner]:
            if alike(words, earlier):
                return id
        self._texts[owner].append((words, draft.id))
        return ""


def words_of(text: str) -> frozenset[str]:
    """The words of a text without case, punctuation and digits.

    >>> sorted(words_of("Our dog, no. 7"))
    ['dog', 'no', 'our']
    """
    return frozenset(re.findall(r"[^\W\d_]+", text.lower()))


def alike(first: frozenset[str], second: frozenset[str]) -> bool:
    """Whether two texts share most of their words.

    >>> alike(words_of("our dog at sea 1"), words_of("Our dog at sea 2")), alike(frozenset(), frozenset())
    (True, True)
    """
    return len(first & second) >= ALIKE * len(first | second)


def owner_rejections(frontier: Frontier, settings: BuildSettings) -> dict[int, Rejection]:
    """The candidates, by number, that are dropped because of others of their owners."""
    if not (settings.owner_limit or settings.drops_repeated_texts):
        return {}
    owners, rejections = Owners(settings), {}
    for number in frontier.numbers(by_turns=settings.max_pairs > 0).tolist():
        if rejection := owners.rejection(frontier.found(number)):
            rejections[number] = rejection
    return rejections
