"""Cards with pictures, texts and labels, and the facets to filter them by. The texts are untrusted."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

MAX_TEXT = 500
"""Maximum length of a text on a card, in characters."""
MAX_NAME = 120
"""Maximum length of a query, an id, an owner or a licence, in characters."""
MAX_TERMS = 4000
"""Maximum length of the terms of the sources, in characters."""
MAX_URL = 2000
"""Longer addresses are left out."""
_OVERRIDES = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}  # code points that change the writing direction


@dataclass(frozen=True)
class Card:
    """One row as a reader sees it; nothing in it is escaped yet.

    Attributes:
        id: id of the row.
        facets: facet → value to filter by; several values are separated by newlines.
        badges: (kind, words) shown above the text; the kind is a class of the style sheet.
        picture: the thumbnail as a data URI; empty without a picture.
        alt: alternative text of the picture.
        text: text of the row, shortened; None for a row without text.
        facts: (term, value) of the small print.
        link: http or https address of the original page; empty if unknown.
        twins: (words, id of the card in the page, or empty) of the rows that this row repeats.
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
    """A property to filter by: the values that occur, each with its number of cards."""

    name: str
    title: str
    options: list[tuple[str, int]]


@dataclass(frozen=True)
class Gallery:
    """Cards, the facets to filter them by, and words on how they were sampled.

    Attributes:
        terms: of the sources of the pictures.
    """

    cards: list[Card]
    facets: list[Facet]
    words: str
    terms: str = ""


def facets(cards: Sequence[Card], titles: dict[str, str]) -> list[Facet]:
    """The facets in which cards differ, in the order of `titles`; their values in alphabetical order."""
    differing = []
    for name, title in titles.items():
        counts: dict[str, int] = {}
        for card in cards:
            for value in filter(None, card.facets.get(name, "").split("\n")):
                counts[value] = counts.get(value, 0) + 1
        if any(n < len(cards) for n in counts.values()):  # a value of all cards filters nothing
            differing.append(Facet(name, title, sorted(counts.items())))
    return differing


def stratified(strata: npt.NDArray[np.integer], n: int, seed: int) -> npt.NDArray[np.int64]:
    """Sample `n` row numbers, or all if there are fewer, as even over the strata as possible; sorted.

    Args:
        strata: stratum of each row, int [N].
        n: size of the sample.
        seed: seed of the choice within a stratum.

    >>> stratified(np.array([0, 0, 0, 0, 1]), 3, seed=0).size
    3
    """
    rng = np.random.default_rng(seed)
    # The smallest first, so that the larger ones share the places that these leave.
    groups = sorted((np.flatnonzero(strata == value) for value in np.unique(strata)), key=len)
    chosen = [np.zeros(0, dtype=np.int64)]
    for place, rows in enumerate(groups):
        share = (n - sum(map(len, chosen))) // (len(groups) - place)
        chosen.append(rng.choice(rows, min(share, len(rows)), replace=False))
    return np.sort(np.concatenate(chosen))


def shown(text: str, limit: int = MAX_NAME) -> str:
    """Shorten `text` to `limit` characters, and replace those that control the page or the writing direction.

    >>> shown("a\\u202eb\\x07c"), shown("abcdef", 3)
    ('a�b�c', 'abc… (3 more characters)')
    """
    kept = "".join(
        "\ufffd" if unicodedata.category(sign) in ("Cc", "Cs") or ord(sign) in _OVERRIDES else sign
        for sign in text[:limit].replace("\n", " ").replace("\t", " ")
    )
    return kept if len(text) <= limit else f"{kept}… ({len(text) - limit:,} more characters)"


def web_link(address: str | None) -> str:
    """Return `address` if it is an http or https address with a host and without a user; else "".

    >>> web_link("https://example.org/1"), web_link("javascript:alert(1)"), web_link("//example.org")
    ('https://example.org/1', '', '')
    """
    if not address or len(address) > MAX_URL or not address.isprintable() or " " in address:
        return ""
    try:
        parts = urlsplit(address)
        # https://flickr.com@evil.example would be shown as if it led to Flickr.
        is_page = parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
    except ValueError:  # brackets that do not contain an IPv6 address
        return ""
    return address if is_page else ""
