"""The costs of a build: its memory by size, the calls for the photos of one query, and the use of the quota.

Memory is that of whole builds from a stand-in in another process, which answers quicker than `mvsent replay`:
all its pictures look alike and differ in a comment. `BENCH_BUILD_PAIRS=2000,20000` changes their sizes.
"""

import asyncio
import contextlib
import io
import os
import tempfile
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from aiohttp import web
from PIL import Image
from pydantic import SecretStr

from benchmarks.memory import peak_megabytes
from mvsent.build import search as builds
from mvsent.limits import HOUR_S, TokenBucket
from mvsent.sources import flickr, getty
from mvsent.sources.crawl.candidate import Candidate, Query, SearchPage, Size, Window
from mvsent.sources.crawl.crawl_queries import search
from mvsent.sources.crawl.frontier import Beginning, Frontier
from mvsent.sources.crawl.patience import Asker
from mvsent.sources.flickr import FlickrSettings
from mvsent.sources.registry import Paging

FEW, MANY = (int(n) for n in os.environ.get("BENCH_BUILD_PAIRS", "10000,100000").split(","))
PER_QUERY, SIDE = 500, 96
FLICKR_PHOTOS = (1, 499, 500, 501, 3999, 4000, 4001, 4499, 4500, 4501, 8000, 8001, 10_000, 50_000)
GETTY_PHOTOS = (1, 99, 100, 101, 1000, 4500, 10_000)
QUOTA, LATENCY_S, HOURS = 3600, 0.3, 3

Row = tuple[str, float, float, float, str]


def rows() -> list[Row]:
    """(figure, ours, the other's, ratio, goal): MB, then calls."""
    return [*memory_rows(), *call_rows(), *quota_rows()]


# Memory


def memory_rows() -> list[Row]:
    """The peak of a build with MANY pairs beside that of one with FEW."""
    with tempfile.TemporaryDirectory() as scratch, stand_in() as address:
        few, many = (build_in_a_child(address, Path(scratch, str(n)), n) for n in (FEW, MANY))
    return [(f"peak memory of a build, {MANY} pairs ÷ {FEW}, MB", many, few, many / few, "≤ 1.2")]


def build_in_a_child(address: str, folder: Path, n_pairs: int) -> float:
    # Spawned, as a forked process would begin with the memory of this one.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(build, address, folder, n_pairs).result()


