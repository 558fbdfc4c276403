"""The page of a review: suspicious rows, worst first. Their texts are untrusted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mvsent.curate.quality import WEIGHTS
from mvsent.pairs import LABEL_NAMES
from mvsent.report.cards import Row, pair_card
from mvsent.report.document import render_document
from mvsent.report.gallery import MAX_TERMS, Card, Gallery, facets, shown

_TITLES = {
    "contradiction": "Repeats another row, with another label",
    "label-error": "The label is probably wrong: a network that was not trained on the row predicts another",
    "annotators": "The annotators disagree",
    "modalities": "Text and picture have different labels",
    "duplicate": "Repeats another row, with the same label",
}
_ROWS = "rows"  # the gallery's id in the page
_MAX_TWINS = 5  # named on a card; the table names more


@dataclass(frozen=True)
class Suspect:
    """A suspicious row.

    Attributes:
        row: its number in the dataset.
        id, text, label: columns of the row.
        score: from 0 to 1, the most suspicious.
        reasons: kind → words, the strongest first; at least one.
        suggested: the label that the row should perhaps have; empty if none.
        twins: ids of some rows with the same text or picture.
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
    """Row id → id of its card in the page."""
    return {suspect.id: f"{_ROWS}-{place}" for place, suspect in enumerate(suspects, start=1)}


def suspect_card(suspect: Suspect, row: Row, max_bytes: int, places: Mapping[str, str]) -> Card:
    """The card of a suspicious row, with a thumbnail of at most `max_bytes`.

    Args:
        places: the `card_ids`, to which twins are linked.
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


def render_review(document: Mapping[str, Any], cards: Sequence[Card], terms: str = "") -> str:
    """Render the HTML of a review.

    Args:
        document: the review as JSON.
        cards: cards of the listed rows, worst first; possibly not of all.
        terms: of the sources of the pictures.
    """
    rows = [
        (kind, _TITLES[kind], weight, document["kinds"][kind])
        for kind, weight in WEIGHTS.items()
        if kind in document["kinds"]
    ]
    words = (
        f"{len(cards):,} of {document['suspicious']:,} suspicious rows. The first reason on a card is the "
        "strongest."
    )
    return render_document(
        "review.html",
        {
            "title": f"{shown(document['name'])}, rows to look at",
            "lead": f"{document['suspicious']:,} of {document['rows']:,} pairs are suspicious; the "
            f"{document['listed']:,} worst are listed.",
            "sections": [("reasons", "Reasons"), (_ROWS, "Rows, worst first")],
            "notes": [f"{shown(note, 400)}." for note in document["notes"]],
            "kinds": rows,
            "terms": shown(terms, MAX_TERMS),
            "gallery": Gallery(list(cards), facets(cards, {"label": "Label", "reason": "Reason"}), words),
        },
    )


def label_name(label: int) -> str:
    """The name of a label; empty for -1."""
    return LABEL_NAMES[label] if label >= 0 else ""
