"""The pictures of a dataset of addresses and texts (`--metadata-only`), fetched later, by `mvsent fetch`.

The pairs, their labels and their ids stay. A picture that is gone by now drops its pair, with the reason.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from mvsent.build.filters import SIZES
from mvsent.build.known_rows import PART_ROWS, KnownRows, build_known_rows
from mvsent.build.parts import picture_columns
from mvsent.build.search import BuildResult
from mvsent.config import FetchSettings
from mvsent.curate.images import check_image
from mvsent.errors import DatasetError, InputError
from mvsent.fetch import Dropped, Fetched
from mvsent.pairs import ExtraType, pair_schema, pair_table
from mvsent.reasons import Reason, Rejection
from mvsent.shards.manifest import Manifest
from mvsent.shards.reader import Dataset
from mvsent.shards.rejected import read_rejected
from mvsent.shards.staging import absolute, refuse_inside
from mvsent.shards.writer import DatasetWriter
from mvsent.sources.crawl.candidate import Size
from mvsent.sources.registry import SEARCHED, searched
from mvsent.workers.engine import LOCAL, Engine

log = logging.getLogger("mvsent")

_SIZES = TypeAdapter(list[tuple[str, int, int, str, bool | None]], config={"strict": True})
_OF_PICTURES = ("image", "width", "height", "sha256", "phash")


@dataclass(frozen=True, slots=True)
class ListedRow:
    """A pair, most often without its picture.

    Attributes:
        columns: values of the columns that are not about the picture.
        sizes: to fetch the picture in, in the order of trying them.
        picture: its bytes, if the dataset has them, as for some rows of a merged one.
    """

    id: str
    columns: Mapping[str, Any]
    sizes: tuple[Size, ...]
    picture: bytes | None = None

    @property
    def urls(self) -> tuple[str, ...]:
        """Addresses of the picture, unless the dataset has it."""
        return () if self.picture else tuple(size.url for size in self.sizes)


@dataclass(frozen=True)
class Filled:
    """The recipe of a dataset whose pictures are fetched."""

    settings: FetchSettings
    extra: Mapping[str, ExtraType] = field(default_factory=dict)

    @property
    def schema(self) -> pa.Schema:
        return pair_schema(self.extra)

    def draft(self, row: ListedRow) -> ListedRow | Rejection:
        if row.picture or row.urls:
            return row
        return Rejection(Reason.IMAGE_MISSING, "the dataset has neither its picture nor an address")

    def read(self, drafts: Iterable[ListedRow], n_threads: int) -> Iterator[Fetched | Dropped]:
        """Check the pictures that the dataset has."""
        limits = self.settings
        for row in drafts:
            data = row.picture or b""
            facts = check_image(
                data, max_pixels=limits.max_pixels, max_bytes=limits.max_bytes, min_side=limits.min_side
            )
            if isinstance(facts, Rejection):
                yield Dropped(row.id, facts.reason, facts.detail)
            else:
                yield Fetched(row.id, data, facts, "")

    def table(self, pairs: Sequence[tuple[ListedRow, Fetched]]) -> pa.Table:
        rows = []
        for row, fetched in pairs:
            size = next((size for size in row.sizes if size.url == fetched.asked), None)
            own = size and {"url": size.url, "size": size.name or None, "watermarked": size.watermarked}
            rows.append({**row.columns, **(own or {})})
        names = [name for name in self.schema.names if name not in _OF_PICTURES]
        columns = {name: [row.get(name) for row in rows] for name in names}
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

    Raises: DatasetError for a dataset that has pictures, or no addresses; UsageError if other pictures were
        begun there; InputError if none can be fetched; Interrupted, Unreachable: the same call continues.
    """
    dataset = Dataset.open(folder)
    extra = _extra_columns(dataset)
    out = out or folder.with_name(f"{folder.resolve().name}-pictures")
    target = absolute(out)
    refuse_inside(target, dataset.folder)
    chosen = settings.model_dump(mode="json")
    recorded = {
        **dataset.manifest.settings,
        **chosen,
        "metadata_only": False,
        "listed_sha256": dataset.sha256,
    }
    kept = settings.model_dump(mode="json", exclude=settings.without_effect())
    rows = KnownRows(
        title="fetch",
        n_rows=len(dataset),
        load=partial(_load, dataset),
        recipe=Filled(settings, extra),
        settings=settings,
        identity={"dataset": dataset.sha256, **kept},
        recorded=recorded,
        writer=partial(_writer, dataset, extra, recorded, settings.shard_size),
        finish=partial(_finish, dataset),
        nothing=partial(_nothing, dataset),
    )
    build_known_rows(rows, target, overwrite=overwrite, workers=workers, engine=engine, quiet=quiet)
    if (dataset.folder / "splits").is_dir():
        log.warning("%s: its splits stay there, as the new dataset may have fewer rows. Split that", folder)
    return BuildResult(out, Manifest.load(target))


