"""Cards with pictures, texts and labels, and the choices to filter them by. Strangers wrote the texts."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

MAX_TEXT = 500
"""Characters of a text that a card shows."""
MAX_NAME = 120
"""The same for a query, an id, an owner or a licence."""
MAX_URL = 2000
"""A longer address is left out."""
_OVERRIDES = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}  # code points that turn the writing round


@dataclass(frozen=True)
class Card:
    """One row as a reader sees it; nothing in it is escaped yet.

    Attributes:
        id: of the row.
        facets: what it can be filtered by, by name; of several values each has a line.
        badges: (kind, words) shown above the text; the kind is a class of the style sheet.
        picture: the small picture as a data URI; empty where there is none.
        alt: what stands for the picture where it is not seen.
        text: of the row, cut; None where the row has none to show.
        facts: (term, value), the smaller print.
        link: the page it comes from, http or https; empty where there is none.
        twins: (words, id of their card in the page, or nothing) of the rows that it repeats.
    """

    id: str
    facets: dict[str, str] = field(default_factory=dict)
    badges: list[tuple[str, str]] = field(default_factory=list)
    picture: str = ""
    alt: str = ""
    text: str | None = None
    facts: list[tuple[str, str]] = field(default_factory=list)
    link: str = ""
    twins: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Facet:
    """A choice to filter by: the values that occur, each with its cards."""

    name: str
    title: str
    options: list[tuple[str, int]]


@dataclass(frozen=True)
class Gallery:
    """Cards, the choices to filter them by, and what they are a sample of."""

    cards: list[Card]
    facets: list[Facet]
    words: str


def facets(cards: Sequence[Card], titles: dict[str, str]) -> list[Facet]:
    """The choices in which two cards differ, in the order of `titles`; their options in alphabetic order."""
    found = []
    for name, title in titles.items():
        counts: dict[str, int] = {}
        for card in cards:
            for value in filter(None, card.facets.get(name, "").split("\n")):
                counts[value] = counts.get(value, 0) + 1
        if any(n < len(cards) for n in counts.values()):
            found.append(Facet(name, title, sorted(counts.items())))
    return found


def stratified(strata: npt.NDArray[np.integer], n: int, seed: int) -> npt.NDArray[np.int64]:
    """Sorted row numbers: `n` of them, or all if there are fewer, as even over the strata as these allow.

    Args:
        strata: of each row the number of its stratum, int [N].
        n: rows wanted.
        seed: of the choice within a stratum.

    >>> stratified(np.array([0, 0, 0, 0, 1]), 3, seed=0).size
    3
    """
    rng = np.random.default_rng(seed)
    groups = sorted((np.flatnonzero(strata == value) for value in np.unique(strata)), key=len)
    chosen = [np.zeros(0, dtype=np.int64)]
    for place, rows in enumerate(groups):
        share = (n - sum(map(len, chosen))) // (len(groups) - place)
        chosen.append(rng.choice(rows, min(share, len(rows)), replace=False))
    return np.sort(np.concatenate(chosen))


def shown(text: str, limit: int = MAX_NAME) -> str:
    """`text` with at most `limit` characters, and a mark for each that would steer the page or the reader.

    >>> shown("a\\u202eb\\x07c"), shown("abcdef", 3)
    ('a�b�c', 'abc… (3 more characters)')
    """
    kept = "".join(_visible(character) for character in text[:limit])
    return kept if len(text) <= limit else f"{kept}… ({len(text) - limit:,} more characters)"


def _visible(character: str) -> str:
    if character in "\n\t":
        return " "
    hostile = unicodedata.category(character) in ("Cc", "Cs") or ord(character) in _OVERRIDES
    return "\ufffd" if hostile else character


def web_link(address: str | None) -> str:
    """`address` if it is one of a web page that names a host and no user; else nothing.

    >>> web_link("https://example.org/1"), web_link("javascript:alert(1)"), web_link("//example.org")
    ('https://example.org/1', '', '')
    """
    if not address or len(address) > MAX_URL or not address.isprintable() or " " in address:
        return ""
    try:
        parts = urlsplit(address)
        is_page = parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
    except ValueError:  # brackets that are no IPv6 address
        return ""
    return address if is_page else ""
