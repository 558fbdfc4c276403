"""The page of explained pairs: one file; the words and names in it are strangers' and escaped."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from mvsent.errors import printable
from mvsent.report.document import render_document
from mvsent.report.gallery import MAX_TEXT, shown
from mvsent.report.overlays import Explained, fraction_bar, heat, ordered, shade
from mvsent.report.tables import aligned

SHADED = "the stronger the colour, the more weight; all half strong: evenly spread"
HEATED = "bright: more, dark: less"
"""How to read shaded words, and a picture under heat; serve.js says the same."""
_SIDE = 420  # pixels of the longer side of a picture in the page


def render_explanations(
    title: str,
    lead: str,
    pairs: Sequence[Explained],
    faithfulness: Mapping[str, Any],
    notes: Sequence[str] = (),
) -> str:
    """The HTML.

    Args:
        title, lead: whose answers they are.
        pairs: in the order of the page.
        faithfulness: the content of `faithfulness` in `explain.json`; empty where none was measured.
        notes: what a reader must know.
    """
    return render_document(
        "explain.html",
        {
            "title": shown(title),
            "lead": shown(lead, MAX_TEXT),
            "notes": list(notes),
            "sections": [("pairs", "Pairs"), *([("faithful", "Is it faithful?")] if faithfulness else [])],
            "pairs": [_pair(pair) for pair in pairs],
            "faithfulness": [
                (name, found["deletion"], found["insertion"])
                for name, found in faithfulness.get("orders", {}).items()
            ],
            "n_faithful": faithfulness.get("rows", 0),
            "heated": HEATED,
        },
    )


def _pair(pair: Explained) -> dict[str, Any]:
    text, image = fraction_bar(pair)
    words = [shown(word) for word in pair.words]
    return {
        "id": shown(pair.id),
        "kind": pair.kind,
        "predicted": pair.predicted,
        "gold": shown(pair.gold),
        "probabilities": [(name, f"{value:.3f}", 100 * value) for name, value in ordered(pair.probabilities)],
        "pictures": pictures(pair),
        "texts": [
            (
                f"{name}: {SHADED}",
                list(zip(words, shade(weights), strict=False)),
            )
            for name, weights in pair.shades.items()
        ]
        or [("text, without weights", [(word, 0) for word in words])] * bool(words),
        "text_share": text,
        "image_share": image,
    }


def pictures(pair: Explained) -> list[tuple[str, str]]:
    """Titles and data URIs: the picture, then each map over it; none where there is no picture."""
    if pair.picture is None:
        return []
    small = pair.picture.convert("RGB")
    small.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    layers = [(name, heat(small, weights)) for name, weights in pair.maps.items()]
    return [(name, _data_uri(image)) for name, image in [("picture", small), *layers]]


def _data_uri(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()


def render_terminal(document: Mapping[str, Any]) -> str:
    """An `explain.json` in short: what was said of each pair, and what the orders are worth."""
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
    whose = f"{document['model']}, fold {document['fold']}"
    parts = [whose, aligned(("pair", "shown as", "predicted", "with", "labelled"), rows)]
    if orders := document["faithfulness"].get("orders"):
        found = [[name, f"{o['deletion']:.3f}", f"{o['insertion']:.3f}"] for name, o in orders.items()]
        title = f"Probability of the predicted class over {document['faithfulness']['rows']} rows, mean"
        parts.append(f"{title}\n" + aligned(("order", "deletion (low)", "insertion (high)"), found))
    return "\n\n".join(parts)
