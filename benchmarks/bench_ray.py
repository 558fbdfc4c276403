"""The fetch stage by two workers of Ray ÷ two processes that share the partitions.

Ray, its workers and the object of their limits are started before the measurement.

Needs Ray and nginx: pictures as in bench_fetch. `BENCH_RAY_N` says how many (default 4000).
"""

import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from operator import attrgetter
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

from benchmarks.bench_fetch import N_DISTINCT, draw_pictures, nginx
from mvsent.build.crawled import Crawled
from mvsent.build.parts import Partition, fetch_partition, finished_parts, part_path
from mvsent.fetch import FetchPolicy
from mvsent.fetch.shared import LeasedLimits, LimitsOffice
from mvsent.sources.crawl.candidate import Candidate, Query, Size
from mvsent.sources.crawl.frontier import Found
from mvsent.sources.flickr import FlickrSettings
from mvsent.workers.engine import LOCAL, Engine
from mvsent.workers.ray_engine import RayEngine

N, RUNS = int(os.environ.get("BENCH_RAY_N", "4000")), int(os.environ.get("BENCH_RAY_RUNS", "3"))
WORKERS, PARTITION = 2, 200
SETTINGS = FlickrSettings(language="any")

Row = tuple[str, float, float, float, str]


def rows() -> list[Row]:
    """(figure, ours, the other's, ratio, goal): medians of alternating runs."""
    try:
        import ray
    except ImportError:
        ray = None  # type: ignore[assignment]
    if ray is None or not shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin"):
        print("bench_ray: skipped, needs ray and nginx", file=sys.stderr)
        return []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        draw_pictures(root / "www")
        given: dict[str, Any] = {"num_cpus": WORKERS, "include_dashboard": False, "log_to_driver": False}
        given["logging_level"] = "CRITICAL"
        # "local" starts a cluster; without it, Ray would join one that already runs.
        ray.init(address="local", **given)
        try:
            engine = RayEngine("local")
            with (
                nginx(root) as base,
                multiprocessing.get_context("spawn").Pool(WORKERS) as pool,
                engine.shared(LimitsOffice, None) as office,
            ):
                place = urlsplit(base)
                policy = FetchPolicy(workers=1, allowed=frozenset({(place.hostname or "", place.port or 80)}))
                ways = [partial(fetch, engine, office, policy), partial(by_processes, pool, policy)]
                seconds = measured(ways, base, root)
        finally:
            ray.shutdown()
    ours, other = (N / median(runs) for runs in seconds)
    return [(f"fetch {N} pictures with Ray, {WORKERS} workers ÷ {WORKERS} processes, images/s", ours, other,
             ours / other, "≥ 0.85")]  # fmt: skip


def measured(ways: Sequence[Callable[..., None]], base: str, root: Path) -> list[list[float]]:
    """Seconds of the runs of each way, without a first run, in which workers import."""
    seconds: list[list[float]] = [[] for _ in ways]
    for run in range(RUNS + 1):
        for way, taken in zip(ways, seconds, strict=True):
            with parts_in(root) as folder:
                todo = list(partitions(base, folder, N if run else 2 * WORKERS * PARTITION))
                start = time.perf_counter()
                way(folder, todo)
                if run:
                    taken.append(time.perf_counter() - start)
                if len(finished_parts(folder)) != len(todo):
                    raise RuntimeError(f"{len(finished_parts(folder))} of {len(todo)} parts")
    return seconds


@contextmanager
def parts_in(root: Path) -> Iterator[Path]:
    """An empty folder, gone after the block."""
    with tempfile.TemporaryDirectory(dir=root) as name:
        yield Path(name)


def partitions(base: str, folder: Path, n: int) -> Iterator[Partition]:
    """Candidates as a search leaves them, each with one address at `base`."""
    when = datetime(2024, 1, 1, tzinfo=UTC)
    query = Query(0, "happy dog", "happy_dog", 1.5)
    for index, first in enumerate(range(0, n, PARTITION)):
        found = []
        for i in range(first, min(first + PARTITION, n)):
            size = Size(f"{base}/{i % N_DISTINCT}.jpg", 800, 600)
            text = "a happy dog runs along the beach in the evening"
            candidate = Candidate(f"flickr:{i}", "", text, (), (size,), base, "", "somebody", when)
            found.append(Found(candidate.id, when, candidate, (query,)))
        yield Partition(part_path(folder, index).name, found)


def fetch(
    engine: Engine, office: LimitsOffice, policy: FetchPolicy, folder: Path, todo: Sequence[Partition]
) -> None:
    work = partial(fetch_partition, Crawled(SETTINGS), policy, LeasedLimits(office, None), [])
    for _ in engine.as_completed(work, todo, folder=folder, files=attrgetter("files"), on_wait=lambda: None):
        pass


def by_processes(pool: Any, policy: FetchPolicy, folder: Path, todo: Sequence[Partition]) -> None:
    pool.map(partial(fetch_one, policy, folder), todo, chunksize=1)


def fetch_one(policy: FetchPolicy, folder: Path, one: Partition) -> None:
    fetch(LOCAL, LimitsOffice(None), policy, folder, [one])


if __name__ == "__main__":
    for row in rows():
        print(row)
