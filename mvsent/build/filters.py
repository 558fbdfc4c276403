"""The filters of a build, in the order in which they apply (paper §4.1 B, C).

FILTERS       on each candidate, before its picture is fetched
check_image   on the picture, as it is fetched (`curate/images.py`)
picture_keys  on all pairs, as they are assembled: each picture is kept once
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from mvsent.config import BuildSettings
from mvsent.curate.duplicates import Keys, look_keys, string_keys
from mvsent.curate.language import detect
from mvsent.curate.text import check_length, clean_text, html_to_text, mask_query, plain_words
from mvsent.curate.weak_labels import weak_label
from mvsent.pairs import Label
from mvsent.reasons import Reason, Rejection
from mvsent.sources.crawl.candidate import Candidate, Query, choose_size
from mvsent.sources.crawl.frontier import Found

USUAL_SIDE = 640
"""Pixels: a smaller size is fetched only if the source offers no other."""


class Assembled(Protocol):
    """The settings by which fetched pairs make a dataset."""

    @property
    def max_pairs(self) -> int: ...

    @property
    def unique_columns(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Draft:
    """A pair whose picture is not fetched yet; the filters fill in what follows `candidate`."""

    found: Found
    candidate: Candidate
    label: Label | None = None
    query: Query | None = None
    text: str = ""
    url: str = ""

    @property
    def id(self) -> str:
        """The candidate's id."""
        return self.found.id


Filter = Callable[[Draft, BuildSettings], Draft | Rejection]


def label_by_query(draft: Draft, settings: BuildSettings) -> Draft | Rejection:
    """Label the pair with the sign of its queries, and name the first query of that sign."""
    queries = draft.found.queries
    label = weak_label([one.sentiment for one in queries], settings.query_conflict, settings.min_sentiment)
    if isinstance(label, Reason):
        return Rejection(label, ", ".join(f"{one.word} {one.sentiment:+g}" for one in queries))
    # With `mean`, the first query may have the other sign.
    query = next(one for one in queries if (one.sentiment > 0) == (label is Label.POSITIVE))
    return replace(draft, label=label, query=query)


def compose_text(draft: Draft, settings: BuildSettings) -> Draft:
    """Make the text of the source's fields by the rules of docs/text-rules.md."""
    candidate = draft.candidate
    # Functions, so that a description is parsed as HTML only if it is part of the text.
    clean = {
        "title": lambda: clean_text(candidate.title),
        "description": lambda: html_to_text(candidate.description),
        "tags": lambda: clean_text(" ".join(candidate.tags)),
    }
    parts = (clean[field]() for field in settings.text_fields)
    return replace(draft, text=plain_words(" ".join(filter(None, parts))))


def limit_words(draft: Draft, settings: BuildSettings) -> Draft | Rejection:
    """Keep texts of 5 to 100 words."""
    reason = check_length(draft.text)
    return Rejection(reason, draft.text[:200]) if reason else draft


def require_language(draft: Draft, settings: BuildSettings) -> Draft | Rejection:
    """Keep texts in `--language`."""
    if settings.language == "any":
        return draft
    language, confidence = detect(draft.text)
    if language == settings.language:
        return draft
    return Rejection(Reason.TEXT_LANGUAGE, f"{language} ({confidence:.2f}): {draft.text[:200]}")


def remove_query_words(draft: Draft, settings: BuildSettings) -> Draft | Rejection:
    """With `--mask-query`, remove the words of the queries that found the pair: they reveal its label."""
    if not settings.mask_query:
        return draft
    text = draft.text
    for query in draft.found.queries:
        text = mask_query(text, query.text)
    nothing = Rejection(Reason.TEXT_MISSING, "nothing is left without the query's words")
    return replace(draft, text=text) if text else nothing


def choose_picture(draft: Draft, settings: BuildSettings) -> Draft | Rejection:
    """Choose the size of the picture to fetch."""
    size = choose_size(draft.candidate.sizes, settings.size, min(USUAL_SIDE, settings.size))
    if size is None:
        return Rejection(Reason.IMAGE_MISSING, "the answer gives no address for this picture")
    return replace(draft, url=size.url)


FILTERS: tuple[Filter, ...] = (
    label_by_query,
    compose_text,
    limit_words,
    require_language,
    remove_query_words,  # after the text filters, so that --mask-query keeps the same rows
    choose_picture,
)


def apply_filters(found: Found, settings: BuildSettings) -> Draft | Rejection:
    """Apply FILTERS to a candidate, up to the first that rejects it."""
    if found.candidate is None:  # the search could not use it
        return Rejection(found.reason or Reason.IMAGE_MISSING, found.detail)
    kept = Draft(found, found.candidate)
    for step in FILTERS:
        outcome = step(kept, settings)
        if isinstance(outcome, Rejection):
            return outcome
        kept = outcome
    return kept


_KEYS: dict[str, Callable[[Iterable[Any]], Keys]] = {"sha256": string_keys, "phash": look_keys}


def picture_keys(settings: Assembled) -> dict[str, Callable[[Iterable[Any]], Keys]]:
    """Column → function that makes its keys: of the pairs with an equal key, only the first is kept."""
    return {column: _KEYS[column] for column in settings.unique_columns}
