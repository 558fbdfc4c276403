"""How a Pair lies on disk: Parquet options, and the schema metadata that Hugging Face `datasets` reads."""

import io
import json
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mvsent.pairs import LABEL_NAMES, PAIR_SCHEMA

ROW_GROUP_ROWS = 256
"""A row group holds at most this many rows, so that one row can be read without reading a whole shard."""

PICTURELESS_ROW_GROUP_ROWS = 65536
"""The same for a shard without pictures: its rows take a few bytes each, fewer than a small group would."""

IMAGE_BYTES = "image.bytes"

# Columns by which a reader would skip row groups. Extremes of free text, URLs or pictures help nobody.
INDEXED = [
    "id",
    "label",
    "text_label",
    "image_label",
    "source",
    "query",
    "query_sentiment",
    "width",
    "height",
    "sha256",
    "posted_at",
    "fetched_at",
]

_LABELS = ("label", "text_label", "image_label", "votes.list.element.text", "votes.list.element.image")
_LABEL_COLUMNS = {"label", "text_label", "image_label"}


def shard_name(index: int) -> str:
    """Where shard number `index` lies in its dataset.

    >>> shard_name(7)
    'data/shard-00007.parquet'
    """
    return f"data/shard-{index:05d}.parquet"


@cache
def stored_schema() -> pa.Schema:
    """`PAIR_SCHEMA` with the metadata by which `datasets` knows pictures and labels."""
    features = {field.name: _feature(field) for field in PAIR_SCHEMA}
    return PAIR_SCHEMA.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def _feature(field: pa.Field) -> Any:
    if field.name == "image":
        return {"_type": "Image"}
    if field.name in _LABEL_COLUMNS:
        return {"names": list(LABEL_NAMES), "_type": "ClassLabel"}
    return _value(field.type)


def _value(kind: pa.DataType) -> Any:
    if pa.types.is_list(kind):
        return [_value(kind.value_type)]  # the spelling that every version of `datasets` reads
    if pa.types.is_struct(kind):
        return {child.name: _value(child.type) for child in kind.fields}
    return {"dtype": _hub_name(kind), "_type": "Value"}


def card_features() -> list[dict[str, Any]]:
    """The columns as the YAML of a dataset card spells them.

    A ClassLabel is an int64 to `datasets`, so it takes a card to make it one of an int8 column:
    metadata of another type than the column's is ignored.
    """
    return [{"name": field.name, **_card_type(field)} for field in PAIR_SCHEMA]


def _card_type(field: pa.Field) -> dict[str, Any]:
    if field.name == "image":
        return {"dtype": "image"}
    if field.name in _LABEL_COLUMNS:
        return {"dtype": {"class_label": {"names": {str(i): name for i, name in enumerate(LABEL_NAMES)}}}}
    if not pa.types.is_list(field.type):
        return {"dtype": _hub_name(field.type)}
    element = field.type.value_type
    if pa.types.is_struct(element):
        return {"list": [{"name": child.name, "dtype": _hub_name(child.type)} for child in element.fields]}
    return {"list": _hub_name(element)}


def _hub_name(kind: pa.DataType) -> str:
    """What `datasets` calls a type: Arrow prints float32 as `float`."""
    return "float32" if pa.types.is_float32(kind) else str(kind)


@cache
def leaf_columns() -> tuple[str, ...]:
    """The dotted paths of the Parquet columns behind `PAIR_SCHEMA`."""
    empty = io.BytesIO()
    pq.write_table(PAIR_SCHEMA.empty_table(), empty)
    schema = pq.read_metadata(empty).schema
    return tuple(schema.column(i).path for i in range(len(schema)))


def parquet_options(*, with_images: bool) -> dict[str, Any]:
    """Keyword arguments of `pyarrow.parquet.ParquetWriter` for a shard.

    A picture is compressed already, so its bytes are stored as they are. No dictionaries: in 256 rows they
    save nothing that zstd does not. Labels are packed into bits, which is quicker than zstd on whole bytes.
    Version 2 pages spare empty columns the compressor, which halves the time of a dataset without pictures.
    A page ends when it holds a megabyte, looked at every few pictures.
    """
    return {
        "compression": {path: "zstd" for path in leaf_columns() if path != IMAGE_BYTES},
        "use_dictionary": False,
        "column_encoding": dict.fromkeys(_LABELS, "DELTA_BINARY_PACKED"),
        "write_statistics": INDEXED,
        "write_page_index": True,
        "write_page_checksum": True,  # so that a reader notices a flipped bit
        "data_page_version": "2.0",
        "write_batch_size": 16 if with_images else 1024,
    }