def build(address: str, folder: Path, n_pairs: int) -> float:
    """Build n_pairs pairs under `folder`; the peak memory of this process in MB."""
    folder.mkdir()
    lexicon = folder / "lexicon.tsv"
    words = [f"thing_{n}\t{1 if n % 2 else -1}" for n in range(n_pairs // PER_QUERY)]
    lexicon.write_text("\n".join(["word\tsentiment", *words]) + "\n")
    settings = FlickrSettings(
        anps=str(lexicon),
        endpoint=f"{address}/services/rest/",
        per_query=PER_QUERY,
        quota_per_hour=10**7,  # no limit in effect: memory is measured, not politeness
        images_per_second=0,
    )
    keys = {flickr.KEY.name: SecretStr("key")}
    kept = builds.build(flickr.SOURCE, folder / "out", settings, keys, quiet=True).manifest.funnel.kept
    if kept != n_pairs:
        raise RuntimeError(f"{kept} pairs were built, not {n_pairs}")
    return peak_megabytes()


@contextlib.contextmanager
def stand_in() -> Iterator[str]:
    """Run a process that answers Flickr's search and serves the pictures; yields its address."""
    here, there = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=serve, args=(there,), daemon=True)
    process.start()
    try:
        yield here.recv()
    finally:
        process.terminate()
        process.join()


def serve(started: Connection) -> None:
    """Serve until killed; the address goes to `started`."""
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=50)
    picture = stream.getvalue()

    async def show(request: web.Request) -> web.Response:
        comment = request.match_info["number"].encode()
        # Start of image, then a comment: other bytes and another hash, with the same pixels.
        head = b"\xff\xd8\xff\xfe" + (len(comment) + 2).to_bytes(2, "big")
        return web.Response(body=head + comment + picture[2:], content_type="image/jpeg")

    async def find(request: web.Request) -> web.Response:
        first = int(str((await request.post())["text"]).split()[-1]) * PER_QUERY
        listed = [photo(n, f"http://{request.host}") for n in range(first, first + PER_QUERY)]
        return web.json_response({"stat": "ok", "photos": {"page": 1, "total": PER_QUERY, "photo": listed}})

    async def run() -> None:
        app = web.Application()
        app.add_routes([web.post("/services/rest/", find), web.get("/{number}.jpg", show)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        started.send(f"http://127.0.0.1:{runner.addresses[0][1]}")
        await asyncio.Event().wait()

    asyncio.run(run())


def photo(number: int, address: str) -> dict[str, object]:
    """A photo as `photos.search` lists it."""
    return {
        "id": str(number + 1),
        "owner": f"{number}@N00",
        "title": f"Photo {number}",
        "tags": "morning harbour boats",
        "description": {"_content": f"The boats in the harbour on a quiet morning, picture {number} of many"},
        "license": "4",
        "dateupload": str(1_300_000_000 + number),
        "url_z": f"{address}/{number}.jpg",
        "width_z": SIDE,
        "height_z": SIDE,
    }


# Calls


@dataclass
class Shelf:
    """A source with a photo in each of `n` seconds, and pages that repeat past a limit, as Flickr's do."""

    n: int
    paging: Paging
    n_calls: int = field(default=0, init=False)

    def page(self, query: Query, window: Window) -> SearchPage:
        self.n_calls += 1
        seconds = range(self.n)
        found = seconds[bisect_left(seconds, window.since) : bisect_right(seconds, window.until)]
        size = self.paging.per_page
        n_pages = -(-min(len(found), self.paging.max_results or self.n) // size)
        shown = min(window.page, max(1, n_pages))
        candidates = tuple(candidate(second) for second in found[(shown - 1) * size : shown * size])
        return SearchPage(len(found), shown, n_pages, candidates, ())


def candidate(second: int) -> Candidate:
    size = Size("https://example.org/1.jpg", 640, 480)
    return Candidate(f"flickr:{second}", "", "", (), (size,), "", "", "", datetime.fromtimestamp(second, UTC))


def call_rows() -> list[Row]:
    """For each source, the number of photos whose calls exceed the fewest possible by the largest factor."""
    return [
        worst_calls("Flickr", FLICKR_PHOTOS, flickr.SOURCE.paging),
        worst_calls("Getty", GETTY_PHOTOS, getty.SOURCE.paging),
    ]


def worst_calls(name: str, photos: Sequence[int], paging: Paging) -> Row:
    costs = [(calls(n, paging), -(-n // paging.per_page), n) for n in photos]
    ours, fewest, n = max(costs, key=lambda cost: cost[0] / cost[1])
    figure = f"calls for N photos of a query ÷ ⌈N/{paging.per_page}⌉, {name}, worst at N = {n}"
    return figure, ours, fewest, ours / fewest, "≤ 1.1"


def calls(n: int, paging: Paging) -> int:
    """Calls that find all of a query's n photos."""
    shelf = Shelf(n, paging)
    asker = Asker(TokenBucket(1.0, burst=10**9), threading.Event(), lambda: None)
    with Frontier.open(Path(":memory:"), Beginning({}, [("query", "query", 1.0)], (0, n), 0)) as frontier:
        search(frontier, shelf.page, paging, asker, found_at=lambda: 0)
        if frontier.n_candidates != n:
            raise RuntimeError(f"{frontier.n_candidates} photos were found, not {n}")
    return shelf.n_calls


# The quota


class Time(threading.Event):
    """A clock that moves when somebody waits; as the event that would stop a crawl, it is never set."""

    now_s = 0.0

    def wait(self, timeout: float | None = None) -> bool:
        self.now_s += timeout or 0.0
        return False


def quota_rows() -> list[Row]:
    """The idlest of some hours after each other, and the busiest hour that begins with any call."""
    time, made_at = Time(), []
    asker = Asker(TokenBucket.per_hour(QUOTA, lambda: time.now_s), time, lambda: made_at.append(time.now_s))
    while time.now_s < HOURS * HOUR_S:
        asker.ask(lambda: time.wait(LATENCY_S))
    least = min(in_an_hour(made_at, hour * HOUR_S) for hour in range(HOURS))
    most = max(in_an_hour(made_at, start) for start in made_at)
    return [
        ("calls in a simulated hour ÷ quota, fewest", least, QUOTA, least / QUOTA, "≥ 0.95"),
        ("calls in a simulated hour ÷ quota, most in any", most, QUOTA, most / QUOTA, "≤ 1"),
    ]


def in_an_hour(made_at: Sequence[float], start: float) -> int:
    return bisect_right(made_at, start + HOUR_S) - bisect_left(made_at, start)


if __name__ == "__main__":
    for row in rows():
        print(row)
