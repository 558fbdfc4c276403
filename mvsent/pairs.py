"""The words everyone else uses: Label, Reason, Rejection, and the columns of a Pair."""

from collections.abc import Mapping
from dataclasses import dataclass
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
    """Why an input row is not in the dataset. Each dropped row has exactly one.

    >>> Reason("no-majority"), Reason.NO_MAJORITY.meaning
    (<Reason.NO_MAJORITY: 'no-majority'>, 'has no majority among its annotators in one modality')
    """

    meaning: str  # what is true of the row, to be read after "the row"

    def __new__(cls, value: str, meaning: str = "") -> "Reason":
        reason = str.__new__(cls, value)
        reason._value_ = value
        reason.meaning = meaning
        return reason

    LABEL_CONFLICT = "label-conflict", "is positive in one modality and negative in the other"
    NO_MAJORITY = "no-majority", "has no majority among its annotators in one modality"
    IMAGE_MISSING = "image-missing", "has no picture file, no address of one, or Flickr's placeholder"
    IMAGE_CORRUPT = "image-corrupt", "has a picture that is empty, or cannot be decoded to its end"
    IMAGE_TOO_SMALL = "image-too-small", "has a picture under the limits"
    IMAGE_TOO_LARGE = "image-too-large", "has a picture over the limits"
    IMAGE_NOT_AN_IMAGE = "image-not-an-image", "has a file that is no picture (HTML, text, …)"
    TEXT_MISSING = "text-missing", "has no text file, no description or caption, or nothing in it"
    TEXT_TOO_SHORT = "text-too-short", "has fewer words than the filter asks for"
    TEXT_TOO_LONG = "text-too-long", "has more words than the filter allows"
    TEXT_LANGUAGE = "text-language", "has a text in another language than the filter asks for"
    DUPLICATE_ID = "duplicate-id", "has the id of an earlier row"
    DUPLICATE_IMAGE = "duplicate-image", "has the picture of an earlier row"
    DUPLICATE_QUERY_CONFLICT = "duplicate-query-conflict", "was found by words of opposite sign"
    DUPLICATE_LABEL_CONFLICT = (
        "duplicate-label-conflict",
        "has the id or picture of a row with another label in another dataset (`mvsent merge`)",
    )
    HTTP_404 = "http-404", "has a picture that its host does not have"
    HTTP_ERROR = (
        "http-error",
        "has a picture whose host refused or failed, or answered with a redirect without end",
    )
    TIMEOUT = "timeout", "has a picture that did not come in time"
    BLOCKED_HOST = (
        "blocked-host",
        "has a picture at an address that is not public, or with another scheme than http and https",
    )
    ROBOTS_NOAI = "robots-noai", "has a picture whose host forbids use for machine learning"
    OVER_MAX_PAIRS = "over-max-pairs", "was not needed: `--max-pairs` were kept already"
    TAKEN_DOWN = "taken-down", "was removed or made private since, as `mvsent refresh` found"
    NOT_ANNOTATED = "not-annotated", "was annotated by nobody in Label Studio (`mvsent reconcile-tasks`)"


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a row is dropped, with the detail that lets a person check it."""

    reason: Reason
    detail: str


IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
VOTES = pa.list_(pa.struct([("text", pa.int8()), ("image", pa.int8())]))
TIMESTAMP = pa.timestamp("us", tz="UTC")

PAIR_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("image", IMAGE),
        pa.field("text", pa.string()),
        pa.field("label", pa.int8(), nullable=False),
        pa.field("text_label", pa.int8()),
        pa.field("image_label", pa.int8()),
        pa.field("votes", VOTES),
        pa.field("source", pa.string()),
        pa.field("query", pa.string()),
        pa.field("query_sentiment", pa.float32()),
        pa.field("title", pa.string()),
        pa.field("description", pa.string()),
        pa.field("tags", pa.list_(pa.string())),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("sha256", pa.string()),
        pa.field("phash", pa.uint64()),
        pa.field("url", pa.string()),
        pa.field("page_url", pa.string()),
        pa.field("license", pa.string()),
        pa.field("owner", pa.string()),
        pa.field("posted_at", TIMESTAMP),
        pa.field("fetched_at", TIMESTAMP),
    ]
)
"""The columns of a shard, in order."""

MEANINGS = {
    "id": "the source and its number, as flickr:123 or mvsa-single:1; unique in a dataset",
    "image": "the picture's bytes as fetched, and a name; null in a dataset of labels only",
    "text": "the cleaned text",
    "label": "sentiment of the pair: 0 negative, 1 neutral, 2 positive",
    "text_label": "sentiment of the text alone, where people labelled it",
    "image_label": "sentiment of the picture alone, where people labelled it",
    "votes": "the raw annotations, one a person",
    "source": "where the pair comes from: flickr, getty, mvsa-single, …",
    "query": "the adjective-noun pair or keyword that found the pair",
    "query_sentiment": "score of the query, on the scale of its lexicon",
    "title": "title, as the source has it",
    "description": "raw text, as the source has it",
    "tags": "tags, as the source has them",
    "width": "pixels of the picture",
    "height": "pixels of the picture",
    "sha256": "of the picture's bytes, in hexadecimal",
    "phash": "perceptual hash of the picture, 64 bits as of imagehash.phash; null for a flat picture",
    "url": "address of the picture",
    "page_url": "address of the page that shows it",
    "license": "of the picture",
    "owner": "who published it, as the source names them",
    "posted_at": "when it was published, UTC",
    "fetched_at": "when the search found it, UTC",
}
"""What each column of `PAIR_SCHEMA` holds."""

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
