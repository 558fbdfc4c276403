"""Whether the texts of a picture contain a query, such as an adjective-noun pair.

A text (a title, a description as a browser displays it, or one tag) contains a query if its words stand side
by side there, in their order: separated by spaces, hyphens or underscores, or joined. Tags also contain it if
each of its words is a tag by itself. The last word may have the ending of a plural or a possessive. Case does
not matter, and words within longer words do not count.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import product
from typing import Literal

from mvsent.curate.text import clean_text, html_to_text, side_by_side

Field = Literal["tags", "title", "description"]
FIELDS: tuple[Field, ...] = ("tags", "title", "description")

MAX_JOINTS = 6
"""Words of a query whose joined forms are looked up; a longer query is looked for in every text."""

_RUN = re.compile(r"[a-z0-9]+")


def contains(title: str, description: str, tags: Sequence[str], query: str, fields: Sequence[Field]) -> bool:
    """Whether one of the `fields` contains the query; texts are as the source gives them.

    >>> contains("Our beautiful flowers!", "", [], "beautiful flower", ["title"])
    True
    >>> contains("", "", ["flower", "macro", "Beautiful"], "beautiful flower", ["tags"])
    True
    >>> contains("", "", ["beautifulflowers"], "beautiful flower", ["tags"])
    True
    >>> contains("Beautiful. Flowers", "", ["beautiful day"], "beautiful flower", ["tags", "title"])
    False
    """
    return bool(PairMatcher([query], fields).find(title, description, tags))


def found_in(
    title: str, description: str, tags: Sequence[str], query: str, fields: Sequence[Field]
) -> tuple[Field, ...]:
    """Those of the `fields` that contain the query.

    >>> found_in("Misty woods", "", ["woods", "misty"], "misty woods", ("tags", "title", "description"))
    ('tags', 'title')
    """
    return tuple(field for field in fields if _matcher(query, field).find(title, description, tags))


@lru_cache(maxsize=8192)  # 1200 queries in three fields
def _matcher(query: str, field: Field) -> "PairMatcher":
    return PairMatcher([query], [field])


class PairMatcher:
    """Finds which of many queries some texts contain, at the cost of few.

    Args:
        queries: such as `misty woods`.
        fields: the texts that are looked at.
    """

    def __init__(self, queries: Sequence[str], fields: Sequence[Field]) -> None:
        self._words = [tuple(query.replace("_", " ").lower().split()) for query in queries]
        self._fields = frozenset(fields)
        # Run of letters → queries that may be in a text with this run, or with this run and a second one.
        self._alone, self._pairs = (
            defaultdict[str, set[int]](set),
            defaultdict[str, dict[str, set[int]]](dict),
        )
        self._anywhere: set[int] = set()
        for number, words in enumerate(self._words):
            signs = set(signatures(words))
            if not signs:
                self._anywhere.add(number)
            for first, second in signs:
                if second:
                    self._pairs[first].setdefault(second, set()).add(number)
                else:
                    self._alone[first].add(number)
        self._firsts, self._lone = frozenset(self._pairs), frozenset(self._alone)

    def find(self, title: str, description: str, tags: Sequence[str]) -> list[int]:
        """Numbers of the queries that the texts contain, ascending."""
        found: set[int] = set()
        if "title" in self._fields and title:
            found |= self._in_text(_prepared(title))
        if "description" in self._fields and description:
            found |= self._in_text(_lower(html_to_text(description)))
        if "tags" in self._fields and tags:
            found |= self._in_tags(tags)
        return sorted(found)

    def _possible(self, text: str) -> Iterable[int]:
        """Queries whose words are somewhere in the text, in any order."""
        runs = set(_RUN.findall(text))
        possible = set(self._anywhere)
        for run in runs & self._lone:
            possible |= self._alone[run]
        for run in runs & self._firsts:
            seconds = self._pairs[run]
            for second in runs & seconds.keys():
                possible |= seconds[second]
        return possible

    def _in_text(self, text: str) -> set[int]:
        return {number for number in self._possible(text) if _pattern(self._words[number]).search(text)}

    def _in_tags(self, tags: Sequence[str]) -> set[int]:
        joined = "\n".join(tags)
        if joined.count("\n") >= len(tags):  # a tag of several lines
            joined = "\n".join(tag.replace("\n", " ") for tag in tags)
        text = _prepared(joined, keep_lines=True)
        possible = self._possible(text)
        if not possible:
            return set()
        lines = [line.strip() for line in text.split("\n")]
        # With commas, which no query goes across, one search serves for all tags.
        alone, beside = frozenset(lines), ",".join(lines)
        return {
            number
            for number in possible
            if each_is_a_tag(self._words[number], alone) or _pattern(self._words[number]).search(beside)
        }


def each_is_a_tag(words: Sequence[str], tags: frozenset[str]) -> bool:
    """Whether every word is a tag by itself, the last one perhaps with an ending."""
    return tags.issuperset(words[:-1]) and not tags.isdisjoint(_forms(words[-1]))


def signatures(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Runs of ASCII letters and digits of which every text with the query has one: (first, second or "").

    None if the query has other letters, or too many words, so that every text may contain it.

    >>> sorted(signatures(["happy", "baby"]))[:4]
    [('happy', 'babies'), ('happy', 'baby'), ('happy', 'babyes'), ('happy', 'babys')]
    """
    if len(words) > MAX_JOINTS or not "".join(words).isascii():
        return
    # Each gap between two words may be closed, which makes one run of two.
    for gaps in product((" ", ""), repeat=len(words) - 1):
        text = "".join(word + gap for word, gap in zip(words[:-1], gaps, strict=True))
        for ending in _plain_forms(words[-1]):
            runs = _RUN.findall(text + ending)
            yield (runs[0], runs[1] if len(runs) > 1 else "")


def _plain_forms(word: str) -> list[str]:
    """The word with the endings that make its last run of letters another one."""
    return [word, f"{word}s", f"{word}es", *([f"{word[:-1]}ies"] if word.endswith("y") else [])]


@lru_cache(maxsize=65536)
def _forms(word: str) -> tuple[str, ...]:
    return (*_plain_forms(word), *(word + ending for ending in ("'s", "’s", "'", "’")))


@lru_cache(maxsize=65536)
def _pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"(?<![^\W_])(?:{side_by_side(words)})(?![^\W_])")


def _prepared(text: str, *, keep_lines: bool = False) -> str:
    """The cleaned text in lower case; with `keep_lines`, line by line."""
    # Most texts have nothing to clean, and cleaning takes longer than all else here.
    if text.isascii() and "&" not in text and text.replace("\n", " ").isprintable():
        return text.lower()
    if keep_lines:
        return _lower("\n".join(clean_text(line) for line in text.split("\n")))
    return _lower(clean_text(text))


def _lower(text: str) -> str:
    # The Turkish İ stays a letter: in lower case it ends with a mark, after which a word would seem to begin.
    return text.lower().replace("i\u0307", "\u0130")
