"""Merge finished datasets into one: each id and picture once, contradicting labels settled by a rule."""

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from mvsent.config import MergeRules
from mvsent.curate.merging import (
    KEPT,
    MAX_ROWS,
    REASONS,
    Hashes,
    Keys,
    Rows,
    Verdict,
    merged,
    numbered,
)
from mvsent.errors import DatasetError, UsageError
from mvsent.pairs import LABEL_NAMES, REJECTED_SCHEMA, pair_schema
from mvsent.reasons import Reason
from mvsent.shards.manifest import Manifest
from mvsent.shards.reader import Dataset
from mvsent.shards.rejected import REJECTED_FILE, read_rejected
from mvsent.shards.schema import aligned
from mvsent.shards.staging import absolute, refuse_inside, staged
from mvsent.shards.writer import DatasetWriter

_BATCH_ROWS = 256  # with pictures: a row group
_KEY_ROWS = 8192
_DIGEST_BYTES = 16  # of ids and hashes: one collision in 10^18 datasets of 10^10 rows


@dataclass(frozen=True, slots=True)
class MergeResult:
    """The merged dataset, and the number of groups of duplicates with more than one label."""

    folder: Path
    manifest: Manifest
    n_conflicts: int


def merge(
    folders: Sequence[Path],
    out: Path,
    name: str = "",
    rules: MergeRules | None = None,
    *,
    overwrite: bool = False,
    quiet: bool = False,
) -> MergeResult:
    """Merge the datasets in `folders` into `out`: their rows in order, each picture and id once.

    The funnel's input includes all rows that went into them: rows that they had dropped come first in
    `rejected.parquet`. Rows keep their ids and labels. The same datasets in the same order give the same
    bytes.

    Only digests, hashes and labels of the rows are in memory, and the ids of dropped rows.

    Args:
        name: name of the dataset; empty: that of the folder.

    Raises: UsageError, OutputExistsError or DatasetError; `out` is then unchanged.
    """
    rules = rules or MergeRules()
    if "/" in name or name in (".", ".."):
        raise UsageError(f"--name {name}: not a name", "Give the folder with --out")
    datasets = _opened(folders, out, rules)
    hidden = quiet or not sys.stderr.isatty()
    # The manifest of each dataset without its shards.
    origins = [
        {
            "sha256": dataset.sha256,
            **dataset.manifest.model_dump(mode="json", exclude={"shards"}, exclude_none=True),
        }
        for dataset in datasets
    ]
    settings: dict[str, Any] = {
        "merged": [source for dataset in datasets for source in dataset.manifest.sources],
        "near_duplicates": rules.near_duplicates,
        "distance": rules.distance if rules.near_duplicates == "drop" else None,
        "conflict": rules.conflict,
        "shard_size": rules.shard_size,
    }
    layout = _layout(datasets)
    with (
        staged(out, overwrite=overwrite) as fresh,
        DatasetWriter(
            fresh, name or absolute(out).name, settings=settings, shard_size=rules.shard_size, **layout
        ) as writer,
        tqdm(total=sum(map(len, datasets)), unit="row", disable=hidden) as progress,
    ):
        verdict = merged(
            _keys(datasets), rules.conflict, rules.distance if rules.near_duplicates == "drop" else None
        )
        if not verdict.kept.any():
            raise DatasetError("no row is left: each contradicts another", "Choose another --conflict")
        for dataset in datasets:
            # With them, input = kept + dropped holds from the first search to this dataset.
            for earlier in rejected_rows(dataset):
                writer.reject(earlier)
        schema = pair_schema(layout["extra_columns"])
        for kept, dropped in _decided(datasets, verdict):
            writer.write(aligned(kept, schema.names, schema))
            writer.reject(dropped)
            progress.update(kept.num_rows + dropped.num_rows)
        manifest = writer.finish(
            sum(dataset.manifest.funnel.input for dataset in datasets),
            extra={"notes": {"merged": origins, "contradictions": verdict.n_conflicts}},
        )
    return MergeResult(out, manifest, verdict.n_conflicts)


