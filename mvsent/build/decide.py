"""What is known of a candidate before its picture is fetched: its label, its text, the size to fetch."""

from dataclasses import dataclass

from mvsent.config import BuildSettings
from mvsent.curate.images import Rejection
from mvsent.curate.language import detect
from mvsent.curate.text import check_length, clean_text, html_to_text, mask_query, plain_words
from mvsent.curate.weak_labels import weak_label
from mvsent.pairs import Label, Reason
from mvsent.sources.candidate import Candidate, choose_size
from mvsent.sources.frontier import Found, Query

USUAL_SIDE = 640
"""Pixels: smaller sizes are fetched only where nothing else is to be had."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A candidate whose picture is to be fetched."""

    found: Found
    candidate: Candidate
    label: Label
    query: Query
    text: str
    url: str


def decide(found: Found, settings: BuildSettings) -> Wanted | Rejection:
    """Whether to fetch the picture; by the search's own reason first, then label, text, and size."""
    candidate = found.candidate
    if candidate is None:
        return Rejection(found.reason or Reason.IMAGE_MISSING, found.detail)
    label = weak_label(
        [query.sentiment for query in found.queries], settings.query_conflict, settings.min_sentiment
    )
    if isinstance(label, Reason):
        return Rejection(label, ", ".join(f"{query.word} {query.sentiment:+g}" for query in found.queries))
    text = pair_text(candidate, found.queries, settings)
    if isinstance(text, Rejection):
        return text
    size = choose_size(candidate.sizes, settings.size, min(USUAL_SIDE, settings.size))
    if size is None:
        return Rejection(Reason.IMAGE_MISSING, "the answer gives no address for this picture")
    return Wanted(found, candidate, label, _named_query(found.queries, label), text, size.url)


def pair_text(candidate: Candidate, queries: tuple[Query, ...], settings: BuildSettings) -> str | Rejection:
    """The pair's text by the rules of docs/text-rules.md, or why it is not used."""
    parts = {
        "title": lambda: clean_text(candidate.title),
        "description": lambda: html_to_text(candidate.description),
        "tags": lambda: clean_text(" ".join(candidate.tags)),
    }
    text = plain_words(" ".join(filter(None, (parts[field]() for field in settings.text_fields))))
    if reason := check_length(text):
        return Rejection(reason, text[:200])
    if settings.language != "any":
        language, confidence = detect(text)
        if language != settings.language:
            return Rejection(Reason.TEXT_LANGUAGE, f"{language} ({confidence:.2f}): {text[:200]}")
    if settings.mask_query:
        for query in queries:
            text = mask_query(text, query.text)
    return text or Rejection(Reason.TEXT_MISSING, "nothing is left without the query's words")


def _named_query(queries: tuple[Query, ...], label: Label) -> Query:
    """The first query that speaks for the label."""
    return next(query for query in queries if (query.sentiment > 0) == (label is Label.POSITIVE))
