"""Matching a metadata dump: the time beside reading its columns with pyarrow.csv, memory, and Ray's share.

The dump is drawn in YFCC100M's layout, not compressed (bzip2 takes longer than all else); the pairs are the
1200 ANPs. Ours is the match stage of `build-flickr --from` up to the files of candidates, in as many
processes as pyarrow.csv has threads; these are started before the measurement, as Ray's workers are.
`BENCH_DUMP_ROWS` says how many rows (default 1000000).
"""

import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.csv as arrow_csv

from benchmarks.memory import peak_megabytes
from mvsent.build.match_dump import match_part, matches_name, read_counts
from mvsent.lexicons import load_anps
from mvsent.sources.dump_files import Dump, DumpPart
from mvsent.sources.flickr import SOURCE, FlickrSettings
from mvsent.sources.flickr_rows import YFCC100M, columns_by_field
from mvsent.standin.drawn_dump import DumpDrawing, draw_dump

N, RUNS = int(os.environ.get("BENCH_DUMP_ROWS", "1000000")), int(os.environ.get("BENCH_DUMP_RUNS", "3"))
WORKERS = 2

Row = tuple[str, float, float, float, str]


def rows() -> list[Row]:
    """(figure, ours, the other's, ratio, goal): medians of alternating runs."""
    drawing = DumpDrawing({term.query: term.sentiment for term in load_anps()})
    pa.set_cpu_count(WORKERS)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        path = draw_dump(root / "dump.tsv", drawing, N)
        small = draw_dump(root / "small.tsv", drawing, N // 10)
        with get_context("spawn").Pool(WORKERS) as pool, ray_engine() as ray:
            ways: list[Callable[..., None]] = [
                partial(by_processes, pool),
                read_with_arrow,
                *([partial(by_engine, ray)] if ray else []),
            ]
            seconds = measured(ways, path, root)
        few, many = (in_a_child(memory, each, root) for each in (small, path))
        share = matched_share(path, root)
    ours, other, *others = (median(runs) for runs in seconds)
    table = [
        (
            f"match {N} rows ({share:.0%} with a pair) ÷ pyarrow.csv, {WORKERS} cores, s",
            ours,
            other,
            ours / other,
            "≤ 4",
        ),
        (f"peak memory of matching, {N} rows ÷ {N // 10}, MB", many, few, many / few, "≤ 1.2"),
    ]
    if others:
        figure = f"match {N} rows with Ray, {WORKERS} workers ÷ {WORKERS} processes, rows/s"
        table.append((figure, N / others[0], N / ours, ours / others[0], "≥ 0.85"))
    return table


def opened(path: Path) -> Dump:
    settings = FlickrSettings(dumps=(str(path),))
    dump = SOURCE.dump(settings, SOURCE.words(settings))
    assert dump
    return dump


def measured(ways: Sequence[Callable[..., None]], path: Path, root: Path) -> list[list[float]]:
    """Seconds of the runs of each way, without a first run, in which workers import."""
    seconds: list[list[float]] = [[] for _ in ways]
    for run in range(RUNS + 1):
        for way, taken in zip(ways, seconds, strict=True):
            with tempfile.TemporaryDirectory(dir=root) as folder:
                start = time.perf_counter()
                way(path, Path(folder))
                if run:
                    taken.append(time.perf_counter() - start)
    return seconds


def by_processes(pool: Any, path: Path, folder: Path) -> None:
    dump = opened(path)
    pool.map(partial(match_one, dump, folder), dump.parts, chunksize=1)


def match_one(dump: Dump, folder: Path, part: DumpPart) -> int:
    return sum(match_part(dump.scan, True, folder, part))


def by_engine(engine: Any, path: Path, folder: Path) -> None:
    dump = opened(path)
    work = partial(match_part, dump.scan, True)
    for _ in engine.spread(work, dump.parts, folder=folder, files=named, on_wait=lambda: None):
        pass
    if len(list(folder.iterdir())) != len(dump.parts):
        raise RuntimeError(f"{len(list(folder.iterdir()))} of {len(dump.parts)} parts")


def named(part: DumpPart) -> tuple[str]:
    return (matches_name(part),)


def read_with_arrow(path: Path, folder: Path) -> None:
    columns = list(YFCC100M[0])
    table = arrow_csv.read_csv(
        path,
        arrow_csv.ReadOptions(column_names=columns),
        arrow_csv.ParseOptions(delimiter="\t", quote_char=False),
        arrow_csv.ConvertOptions(
            include_columns=list(columns_by_field(columns).values()),
            column_types=dict.fromkeys(columns, pa.string()),
        ),
    )
    if table.num_rows != N:
        raise RuntimeError(f"{table.num_rows} rows")


def matched_share(path: Path, root: Path) -> float:
    """The share of the rows in the first part that contain a pair."""
    dump = opened(path)
    match_one(dump, root, dump.parts[0])
    counts = read_counts(root / matches_name(dump.parts[0])).rows
    return counts["matched"] / counts["rows"]


def in_a_child(work: Callable[[Path, Path], float], path: Path, root: Path) -> float:
    # Spawned, as a forked process would begin with the memory of this one.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, path, root).result()


def memory(path: Path, root: Path) -> float:
    """The peak memory of this process after it matched the whole file, in MB."""
    dump = opened(path)
    with tempfile.TemporaryDirectory(dir=root) as folder:
        for part in dump.parts:
            match_one(dump, Path(folder), part)
    return peak_megabytes()


@contextmanager
def ray_engine() -> Iterator[Any]:
    """An engine of a Ray with as many workers; None where Ray is not installed."""
    try:
        import ray

        from mvsent.workers.ray_engine import RayEngine
    except ImportError:
        print("bench_dump: without Ray's row, as ray is not installed", file=sys.stderr)
        yield None
        return
    given: dict[str, Any] = {"num_cpus": WORKERS, "include_dashboard": False, "log_to_driver": False}
    # "local" starts a cluster; without it, Ray would join one that already runs.
    ray.init(address="local", logging_level=logging.CRITICAL, **given)
    try:
        yield RayEngine("local")
    finally:
        ray.shutdown()


if __name__ == "__main__":
    for row in rows():
        print(row)
