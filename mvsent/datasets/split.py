"""A dataset's split: made by a named protocol or read from a file, and stored in the dataset's folder."""

import errno
import json
import logging
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mvsent.datasets.carve import carve_validation
from mvsent.datasets.leaks import (
    Leak,
    Left,
    NearCopies,
    NearLeak,
    count_leak,
    count_near_leak,
    dataset_groups,
    find_near_copies,
    left_by,
    owner_groups,
)
from mvsent.datasets.split_files import FoundSplit, SplitFiles, read_split_files
from mvsent.errors import SplitError, UsageError
from mvsent.pairs import LABEL_NAMES
from mvsent.report.datasets import leak_lines, left_lines, shared_lines
from mvsent.shards.atomic import atomic_write
from mvsent.shards.reader import Dataset
from mvsent.splits import (
    GROUPED,
    GROUPED_NEAR,
    PROTOCOLS,
    ROLES,
    VALIDATION,
    Split,
    make_split,
    plain_protocol,
    read_split,
    write_split,
)
from mvsent.storage import make_folder

log = logging.getLogger("mvsent")

DEFAULT_PROTOCOL = "paper-5x"
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


Files = SplitFiles | Path | None
"""The files of a split; a path alone is read as `SplitFiles` by default; None: the split of a protocol."""


@dataclass(frozen=True)
class SplitResult:
    """A split and its file.

    Attributes:
        labels: int8 [N].
        leak: the split's own; of a grouped protocol that of the plain one.
        owners: the same leak by owner: test rows with a training row of their owner.
        near: the near copies that split files or a grouped protocol leak; None if there are too many rows.
        left: the leak that a grouped protocol leaves; None for others.
        notes: how split files were read.
    """

    path: Path
    split: Split
    labels: npt.NDArray[np.int8]
    leak: Leak
    owners: Leak
    near: NearLeak | None = None
    left: Left | None = None
    notes: list[str] = field(default_factory=list)

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
            "left_out": self.split.n_left_out,
            "leak": asdict(self.leak),
            "owners": asdict(self.owners),
            "near_copies": self.near and asdict(self.near),
            "left": self.left and asdict(self.left),
            "notes": self.notes,
        }

    def _label_counts(self, fold: int, role: int) -> dict[str, int]:
        labels = self.labels[self.split.rows(fold, role)]
        return dict(zip(LABEL_NAMES, np.bincount(labels, minlength=3).tolist(), strict=True))


def split_dataset(folder: Path, protocol: str = "", seed: int = 0, split_file: Files = None) -> SplitResult:
    """Store the split by `protocol`, or that of `split_file`, in the dataset's folder, unless it is there.

    Args:
        protocol: empty: paper-5x.

    Raises: UsageError for both a protocol and files; DatasetError or SplitError.
    """
    if protocol and split_file is not None:
        raise UsageError("--protocol and --split-file contradict each other", "Leave one of them out")
    dataset = Dataset.open(folder)
    dataset.require_labels()
    if split_file is not None:
        found = of_files(dataset, split_file, seed)
        path = keep_split(dataset, found.split)
        groups = dataset_groups(dataset)
        leak, owners = count_leaks(dataset, found.split, groups)
        near = _near_leak(dataset, found.split, groups)
        return SplitResult(path, found.split, dataset.labels, leak, owners, near, notes=found.notes)
    protocol = protocol or DEFAULT_PROTOCOL
    split = find_split(dataset, protocol, seed)
    path = keep_split(dataset, split)
    groups = dataset_groups(dataset)
    if not protocol.startswith(GROUPED):
        return SplitResult(path, split, dataset.labels, *count_leaks(dataset, split, groups))
    left = leak_left(dataset, split)
    plain = make_split(dataset.ids, dataset.labels, plain_protocol(protocol), seed)
    leak, owners = count_leaks(dataset, plain, groups)
    return SplitResult(path, split, dataset.labels, leak, owners, left.near, left)


def ensure_split(dataset: Dataset, protocol: str, seed: int = 0, split_file: Files = None) -> Split:
    """The dataset's split by `protocol` or in `split_file`; stored in its folder if that is writable.

    Logs, once, how split files were read and the leak of their split.

    Raises: SplitError.
    """
    notes: list[str] = []
    if split_file is None:
        split = find_split(dataset, protocol, seed)
    else:
        found = of_files(dataset, split_file, seed)
        split, notes = found.split, found.notes
    try:
        keep_split(dataset, split)
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise
        log.warning("%s: %s, so the split is not stored there", error.filename, error.strerror)
    if log.isEnabledFor(logging.INFO):
        _tell(dataset, split, notes, of_files=split_file is not None)
    return split


_TOLD: set[str] = set()
"""The splits that were told of: a benchmark asks for the same one in every cell."""


