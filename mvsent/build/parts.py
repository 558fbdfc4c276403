"""A partition of candidates → a Parquet file of pairs and one of rejections, however often it is tried."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from mvsent.build.filters import Draft, apply_filters
from mvsent.build.spool import Spool
from mvsent.config import BuildSettings
from mvsent.errors import Interrupted, Unreachable
from mvsent.fetch import Fetched, FetchPolicy, ImageRequest, fetch_all
from mvsent.fetch.shared import LeasedLimits
from mvsent.pairs import PAIR_SCHEMA, REJECTED_SCHEMA, pair_table
from mvsent.reasons import Rejection
from mvsent.shards.atomic import atomic_write
from mvsent.shards.schema import ROW_GROUP_ROWS, parquet_options
from mvsent.sources.crawl.frontier import Found

_EXTENSIONS = {"JPEG": "jpg", "TIFF": "tif"}
BATCH_BYTES = 32 * 2**20

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Partition:
    """Candidates that are fetched together, and the name of the file for their pairs."""

    name: str
    found: Sequence[Found]

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


def fetch_partition(
    settings: BuildSettings,
    policy: FetchPolicy,
    limits: LeasedLimits,
    known: Sequence[str],
    folder: Path,
    partition: Partition,
) -> Iterator[Progress]:
    """Write the part of `partition` in `folder`: its pairs, in order, and why other candidates have none.

    An interrupted call leaves a spool in `folder`; the next one continues with it.

    Args:
        known: addresses of pictures that earlier processes fetched, as from `fetched_urls`.
    """
    spool_name, _, part_name = partition.files
    drafts = {one.id: apply_filters(one, settings) for one in partition.found}
    wanted = [draft for draft in drafts.values() if isinstance(draft, Draft)]
    yield Progress(len(drafts) - len(wanted))
    try:
        with limits, Spool(folder / spool_name) as spool:
            missing = [ImageRequest(one.found.id, one.url) for one in wanted if one.found.id not in spool]
            yield Progress(len(wanted) - len(missing), spool.n_pictures)
            spooled = _one_per_host(one.url for one in wanted if spool.is_picture(one.found.id))
            for outcome in fetch_all(
                missing, policy, spool.add, limits=limits, stop=limits.stop, known=[*spooled, *known]
            ):
                yield Progress(1, isinstance(outcome, Fetched))
            _write_part(folder / part_name, drafts, spool)
            # If the process is killed before this, the part exists, and the spool is removed with the folder.
            spool.remove()
    except (Interrupted, Unreachable) as error:
        # A value, since other workers are still to end; given after `limits` no longer listen, because
        # the reader may stop all workers now, and a listener of this process would set the user's `stop`.
        yield Progress(is_last=True, error=error)
    else:
        yield Progress(is_last=True)


def fetched_urls(folder: Path) -> list[str]:
    """Addresses of pictures in the last three parts of `folder`, one per host."""
    # ParquetFile, because pq.read_table imports pandas, which takes seconds, and a build may fetch nothing.
    return _one_per_host(
        url
        for part in finished_parts(folder)[-1:-4:-1]
        for url in pq.ParquetFile(part).read(["url"])["url"].to_pylist()
    )


def _one_per_host(urls: Iterable[str]) -> list[str]:
    return list({urlsplit(url).hostname: url for url in urls}.values())


def _write_part(part: Path, drafts: Mapping[str, Draft | Rejection], spool: Spool) -> None:
    """Write the rejections and the pairs, which get their name last: they mark the partition as done."""
    rejected: list[tuple[str, str, str]] = []  # complete once `pairs` is exhausted

    def pairs() -> Iterator[tuple[Draft, Fetched]]:
        for id, draft in drafts.items():
            outcome = draft if isinstance(draft, Rejection) else spool.get(id)
            if isinstance(draft, Draft) and isinstance(outcome, Fetched):
                yield draft, outcome
            elif not isinstance(outcome, Fetched):
                rejected.append((id, str(outcome.reason), outcome.detail))

    with atomic_write(part) as file:
        with pq.ParquetWriter(file, PAIR_SCHEMA, **parquet_options(with_images=True)) as writer:
            for batch in batches(pairs(), lambda pair: len(pair[1].data)):
                writer.write_table(_table(batch), row_group_size=ROW_GROUP_ROWS)
        # Inside the block of the pairs: whoever sees their file finds the rejections complete.
        with atomic_write(rejected_path(part)) as beside:
            pq.write_table(rejected_table(rejected), beside, compression="zstd")


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


def _table(pairs: Sequence[tuple[Draft, Fetched]]) -> pa.Table:
    """The pairs with every column that a search can fill."""
    drafts, fetched = zip(*pairs, strict=True)
    candidates = [one.candidate for one in drafts]
    facts = [one.facts for one in fetched]
    return pair_table(
        {
            "id": [one.found.id for one in drafts],
            "image": [{"bytes": one.data, "path": image_name(one)} for one in fetched],
            "text": [one.text for one in drafts],
            "label": [one.label for one in drafts],
            "source": [one.found.id.partition(":")[0] for one in drafts],
            "query": [one.query.text for one in drafts],
            "query_sentiment": [one.query.sentiment for one in drafts],
            "title": [one.title for one in candidates],
            "description": [one.description for one in candidates],
            "tags": [list(one.tags) for one in candidates],
            "width": [one.width for one in facts],
            "height": [one.height for one in facts],
            "sha256": [one.sha256 for one in facts],
            "phash": [one.phash for one in facts],
            "url": [one.url for one in drafts],
            "page_url": [one.page_url for one in candidates],
            "license": [one.license for one in candidates],
            "owner": [one.owner for one in candidates],
            "posted_at": [one.posted_at for one in candidates],
            "fetched_at": [one.found.found_at for one in drafts],
        }
    )


def image_name(fetched: Fetched) -> str:
    """`123.jpg` for `flickr:123`; the extension follows the picture's format, not its address."""
    kind = fetched.facts.format
    return f"{fetched.id.partition(':')[2]}.{_EXTENSIONS.get(kind, kind.lower())}"
