"""The pictures of a dataset of addresses and texts (`--metadata-only`), fetched later, by `mvsent fetch`.

The pairs, their labels and their ids stay. A picture that is gone by now drops its pair, with the reason.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mvsent.build.assemble import assemble, n_kept, wanted_parts
from mvsent.build.crawl_folder import PARTS, clear_up, workplace, write_dataset
from mvsent.build.crawl_progress import StageProgress
from mvsent.build.fetch import fetch_parts, fetch_policy
from mvsent.build.filters import SIZES
from mvsent.build.parts import picture_columns
from mvsent.build.search import BuildResult
from mvsent.config import FetchSettings
from mvsent.errors import DatasetError, InputError
from mvsent.fetch import Dropped, Fetched
from mvsent.pairs import ExtraType, pair_schema, pair_table
from mvsent.reasons import Rejection
from mvsent.shards.manifest import MANIFEST_FILE, Manifest
from mvsent.shards.reader import Dataset
from mvsent.shards.rejected import read_rejected
from mvsent.shards.staging import absolute, refuse_inside
from mvsent.shards.writer import DatasetWriter
from mvsent.sources.crawl.candidate import Size
from mvsent.workers.engine import LOCAL, Engine
from mvsent.workers.interrupt import interruptible

PART_ROWS = 1000
_OF_PICTURES = ("image", "width", "height", "sha256", "phash")


@dataclass(frozen=True, slots=True)
class ListedRow:
    """A pair without its picture: the values of its other columns, and the sizes to try."""

    id: str
    columns: Mapping[str, Any]
    sizes: tuple[Size, ...]

    @property
    def urls(self) -> tuple[str, ...]:
        """Addresses of its picture, in the order of trying them."""
        return tuple(size.url for size in self.sizes)


@dataclass(frozen=True)
class Filled:
    """The recipe of a dataset whose pictures are fetched."""

    extra: Mapping[str, ExtraType] = field(default_factory=dict)

    @property
    def schema(self) -> pa.Schema:
        return pair_schema(self.extra)

    def draft(self, row: ListedRow) -> ListedRow | Rejection:
        return row

    def read(self, drafts: Iterable[ListedRow], n_threads: int) -> Iterator[Fetched | Dropped]:
        return iter(())  # every row has an address

    def table(self, pairs: Sequence[tuple[ListedRow, Fetched]]) -> pa.Table:
        rows = []
        for row, fetched in pairs:
            size = next(size for size in row.sizes if size.url == fetched.asked)
            own = {"url": fetched.asked, "size": size.name or None, "watermarked": size.watermarked}
            rows.append({**row.columns, **own})
        names = [name for name in self.schema.names if name not in _OF_PICTURES]
        columns = {name: [row[name] for row in rows] for name in names}
        return pair_table(columns | picture_columns([fetched for _, fetched in pairs]), self.extra)


def fill_pictures(
    folder: Path,
    settings: FetchSettings,
    out: Path | None = None,
    *,
    overwrite: bool = False,
    workers: int = 0,
    engine: Engine = LOCAL,
    quiet: bool = False,
) -> BuildResult:
    """Fetch the pictures of a dataset of addresses, and write the dataset with them.

    Args:
        out: the new folder; None: FOLDER-pictures beside the dataset.

    Raises: DatasetError for a dataset that has pictures, or no addresses; Interrupted, Unreachable: the same
        call then continues.
    """
    dataset = Dataset.open(folder)
    extra = _extra_columns(dataset)
    target = absolute(out or dataset.folder.with_name(f"{dataset.folder.resolve().name}-pictures"))
    refuse_inside(target, dataset.folder)
    rows = _ListedRows(dataset)
    size = min(settings.shard_size, PART_ROWS)
    partitions = [range(start, min(start + size, len(dataset))) for start in range(0, len(dataset), size)]
    policy = fetch_policy(settings, settings.places, engine.threads(workers))
    with workplace(target, overwrite=overwrite, begun=PARTS) as work, engine, interruptible() as stop:
        # With a manifest, an earlier process was killed while it cleared up.
        if not (work / MANIFEST_FILE).exists():
            parts = work / PARTS
            parts.mkdir(exist_ok=True)
            with StageProgress("fetch", len(dataset), 0, "rows", quiet=quiet) as stage:
                fetch_parts(
                    Filled(extra),
                    partitions,
                    rows.load,
                    parts,
                    settings,
                    policy,
                    engine,
                    stop=stop,
                    on_progress=lambda n, n_pictures: stage.add(n, pictures=n_pictures),
                    on_pace=stage.tell_pace,
                )
            write = partial(_assemble, dataset, extra, settings, parts, quiet=quiet)
            write_dataset(work, target, write, overwrite=overwrite)
        clear_up(work, target)
    return BuildResult(target, Manifest.load(target))


def _extra_columns(dataset: Dataset) -> dict[str, ExtraType]:
    """Further columns of the dataset with its pictures. Raises: DatasetError if it lists no addresses."""
    extra = dict(dataset.manifest.extra_columns)
    if SIZES not in extra:
        raise DatasetError(
            f"{dataset.folder}: has no column {SIZES}, so it was not built with --metadata-only",
            "Name a dataset that was",
        )
    del extra[SIZES]
    return extra | {"size": "string", "watermarked": "bool"}


@dataclass(frozen=True)
class _ListedRows:
    """The rows of a dataset without pictures, read a partition at a time."""

    dataset: Dataset

    def load(self, numbers: range) -> list[ListedRow]:
        names = [name for name in self.dataset.schema.names if name not in _OF_PICTURES]
        wanted = np.zeros(len(self.dataset), dtype=bool)
        wanted[numbers.start : numbers.stop] = True
        tables = self.dataset.pairs(PART_ROWS, wanted)
        rows = [row for table in tables for row in table.select(names).to_pylist()]
        return [ListedRow(row["id"], row, _sizes(row.pop(SIZES))) for row in rows]


def _sizes(text: str | None) -> tuple[Size, ...]:
    try:
        return tuple(Size(*size) for size in json.loads(text or "[]"))
    except (ValueError, TypeError) as error:
        problem = f"the column {SIZES} cannot be read ({error})"
        raise DatasetError(problem, "Build the dataset again") from None


def _assemble(
    dataset: Dataset,
    extra: Mapping[str, ExtraType],
    settings: FetchSettings,
    folder: Path,
    out: Path,
    *,
    quiet: bool,
) -> None:
    """Write the dataset to `out`, of the parts in `folder`."""
    parts, manifest = wanted_parts(folder, settings), dataset.manifest
    if not n_kept(parts, settings):
        problem = f"{dataset.folder}: none of its pictures can be fetched"
        raise InputError(problem, "See whether its source still shows them")
    writer = DatasetWriter(
        out,
        manifest.name,
        settings={**manifest.settings, "metadata_only": False, "listed_sha256": dataset.sha256},
        shard_size=settings.shard_size,
        **{**manifest.layout, "extra_columns": extra},
    )
    with writer, StageProgress("assemble", len(parts), 0, "parts", quiet=quiet) as stage:
        for earlier in read_rejected(dataset.folder):
            writer.reject(earlier)
        assemble(parts, writer, settings, on_part=lambda n_done: stage.to(n_done, ""))
        notes = {"notes": manifest.notes} if manifest.notes else {}
        writer.finish(manifest.funnel.input, extra=notes)
