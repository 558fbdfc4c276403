"""A partition of rows → a Parquet file of pairs and one of rejections, however often it is tried."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from mvsent.build.spool import Spool
from mvsent.errors import Interrupted, Unreachable
from mvsent.fetch import Dropped, Fetched, FetchPolicy, ImageRequest, fetch_all
from mvsent.fetch.shared import LeasedLimits
from mvsent.pairs import PAIR_SCHEMA, REJECTED_SCHEMA
from mvsent.reasons import Rejection
from mvsent.shards.atomic import atomic_write
from mvsent.shards.schema import ROW_GROUP_ROWS, parquet_options

_EXTENSIONS = {"JPEG": "jpg", "TIFF": "tif"}
_FACTS = ("width", "height", "sha256", "phash")
BATCH_BYTES = 32 * 2**20

T = TypeVar("T")


class Drafted(Protocol):
    """A pair whose picture is fetched from the first of `urls` that gives it, or read if there are none."""

    @property
    def id(self) -> str: ...

    @property
    def urls(self) -> tuple[str, ...]: ...


class Recipe(Protocol):
    """How the rows of a source become pairs; it is pickled for workers elsewhere."""

    @property
    def schema(self) -> pa.Schema:
        """The columns of the pairs."""

    def draft(self, row: Any) -> Drafted | Rejection:
        """Apply every filter that needs no picture. A row that is not rejected has an id of its own."""

    def read(self, drafts: Iterable[Any], n_threads: int) -> Iterator[Fetched | Dropped]:
        """Read and check the pictures of the drafts without an address, in order."""

    def table(self, pairs: Sequence[tuple[Any, Fetched]]) -> pa.Table:
        """The pairs with their pictures, in the columns of `schema`."""


@dataclass(frozen=True, slots=True)
class Partition:
    """Rows that are fetched together, each with an `id`, and the name of the file for their pairs."""

    name: str
    found: Sequence[Any]

    @property
    def files(self) -> tuple[str, str, str]:
        """Names of the spool of an unfinished partition, the rejections and the pairs."""
        part = Path(self.name)
        return part.with_suffix(".spool").name, rejected_path(part).name, self.name


@dataclass(frozen=True, slots=True)
class Progress:
    """Candidates that are done, and pictures among them, since the last progress.

    Attributes:
        is_last: whether the partition has ended: its part is written, or `error` says why not.
    """

    n_done: int = 0
    n_pictures: int = 0
    is_last: bool = False
    error: Interrupted | Unreachable | None = None


def part_path(folder: Path, index: int) -> Path:
    """Path of the pairs of partition number `index`."""
    return folder / f"part-{index:05d}.parquet"


def finished_parts(folder: Path) -> list[Path]:
    """Paths of the pairs of finished partitions, in order."""
    parts = (path for path in folder.glob("part-*.parquet") if ".rejected." not in path.name)
    return sorted(parts, key=lambda path: (len(path.name), path.name))  # from 100000 on, numbers are longer


def rejected_path(part: Path) -> Path:
    """Path of the rejections of a partition."""
    return part.with_suffix(".rejected.parquet")


def rejections_of(part: Path) -> Iterator[tuple[str, str]]:
    """Reasons and details of the rejections of a partition."""
    table = pq.read_table(rejected_path(part), columns=["reason", "detail"])
    return zip(table["reason"].to_pylist(), table["detail"].to_pylist(), strict=True)


def fetch_partition(
    recipe: Recipe,
    policy: FetchPolicy,
    limits: LeasedLimits,
    known: Sequence[str],
    folder: Path,
    partition: Partition,
) -> Iterator[Progress]:
    """Write the part of `partition` in `folder`: its pairs, in order, and why other rows have none.

    An interrupted call leaves a spool in `folder`; the next one continues with it.

    Args:
        known: addresses of pictures that earlier processes fetched, as from `fetched_urls`.
    """
    spool_name, _, part_name = partition.files
    drafts = [(one.id, recipe.draft(one)) for one in partition.found]
    kept = [draft for _, draft in drafts if not isinstance(draft, Rejection)]
    wanted = [draft for draft in kept if draft.urls]
    here = [draft for draft in kept if not draft.urls]
    yield Progress(len(drafts) - len(kept))
    try:
        with limits, Spool(folder / spool_name) as spool:
            missing = [
                ImageRequest(one.id, one.urls[0], one.urls[1:]) for one in wanted if one.id not in spool
            ]
            yield Progress(len(wanted) - len(missing), spool.n_pictures)
            spooled = _one_per_host(one.urls[0] for one in wanted if spool.is_picture(one.id))
            for outcome in fetch_all(
                missing, policy, spool.add, limits=limits, stop=limits.stop, known=[*spooled, *known]
            ):
                yield Progress(1, isinstance(outcome, Fetched))
            outcomes = _until(limits.stop, recipe.read(here, policy.workers))
            n_written = _write_part(folder / part_name, recipe, drafts, outcomes, spool)
            if here:
                yield Progress(len(here), n_written - spool.n_pictures)
            # If the process is killed before this, the part exists, and the spool is removed with the folder.
            spool.remove()
    except (Interrupted, Unreachable) as error:
        # A value, since other workers are still to end; given after `limits` no longer listen, because
        # the reader may stop all workers now, and a listener of this process would set the user's `stop`.
        yield Progress(is_last=True, error=error)
    else:
        yield Progress(is_last=True)


def fetched_urls(folder: Path) -> list[str]:
    """Addresses of fetched pictures in the last three parts of `folder`, one per host."""
    # ParquetFile, because pq.read_table imports pandas, which takes seconds, and a build may fetch nothing.
    return _one_per_host(
        url
        for part in finished_parts(folder)[-1:-4:-1]
        for url in pq.ParquetFile(part).read(["url"])["url"].to_pylist()
        if url
    )


def _one_per_host(urls: Iterable[str]) -> list[str]:
    return list({urlsplit(url).hostname: url for url in urls}.values())


def _until(stop: threading.Event, outcomes: Iterable[T]) -> Iterator[T]:
    """Yield the outcomes. Raises: Interrupted once `stop` is set."""
    for outcome in outcomes:
        if stop.is_set():
            raise Interrupted
        yield outcome


def _write_part(
    part: Path,
    recipe: Recipe,
    drafts: Sequence[tuple[str, Drafted | Rejection]],
    outcomes: Iterator[Fetched | Dropped],
    spool: Spool,
) -> int:
    """Write the rejections and the pairs, which get their name last: they mark the partition as done.

    Returns the number of pairs.
    """
    rejected: list[tuple[str, str, str]] = []  # complete once `pairs` is exhausted

    def pairs() -> Iterator[tuple[Drafted, Fetched]]:
        for id, draft in drafts:
            outcome: Fetched | Dropped | Rejection
            if isinstance(draft, Rejection):
                outcome = draft
            else:
                outcome = spool.get(id) if draft.urls else next(outcomes)
                if isinstance(outcome, Fetched):
                    yield draft, outcome
                    continue
            rejected.append((id, str(outcome.reason), outcome.detail))

    n_pairs = 0
    options = parquet_options(with_images=True, extra=recipe.schema.names[len(PAIR_SCHEMA) :])
    with atomic_write(part) as file:
        with pq.ParquetWriter(file, recipe.schema, **options) as writer:
            for batch in batches(pairs(), lambda pair: len(pair[1].data)):
                writer.write_table(recipe.table(batch), row_group_size=ROW_GROUP_ROWS)
                n_pairs += len(batch)
        # Inside the block of the pairs: whoever sees their file finds the rejections complete.
        with atomic_write(rejected_path(part)) as beside:
            pq.write_table(rejected_table(rejected), beside, compression="zstd")
    return n_pairs


def batches(items: Iterable[T], n_bytes: Callable[[T], int]) -> Iterator[list[T]]:
    """Group `items` into runs of one row group, or fewer once their pictures take BATCH_BYTES.

    Args:
        n_bytes: the size of an item's picture.
    """
    batch: list[T] = []
    total = 0
    for item in items:
        batch.append(item)
        total += n_bytes(item)
        if len(batch) == ROW_GROUP_ROWS or total >= BATCH_BYTES:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


def rejected_table(rows: Sequence[tuple[str, str, str]]) -> pa.Table:
    """A table of (id, reason, detail)."""
    columns = [[row[column] for row in rows] for column in range(len(REJECTED_SCHEMA))]
    return pa.table(columns, schema=REJECTED_SCHEMA)


def picture_columns(fetched: Sequence[Fetched]) -> dict[str, list[Any]]:
    """The columns image, width, height, sha256 and phash of fetched pictures."""
    facts = {name: [getattr(one.facts, name) for one in fetched] for name in _FACTS}
    return {"image": [{"bytes": one.data, "path": image_name(one)} for one in fetched], **facts}


def image_name(fetched: Fetched) -> str:
    """`123.jpg` for `flickr:123`; the extension follows the picture's format, not its address."""
    kind = fetched.facts.format
    stem = fetched.id.partition(":")[2].replace("/", "_")
    return f"{stem}.{_EXTENSIONS.get(kind, kind.lower())}"
