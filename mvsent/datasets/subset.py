"""A dataset of some rows of another: by ids, a condition, the role of a split, or a share of each label."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tqdm import tqdm

from mvsent.datasets.conditions import matching_rows
from mvsent.datasets.merge import check_counts, rejected_rows
from mvsent.datasets.split import DEFAULT_PROTOCOL, find_split
from mvsent.datasets.split_files import SplitFiles, read_bytes
from mvsent.datasets.split_ids import NO_ROW, RowFinder, rows_of
from mvsent.datasets.split_tables import ROLE_WORDS, parse_split_table
from mvsent.errors import UsageError
from mvsent.pairs import REJECTED_SCHEMA
from mvsent.reasons import Reason
from mvsent.shards.manifest import Manifest
from mvsent.shards.reader import Dataset
from mvsent.shards.staging import absolute, refuse_inside, staged
from mvsent.shards.writer import DatasetWriter
from mvsent.splits import ROLES, encoded

Flags = npt.NDArray[np.bool_]

_BATCH_ROWS = 256


@dataclass(frozen=True)
class Selection:
    """The rows of a subset: those that fulfil every criterion that is given.

    Attributes:
        ids: a file of ids, in any layout of a split file.
        where: an SQL expression over the columns.
        role: train, validation or test, in `fold` of the split of `protocol` or `split_file`.
        fold: may be None if the split has one fold.
        protocol: empty: paper-5x.
        share: of the rows of each label that fulfil the other criteria, at random.
        seed: of the share and of the split.
    """

    ids: Path | None = None
    where: str = ""
    role: str = ""
    fold: int | None = None
    protocol: str = ""
    split_file: SplitFiles | None = None
    share: float | None = None
    seed: int = 0
    unknown: str = "refuse"

    def settings(self) -> dict[str, Any]:
        """The criteria that are given, as a manifest states them."""
        by_split = {
            "role": self.role,
            "fold": self.fold or 0,
            "split": self.split_file.described if self.split_file else self.protocol or DEFAULT_PROTOCOL,
        }
        return {
            **({"ids": self.ids.name} if self.ids else {}),
            **({"where": self.where} if self.where else {}),
            **(by_split if self.role else {}),
            **({"share": self.share} if self.share is not None else {}),
            **({"seed": self.seed} if self.share is not None or self.role else {}),
        }


@dataclass(frozen=True)
class Criterion:
    """Whether each row fulfils a criterion, and the detail of a row that does not."""

    fulfilled: Flags
    detail: str


@dataclass(frozen=True)
class SubsetResult:
    """The new dataset, and notes on how its rows were chosen."""

    folder: Path
    manifest: Manifest
    notes: list[str] = field(default_factory=list)


def subset(
    folder: Path,
    selection: Selection,
    out: Path | None = None,
    name: str = "",
    *,
    shard_size: int = 1000,
    overwrite: bool = False,
    quiet: bool = False,
) -> SubsetResult:
    """Write the selected rows of the dataset in `folder` to `out`, in their order.

    The other rows are rejected as `not-selected`, after those that the dataset had dropped itself, so the
    funnel begins with the first input. Pictures of other rows are not read, as far as row groups allow.

    Args:
        out: the new folder; None: FOLDER-subset beside the dataset.
        name: name of the dataset; empty: that of the folder.

    Raises: UsageError, OutputExistsError, SplitError or DatasetError; `out` is then unchanged.
    """
    if "/" in name or name in (".", ".."):
        raise UsageError(f"--name {name}: not a name", "Give the folder with --out")
    dataset = Dataset.open(folder)
    check_counts(dataset)
    out = out or dataset.folder.with_name(f"{dataset.folder.resolve().name}-subset")
    refuse_inside(out, dataset.folder)
    manifest, hidden, notes = dataset.manifest, quiet or not sys.stderr.isatty(), list[str]()
    criteria = criteria_of(dataset, selection, notes)
    selected = np.logical_and.reduce([each.fulfilled for each in criteria])
    if not selected.any():
        raise UsageError(f"{dataset.folder}: no row is selected", "Choose other criteria")
    settings = {
        "subset_of": list(manifest.sources),
        "dataset_sha256": dataset.sha256,
        **selection.settings(),
        "shard_size": shard_size,
    }
    layout = manifest.layout | {"labelled": not (dataset.labels[selected] < 0).any()}
    before = manifest.model_dump(mode="json", exclude={"shards"}, exclude_none=True)
    with (
        staged(out, overwrite=overwrite) as fresh,
        DatasetWriter(
            fresh, name or absolute(out).name, settings=settings, shard_size=shard_size, **layout
        ) as writer,
        tqdm(total=int(selected.sum()), unit="row", disable=hidden) as progress,
    ):
        for earlier in rejected_rows(dataset):
            writer.reject(earlier)
        writer.reject(_rejected(dataset, criteria))
        for pairs in dataset.pairs(_BATCH_ROWS, selected):
            writer.write(pairs)
            progress.update(pairs.num_rows)
        new = writer.finish(manifest.funnel.input, {"notes": {"subset_of": before}})
    return SubsetResult(out, new, notes)


def criteria_of(dataset: Dataset, selection: Selection, notes: list[str]) -> list[Criterion]:
    """The criteria of a selection, applied to the rows; the share comes last, as it is of what is left.

    Raises: UsageError if there is none; SplitError or UsageError if one cannot be applied.
    """
    criteria: list[Criterion] = []
    if selection.ids is not None:
        fulfilled = _listed(dataset, selection.ids, drop_unknown=selection.unknown == "drop")
        criteria.append(Criterion(fulfilled, f"not in {selection.ids.name}"))
    if selection.where:
        criteria.append(Criterion(matching_rows(dataset, selection.where), f"not: {selection.where[:200]}"))
    if selection.role:
        criteria.append(_of_role(dataset, selection))
    if selection.share is not None:
        if not 0 < selection.share <= 1:
            raise UsageError(f"--share {selection.share:g}: is no share", "Give one above 0, such as 0.2")
        left = np.logical_and.reduce([np.ones(len(dataset), bool), *(each.fulfilled for each in criteria)])
        chosen = share_of_labels(dataset.labels, left, selection.share, selection.seed)
        criteria.append(Criterion(chosen, f"not in the share of {selection.share:g}, seed {selection.seed}"))
        n_left, n_chosen = int(left.sum()), int(chosen.sum())
        notes.append(f"{n_chosen} of {n_left} rows, the same share of each label")
    if not criteria:
        raise UsageError("no rows are asked for", "Give --ids, --where, --role or --share")
    return criteria


def share_of_labels(labels: npt.NDArray[np.int8], left: Flags, share: float, seed: int) -> Flags:
    """Choose a random `share` of the rows of each label among those `left`: [N].

    A label that occurs keeps at least one row. Rows without a label, -1, count as a label.
    """
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels[left]):
        rows = np.flatnonzero(left & (labels == label))
        chosen[rng.permutation(rows)[: max(1, round(share * len(rows)))]] = True
    return chosen


def _listed(dataset: Dataset, path: Path, *, drop_unknown: bool) -> Flags:
    """Whether each row's id is in the file."""
    given, _ = encoded(pa.chunked_array([parse_split_table(path.name, read_bytes(path)).ids]))
    values = [str(each) for each in given]
    rows = rows_of(path.name, values, RowFinder(dataset.ids), drop_unknown=drop_unknown)
    fulfilled = np.zeros(len(dataset), dtype=bool)
    fulfilled[rows[rows != NO_ROW]] = True
    return fulfilled


