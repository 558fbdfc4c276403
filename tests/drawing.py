"""Pictures and pairs drawn in memory, so that no test needs anybody's data."""

import hashlib
import io

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw

from mvsent.pairs import REJECTED_SCHEMA, pair_table
from mvsent.reasons import Reason

_COLOURS = ((70, 60, 110), (140, 140, 140), (250, 200, 60))  # of label 0, 1, 2
_WORDS = (
    ("sad", "broken", "awful", "lost", "crying"),
    ("street", "monday", "report", "table", "update"),
    ("happy", "wonderful", "sunny", "love", "smiling"),
)


def draw_picture(label: int, seed: int, size: tuple[int, int] = (96, 72), format: str = "JPEG") -> bytes:
    """An encoded picture whose colour shows its label; no two seeds look alike."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", size, _COLOURS[label])
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = int(rng.integers(0, size[0])), int(rng.integers(0, size[1]))
        shade = tuple(int(c) for c in np.clip(np.array(_COLOURS[label]) + rng.integers(-60, 60, 3), 0, 255))
        draw.rectangle((x, y, x + int(rng.integers(5, 40)), y + int(rng.integers(5, 40))), fill=shade)
    stream = io.BytesIO()
    image.save(stream, format)
    return stream.getvalue()


def draw_pairs(n: int, *, images: bool = True, prefix: str = "drawn", n_labels: int = 3) -> pa.Table:
    """`n` pairs with ids `prefix:0` …; labels 2, 1, 0, 2, …; row 9 repeats row 3's text and row 10 row 4's."""
    labels = [n_labels - 1 - i % n_labels for i in range(n)]
    texts = [_draw_text(label, i) for i, label in enumerate(labels)]
    for copy, original in ((9, 3), (10, 4)):
        if copy < n:
            texts[copy] = texts[original]
    columns = {
        "id": [f"{prefix}:{i}" for i in range(n)],
        "text": texts,
        "label": labels,
        "text_label": labels,
        "image_label": labels,
        "votes": [[{"text": label, "image": label}] for label in labels],
        "source": [prefix] * n,
    }
    if images:
        pictures = [draw_picture(label, i) for i, label in enumerate(labels)]
        columns |= {
            "image": [{"bytes": data, "path": f"{i}.jpg"} for i, data in enumerate(pictures)],
            "width": [96] * n,
            "height": [72] * n,
            "sha256": [hashlib.sha256(data).hexdigest() for data in pictures],
        }
    return pair_table(columns)


def _draw_text(label: int, seed: int) -> str:
    words = np.random.default_rng(seed).choice(_WORDS[label], 4)
    return f"{' '.join(words)} number {seed} http://t.co/{seed}"


def draw_rejected(n: int, prefix: str = "drawn-rejected") -> pa.Table:
    """`n` dropped rows, each for a conflict of labels."""
    rows = [
        {"id": f"{prefix}:{i}", "reason": str(Reason.LABEL_CONFLICT), "detail": "drawn"} for i in range(n)
    ]
    return pa.Table.from_pylist(rows, REJECTED_SCHEMA)
