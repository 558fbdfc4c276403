"""The filters of a build, in the order in which they apply (paper §4.1 B, C).

FILTERS       on each candidate, before its picture is fetched
check_image   on the picture, as it is fetched (`curate/images.py`)
picture_keys  on all pairs, as they are assembled: each picture is kept once
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from mvsent.config import BuildSettings
from mvsent.curate.duplicates import Keys, look_keys, string_keys
from mvsent.curate.language import detect
from mvsent.curate.matching import Field, found_in
from mvsent.curate.text import check_length, clean_text, html_to_text, mask_query, plain_words
from mvsent.curate.weak_labels import weak_label
from mvsent.pairs import Label
from mvsent.reasons import Reason, Rejection
from mvsent.sources.crawl.candidate import Candidate, Query, Size, sizes_to_try
from mvsent.sources.crawl.frontier import Found

SIZES = "sizes"
"""Column of a dataset without pictures: the sizes of each in the order of trying them, as JSON."""

USUAL_SIDE, CLEAN_SIDE = 640, 320
"""Pixels: a size below the first is fetched only if the source offers no other; one without a watermark is
preferred from the second on."""


class Assembled(Protocol):
    """The settings by which fetched pairs make a dataset."""

    @property
    def max_pairs(self) -> int: ...

    @property
    def unique_columns(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Draft:
    """A pair whose picture is not fetched yet; the filters fill in what follows `candidate`.

    Attributes:
        found_in: fields of the candidate that contain a query.
        sizes: of the picture, in the order of trying them.
    """

    found: Found
    candidate: Candidate
    found_in: Mapping[Query, tuple[Field, ...]] = field(default_factory=dict)
    label: Label | None = None
    query: Query | None = None
    text: str = ""
    sizes: tuple[Size, ...] = ()

    @property
    def id(self) -> str:
        """The candidate's id."""
        return self.found.id

    @property
    def urls(self) -> tuple[str, ...]:
        """Addresses of its picture, in the order of trying them."""
        return tuple(size.url for size in self.sizes)

    def size(self, url: str) -> Size:
        """The size at an address."""
        return next(size for size in self.sizes if size.url == url)


Filter = Callable[[Draft, BuildSettings], Draft | Rejection]


def require_query(draft: Draft, settings: BuildSettings) -> Draft | Rejection:
    """With `--require-query`, count only queries that the candidate contains, by curate/matching.py."""
    fields = settings.query_fields
    if not fields:
        return draft
    candidate, queries = draft.candidate, draft.found.queries
    texts = candidate.title, candidate.description, candidate.tags
    where = {query: found_in(*texts, query.text, fields) for query in queries}
    there = tuple(query for query in queries if where[query])
    if not there:
        return Rejection(Reason.QUERY_NOT_FOUND, ", ".join(query.text for query in queries))
    return replace(draft, found=replace(draft.found, queries=there), found_in=where)


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
    """Choose the sizes of the picture to try; with `--watermarked drop`, those without a watermark."""
    sizes = draft.candidate.sizes
    if not sizes:
        return Rejection(Reason.IMAGE_MISSING, "the answer gives no address for this picture")
    minimum = min(USUAL_SIDE, settings.size)
    clean = sizes_to_try([size for size in sizes if not size.watermarked], settings.size, minimum)
    if settings.drops_watermarked and not clean:
        return Rejection(Reason.WATERMARKED, ", ".join(size.name for size in sizes))
    is_large_enough = bool(clean) and clean[0].side >= min(CLEAN_SIDE, settings.size)
    if settings.drops_watermarked or len(clean) == len(sizes):
        return replace(draft, sizes=clean)
    every = sizes_to_try(sizes, settings.size, minimum)
    return replace(draft, sizes=tuple(dict.fromkeys(clean + every)) if is_large_enough else every)


FILTERS: tuple[Filter, ...] = (
    require_query,
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