def _opened(folders: Sequence[Path], out: Path, rules: MergeRules) -> list[Dataset]:
    """Open the datasets. Raises: UsageError or DatasetError if they cannot be merged."""
    if len(folders) < 2:
        raise UsageError("merging needs two datasets", "Name two or more: mvsent merge A B --out DIR")
    datasets = [Dataset.open(folder) for folder in folders]
    seen = dict[str, Dataset]()
    classes = {
        dataset.folder: ", ".join(name for name in LABEL_NAMES if dataset.manifest.labels.get(name)) or "none"
        for dataset in datasets
    }
    for dataset in datasets:
        refuse_inside(out, dataset.folder)
        check_counts(dataset)
    for dataset in datasets:
        other = seen.setdefault(dataset.sha256, dataset)
        if other is not dataset:
            is_same = other.folder == dataset.folder
            again = "is named twice" if is_same else f"holds the rows of {other.folder}"
            raise UsageError(f"{dataset.folder}: {again}", "Name every dataset once")
        first, own = classes[datasets[0].folder], classes[dataset.folder]
        if own != first and not rules.mixed_classes:
            raise UsageError(
                f"{dataset.folder} has the classes {own}, {datasets[0].folder} has {first}",
                "Add --mixed-classes if they may be mixed",
            )
    return datasets


def _layout(datasets: Sequence[Dataset]) -> dict[str, Any]:
    """The layout of the merged dataset: with the extra columns of all. Raises: UsageError if types differ."""
    extra: dict[str, str] = {}
    for dataset in datasets:
        for name, kind in dataset.manifest.extra_columns.items():
            if extra.setdefault(name, kind) != kind:
                raise UsageError(
                    f"{dataset.folder}: its column {name} is {kind}, an earlier dataset's is {extra[name]}",
                    "Build one of them again without that column",
                )
    kinds = {dataset.manifest.text_kind for dataset in datasets}
    return {
        "labelled": not any(dataset.manifest.n_unlabelled for dataset in datasets),
        "text_kind": kinds.pop() if len(kinds) == 1 else "captions" if "captions" in kinds else "",
        "extra_columns": extra,
    }


def check_counts(dataset: Dataset) -> None:
    """Raises: DatasetError if the dataset has no rows, or other numbers than its manifest states."""
    funnel = dataset.manifest.funnel
    if not len(dataset):
        raise DatasetError(f"{dataset.folder}: has no rows", "Leave it out")
    if not funnel.adds_up or funnel.kept != len(dataset):
        raise _altered(dataset)
    dataset.check_labels()


def _keys(datasets: Sequence[Dataset]) -> Keys:
    """The keys of all rows, read column by column; pictures and texts are not read."""
    starts = np.cumsum([0, *map(len, datasets)]).tolist()
    if starts[-1] > MAX_ROWS:
        raise UsageError(f"{starts[-1]} rows: more than {MAX_ROWS}", "Merge fewer datasets at a time")
    ids, pictures = (
        numbered(_column(datasets, name, np.zeros((starts[-1], 2), np.uint64), _digests))
        for name in ("id", "sha256")
    )
    phash = _column(datasets, "phash", np.zeros(starts[-1], np.uint64), _hashes)
    labels = _column(datasets, "label", np.zeros(starts[-1], np.int8), _labels)
    return Keys(starts, ids, pictures, phash, labels)


def _column(
    datasets: Sequence[Dataset], name: str, values: npt.NDArray[Any], read: Callable[[pa.Array], Any]
) -> npt.NDArray[Any]:
    """Fill `values` [N, …] with a column converted by `read`. Raises: DatasetError for an altered dataset."""
    last = 0
    for dataset in datasets:
        end = last + len(dataset)
        for batch in dataset.batches([name], _KEY_ROWS):
            converted = read(batch[name])
            rows = slice(last, last := last + batch.num_rows)
            if converted is None or last > end:
                raise _altered(dataset)
            values[rows] = converted
        if last != end:
            raise _altered(dataset)
    return values


