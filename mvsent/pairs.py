"""The labels of a pair and the columns of a shard."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal

import pyarrow as pa

from mvsent.reasons import Reason, Rejection  # noqa: F401 - scripts of 0.1 import them from here


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

UNLABELLED = "unlabelled"
"""Stands for the label of a pair that has none."""


def label_name(label: int | None) -> str:
    """The name of a label, or `UNLABELLED`.

    >>> label_name(2), label_name(None)
    ('positive', 'unlabelled')
    """
    return UNLABELLED if label is None else LABEL_NAMES[label]


IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
VOTES = pa.list_(pa.struct([("text", pa.int8()), ("image", pa.int8())]))
TIMESTAMP = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Column:
    """A column of a shard.

    Attributes:
        since: the schema version that added the column; shards of earlier versions read as null there.
        indexed: whether shards keep its extremes, by which a reader skips row groups. Those of free text,
            URLs or pictures help nobody.
    """

    name: str
    type: pa.DataType
    meaning: str
    nullable: bool = True
    since: int = 1
    indexed: bool = False


COLUMNS = (
    Column(
        "id",
        pa.string(),
        "the source and its number, as flickr:123 or mvsa-single:1; unique in a dataset",
        nullable=False,
        indexed=True,
    ),
    Column("image", IMAGE, "the picture's bytes as fetched, and a name; null in a dataset of labels only"),
    Column("text", pa.string(), "the cleaned text"),
    Column(
        "label",
        pa.int8(),
        "sentiment of the pair: 0 negative, 1 neutral, 2 positive; null if it has no label",
        indexed=True,
    ),
    Column("text_label", pa.int8(), "sentiment of the text alone, where people labelled it", indexed=True),
    Column(
        "image_label", pa.int8(), "sentiment of the picture alone, where people labelled it", indexed=True
    ),
    Column("votes", VOTES, "the raw annotations, one a person"),
    Column("source", pa.string(), "where the pair comes from: flickr, getty, mvsa-single, …", indexed=True),
    Column("query", pa.string(), "the adjective-noun pair or keyword that found the pair", indexed=True),
    Column("query_sentiment", pa.float32(), "score of the query, on the scale of its lexicon", indexed=True),
    Column("title", pa.string(), "title, as the source has it"),
    Column("description", pa.string(), "raw text, as the source has it"),
    Column("tags", pa.list_(pa.string()), "tags, as the source has them"),
    Column("width", pa.int32(), "pixels of the picture", indexed=True),
    Column("height", pa.int32(), "pixels of the picture", indexed=True),
    Column("sha256", pa.string(), "of the picture's bytes, in hexadecimal", indexed=True),
    Column(
        "phash",
        pa.uint64(),
        "perceptual hash of the picture, 64 bits as of imagehash.phash; null for a flat picture",
    ),
    Column("url", pa.string(), "address of the picture"),
    Column("page_url", pa.string(), "address of the page that shows it"),
    Column("license", pa.string(), "of the picture"),
    Column("owner", pa.string(), "who published it, as the source names them"),
    Column("posted_at", TIMESTAMP, "when it was published, UTC", indexed=True),
    Column("fetched_at", TIMESTAMP, "when the search found it, UTC", indexed=True),
)
"""The columns of a shard, in order. New ones come last, nullable, with the next version as their `since`."""

LABEL_COLUMNS = ("label", "text_label", "image_label")
"""The columns that hold a `Label`."""

# Since version 2 a label may be null, and a dataset may have further columns of its own.
SCHEMA_VERSION = max(2, *(column.since for column in COLUMNS))
"""The version of the datasets that this mvsent writes; it reads all up to this one."""

ExtraType = Literal["string", "int64", "double", "bool"]
"""The names of `EXTRA_TYPES`."""

EXTRA_TYPES = {"string": pa.string(), "int64": pa.int64(), "double": pa.float64(), "bool": pa.bool_()}
"""The types of further columns, by the name that the manifest has for them."""


WATERMARKED = "watermarked"
"""Further column of sources that say whether a picture has a watermark."""


def columns_of(version: int) -> list[Column]:
    """The columns of a dataset of schema `version`."""
    return [column for column in COLUMNS if column.since <= version]


PAIR_SCHEMA = pa.schema([pa.field(c.name, c.type, c.nullable) for c in COLUMNS])
"""`COLUMNS` as Arrow has them."""


def pair_schema(extra: Mapping[str, str]) -> pa.Schema:
    """`PAIR_SCHEMA` and the further columns of a dataset, each with a name of `EXTRA_TYPES`."""
    # A later version may have made a column of one of these names.
    more = {name: EXTRA_TYPES[kind] for name, kind in extra.items() if name not in PAIR_SCHEMA.names}
    return pa.schema([*PAIR_SCHEMA, *more.items()])


REJECTED_SCHEMA = pa.schema([("id", pa.string()), ("reason", pa.string()), ("detail", pa.string())])
"""One row for every dropped input."""


def pair_table(columns: Mapping[str, Any], extra: Mapping[str, str] | None = None) -> pa.Table:
    """A table with every column of `pair_schema(extra)`; columns that are not given are null.

    Raises: KeyError for a column that the schema does not know.
    """
    schema = pair_schema(extra or {})
    unknown = columns.keys() - set(schema.names)
    if unknown:
        raise KeyError(f"not a pair column: {sorted(unknown)}")
    n_rows = len(next(iter(columns.values())))
    arrays = [
        _as_array(columns[field.name], field.type) if field.name in columns else pa.nulls(n_rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _as_array(values: Any, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values if values.type == kind else values.cast(kind)
    if kind == IMAGE and None not in values:  # member by member, which takes a fraction of the time
        members = [pa.array([value[field.name] for value in values], field.type) for field in kind]
        return pa.StructArray.from_arrays(members, fields=list(kind))
    return pa.array(values, type=kind)
