"""The storage format of pairs: Parquet options, and schema metadata for Hugging Face `datasets`."""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mvsent.pairs import COLUMNS, EXTRA_TYPES, LABEL_COLUMNS, LABEL_NAMES, PAIR_SCHEMA, columns_of

ROW_GROUP_ROWS = 256
"""Maximum rows of a row group, so that a row can be read without reading a whole shard."""

PICTURELESS_ROW_GROUP_ROWS = 65536
"""The same for shards without pictures, whose rows take only a few bytes."""

IMAGE_BYTES = "image.bytes"
_VOTES = ("votes.list.element.text", "votes.list.element.image")


def shard_name(index: int) -> str:
    """The path of shard number `index` in its dataset.

    >>> shard_name(7)
    'data/shard-00007.parquet'
    """
    return f"data/shard-{index:05d}.parquet"


def stored_schema(schema: pa.Schema, *, labelled: bool) -> pa.Schema:
    """The schema of a shard: with the metadata by which `datasets` recognises pictures and labels.

    Where every pair has a label, the column may not be null: so it was before version 2, and the same pairs
    give the same bytes.
    """
    features = {field.name: _feature(field) for field in schema}
    place = schema.get_field_index("label")
    label = schema.field(place).with_nullable(not labelled)
    return schema.set(place, label).with_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )


def _feature(field: pa.Field) -> Any:
    if field.name == "image":
        return {"_type": "Image"}
    if field.name in LABEL_COLUMNS:
        return {"names": list(LABEL_NAMES), "_type": "ClassLabel"}
    return _value(field.type)


def _value(kind: pa.DataType) -> Any:
    if pa.types.is_list(kind):
        return [_value(kind.value_type)]  # the spelling that every version of `datasets` reads
    if pa.types.is_struct(kind):
        return {child.name: _value(child.type) for child in kind.fields}
    return {"dtype": _hub_name(kind), "_type": "Value"}


def card_features(version: int, extra: Mapping[str, str]) -> list[dict[str, Any]]:
    """The columns of schema `version`, and the `extra` ones, as the YAML of a dataset card spells them.

    To `datasets` a ClassLabel is an int64, and metadata of another type than the column's is ignored. Only a
    card can therefore make an int8 column a ClassLabel.
    """
    features: list[dict[str, Any]] = []
    for column in columns_of(version):
        kind: dict[str, Any]
        if column.name == "image":
            kind = {"dtype": "image"}
        elif column.name in LABEL_COLUMNS:
            kind = {"dtype": {"class_label": {"names": {str(i): name for i, name in enumerate(LABEL_NAMES)}}}}
        elif not pa.types.is_list(column.type):
            kind = {"dtype": _hub_name(column.type)}
        elif pa.types.is_struct(element := column.type.value_type):
            kind = {"list": [{"name": one.name, "dtype": _hub_name(one.type)} for one in element.fields]}
        else:
            kind = {"list": _hub_name(element)}
        features.append({"name": column.name, **kind})
    return features + [{"name": name, "dtype": _hub_name(EXTRA_TYPES[kind])} for name, kind in extra.items()]


def _hub_name(kind: pa.DataType) -> str:
    """The name of a type in `datasets`; Arrow prints float32 as `float` and float64 as `double`."""
    return {"float": "float32", "double": "float64"}.get(str(kind), str(kind))


def aligned(table: pa.Table, columns: Sequence[str], schema: pa.Schema | None = None) -> pa.Table:
    """`columns` of `table`, typed as in `schema`, else `PAIR_SCHEMA`; null where an older `table` lacks one.

    Raises: pa.ArrowInvalid if a column that may not be null is missing, or one cannot be cast to its type.
    """
    schema = pa.schema([(schema or PAIR_SCHEMA).field(name) for name in columns])
    held = set(table.column_names)
    table = table.select([name for name in columns if name in held])
    for place, field in enumerate(schema):
        if field.name in held:
            continue
        if not field.nullable:
            raise pa.ArrowInvalid(f"no column {field.name}")
        table = table.add_column(place, field, pa.nulls(table.num_rows, field.type))
    return table.replace_schema_metadata() if table.schema.equals(schema) else table.cast(schema)


@cache
def leaf_columns() -> tuple[str, ...]:
    """The dotted paths of the Parquet columns behind `PAIR_SCHEMA`."""
    empty = io.BytesIO()
    pq.write_table(PAIR_SCHEMA.empty_table(), empty)
    schema = pq.read_metadata(empty).schema
    return tuple(schema.column(i).path for i in range(len(schema)))


def parquet_options(*, with_images: bool, extra: Iterable[str] = ()) -> dict[str, Any]:
    """Keyword arguments of `pyarrow.parquet.ParquetWriter` for a shard with the `extra` columns.

    Pictures are compressed already, so their bytes are stored unchanged. Dictionaries are off: in 256 rows
    they save nothing that zstd does not. Labels are packed into bits, which is quicker than zstd on whole
    bytes. Version 2 pages spare empty columns the compressor, which halves the time of a dataset without
    pictures. A page ends when it holds a megabyte, looked at every few pictures.
    """
    return {
        "compression": {path: "zstd" for path in (*leaf_columns(), *extra) if path != IMAGE_BYTES},
        "use_dictionary": False,
        "column_encoding": dict.fromkeys((*LABEL_COLUMNS, *_VOTES), "DELTA_BINARY_PACKED"),
        "write_statistics": [column.name for column in COLUMNS if column.indexed],
        "write_page_index": True,
        "write_page_checksum": True,  # lets a reader detect flipped bits
        "data_page_version": "2.0",
        "write_batch_size": 16 if with_images else 1024,
    }
