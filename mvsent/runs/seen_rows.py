"""Rows that a run has seen: hashes of the ids, texts and pictures of its training and validation rows.

Training records them in the run's folder, so that an evaluation on another dataset can tell which of its rows
are not new to the networks, wherever the training dataset is by then. The labels of the training rows are
recorded for the majority baseline.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
Labels = npt.NDArray[np.int64]


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
    """Write hashes and labels of the run's rows into its folder, unless they are there."""
    path = run.path / ROWS
    if path.is_file():
        return
    used, trained = _used(split), split.roles == TRAIN
    flags = {name: used[fold] for fold, name in enumerate(_used_columns(len(used)))}
    flags |= {name: trained[fold] for fold, name in enumerate(_trained_columns(len(used)))}
    schema = _schema(flags, labelled=True)
    with atomic_write(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        first = 0
        for block in _key_blocks(dataset):
            rows = slice(first, first := first + len(block["id"]))
            columns = {name: flag[rows] for name, flag in flags.items()}
            writer.write_table(pa.table({**block, "label": dataset.labels[rows], **columns}, schema))


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


def training_labels(run: RunFolder) -> list[Labels] | None:
    """Of each fold the labels of its training rows, as recorded, or of the run's dataset.

    None if neither is there: runs of an earlier version recorded no labels.

    Raises: RunError if the record is damaged.
    """
    path, n_folds = run.path / ROWS, run.resolved.n_folds
    flags = _trained_columns(n_folds)
    schema = _schema(flags, labelled=True, kinds=())
    table = _columns(path, schema) if path.is_file() else None
    if table is not None:
        labels = table["label"].to_numpy().astype(np.int64)
        return [labels[table[flag].to_numpy()] for flag in flags]
    try:
        dataset = own_dataset(run)
        split, labels = own_split(run, dataset), dataset.labels.astype(np.int64)
    except (MvsentError, OSError):
        return None
    return [labels[split.rows(fold, TRAIN)] for fold in range(n_folds)]


def _read(path: Path, n_folds: int) -> SeenRows:
    names = _used_columns(n_folds)
    table = _columns(path, _schema(names))
    if table is None:
        raise _damaged(path, "a column is missing")
    keys = {kind: table[kind].to_numpy() for kind in KINDS}
    return SeenRows(keys, np.array([table[name].to_numpy() for name in names], np.bool_))


def _columns(path: Path, schema: pa.Schema) -> pa.Table | None:
    """The columns of `schema` in the record; None if it lacks one. Raises: RunError if it is damaged."""
    try:
        with readable(path) as source, pq.ParquetFile(source) as file:
            if not {*schema.names} <= {*file.schema_arrow.names}:
                return None
            return file.read(columns=schema.names).cast(schema, safe=True)  # another type is an error here
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise _damaged(path, first_line(error)) from None


def _damaged(path: Path, problem: str) -> RunError:
    return RunError(
        f"{path}: not the hashes of a run's rows ({problem})",
        "Delete it: the rows are then read from the run's dataset",
    )


def _used_columns(n_folds: int) -> list[str]:
    """The names of the flags of training and validation rows."""
    return [f"fold_{fold}" for fold in range(n_folds)]


def _trained_columns(n_folds: int) -> list[str]:
    """The names of the flags of training rows."""
    return [f"trained_{fold}" for fold in range(n_folds)]


def _schema(flags: Iterable[str], *, labelled: bool = False, kinds: Sequence[str] = KINDS) -> pa.Schema:
    columns = [(kind, pa.uint64()) for kind in kinds]
    columns += [("label", pa.int8())] if labelled else []
    columns += [(name, pa.bool_()) for name in flags]
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns])


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