def _extra_columns(dataset: Dataset) -> dict[str, ExtraType]:
    """Further columns of the dataset with its pictures. Raises: DatasetError if it lists no addresses."""
    extra = dict(dataset.manifest.extra_columns)
    if SIZES not in extra:
        raise DatasetError(
            f"{dataset.folder}: has no column {SIZES}, so it was not built with --metadata-only",
            "Name a dataset that was",
        )
    del extra[SIZES]
    for name in sorted({id.partition(":")[0] for id in dataset.ids} & set(SEARCHED)):
        extra |= searched(name).columns
    return extra


def _load(dataset: Dataset, numbers: range) -> list[ListedRow]:
    """The rows with these numbers."""
    wanted = np.zeros(len(dataset), dtype=bool)
    wanted[numbers.start : numbers.stop] = True
    rows = [row for table in dataset.pairs(PART_ROWS, wanted) for row in table.to_pylist()]
    return [
        ListedRow(row["id"], row, _sizes(row["id"], row.pop(SIZES)), (row.pop("image") or {}).get("bytes"))
        for row in rows
    ]


def _sizes(id: str, text: str | None) -> tuple[Size, ...]:
    """The sizes that a cell of the column lists; it is untrusted. Raises: DatasetError."""
    try:
        return tuple(Size(*each) for each in _SIZES.validate_json(text or "[]"))
    except ValidationError:
        problem = f"{id}: the column {SIZES} is not a list of [address, width, height, name, watermarked]"
        raise DatasetError(problem, "Build the dataset again") from None


def _nothing(dataset: Dataset, counts: Counter[str], first: str) -> InputError:
    """The error that no picture can be fetched."""
    why = ", ".join(f"{n} {reason}" for reason, n in counts.most_common(3))
    return InputError(
        f"{dataset.folder}: none of its {len(dataset)} pictures can be fetched: {why}. The first: {first}",
        "Name a host inside this network with --allow-host HOST:PORT"
        if counts[Reason.BLOCKED_HOST]
        else "See whether the source still shows them, then run the same command",
    )


def _writer(
    dataset: Dataset, extra: Mapping[str, ExtraType], recorded: Mapping[str, Any], shard_size: int, out: Path
) -> DatasetWriter:
    layout = {**dataset.manifest.layout, "extra_columns": extra}
    return DatasetWriter(out, dataset.manifest.name, settings=recorded, shard_size=shard_size, **layout)


def _finish(dataset: Dataset, writer: DatasetWriter, left: Sequence[range]) -> None:
    """End the dataset with what the search dropped and noted; every row has been tried, so none is `left`."""
    for earlier in read_rejected(dataset.folder):
        writer.reject(earlier)
    notes = {"notes": dataset.manifest.notes} if dataset.manifest.notes else {}
    writer.finish(dataset.manifest.funnel.input, extra=notes)
