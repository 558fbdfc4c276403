"""Rows that a run has seen: hashes of the ids, texts and pictures of its training and validation rows.

Training records them in the run's folder, so that an evaluation on another dataset can tell which of its rows
are not new to the networks, wherever the training dataset is by then.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mvsent.curate.duplicates import NO_KEY, Keys, look_keys, string_keys, text_keys
from mvsent.errors import MvsentError, RunError, first_line
from mvsent.runs.run_dataset import own_dataset, own_split
from mvsent.runs.run_folder import ROWS, RunFolder
from mvsent.shards.atomic import atomic_write
from mvsent.shards.reader import Dataset
from mvsent.splits import TRAIN, VALIDATION, Split
from mvsent.storage import readable

KINDS = ("id", "text", "picture", "look")
"""The ways in which an evaluated row can equal a seen one; `look` is the perceptual hash."""

_BATCH_ROWS = 8192  # without pictures

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class SeenRows:
    """Hashes of a run's rows, and which of them each fold's network has seen.

    Attributes:
        keys: one of `KINDS` → uint64 [N]; `NO_KEY` where a row has no such key.
        used: bool [F, N], whether a row was one of training or validation in a fold.
    """

    keys: Mapping[str, Keys]
    used: Bools

    def among(self, fold: int, others: Mapping[str, Keys]) -> dict[str, Bools]:
        """Whether each of the other rows [M] equals one that the fold's network has seen, by kind."""
        return {
            kind: np.isin(keys, self.keys[kind][self.used[fold]]) & (keys != NO_KEY)
            for kind, keys in others.items()
        }


def row_keys(dataset: Dataset) -> dict[str, Keys]:
    """The hashes of every row of a dataset, by kind; pictures are not read."""
    parts = list(_key_blocks(dataset))
    return {kind: np.concatenate([np.zeros(0, np.uint64), *(part[kind] for part in parts)]) for kind in KINDS}


def record_rows(run: RunFolder, dataset: Dataset, split: Split) -> None:
    """Write the hashes of the run's rows into its folder, unless they are there."""
    path = run.path / ROWS
    if path.is_file():
        return
    used = _used(split)
    folds = [f"fold_{fold}" for fold in range(len(used))]
    schema = _schema(folds)
    with atomic_write(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        first = 0
        for block in _key_blocks(dataset):
            size = len(block["id"])
            flags = {name: used[fold, first : first + size] for fold, name in enumerate(folds)}
            writer.write_table(pa.table({**block, **flags}, schema))
            first += size


def seen_rows(run: RunFolder) -> SeenRows | None:
    """The rows that the run has seen: as recorded, or of its dataset; None if neither is there.

    Raises: RunError if the record is damaged.
    """
    path = run.path / ROWS
    if path.is_file():
        return _read(path, run.resolved.n_folds)
    try:  # a run of an earlier version
        dataset = own_dataset(run)
        return SeenRows(row_keys(dataset), _used(own_split(run, dataset)))
    except (MvsentError, OSError):
        return None


def _read(path: Path, n_folds: int) -> SeenRows:
    names = [f"fold_{fold}" for fold in range(n_folds)]
    try:
        with readable(path) as source:
            table = pq.read_table(source, columns=[*KINDS, *names])
        # A column that is missing, or of another type, is an error here.
        table = table.cast(_schema(names), safe=True)
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise RunError(
            f"{path}: not the hashes of a run's rows ({first_line(error)})",
            "Delete it: the rows are then read from the run's dataset",
        ) from None
    keys = {kind: table[kind].to_numpy() for kind in KINDS}
    return SeenRows(keys, np.array([table[name].to_numpy() for name in names], np.bool_))


def _schema(folds: Sequence[str]) -> pa.Schema:
    numbers, flags = [(kind, pa.uint64()) for kind in KINDS], [(name, pa.bool_()) for name in folds]
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in (*numbers, *flags)])


def _used(split: Split) -> Bools:
    return np.isin(split.roles, (TRAIN, VALIDATION))


def _key_blocks(dataset: Dataset) -> Iterator[dict[str, Keys]]:
    for batch in dataset.batches(["id", "text", "sha256", "phash"], _BATCH_ROWS):
        columns = {name: batch[name].to_pylist() for name in batch.schema.names}
        yield {
            "id": string_keys(columns["id"]),
            "text": text_keys(columns["text"]),
            "picture": string_keys(columns["sha256"]),
            "look": look_keys(columns["phash"]),
        }
