"""The page of explained pairs: one file; its words and names are untrusted and escaped."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from mvsent.errors import printable
from mvsent.report.document import render_document
from mvsent.report.gallery import MAX_TERMS, MAX_TEXT, shown
from mvsent.report.overlays import Explained, fraction_bar, heat, ordered, shade
from mvsent.report.tables import aligned

SHADED = "a stronger colour is more weight; if all words have half the colour, their weights are equal"
HEATED = "bright: more, dark: less"
"""Legends of shaded words and of heat maps; serve.js has the same."""
_SIDE = 420  # longer side of a picture in the page, in pixels


def render_explanations(
    title: str,
    lead: str,
    pairs: Sequence[Explained],
    faithfulness: Mapping[str, Any],
    notes: Sequence[str] = (),
    terms: str = "",
) -> str:
    """Render the HTML of explained pairs.

    Args:
        title, lead: run and fold.
        pairs: in the order of the page.
        faithfulness: the content of `faithfulness` in `explain.json`; empty if it was not measured.
        notes: caveats for the reader.
        terms: of the sources of the pictures.
    """
    shown_pairs = []
    for pair in pairs:
        text, image = fraction_bar(pair)
        words = [shown(word) for word in pair.words]
        texts = [
            (f"{name}: {SHADED}", list(zip(words, shade(weights), strict=False)))
            for name, weights in pair.shades.items()
        ]
        if words and not texts:
            texts = [("text, without weights", [(word, 0) for word in words])]
        shown_pairs.append(
            {
                "id": shown(pair.id),
                "kind": pair.kind,
                "predicted": pair.predicted,
                "gold": shown(pair.gold),
                "probabilities": [
                    (name, f"{value:.3f}", 100 * value) for name, value in ordered(pair.probabilities)
                ],
                "pictures": pictures(pair),
                "texts": texts,
                "text_share": text,
                "image_share": image,
            }
        )
    return render_document(
        "explain.html",
        {
            "title": shown(title),
            "lead": shown(lead, MAX_TEXT),
            "notes": list(notes),
            "terms": shown(terms, MAX_TERMS),
            "sections": [("pairs", "Pairs"), *([("faithful", "Is it faithful?")] if faithfulness else [])],
            "pairs": shown_pairs,
            "faithfulness": [
                (name, scores["deletion"], scores["insertion"])
                for name, scores in faithfulness.get("orders", {}).items()
            ],
            "n_faithful": faithfulness.get("rows", 0),
            "heated": HEATED,
        },
    )


def pictures(pair: Explained) -> list[tuple[str, str]]:
    """Titles and data URIs of the picture and of each map over it; empty if there is no picture."""
    if pair.picture is None:
        return []
    small = pair.picture.convert("RGB")
    small.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    layers = [("picture", small), *((name, heat(small, weights)) for name, weights in pair.maps.items())]
    uris = []
    for name, layer in layers:
        stream = io.BytesIO()
        layer.save(stream, "WEBP", quality=80)
        uris.append((name, "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()))
    return uris


def render_terminal(document: Mapping[str, Any]) -> str:
    """Summarise an `explain.json` for the terminal: the answer for each pair, and the faithfulness scores."""
    rows = [
        [
            printable(shown(pair["id"])),
            pair["kind"],
            pair["predicted"],
            f"{max(pair['probabilities'].values()):.2f}",
            pair["gold"],
        ]
        for pair in document["pairs"]
    ]
    header = ("pair", "shown as", "predicted", "with", "labelled")
    parts = [f"{document['model']}, fold {document['fold']}", aligned(header, rows)]
    if orders := document["faithfulness"].get("orders"):
        scores = [[name, f"{o['deletion']:.3f}", f"{o['insertion']:.3f}"] for name, o in orders.items()]
        title = f"Probability of the predicted class over {document['faithfulness']['rows']} rows, mean"
        parts.append(f"{title}\n" + aligned(("order", "deletion (low)", "insertion (high)"), scores))
    return "\n\n".join(parts)
