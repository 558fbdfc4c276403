"""The card and the pages of a dataset: settings and notes in words, and the terms of its source."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mvsent.datasets.subset import Selection, subset
from mvsent.pages.report import report
from mvsent.pages.review import review
from mvsent.shards.card import card
from mvsent.shards.manifest import Funnel, Manifest
from mvsent.shards.manifest_notes import MAX_LISTED, gaps, other_notes
from mvsent.shards.shown_settings import shown_settings
from mvsent.shards.terms import reminder
from mvsent.shards.writer import DatasetWriter
from mvsent.sources.flickr import FlickrSettings
from mvsent.sources.flickr_licenses import LICENSES
from tests.drawing import draw_pairs

DISCLAIMER = "This product uses the Flickr API but is not endorsed or certified by SmugMug, Inc."
LACK = {"promised": 120, "listed": 100, "why": "20 items of pages empty"}
NOTES = {
    "incomplete": {"happy dog": LACK},
    "refused_queries": {"sad song": "code 3"},
    "drift": {"queries_with_moving_totals": 2},
    "query_not_found": {"dead tree": 3, "sunny day": 8},
}


def manifest(name: str = "flickr", **given: Any) -> Manifest:
    whole = {"created_at": datetime.now(UTC), "funnel": Funnel(input=1, kept=1), "labels": {"positive": 1}}
    return Manifest(**{"name": name, "shards": [], **whole, **given})


def written(folder: Path, notes: Any = None, **settings: Any) -> Path:
    """A dataset of Flickr's in `folder`, with these notes."""
    pairs = draw_pairs(6)
    place = pairs.schema.get_field_index("license")
    pairs = pairs.set_column(place, "license", pa.array(["CC BY 4.0"] * 6, pa.string()))
    with DatasetWriter(folder, "flickr", settings=settings, shard_size=25) as writer:
        writer.write(pairs)
        writer.finish(6, extra={"notes": notes} if notes else {})
    return folder


@pytest.mark.parametrize(
    "notes",
    [
        NOTES,
        {"refreshed": {"version_before": "ab", "removed": 1}, "before": NOTES},
        {"sharded": {"version_before": "ab"}, "before": {"refreshed": {}, "before": NOTES}},
        {"subset_of": {"name": "flickr", "funnel": {"kept": 9}, "notes": NOTES}},
        {"merged": [{"name": "mvsa", "funnel": {"kept": 1}}, {"name": "flickr", "notes": NOTES}]},
    ],
)
def test_gaps_stay_on_the_card_of_what_is_made_from_a_dataset(notes: Any) -> None:
    """Refreshed, cut into other shards, merged, or chosen from."""
    text = card(manifest(notes=notes), {})
    assert "## Gaps of the search" in text
    assert "- happy dog: 100 of 120 that were promised were listed" in text
    assert "- sad song: refused" in text and "The totals of 2 queries moved" in text


def test_a_card_names_some_of_many_gaps() -> None:
    lines = gaps({"incomplete": {f"query {n}": LACK for n in range(MAX_LISTED + 7)}})
    assert len(lines) == MAX_LISTED + 1 and "7 more queries" in lines[-1]


def test_notes_are_told_in_words() -> None:
    told = other_notes({"refreshed": {"version_before": "abc", "removed": 3}, "before": NOTES})
    assert told == [
        "Rows that the source no longer shows: 3 were dropped from version abc.",
        "Candidates without the words of their query: sunny day 8, dead tree 3.",
    ]
    origins = [{"name": "flickr", "funnel": {"kept": 5}}, {"name": "getty", "funnel": {"kept": 4}}]
    assert other_notes({"merged": origins, "contradictions": 2}) == [
        "Merged from flickr (5 rows), getty (4 rows).",
        "2 pictures had several labels in the merged datasets.",
    ]
    files = {"files": [{"name": "a.bz2"}], "rows": {"rows": 9, "other_dates": 1}, "broken": {"a.bz2": "at 7"}}
    assert other_notes({"dump": files}) == [
        "Found in a.bz2: rows 9, other dates 1.",
        "a.bz2 breaks off: at 7.",
    ]
    assert other_notes({"annotations": {"counted": 4, "no-choice": 1}}) == [
        "Annotations: counted 4, no-choice 1."
    ]
    assert other_notes({"of a later version": [1]}) == ["of a later version: [1]"]


@pytest.mark.parametrize("value", [None, 7, "x", [], [1], {}, {"a": {"b": []}}, {"a": "b"}])
def test_notes_of_any_form_are_told(value: Any) -> None:
    """A manifest may have been edited."""
    keys = (*NOTES, "refreshed", "sharded", "merged", "subset_of", "contradictions", "annotations", "dump")
    for notes in (dict.fromkeys(keys, value), {"before": value}, value):
        assert all(isinstance(line, str) for line in [*gaps(notes), *other_notes(notes)])


def test_settings_are_told_in_words_if_they_can_change_a_row() -> None:
    searched = FlickrSettings(license="cc-by,7").model_dump(mode="json") | {"since": "2004-02-10"}
    shown = shown_settings(manifest(settings=searched))
    assert shown["license"] == "CC BY 2.0, No known copyright restrictions, CC BY 4.0"
    assert (shown["max_pairs"], shown["anps"], shown["sort"]) == ("all", "the 1200 ANPs", "date")
    assert (
        not {"match", "endpoint", "images_per_second", "patience", "quota_per_hour", "dumps"} & shown.keys()
    )
    assert shown_settings(manifest(settings=FlickrSettings().model_dump(mode="json")))["license"] == "all"
    from_dump = FlickrSettings(dumps=("a.bz2",)).model_dump(mode="json")
    shown = shown_settings(manifest(settings=from_dump))
    assert (shown["dumps"], shown["match"]) == ("a.bz2", "tags, title")
    assert not {"sort", "safe", "since", "until"} & shown.keys()
    every = card(manifest(settings={"license": ",".join(LICENSES)}), {})
    assert "| license | All Rights Reserved, " in every and "CC BY-NC-ND 4.0 |" in every  # not cut short


def test_a_page_with_pictures_of_flickr_states_its_terms(tmp_path: Path) -> None:
    folder = written(tmp_path / "flickr")
    page = report(folder, tmp_path / "report.html", quiet=True).out.read_text()
    assert DISCLAIMER in page
    review(folder, out=tmp_path / "review.csv", html=True, quiet=True)
    assert DISCLAIMER in (tmp_path / "review.html").read_text()
    subset(folder, Selection(share=0.5), tmp_path / "few", quiet=True)
    assert DISCLAIMER in report(tmp_path / "few", tmp_path / "few.html", quiet=True).out.read_text()


def test_a_report_folds_notes_away(tmp_path: Path) -> None:
    folder = written(tmp_path / "flickr", notes=NOTES)
    page = report(folder, tmp_path / "report.html", quiet=True).out.read_text()
    folded = page[page.index("<details") : page.rindex("</details>")]
    assert "<summary>Gaps of the search (3)</summary>" in folded
    assert "<summary>Notes of the build (1)</summary>" in folded
    assert "sunny day 8, dead tree 3" in folded and "query_not_found" not in page


def test_the_reminder_states_the_age_and_the_limit(tmp_path: Path) -> None:
    old = manifest(created_at=datetime.now(UTC) - timedelta(days=11))
    assert reminder(old, Path("data/flickr")) == (
        "This copy is 11 days old; Flickr's terms allow 1 day without a check. "
        "Drop what was removed since: mvsent refresh data/flickr"
    )
    assert reminder(manifest("getty", created_at=old.created_at), tmp_path) == ""
