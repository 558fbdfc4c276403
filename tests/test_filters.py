"""The filters of a build: each keeps a candidate or rejects it with a reason, in a stated order."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from mvsent.build import filters
from mvsent.build.filters import FILTERS, Draft, apply_filters
from mvsent.config import BuildSettings
from mvsent.pairs import Label
from mvsent.reasons import Reason, Rejection
from mvsent.sources.crawl.candidate import Candidate, Query, Size
from mvsent.sources.crawl.frontier import Found

DOG = Query(1, "happy dog", "happy_dog", 1.5)
TREE = Query(2, "dead tree", "dead_tree", -1.25)
CANDIDATE = Candidate(
    id="flickr:7",
    title="A dog",
    description="A happy dog runs <b>along</b> the beach",
    tags=("dog", "beach"),
    sizes=(Size("https://x.org/240.jpg", 240, 180), Size("https://x.org/800.jpg", 800, 600)),
    page_url="",
    license="",
    owner="",
    posted_at=None,
)


def found(*queries: Query, **changes: object) -> Found:
    candidate = replace(CANDIDATE, **changes)  # type: ignore[arg-type]
    return Found(candidate.id, datetime(2024, 1, 1, tzinfo=UTC), candidate, queries or (DOG,))


def kept(one: Found, **settings: object) -> Draft:
    draft = apply_filters(one, BuildSettings(**settings))  # type: ignore[arg-type]
    assert isinstance(draft, Draft), draft
    return draft


def rejected(one: Found, **settings: object) -> Rejection:
    rejection = apply_filters(one, BuildSettings(**settings))  # type: ignore[arg-type]
    assert isinstance(rejection, Rejection), rejection
    return rejection


def test_a_candidate_that_passes_has_its_label_query_text_and_address() -> None:
    draft = kept(found())
    assert (draft.label, draft.query, draft.urls[0]) == (Label.POSITIVE, DOG, "https://x.org/800.jpg")
    assert draft.text == "A happy dog runs along the beach"


def test_an_item_that_the_search_could_not_use_keeps_its_reason() -> None:
    item = replace(found(), candidate=None, reason=Reason.IMAGE_MISSING, detail="no id")
    assert rejected(item) == Rejection(Reason.IMAGE_MISSING, "no id")


def test_queries_of_both_signs_reject_and_are_named() -> None:
    assert rejected(found(DOG, TREE)) == Rejection(
        Reason.DUPLICATE_QUERY_CONFLICT, "happy_dog +1.5, dead_tree -1.25"
    )
    assert kept(found(TREE, DOG), query_conflict="mean").query == DOG


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", Reason.TEXT_MISSING),
        ("only four words here", Reason.TEXT_TOO_SHORT),
        ("word " * 101, Reason.TEXT_TOO_LONG),
    ],
)
def test_texts_outside_5_to_100_words_are_rejected(text: str, reason: Reason) -> None:
    assert rejected(found(description=text)).reason is reason


@pytest.mark.slow
def test_a_text_in_another_language_is_rejected_with_the_language() -> None:
    one = found(description="Mein Hund schläft heute den ganzen Tag in der Sonne")
    rejection = rejected(one, language="en")
    assert rejection.reason is Reason.TEXT_LANGUAGE and rejection.detail.startswith("de (")


def test_masking_removes_the_words_of_all_queries_and_rejects_what_is_empty_then() -> None:
    assert kept(found(), mask_query=True).text == "A runs along the beach"
    words = found(description="happy dog happy dog happy dogs")
    assert rejected(words, mask_query=True).reason is Reason.TEXT_MISSING


def test_without_an_address_there_is_no_picture() -> None:
    assert rejected(found(sizes=())).reason is Reason.IMAGE_MISSING


def test_the_first_filter_that_rejects_decides() -> None:
    assert rejected(found(DOG, TREE, description="")).reason is Reason.DUPLICATE_QUERY_CONFLICT


def test_a_filter_in_the_list_applies_to_every_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid_beaches(draft: Draft, settings: BuildSettings) -> Draft | Rejection:
        return Rejection(Reason.IMAGE_MISSING, "a beach") if "beach" in draft.text else draft

    monkeypatch.setattr(filters, "FILTERS", (*FILTERS, forbid_beaches))
    assert rejected(found()).detail == "a beach"
