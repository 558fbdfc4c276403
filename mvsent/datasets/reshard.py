"""Write a dataset in shards of another size, with its rejected rows and splits."""

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
    """The new dataset, and the names of the copied splits."""

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
    """Write the dataset in `folder` to `out`, its rows in the same order, in shards of `rows_per_shard`.

    Name, settings and funnel are the same; the notes also state the version it was made from. The splits stay
    valid, as ids and their order are the same. Only a row group is in memory.

    Args:
        out: the new folder; None: FOLDER-ROWS beside the dataset.

    Raises: UsageError, OutputExistsError or DatasetError; `out` is then unchanged.
    """
    if rows_per_shard < 1:
        raise UsageError(
            f"--shard-size {rows_per_shard}: must be at least 1", "Give a number of rows, such as 1000"
        )
    dataset = Dataset.open(folder)
    check_counts(dataset)
    out = out or dataset.folder.with_name(f"{dataset.folder.resolve().name}-{rows_per_shard}")
    refuse_inside(out, dataset.folder)
    manifest, hidden = dataset.manifest, quiet or not sys.stderr.isatty()
    with (
        staged(out, overwrite=overwrite) as fresh,
        DatasetWriter(
            fresh, manifest.name, settings=manifest.settings, shard_size=rows_per_shard, **manifest.layout
        ) as writer,
        tqdm(total=len(dataset), unit="row", disable=hidden) as progress,
    ):
        for pairs in dataset.pairs(_BATCH_ROWS):
            writer.write(pairs)
            progress.update(pairs.num_rows)
        for dropped in rejected_rows(dataset):
            writer.reject(dropped)
        notes = {"sharded": {"version_before": dataset.sha256}, "before": manifest.notes}
        splits = sorted(splits_folder(dataset).glob("[!.]*.parquet"))
        if splits:
            make_folder(fresh / "splits")
        for path in splits:  # before the manifest, which marks the dataset as complete
            with atomic_write(fresh / "splits" / path.name) as file:
                file.write(path.read_bytes())
        new = writer.finish(manifest.funnel.input, {"agreement": manifest.agreement, "notes": notes})
    return ShardResult(out, new, [path.name for path in splits])
