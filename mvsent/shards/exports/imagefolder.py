"""ImageFolder for torchvision and Hugging Face: LABEL/ID.jpg, and metadata.jsonl with the texts."""

import json
from collections.abc import Iterable
from pathlib import Path

from mvsent.pairs import LABEL_NAMES, label_name
from mvsent.shards.exports.rows import ExportOptions, Row, extension, extra_names, facts, file_stem, picture

METADATA_FILE = "metadata.jsonl"
_COLUMNS = (
    *("id", "text", "label", "label_name", "text_label", "image_label", "source"),
    *("query", "query_sentiment", "license", "owner", "page_url"),
)


def write(rows: Iterable[Row], folder: Path, options: ExportOptions) -> None:
    """Write a folder for every label with its pictures, and one line of metadata for each picture.

    Raises: DatasetError for a pair without a picture.
    """
    for name in LABEL_NAMES:
        (folder / name).mkdir()
    with (folder / METADATA_FILE).open("w", encoding="utf-8") as metadata:
        for row in rows:
            image, known = picture(row), facts(row)
            path = f"{label_name(row['label'])}/{file_stem(row['id'])}.{extension(image)}"
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_bytes(image)
            line = {"file_name": path} | {name: known[name] for name in (*_COLUMNS, *extra_names(row))}
            metadata.write(json.dumps(line) + "\n")
