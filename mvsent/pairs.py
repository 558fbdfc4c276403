"""The words everyone else uses: Label, Reason, and the columns of a Pair."""

from collections.abc import Mapping
from enum import IntEnum, StrEnum
from typing import Any

import pyarrow as pa


class Label(IntEnum):
    """A sentiment; the numbers are the same everywhere and always.

    >>> Label.parse("Positive"), str(Label.NEUTRAL)
    (<Label.POSITIVE: 2>, 'neutral')
    """

    NEGATIVE = 0
    NEUTRAL = 1
    POSITIVE = 2

    @classmethod
    def parse(cls, name: str) -> "Label":
        """The label called `name`, in any case. Raises: KeyError for any other word."""
        return cls[name.strip().upper()]

    def __str__(self) -> str:
        return self.name.lower()


LABEL_NAMES = tuple(str(label) for label in Label)
"""`("negative", "neutral", "positive")`: index = value."""


class Reason(StrEnum):
    """Why an input row is not in the dataset. Each dropped row has exactly one."""

    LABEL_CONFLICT = "label-conflict"
    NO_MAJORITY = "no-majority"
    IMAGE_MISSING = "image-missing"
    IMAGE_CORRUPT = "image-corrupt"
    IMAGE_TOO_SMALL = "image-too-small"
    IMAGE_TOO_LARGE = "image-too-large"
    IMAGE_NOT_AN_IMAGE = "image-not-an-image"
    TEXT_MISSING = "text-missing"
    TEXT_TOO_SHORT = "text-too-short"
    TEXT_TOO_LONG = "text-too-long"
    TEXT_LANGUAGE = "text-language"
    DUPLICATE_ID = "duplicate-id"
    DUPLICATE_IMAGE = "duplicate-image"
    DUPLICATE_QUERY_CONFLICT = "duplicate-query-conflict"
    HTTP_404 = "http-404"
    HTTP_ERROR = "http-error"
    TIMEOUT = "timeout"
    BLOCKED_HOST = "blocked-host"
    ROBOTS_NOAI = "robots-noai"
    OVER_MAX_PAIRS = "over-max-pairs"
    TAKEN_DOWN = "taken-down"
    NOT_ANNOTATED = "not-annotated"


IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
VOTES = pa.list_(pa.struct([("text", pa.int8()), ("image", pa.int8())]))
TIMESTAMP = pa.timestamp("us", tz="UTC")

PAIR_SCHEMA = pa.schema(
    [
        pa.field(
            "id", pa.string(), nullable=False
        ),  # flickr:123, getty:123, mvsa-single:1; unique in a dataset
        pa.field("image", IMAGE),  # the bytes as fetched; null in a labels-only dataset
        pa.field("text", pa.string()),  # the cleaned description that passed the filter
        pa.field("label", pa.int8(), nullable=False),
        pa.field("text_label", pa.int8()),
        pa.field("image_label", pa.int8()),
        pa.field("votes", VOTES),  # the raw annotations
        pa.field("source", pa.string()),
        pa.field("query", pa.string()),  # the ANP or keyword
        pa.field("query_sentiment", pa.float32()),
        pa.field("title", pa.string()),
        pa.field("description", pa.string()),
        pa.field("tags", pa.list_(pa.string())),
        pa.field("width", pa.int32()),  # pixels, of image.bytes
        pa.field("height", pa.int32()),
        pa.field("sha256", pa.string()),  # of image.bytes, in hexadecimal
        pa.field("phash", pa.uint64()),  # perceptual hash, see curate/images.py
        pa.field("url", pa.string()),
        pa.field("page_url", pa.string()),
        pa.field("license", pa.string()),
        pa.field("owner", pa.string()),
        pa.field("posted_at", TIMESTAMP),
        pa.field("fetched_at", TIMESTAMP),
    ]
)
"""The columns of a shard, in order."""

REJECTED_SCHEMA = pa.schema([("id", pa.string()), ("reason", pa.string()), ("detail", pa.string())])
"""One row for every dropped input."""


def pair_table(columns: Mapping[str, Any]) -> pa.Table:
    """A table with every column of `PAIR_SCHEMA`; columns that are not given are null.

    Raises: KeyError for a column that the schema does not know.
    """
    unknown = columns.keys() - set(PAIR_SCHEMA.names)
    if unknown:
        raise KeyError(f"not a pair column: {sorted(unknown)}")
    n_rows = len(next(iter(columns.values())))
    arrays = [
        _as_array(columns[field.name], field.type) if field.name in columns else pa.nulls(n_rows, field.type)
        for field in PAIR_SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=PAIR_SCHEMA)


def _as_array(values: Any, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values if values.type == kind else values.cast(kind)
    if kind == IMAGE and None not in values:  # member by member, which takes a fraction of the time
        members = [pa.array([value[field.name] for value in values], field.type) for field in kind]
        return pa.StructArray.from_arrays(members, fields=list(kind))
    return pa.array(values, type=kind)