def _tell(dataset: Dataset, split: Split, notes: list[str], *, of_files: bool) -> None:
    """Log the leak of a split, and for files how they were read, once in this process."""
    which = f"{dataset.folder} {dataset.sha256} {split.protocol} {split.sha256}"
    if which not in _TOLD:
        _TOLD.add(which)
        if not of_files and split.protocol.startswith(GROUPED):
            lines = left_lines(asdict(leak_left(dataset, split)), split.protocol)
        else:
            groups = dataset_groups(dataset)
            leak, owners = (asdict(one) for one in count_leaks(dataset, split, groups))
            lines = shared_lines(leak, owners, split.protocol)
            if of_files:
                near = _near_leak(dataset, split, groups)
                lines = [*notes, *leak_lines(leak, owners, asdict(near) if near else None)]
        for line in lines:
            log.info("%s: %s", split.protocol, line)


def find_split(dataset: Dataset, protocol: str, seed: int, split_file: Files = None) -> Split:
    """The split in `split_file`, or the one stored in the folder, or a new one.

    Raises: UsageError for an unknown protocol; SplitError if training would lack a class, or if the file does
        not fit.
    """
    if split_file is not None:
        return of_files(dataset, split_file, seed).split
    plain = plain_protocol(protocol)
    stored = splits_folder(dataset) / split_name(protocol, seed)
    if stored.exists():
        return read_split(stored, dataset.ids)
    if plain == protocol:
        return make_split(dataset.ids, dataset.labels, protocol, seed)
    near = _near_copies(dataset, protocol)
    groups = _groups(dataset, protocol, near)
    split = make_split(dataset.ids, dataset.labels, protocol, seed, groups)
    return replace(split, leak=json.dumps(asdict(left_by(dataset, split, groups, near))))


def leak_left(dataset: Dataset, split: Split) -> Left:
    """The leak that a split by a grouped protocol leaves, as it was measured when the split was made.

    Raises: SplitError, see `find_near_copies`, if it has to be measured now.
    """
    if split.leak:
        return Left.of_json(split.leak)
    near = _near_copies(dataset, split.protocol)  # a file of an earlier version
    return left_by(dataset, split, _groups(dataset, split.protocol, near), near)


def _groups(dataset: Dataset, protocol: str, near: NearCopies | None) -> npt.NDArray[np.int64]:
    """The groups [N] that a grouped protocol keeps on one side."""
    return dataset_groups(dataset, owners=True, near=near if protocol.startswith(GROUPED_NEAR) else None)


def _near_copies(dataset: Dataset, protocol: str = "") -> NearCopies | None:
    """The near copies; None if they cannot be found and the protocol can do without."""
    try:
        return find_near_copies(dataset)
    except SplitError:
        if protocol.startswith(GROUPED_NEAR):
            raise
        return None


def _near_leak(dataset: Dataset, split: Split, groups: npt.NDArray[np.int64]) -> NearLeak | None:
    near = _near_copies(dataset)
    return count_near_leak(split, groups, near) if near else None


def of_files(dataset: Dataset, split_file: SplitFiles | Path, seed: int) -> FoundSplit:
    """The split of files, with validation rows where `validation_share` asks for them, and notes.

    Raises: SplitError if the files cannot be read, or do not fit the dataset.
    """
    files = split_file if isinstance(split_file, SplitFiles) else SplitFiles((split_file,))
    [first, *others] = files.paths
    is_own = not others and first.parent.resolve() == splits_folder(dataset).resolve()
    found = FoundSplit(read_split(first, dataset.ids)) if is_own else read_split_files(files, dataset)
    split, notes = found.split, found.notes
    lacking = [fold for fold in range(split.n_folds) if not len(split.rows(fold, VALIDATION))]
    if not files.validation_share:
        if lacking:
            notes = [*notes, "it has no validation rows; train needs some: --validation-share 0.1"]
        return FoundSplit(split, notes)
    if not lacking:
        return FoundSplit(split, [*notes, "it has validation rows, so --validation-share takes none"])
    carved = carve_validation(split, dataset.labels, dataset_groups(dataset), files.validation_share, seed)
    taken = f"{files.validation_share:g} of the training rows are now validation rows (seed {seed})"
    name = split.protocol if split.protocol.startswith("file-") else f"file-{split.protocol}"
    return FoundSplit(replace(carved, protocol=name, seed=seed), [*notes, taken])


def count_leaks(dataset: Dataset, split: Split, groups: npt.NDArray[np.int64]) -> tuple[Leak, Leak]:
    """The leak of `split` by duplicates, whose `groups` [N] are known, and by owners."""
    return count_leak(split, groups), count_leak(split, owner_groups(dataset))


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
