"""Tables, pictures and attention as HTML of a notebook's cell; every value is escaped."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvsent.pairs import label_name
from mvsent.report.document import environment
from mvsent.report.explain_page import pictures
from mvsent.report.gallery import MAX_TEXT, shown
from mvsent.report.overlays import SHADES, Explained, ordered, shade
from mvsent.report.thumbnails import thumbnail

if TYPE_CHECKING:
    import pandas as pd

ROWS = 20
"""Rows shown of a long table."""
SIDE, MAX_BYTES = 96, 6000
"""Longer side of a thumbnail in pixels, and its limit in bytes: a notebook keeps its outputs in its file."""


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Render a table with a caption."""
    return _rendered(
        "table", shown(caption, MAX_TEXT), header, [[shown(str(v)) for v in row] for row in rows]
    )


def frame_table(caption: str, frame: "pd.DataFrame") -> str:
    """Render the first rows of a table of pandas."""
    few = frame.head(ROWS)
    more = f"; the first {ROWS}" if len(frame) > ROWS else ""
    rows = [[f"{v:.4f}" if isinstance(v, float) else v for v in row] for row in few.itertuples(index=False)]
    return table(caption + more, list(map(str, few.columns)), rows)


def pair_rows(caption: str, rows: Iterable[Mapping[str, Any]]) -> str:
    """Render rows of a dataset with thumbnails; of each its id, image, text and label are read."""
    cells = []
    for row in rows:
        data = (row["image"] or {}).get("bytes")
        picture = thumbnail(data, MAX_BYTES, SIDE) if data else ""
        cells.append(
            (shown(row["id"]), picture, shown(row["text"] or "", MAX_TEXT), label_name(row["label"]))
        )
    return _rendered("pictures", shown(caption, MAX_TEXT), cells)


def attended(pairs: Sequence[Explained]) -> str:
    """Render explained pairs: the picture under each map, and the words on their shades."""
    cells = []
    for pair in pairs:
        said = ", ".join(f"{name} {value:.2f}" for name, value in ordered(pair.probabilities))
        words = [shown(word) for word in pair.words]
        strengths = {name: [f"{0.72 * s / SHADES:.2f}" for s in shade(w)] for name, w in pair.shades.items()}
        cells.append(
            {
                "id": shown(pair.id),
                "answer": f"{said}; labelled {shown(pair.gold)}" if pair.gold else said,
                "pictures": pictures(pair),
                "texts": [(name, list(zip(words, s, strict=False))) for name, s in strengths.items()]
                or [("text, without weights", [(word, "0") for word in words])],
            }
        )
    return _rendered("attended", cells)


def figures(paths: Iterable[Path]) -> str:
    """Render SVG files as pictures, in which no script runs."""
    encoded = [(path.stem, base64.b64encode(path.read_bytes()).decode()) for path in paths]
    return _rendered("figures", [(name, f"data:image/svg+xml;base64,{data}") for name, data in encoded])


def _rendered(macro: str, *values: object) -> str:
    part = getattr(environment().get_template("cells.html").module, macro)
    return str(part(*values))
