"""A dataset's split: made by a named protocol or read from a file, and stored in the dataset's folder."""

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

_BATCH_ROWS = 8192  # without pictures
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(frozen=True)
class SplitResult:
    """A split, its file, and for a grouped protocol the leak of the plain one."""

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
    """Store the split by `protocol`, or that of `split_file`, in the dataset's folder, unless it is there.

    Raises: DatasetError or SplitError.
    """
    dataset = Dataset.open(folder)
    dataset.classes  # noqa: B018  raises if a label is missing
    split = find_split(dataset, protocol, seed, split_file)
    path = keep_split(dataset, split)
    leak = None
    if split.protocol.startswith(GROUPED):
        plain = make_split(dataset.ids, dataset.labels, protocol.removeprefix(GROUPED), seed)
        leak = count_leak(plain, dataset_groups(dataset))
    return SplitResult(path, split, dataset.labels, leak)


def ensure_split(dataset: Dataset, protocol: str, seed: int = 0, split_file: Path | None = None) -> Split:
    """The dataset's split by `protocol` or in `split_file`; stored in its folder if that is writable.

    Raises: SplitError.
    """
    split = find_split(dataset, protocol, seed, split_file)
    try:
        keep_split(dataset, split)
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise
        log.warning("%s: %s, so the split is not stored there", error.filename, error.strerror)
    return split


def find_split(dataset: Dataset, protocol: str, seed: int, split_file: Path | None) -> Split:
    """The split in `split_file`, or the one stored in the folder, or a new one.

    Raises: UsageError for an unknown protocol; SplitError if training would lack a class, or if the file does
        not fit.
    """
    if split_file is not None:
        split = read_split(split_file, dataset.ids)
        own = split_file.parent.resolve() == splits_folder(dataset).resolve()
        return split if own else replace(split, protocol=f"file-{split_file.stem}", seed=0)
    if protocol not in PROTOCOLS:
        choice = f"Choose from {', '.join(PROTOCOLS)}"
        raise UsageError(f"unknown protocol {protocol!r}", did_you_mean(protocol, PROTOCOLS) + choice)
    stored = splits_folder(dataset) / split_name(protocol, seed)
    if stored.exists():
        return read_split(stored, dataset.ids)
    groups = dataset_groups(dataset) if protocol.startswith(GROUPED) else None
    return make_split(dataset.ids, dataset.labels, protocol, seed, groups)


def keep_split(dataset: Dataset, split: Split) -> Path:
    """Store the split in the dataset's folder under the name of its protocol, unless it is there."""
    path = splits_folder(dataset) / split_name(split.protocol, split.seed)
    # Protocol and seed determine a split; the name of a file says nothing about its content.
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
    """The file name of a split.

    >>> split_name("paper-5x", 0), split_name("kfold-10", 7)
    ('paper-5x.parquet', 'kfold-10-seed7.parquet')
    """
    return f"{protocol}-seed{seed}.parquet" if seed else f"{protocol}.parquet"


def splits_folder(dataset: Dataset) -> Path:
    """The folder of a dataset's splits."""
    return dataset.folder / "splits"


def dataset_groups(dataset: Dataset) -> npt.NDArray[np.int64]:
    """Group numbers [N] of duplicates, see `duplicate_groups`."""
    kinds: list[tuple[str, Callable[[Iterator[Any]], Keys]]] = [
        ("text", text_keys),
        ("sha256", string_keys),
        ("phash", look_keys),
    ]
    return groups_of((keys(_cells(dataset, column)) for column, keys in kinds), len(dataset))


def _cells(dataset: Dataset, column: str) -> Iterator[Any]:
    for batch in dataset.batches([column], _BATCH_ROWS):
        yield from batch[column].to_pylist()
