"""Croissant: the unchanged shards and dropped rows, with a card and croissant.json to describe them."""

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow.compute as pc

from mvsent.errors import DatasetError
from mvsent.shards.card import card
from mvsent.shards.croissant import CROISSANT_FILE, croissant_text
from mvsent.shards.manifest import Shard
from mvsent.shards.reader import Dataset
from mvsent.shards.rejected import REJECTED_FILE

_CHUNK_BYTES = 1 << 20


def write(dataset: Dataset, folder: Path, on_shard: Callable[[int], object]) -> None:
    """Copy the shards into `folder`, checking their hashes, and describe them.

    Raises: DatasetError for an altered shard.
    """
    (folder / "data").mkdir()
    for shard in dataset.manifest.shards:
        _copy(dataset.folder, folder, shard)
        on_shard(shard.rows)
    if (rejected := dataset.folder / REJECTED_FILE).is_file():
        shutil.copyfile(rejected, folder / REJECTED_FILE)
    licenses = count_licenses(dataset)
    (folder / "README.md").write_text(card(dataset.manifest, licenses), encoding="utf-8")
    (folder / CROISSANT_FILE).write_text(croissant_text(dataset.manifest, licenses), encoding="utf-8")


def count_licenses(dataset: Dataset) -> Counter[str]:
    """Number of pictures by licence; empty if none is known."""
    found = pc.value_counts(dataset.table(["license"])["license"]).to_pylist()
    if all(entry["values"] is None for entry in found):
        return Counter()
    return Counter({entry["values"] or "not stated": entry["counts"] for entry in found})


def _copy(source: Path, target: Path, shard: Shard) -> None:
    digest = hashlib.sha256()
    with (source / shard.path).open("rb") as file, (target / shard.path).open("xb") as copy:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            copy.write(chunk)
    if digest.hexdigest() != shard.sha256:
        raise DatasetError(f"{source / shard.path}: altered", f"See what else is: mvsent validate {source}")
