"""The fetch stage of a build: every partition of the rows → a part in the build's folder."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mvsent.build.assemble import is_enough
from mvsent.build.crawl_progress import StageProgress
from mvsent.build.filters import Assembled
from mvsent.build.parts import Partition, Recipe, fetch_partition, fetched_urls, part_path
from mvsent.config import BuildSettings, PictureSettings
from mvsent.errors import Interrupted, MvsentError
from mvsent.fetch import FetchPolicy
from mvsent.fetch.shared import LeasedLimits, LimitsOffice
from mvsent.sources.crawl.frontier import Frontier
from mvsent.sources.table import TableSettings
from mvsent.workers.engine import Engine

_TELL_S = 2.0  # between two looks at the paces of hosts


def partitions(frontier: Frontier, settings: BuildSettings) -> list[Any]:
    """The candidates' numbers, cut into partitions, in the order of fetching.

    With `max_pairs` the queries take turns, or else the first ones alone would fill the dataset.
    """
    # For a few pairs a whole partition would be fetched mostly in vain.
    size = min(settings.shard_size, settings.max_pairs or settings.shard_size)
    numbers = frontier.numbers(by_turns=settings.max_pairs > 0)
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]


def fetch_policy(
    settings: PictureSettings | TableSettings, allowed: frozenset[tuple[str, int]], workers: int
) -> FetchPolicy:
    """The limits that the settings of a build state.

    Args:
        allowed: (host, port) of places that may be inside this network.
        workers: threads that check pictures.
    """
    return FetchPolicy(
        concurrency=settings.concurrency,
        max_bytes=settings.max_bytes,
        max_pixels=settings.max_pixels,
        min_side=settings.min_side,
        patience_s=settings.patience * 60,
        per_host_per_s=settings.images_per_second or None,
        allowed=allowed,
        workers=workers,
    )


def fetch_parts(
    recipe: Recipe,
    rows: Sequence[Any],
    load: Callable[[Any], Sequence[Any]],
    folder: Path,
    settings: Assembled,
    policy: FetchPolicy,
    engine: Engine,
    stage: StageProgress,
    *,
    stop: threading.Event,
) -> None:
    """Fetch partitions until each has its part in `folder`, or the first ones hold enough pairs.

    Args:
        rows: numbers of the rows of each partition.
        load: gives the rows with these numbers.
        stage: shows the rows that are done, and now and then the hosts that refuse.

    Raises: Interrupted if `stop` is set; Unreachable; EngineError; OSError. The parts and spools in `folder`
        then hold what was fetched, and the next call continues with either engine.
    """
    failed: MvsentError | None = None
    told_at = time.monotonic()

    def missing() -> Iterator[Partition]:
        # Engines take partitions as they have room, so parts that were written meanwhile end the list.
        for index, numbers in enumerate(rows):
            if stop.is_set() or failed or is_enough(folder, settings):
                return
            part = part_path(folder, index)
            if part.exists():
                stage.add(len(numbers), pictures=pq.read_metadata(part).num_rows)
            else:
                yield Partition(part.name, load(numbers))

    with engine.shared(LimitsOffice, policy.per_host_per_s) as office:
        limits = LeasedLimits(office, policy.per_host_per_s, stop)
        for progress in engine.as_completed(
            partial(fetch_partition, recipe, policy, limits, fetched_urls(folder)),
            missing(),
            folder=folder,
            files=attrgetter("files"),
            # Ray's workers do not see the `stop` of this process; the office passes it on.
            on_wait=lambda: office.stop() if stop.is_set() else None,
        ):
            stage.add(progress.n_done, pictures=progress.n_pictures)
            if progress.is_last or time.monotonic() - told_at > _TELL_S:
                stage.tell_pace(office.slowed())
                told_at = time.monotonic()
            if progress.is_last:
                # An interrupted worker only obeyed the office; the cause is the first other error.
                if not isinstance(progress.error, Interrupted):
                    failed = failed or progress.error
                if failed or is_enough(folder, settings):
                    office.stop()
    if stop.is_set():
        # The wish of the user comes before the question which host has failed.
        raise Interrupted
    if failed:
        raise failed
