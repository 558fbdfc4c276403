"""The page of a review: rows that ask for a second look, worst first. Strangers wrote their texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mvsent.curate.quality import WEIGHTS
from mvsent.pairs import LABEL_NAMES
from mvsent.report.cards import Row, pair_card
from mvsent.report.document import render_document
from mvsent.report.gallery import Card, Gallery, facets, shown

_TITLES = {
    "contradiction": "Repeats another row, with another label",
    "label-error": "The label is probably wrong: a network that was not trained on the row says another",
    "annotators": "The annotators disagree",
    "modalities": "Text and picture have different labels",
    "duplicate": "Repeats another row, with the same label",
}
_ROWS = "rows"  # the gallery's id in the page
_MAX_TWINS = 5  # named on a card; the table names more


@dataclass(frozen=True)
class Suspect:
    """A row of the list.

    Attributes:
        row: its number in the dataset.
        id, text, label: of the row.
        score: from 0 to 1.
        reasons: what is suspicious, in words by kind, the worst first; one at least.
        suggested: another label that it perhaps should have, or nothing.
        twins: ids of the rows with its text or picture, some of them.
    """

    row: int
    id: str
    text: str
    label: str
    score: float
    reasons: dict[str, str]
    suggested: str
    twins: list[str]


def card_ids(suspects: Sequence[Suspect]) -> dict[str, str]:
    """The id, in the page, of each row's card."""
    return {suspect.id: f"{_ROWS}-{place}" for place, suspect in enumerate(suspects, start=1)}


def suspect_card(suspect: Suspect, row: Row, max_bytes: int, places: Mapping[str, str]) -> Card:
    """The card of a listed row; its thumbnail takes `max_bytes` at most.

    `places` are the `card_ids`, to which its twins are linked.
    """
    card = pair_card(row, max_bytes)
    badges = [(suspect.label, suspect.label)]
    if suspect.suggested:
        badges.append((suspect.suggested, f"perhaps {suspect.suggested}"))
    twins = [(shown(twin), places.get(twin, "")) for twin in suspect.twins[:_MAX_TWINS]]
    if n_more := len(suspect.twins[_MAX_TWINS:]):
        twins.append((f"{n_more} more", ""))
    facts = [("score", f"{suspect.score:.3f}"), *suspect.reasons.items()]
    kept = [(term, value) for term, value in card.facts if not term.endswith("votes")]
    return replace(
        card,
        facets={"label": suspect.label, "reason": "\n".join(suspect.reasons)},
        badges=badges,
        facts=[*facts, *kept],
        twins=twins,
    )


def render_review(document: Mapping[str, Any], cards: Sequence[Card]) -> str:
    """The HTML of a review.

    Args:
        document: the review as JSON.
        cards: of the listed rows, worst first; perhaps not of all.
    """
    rows = [
        (kind, _TITLES[kind], weight, document["kinds"][kind])
        for kind, weight in WEIGHTS.items()
        if kind in document["kinds"]
    ]
    words = (
        f"{len(cards):,} of {document['suspicious']:,} rows with a reason. A card's first reason is the one "
        "that weighs most."
    )
    return render_document(
        "review.html",
        {
            "title": f"{shown(document['name'])}, rows to look at",
            "lead": f"{document['suspicious']:,} of {document['rows']:,} pairs have a reason to be looked "
            f"at; the {document['listed']:,} worst are listed.",
            "sections": [("reasons", "Reasons"), (_ROWS, "Rows, worst first")],
            "notes": [f"{shown(note, 400)}." for note in document["notes"]],
            "kinds": rows,
            "gallery": Gallery(list(cards), facets(cards, {"label": "Label", "reason": "Reason"}), words),
        },
    )


def label_name(label: int) -> str:
    """The name of a label, or nothing for -1."""
    return LABEL_NAMES[label] if label >= 0 else ""
