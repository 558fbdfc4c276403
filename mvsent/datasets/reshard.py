"""A dataset → the same rows in shards of another size, with its rejected rows and splits."""

import sys
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from mvsent.datasets.merge import check_counts, rejected_rows
from mvsent.datasets.split import splits_folder
from mvsent.errors import UsageError
from mvsent.shards.atomic import atomic_write
from mvsent.shards.manifest import Manifest
from mvsent.shards.reader import Dataset
from mvsent.shards.staging import refuse_inside, staged
from mvsent.shards.writer import DatasetWriter
from mvsent.storage import make_folder

_BATCH_ROWS = 256


@dataclass(frozen=True, slots=True)
class ShardResult:
    """Where the dataset is, what it holds, and the splits that came with it."""

    folder: Path
    manifest: Manifest
    splits: list[str]


def reshard(
    folder: Path,
    rows_per_shard: int,
    out: Path | None = None,
    *,
    overwrite: bool = False,
    quiet: bool = False,
) -> ShardResult:
    """`out` holds the dataset in `folder`, its rows in the same order, in shards of `rows_per_shard`.

    Name, settings, funnel and notes are the same; the notes say which version it was made of. The splits fit,
    since ids and their order are the same. No more than a row group is in memory.

    Args:
        out: None for FOLDER-ROWS beside the dataset.

    Raises: UsageError, OutputExistsError or DatasetError; then `out` is as it was.
    """
    if rows_per_shard < 1:
        raise UsageError(
            f"--shard-size {rows_per_shard}: less than one", "Name a number of rows, such as 1000"
        )
    dataset = Dataset.open(folder)
    check_counts(dataset)
    out = out or dataset.folder.with_name(f"{dataset.folder.resolve().name}-{rows_per_shard}")
    refuse_inside(out, dataset.folder)
    manifest, hidden = dataset.manifest, quiet or not sys.stderr.isatty()
    with (
        staged(out, overwrite=overwrite) as fresh,
        DatasetWriter(fresh, manifest.name, settings=manifest.settings, shard_size=rows_per_shard) as writer,
        tqdm(total=len(dataset), unit="row", disable=hidden) as progress,
    ):
        for pairs in dataset.pairs(_BATCH_ROWS):
            writer.write(pairs)
            progress.update(pairs.num_rows)
        for dropped in rejected_rows(dataset):
            writer.reject(dropped)
        notes = {"sharded": {"version_before": dataset.sha256}, "before": manifest.notes}
        splits = _carry_splits(dataset, fresh)  # before the manifest, which says that all is there
        new = writer.finish(manifest.funnel.input, {"agreement": manifest.agreement, "notes": notes})
    return ShardResult(out, new, splits)


def _carry_splits(dataset: Dataset, fresh: Path) -> list[str]:
    """The files in `splits` lie in `fresh` too; returns their names."""
    found = sorted(splits_folder(dataset).glob("[!.]*.parquet"))
    if found:
        make_folder(fresh / "splits")
    for path in found:
        with atomic_write(fresh / "splits" / path.name) as file:
            file.write(path.read_bytes())
    return [path.name for path in found]
