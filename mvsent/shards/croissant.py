"""`croissant.json`: the description of a dataset in MLCommons' Croissant 1.0, for search engines and loaders.

`mlcroissant` reads it: `mlcroissant.Dataset("FOLDER/croissant.json").records("pairs")`.
"""

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from mvsent.pairs import EXTRA_TYPES, LABEL_COLUMNS, LABEL_NAMES, Column, columns_of
from mvsent.shards.manifest import Manifest
from mvsent.shards.terms import joint_terms

CROISSANT_FILE = "croissant.json"
PROJECT_URL = "https://github.com/mvsent/mvsent"

_SHARDS, _PAIRS, _LABELS = "shards", "pairs", "labels"
_PARQUET = "application/x-parquet"

_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
} | {
    term: f"cr:{term}"
    for term in (
        *("citeAs", "column", "equivalentProperty", "extract", "field", "fileObject", "fileProperty"),
        *("fileSet", "format", "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path"),
        *("recordSet", "references", "regex", "repeated", "replace", "samplingRate", "separator", "source"),
        *("subField", "transform"),
    )
}
"""The terms of Croissant 1.0; readers warn if one is missing, even if it is not used."""


def croissant(manifest: Manifest, licenses: Mapping[str, int]) -> dict[str, Any]:
    """The description as JSON-LD. `licenses` is the number of pictures by licence, if known."""
    terms = joint_terms(manifest.sources)
    labels = ", ".join(f"{n} {name}" for name, n in manifest.labels.items())
    description = [
        f"{manifest.funnel.kept} pairs of image and text with a sentiment ({labels}), "
        f"written by mvsent {manifest.mvsent_version}. Its rows have the hash {manifest.sha256}.",
        terms.text.replace("\n", " "),
    ]
    if licenses:
        counts = ", ".join(f"{name} {licenses[name]}" for name in sorted(licenses))
        description.append(f"Licences: {counts}.")
    shards = [
        {
            "@type": "cr:FileObject",
            "@id": shard.path,
            "name": shard.path,
            "contentUrl": shard.path,
            "contentSize": f"{shard.bytes} B",
            "encodingFormat": _PARQUET,
            "sha256": shard.sha256,
        }
        for shard in manifest.shards
    ]
    # The shards once more: mlcroissant finds local files only by a file set, and only without `containedIn`.
    # It fails on a set that is contained in several Parquet files, although its checker accepts one.
    every_shard = {
        "@type": "cr:FileSet",
        "@id": _SHARDS,
        "name": _SHARDS,
        "description": "the Parquet shards beside this file",
        "encodingFormat": _PARQUET,
        "includes": "data/*.parquet",
    }
    label_names = {
        "@type": "cr:RecordSet",
        "@id": _LABELS,
        "name": _LABELS,
        "description": "what the numbers of the labels mean",
        "dataType": "sc:Enumeration",
        "key": {"@id": f"{_LABELS}/value"},
        "field": [
            {"@type": "cr:Field", "@id": f"{_LABELS}/value", "name": "value", "dataType": "sc:Integer"},
            {"@type": "cr:Field", "@id": f"{_LABELS}/name", "name": "name", "dataType": "sc:Text"},
        ],
        "data": [{f"{_LABELS}/value": i, f"{_LABELS}/name": name} for i, name in enumerate(LABEL_NAMES)],
    }
    extra = [
        Column(name, EXTRA_TYPES[kind], "a column of the table that the pairs come from")
        for name, kind in manifest.extra_columns.items()
    ]
    pairs = {
        "@type": "cr:RecordSet",
        "@id": _PAIRS,
        "name": _PAIRS,
        "description": "one record a pair of image and text",
        "key": {"@id": f"{_PAIRS}/id"},
        "field": [*map(_field, columns_of(manifest.schema_version)), *map(_field, extra)],
    }
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": manifest.name,
        "description": " ".join(filter(None, description)),
        "license": terms.license,
        "citeAs": terms.citation,
        "url": PROJECT_URL,
        "version": f"{manifest.schema_version}.0.0",
        "datePublished": manifest.created_at.isoformat(),
        "keywords": ["multimodal", "sentiment analysis", "image", "text"],
        "distribution": [*shards, every_shard],
        "recordSet": [label_names, pairs],
    }


def croissant_text(manifest: Manifest, licenses: Mapping[str, int]) -> str:
    """The text of `croissant.json`, see `croissant`."""
    return json.dumps(croissant(manifest, licenses), indent=2, ensure_ascii=False) + "\n"


def _field(column: Column) -> dict[str, Any]:
    """A column of the shards, with its description."""
    found = {**_node(f"{_PAIRS}/{column.name}", column.name), "source": _source(column.name)}
    found["description"] = column.meaning
    if column.name == "image":
        return {**found, "dataType": "sc:ImageObject", "source": _source("image", "bytes")}
    if column.name in LABEL_COLUMNS:
        return {**found, "dataType": "sc:Integer", "references": {"field": {"@id": f"{_LABELS}/value"}}}
    if not pa.types.is_list(column.type):
        return {**found, "dataType": _data_type(column.type)}
    element = column.type.value_type
    if not pa.types.is_struct(element):
        return {**found, "dataType": _data_type(element), "repeated": True}
    members = [
        {
            **_node(f"{found['@id']}/{member.name}", member.name),
            "dataType": _data_type(member.type),
            "source": _source(column.name, member.name),
        }
        for member in element.fields
    ]
    return {**found, "repeated": True, "subField": members}


def _node(id: str, name: str) -> dict[str, Any]:
    return {"@type": "cr:Field", "@id": id, "name": name}


def _source(column: str, member: str = "") -> dict[str, Any]:
    source: dict[str, Any] = {"fileSet": {"@id": _SHARDS}, "extract": {"column": column}}
    return source | ({"transform": {"jsonPath": member}} if member else {})


def _data_type(kind: pa.DataType) -> str:
    if pa.types.is_timestamp(kind):
        return "sc:DateTime"
    if pa.types.is_floating(kind):
        return "sc:Float"
    return "sc:Integer" if pa.types.is_integer(kind) else "sc:Text"