def _altered(dataset: Dataset) -> DatasetError:
    return DatasetError(
        f"{dataset.folder}: its rows are not those of its manifest",
        f"See what is wrong: mvsent validate {dataset.folder}",
    )


def _labels(column: pa.Array) -> npt.NDArray[np.int8] | None:
    """The labels, -1 for null; None if one of them is invalid."""
    known = pc.is_in(column.drop_null(), pa.array(range(len(LABEL_NAMES)), pa.int8()))
    return column.fill_null(-1).to_numpy() if pc.all(known, min_count=0).as_py() else None


def _hashes(column: pa.Array) -> Hashes:
    hashes: Hashes = pc.fill_null(column, 0).to_numpy(zero_copy_only=False)
    return hashes


def _digests(texts: pa.Array) -> Hashes:
    """Digests [n, 2] of texts; zeros for null."""
    none = bytes(_DIGEST_BYTES)
    digests = [
        none if text is None else hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).digest()
        for text in texts.to_pylist()
    ]
    return np.frombuffer(b"".join(digests), dtype=np.uint64).reshape(-1, 2)


def rejected_rows(dataset: Dataset) -> Iterator[pa.Table]:
    """Read the dataset's `rejected.parquet` in parts.

    Raises: DatasetError if its number of rows is not that of the manifest.
    """
    path, n_rows = dataset.folder / REJECTED_FILE, 0
    known = pa.array([str(reason) for reason in Reason])
    for table in read_rejected(dataset.folder):
        n_rows += int(pc.sum(pc.is_in(table["reason"], value_set=known)).as_py() or 0)
        yield table
    n_dropped = dataset.manifest.funnel.n_dropped
    if n_rows != n_dropped:
        raise DatasetError(
            f"{path}: {n_rows} rows with a known reason, the manifest says {n_dropped}",
            f"See what is wrong: mvsent validate {dataset.folder}",
        )


def _decided(datasets: Sequence[Dataset], verdict: Verdict) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Yield (kept rows, dropped rows with their reasons) of each row group."""
    twins = _Twins(datasets, verdict)
    first = 0
    for dataset in datasets:
        for pairs in dataset.pairs(_BATCH_ROWS):
            rows = np.arange(first, first := first + pairs.num_rows)
            kept = verdict.reason[rows] == KEPT
            dropped = rows[~kept]
            ids = pairs["id"].take(pa.array(dropped - rows[0]))
            reasons = [str(REASONS[number]) for number in verdict.reason[dropped]]
            details = [f"{dataset.name}: like {twin}" for twin in twins.names(verdict.twin[dropped])]
            yield pairs.filter(pa.array(kept)), pa.table([ids, reasons, details], schema=REJECTED_SCHEMA)


class _Twins:
    """The ids of the rows that dropped rows repeat or contradict."""

    def __init__(self, datasets: Sequence[Dataset], verdict: Verdict) -> None:
        self._datasets = datasets
        self._starts = np.cumsum([0, *map(len, datasets)])
        self._rows = np.unique(verdict.twin[~verdict.kept])
        ids, first = [pa.array([], pa.string())], 0
        for dataset in datasets if len(self._rows) else []:
            for batch in dataset.batches(["id"], _KEY_ROWS):
                low, high = np.searchsorted(self._rows, [first, first + batch.num_rows])
                ids.append(batch["id"].take(pa.array(self._rows[low:high] - first)))
                first += batch.num_rows
        self._ids = pa.concat_arrays(ids)

    def names(self, rows: Rows) -> list[str]:
        """`ID of DATASET` for each row."""
        ids = self._ids.take(pa.array(np.searchsorted(self._rows, rows))).to_pylist()
        datasets = np.searchsorted(self._starts, rows, side="right") - 1
        return [f"{id} of {self._datasets[number].name}" for id, number in zip(ids, datasets, strict=True)]
