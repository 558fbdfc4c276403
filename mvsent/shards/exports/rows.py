"""Shared by the exports: a pair's properties as JSON, its picture, and safe file names."""

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from mvsent.errors import DatasetError
from mvsent.pairs import LABEL_NAMES, PAIR_SCHEMA
from mvsent.shards.reader import Dataset

Row = Mapping[str, Any]
"""A pair by the columns of `PAIR_SCHEMA`."""

BATCH_ROWS = 32  # pictures in memory, besides a row group

_PLAIN_ID = re.compile(r"[a-z0-9-]+:[a-z0-9_-]+")
_MAX_NAME = 100
_SIGNATURES = (
    (b"\xff\xd8\xff", "jpg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
    (b"II*\0", "tif"),
    (b"MM\0*", "tif"),
)


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """Options of an export.

    Attributes:
        name: the dataset's, fit for a file name.
        folder_name: of the export.
        columns: of the dataset.
    """

    name: str
    folder_name: str
    columns: Sequence[str] = tuple(PAIR_SCHEMA.names)
    shard_rows: int = 1000
    embed_images: bool = False


def read_rows(dataset: Dataset) -> Iterator[Row]:
    """Read every pair in order; at most a row group of pictures is in memory.

    Raises: DatasetError for a shard that cannot be read, or a text that is not UTF-8.
    """
    for pairs in dataset.pairs(BATCH_ROWS):
        try:
            rows = pairs.to_pylist()
        except UnicodeDecodeError:
            raise DatasetError(
                f"{dataset.folder}: a text in it is not UTF-8", "Build the dataset again"
            ) from None
        yield from rows


def file_stem(id: str) -> str:
    """A unique file name for `id` that any file system accepts, without dots and slashes.

    An id that needs more than its colon replaced gets a hash; only a plain one has an underscore, so that
    no id can take another's name.

    >>> file_stem("mvsa-single:1"), file_stem("../../etc/passwd")
    ('mvsa-single_1', 'etc-passwd-3754d6cb3a38e1185e5b')
    """
    if _PLAIN_ID.fullmatch(id) and len(id) <= _MAX_NAME:
        return id.replace(":", "_", 1)
    return f"{plain_name(id)}-{hashlib.sha256(id.encode()).hexdigest()[:20]}"


def plain_name(text: str) -> str:
    """`text` in ASCII letters, digits and single hyphens; never empty.

    >>> plain_name("../My data (2)")
    'My-data-2'
    """
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:_MAX_NAME].strip("-") or "dataset"


def picture(row: Row) -> bytes:
    """The picture's bytes. Raises: DatasetError where there are none."""
    data = (row["image"] or {}).get("bytes")
    if not data:
        raise DatasetError(
            f"{row['id']}: has no picture", "Only --to csv and --to croissant take pairs without pictures"
        )
    return bytes(data)


def extension(data: bytes) -> str:
    """The file name extension of a picture, by its content.

    >>> extension(b"RIFF\\0\\0\\0\\0WEBPVP8 "), extension(b"\\xff\\xd8\\xff\\xe0")
    ('webp', 'jpg')
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((name for start, name in _SIGNATURES if data.startswith(start)), "bin")


def extra_names(row: Row) -> list[str]:
    """The names of the columns that only this dataset has."""
    return [name for name in row if name not in PAIR_SCHEMA.names]


def facts(row: Row) -> dict[str, Any]:
    """Everything but the picture, in JSON's types, with the label's name beside its number."""
    found = {name: _plain(value) for name, value in row.items() if name != "image"}
    if row["phash"] is not None:
        found["phash"] = f"{row['phash']:016x}"  # most readers of JSON round numbers of 64 bits
    name = None if row["label"] is None else LABEL_NAMES[row["label"]]
    return {"id": row["id"], "label_name": name, **found}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float):
        return float(str(np.float32(value))) if math.isfinite(value) else None  # 1.3, not 1.2999999523162842
    return value