def _of_role(dataset: Dataset, selection: Selection) -> Criterion:
    """Whether each row has the role in the fold. Raises: UsageError for an unknown role or fold."""
    role = ROLE_WORDS.get(selection.role, selection.role)
    if role not in ROLES:
        raise UsageError(f"--role {selection.role}: is no role", f"Choose from {', '.join(ROLES)}")
    if selection.split_file is None:
        dataset.require_labels()
    split = find_split(dataset, selection.protocol or DEFAULT_PROTOCOL, selection.seed, selection.split_file)
    fold = 0 if selection.fold is None and split.n_folds == 1 else selection.fold
    if fold is None or not 0 <= fold < split.n_folds:
        problem = (
            f"{split.protocol} has {split.n_folds} folds" if fold is None else f"there is no fold {fold}"
        )
        raise UsageError(f"--fold: {problem}", f"Choose from 0 to {split.n_folds - 1}")
    fulfilled = split.roles[fold] == ROLES.index(role)
    return Criterion(fulfilled, f"not {role} in fold {fold} of {split.protocol}")


def _rejected(dataset: Dataset, criteria: Sequence[Criterion]) -> pa.Table:
    """The rows that are not selected, each with the first criterion that it does not fulfil."""
    left, parts = np.ones(len(dataset), dtype=bool), [REJECTED_SCHEMA.empty_table()]
    first = np.full(len(dataset), -1, dtype=np.int64)
    for number, each in enumerate(criteria):
        first[left & ~each.fulfilled] = number
        left &= each.fulfilled
    rows = np.flatnonzero(first >= 0)
    details = pa.array([each.detail for each in criteria]).take(pa.array(first[rows]))
    reasons = pa.repeat(pa.scalar(str(Reason.NOT_SELECTED)), len(rows))
    parts.append(pa.table([dataset.ids.array.take(pa.array(rows)), reasons, details], schema=REJECTED_SCHEMA))
    return pa.concat_tables(parts)
