"""Rows of a dataset as cards: kept rows with picture, text and labels; dropped rows with their reason."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mvsent.pairs import LABEL_NAMES, label_name
from mvsent.report.gallery import MAX_TEXT, Card, shown, stratified, web_link
from mvsent.report.tables import UNDEFINED, in_percent
from mvsent.report.thumbnails import thumbnail
from mvsent.shards.reader import Dataset
from mvsent.shards.rejected import read_rejected

MAX_PICTURE_BYTES = 7_500_000
"""Limit of all thumbnails of a page together; as data URIs they take a third more."""
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
_BLOCK_ROWS = 256  # read at once; as this is the size of a row group, at most two are in memory

Row = dict[str, Any]
Rows = npt.NDArray[np.int64]


def read_rows(dataset: Dataset, rows: Rows) -> Iterator[Row]:
    """Read `COLUMNS` of the rows with these sorted numbers; row groups without any of them are not read."""
    for block in np.unique(rows // _BLOCK_ROWS):
        inside = rows[rows // _BLOCK_ROWS == block]
        first, last = int(inside[0]), int(inside[-1])
        for batch in dataset.batches(COLUMNS, _BLOCK_ROWS, slice(first, last + 1)):
            for row in inside - first:
                yield {name: batch[name][int(row)].as_py() for name in COLUMNS}


def pair_card(row: Row, max_bytes: int) -> Card:
    """The card of a kept row, with a thumbnail of at most `max_bytes`."""
    label = label_name(row["label"])
    name = shown(row["id"])
    query = shown(row["query"] or "")
    data = (row["image"] or {}).get("bytes")
    picture = thumbnail(data, max_bytes) if data else ""
    if picture:
        alt = f"Picture of {name}"
    else:
        alt = "The picture cannot be shown" if data else "No picture in this dataset"
    badges = [(label, label)]
    for modality, number in (("text", row["text_label"]), ("picture", row["image_label"])):
        if number is not None:
            badges.append((LABEL_NAMES[number], f"{modality}: {LABEL_NAMES[number]}"))
    score = row["query_sentiment"]
    facts = {
        "query": f"{query} ({score:+.2f})" if query and score is not None else query,
        "title": shown(row["title"] or ""),
        **_votes(row["votes"] or []),
        "size": f"{row['width']} × {row['height']}" if row["width"] and row["height"] else "",
        "licence": shown(row["license"] or ""),
        "owner": shown(row["owner"] or ""),
    }
    return Card(
        id=name,
        facets={"label": label, "reason": "kept", **({"query": query} if query else {})},
        badges=badges,
        picture=picture,
        alt=alt,
        text=shown(row["text"] or "", MAX_TEXT),
        facts=[(term, value) for term, value in facts.items() if value],
        link=web_link(row["page_url"]),
    )


def error_card(row: Row, predicted: int, y_prob: Sequence[float], fold: int, max_bytes: int) -> Card:
    """The card of a test row that a fold's network misclassified, with its probabilities."""
    card = pair_card(row, max_bytes)
    label, answer = LABEL_NAMES[row["label"]], LABEL_NAMES[predicted]
    shares = " · ".join(f"{name} {in_percent(p)}" for name, p in zip(LABEL_NAMES, y_prob, strict=True))
    return replace(
        card,
        facets={"label": label, "predicted": answer},
        badges=[(label, f"labelled {label}"), (answer, f"predicted {answer}")],
        facts=[("probabilities", shares), ("fold", str(fold)), *card.facts],
    )


def rejected_cards(dataset: Dataset, n: int, seed: int) -> list[Card]:
    """Cards of `n` dropped rows, or of all if there are fewer, as even over the reasons as possible."""
    # Two passes: the first keeps only a number for each row, as there may be millions.
    codes: dict[str, int] = {}
    strata = [
        codes.setdefault(reason or "", len(codes))
        for dropped in read_rejected(dataset.folder)
        for reason in dropped["reason"].to_pylist()
    ]
    rows, first, cards = stratified(np.array(strata, dtype=np.int32), n, seed), 0, []
    for dropped in read_rejected(dataset.folder):
        inside = rows[(rows >= first) & (rows < first + len(dropped))] - first
        for row in dropped.take(inside).to_pylist():
            reason = shown(row["reason"] or "")
            cards.append(
                Card(
                    id=shown(row["id"] or ""),
                    facets={"reason": reason},
                    badges=[("dropped", f"dropped: {reason}")],
                    alt="No picture: the pictures of dropped rows are not kept",
                    text=shown(row["detail"] or "", MAX_TEXT),
                )
            )
        first += len(dropped)
    return cards


def _votes(votes: Sequence[Mapping[str, int | None]]) -> dict[str, str]:
    """The labels of each modality by annotator; empty if there was a single annotator."""
    if len(votes) < 2:
        return {}
    names: dict[int | None, str] = {None: UNDEFINED, **dict(enumerate(LABEL_NAMES))}
    return {
        "text votes": ", ".join(names[vote["text"]] for vote in votes),
        "picture votes": ", ".join(names[vote["image"]] for vote in votes),
    }
