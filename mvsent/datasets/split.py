"""A dataset's split: made by a named protocol or taken from a file, and kept in the dataset's folder."""

import errno
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mvsent.curate.duplicates import Keys, groups_of, look_keys, string_keys, text_keys
from mvsent.errors import SplitError, UsageError, did_you_mean
from mvsent.pairs import LABEL_NAMES
from mvsent.shards.atomic import atomic_write
from mvsent.shards.reader import Dataset
from mvsent.splits import (
    GROUPED,
    PROTOCOLS,
    ROLES,
    Leak,
    Split,
    count_leak,
    make_split,
    read_split,
    write_split,
)
from mvsent.storage import make_folder

log = logging.getLogger("mvsent")

_BATCH_ROWS = 8192
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(frozen=True)
class SplitResult:
    """A split, where it lies, and for a grouped protocol what the plain one would leak."""

    path: Path
    split: Split
    labels: npt.NDArray[np.int8]
    leak: Leak | None

    def document(self) -> dict[str, Any]:
        """The split as JSON: rows of each role and label in every fold."""
        return {
            "path": str(self.path),
            "protocol": self.split.protocol,
            "seed": self.split.seed,
            "sha256": self.split.sha256,
            "folds": [
                {role: self._label_counts(fold, number) for number, role in enumerate(ROLES)}
                for fold in range(self.split.n_folds)
            ],
            "leak": self.leak and vars(self.leak),
        }

    def _label_counts(self, fold: int, role: int) -> dict[str, int]:
        labels = self.labels[self.split.rows(fold, role)]
        return dict(zip(LABEL_NAMES, np.bincount(labels, minlength=3).tolist(), strict=True))


def split_dataset(
    folder: Path, protocol: str = "paper-5x", seed: int = 0, split_file: Path | None = None
) -> SplitResult:
    """`folder` holds its split by `protocol`, or the one in `split_file`; a second call changes nothing.

    Raises: DatasetError or SplitError.
    """
    dataset = Dataset.open(folder)
    split = find_split(dataset, protocol, seed, split_file)
    path = keep_split(dataset, split)
    leak = None
    if split.protocol.startswith(GROUPED):
        plain = make_split(dataset.ids, dataset.labels, protocol.removeprefix(GROUPED), seed)
        leak = count_leak(plain, dataset_groups(dataset))
    return SplitResult(path, split, dataset.labels, leak)


def ensure_split(dataset: Dataset, protocol: str, seed: int = 0, split_file: Path | None = None) -> Split:
    """The dataset's split by `protocol` or in `split_file`; kept in its folder if that can be written.

    Raises: SplitError.
    """
    split = find_split(dataset, protocol, seed, split_file)
    try:
        keep_split(dataset, split)
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise
        log.warning("%s: %s, so the split is not kept there", error.filename, error.strerror)
    return split


def find_split(dataset: Dataset, protocol: str, seed: int, split_file: Path | None) -> Split:
    """The split in `split_file`; else the one that the folder keeps; else a new one.

    Raises: UsageError for an unknown protocol; SplitError where training would lack a class, or the file does
        not fit.
    """
    if split_file is not None:
        split = read_split(split_file, dataset.ids)
        own = split_file.parent.resolve() == splits_folder(dataset).resolve()
        return split if own else replace(split, protocol=f"file-{split_file.stem}", seed=0)
    if protocol not in PROTOCOLS:
        choice = f"Choose from {', '.join(PROTOCOLS)}"
        raise UsageError(f"unknown protocol {protocol!r}", did_you_mean(protocol, PROTOCOLS) + choice)
    kept = splits_folder(dataset) / split_name(protocol, seed)
    if kept.exists():
        return read_split(kept, dataset.ids)
    groups = dataset_groups(dataset) if protocol.startswith(GROUPED) else None
    return make_split(dataset.ids, dataset.labels, protocol, seed, groups)


def keep_split(dataset: Dataset, split: Split) -> Path:
    """The split lies in the dataset's folder, under its protocol's name; what is there already stays."""
    path = splits_folder(dataset) / split_name(split.protocol, split.seed)
    if path.exists() and (split.protocol in PROTOCOLS or _same(path, split)):
        return path
    make_folder(path.parent)
    with atomic_write(path) as file:
        write_split(split, file)
    return path


def _same(path: Path, split: Split) -> bool:
    try:
        return read_split(path, split.ids).sha256 == split.sha256
    except SplitError:
        return False


def split_name(protocol: str, seed: int) -> str:
    """The file of a split.

    >>> split_name("paper-5x", 0), split_name("kfold-10", 7)
    ('paper-5x.parquet', 'kfold-10-seed7.parquet')
    """
    return f"{protocol}-seed{seed}.parquet" if seed else f"{protocol}.parquet"


def splits_folder(dataset: Dataset) -> Path:
    """Where a dataset keeps its splits."""
    return dataset.folder / "splits"


def dataset_groups(dataset: Dataset) -> npt.NDArray[np.int64]:
    """[N]: the group of duplicates of every row, see `duplicate_groups`."""
    kinds: list[tuple[str, Callable[[Iterator[Any]], Keys]]] = [
        ("text", text_keys),
        ("sha256", string_keys),
        ("phash", look_keys),
    ]
    return groups_of((keys(_cells(dataset, column)) for column, keys in kinds), len(dataset))


def _cells(dataset: Dataset, column: str) -> Iterator[Any]:
    for batch in dataset.batches([column], _BATCH_ROWS):
        yield from batch[column].to_pylist()
