"""Rows of a dataset as cards: kept ones with picture, text and labels, dropped ones with their reason."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mvsent.pairs import LABEL_NAMES
from mvsent.report.gallery import MAX_TEXT, Card, shown, stratified, web_link
from mvsent.report.survey import rejected_batches
from mvsent.report.tables import in_percent
from mvsent.report.thumbnails import thumbnail
from mvsent.shards.reader import Dataset

MAX_PICTURE_BYTES = 7_500_000
"""All thumbnails of a page together; as data URIs they take a third more."""
COLUMNS = [
    "id",
    "image",
    "text",
    "label",
    "text_label",
    "image_label",
    "votes",
    "source",
    "query",
    "query_sentiment",
    "title",
    "width",
    "height",
    "page_url",
    "license",
    "owner",
]
_BLOCK_ROWS = 256  # read at once: a row group, of which at most two then are in memory

Row = dict[str, Any]
Rows = npt.NDArray[np.int64]


def read_rows(dataset: Dataset, rows: Rows) -> Iterator[Row]:
    """`COLUMNS` of the rows with these sorted numbers; row groups that hold none of them are not read."""
    for block in np.unique(rows // _BLOCK_ROWS):
        inside = rows[rows // _BLOCK_ROWS == block]
        first, last = int(inside[0]), int(inside[-1])
        for batch in dataset.batches(COLUMNS, _BLOCK_ROWS, slice(first, last + 1)):
            for row in inside - first:
                yield {name: batch[name][int(row)].as_py() for name in COLUMNS}


def pair_card(row: Row, max_bytes: int) -> Card:
    """The card of a kept row; its thumbnail takes `max_bytes` at most."""
    label = LABEL_NAMES[row["label"]]
    name = shown(row["id"])
    query = shown(row["query"] or "")
    picture, alt = _picture(row, max_bytes)
    return Card(
        id=name,
        facets={"label": label, "reason": "kept", **({"query": query} if query else {})},
        badges=[(label, label), *_modality_badges(row)],
        picture=picture,
        alt=alt,
        text=shown(row["text"] or "", MAX_TEXT),
        facts=_facts(row, query),
        link=web_link(row["page_url"]),
    )


def error_card(row: Row, predicted: int, y_prob: Sequence[float], fold: int, max_bytes: int) -> Card:
    """The card of a test row that a fold's network got wrong, with the probabilities that it gave."""
    card = pair_card(row, max_bytes)
    label, said = LABEL_NAMES[row["label"]], LABEL_NAMES[predicted]
    shares = " · ".join(f"{name} {in_percent(p)}" for name, p in zip(LABEL_NAMES, y_prob, strict=True))
    return Card(
        id=card.id,
        facets={"label": label, "predicted": said},
        badges=[(label, f"labelled {label}"), (said, f"predicted {said}")],
        picture=card.picture,
        alt=card.alt,
        text=card.text,
        facts=[("says", shares), ("fold", str(fold)), *card.facts],
        link=card.link,
    )


def rejected_cards(dataset: Dataset, n: int, seed: int) -> list[Card]:
    """Cards of `n` dropped rows, or of all, as even over the reasons as these allow."""
    codes: dict[str, int] = {}
    strata = [
        codes.setdefault(reason or "", len(codes))
        for batch in rejected_batches(dataset.folder)
        for reason in batch["reason"].to_pylist()
    ]
    rows, first, cards = stratified(np.array(strata, dtype=np.int32), n, seed), 0, []
    for batch in rejected_batches(dataset.folder):
        inside = rows[(rows >= first) & (rows < first + len(batch))] - first
        cards += [_rejected_card(row) for row in batch.take(inside).to_pylist()]
        first += len(batch)
    return cards


def _rejected_card(row: Mapping[str, str | None]) -> Card:
    reason = shown(row["reason"] or "")
    return Card(
        id=shown(row["id"] or ""),
        facets={"reason": reason},
        badges=[("dropped", f"dropped: {reason}")],
        alt="No picture: that of a dropped row is not kept",
        text=shown(row["detail"] or "", MAX_TEXT),
    )


def _picture(row: Row, max_bytes: int) -> tuple[str, str]:
    """The thumbnail and the words for it."""
    name = shown(row["id"])
    data = (row["image"] or {}).get("bytes")
    if not data:
        return "", "No picture in this dataset"
    picture = thumbnail(data, max_bytes)
    return picture, f"Picture of {name}" if picture else "The picture cannot be shown"


def _modality_badges(row: Row) -> list[tuple[str, str]]:
    labels = (("text", row["text_label"]), ("picture", row["image_label"]))
    known = [(name, LABEL_NAMES[label]) for name, label in labels if label is not None]
    return [(label, f"{name}: {label}") for name, label in known]


def _facts(row: Row, query: str) -> list[tuple[str, str]]:
    score = row["query_sentiment"]
    asked = f"{query} ({score:+.2f})" if query and score is not None else query
    size = f"{row['width']} × {row['height']}" if row["width"] and row["height"] else ""
    listed = {
        "query": asked,
        "title": shown(row["title"] or ""),
        **_votes(row["votes"] or []),
        "size": size,
        "licence": shown(row["license"] or ""),
        "owner": shown(row["owner"] or ""),
    }
    return [(term, value) for term, value in listed.items() if value]


def _votes(votes: Sequence[Mapping[str, int | None]]) -> dict[str, str]:
    """What several annotators said of each modality, a person an entry; nothing where there was one."""
    if len(votes) < 2:
        return {}
    asked = {"text votes": "text", "picture votes": "image"}
    return {term: ", ".join(_name(vote[of]) for vote in votes) for term, of in asked.items()}


def _name(label: int | None) -> str:
    return "–" if label is None else LABEL_NAMES[label]
