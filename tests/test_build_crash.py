"""A build that is killed at any instant ends, by the same command, with the same bytes.

Instants are chosen by progress: the stand-in kills its client at a request, or a file has just appeared.
"""

import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mvsent.config import FlickrSettings
from mvsent.fetch.stream import AHEAD
from mvsent.sources.replay import Replay
from tests.building import Watched, files_of, flickr_settings, kill, small_world, start_build

SECONDS = 120

FILES = (
    "crawl.sqlite",
    "parts",
    "parts/part-00000.spool",
    "parts/part-00000.rejected.parquet",
    "parts/part-00000.parquet",
    "parts/part-00001.spool",
    "parts/part-00002.parquet",
    "data",
    "data/shard-00000.parquet",
    "data/shard-00001.parquet",
    "rejected.parquet",
    "README.md",
    "dataset.json",
)


@pytest.fixture(scope="module")
def replay() -> Iterator[Replay]:
    with Replay(small_world(photos=14)) as running:
        running.requests = Watched()
        yield running


@pytest.fixture(scope="module")
def settings(replay: Replay, tmp_path_factory: pytest.TempPathFactory) -> FlickrSettings:
    return flickr_settings(replay, tmp_path_factory.mktemp("lexicon"))


@pytest.fixture(scope="module")
def undisturbed(
    replay: Replay, settings: FlickrSettings, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, bytes], Counter[str]]:
    """The files of an uninterrupted build, and what it asked for."""
    out = tmp_path_factory.mktemp("undisturbed") / "flickr"
    replay.requests.clear()
    assert run(out, settings) == 0
    return files_of(out), Counter(request.path for request in replay.requests)


def run(out: Path, settings: FlickrSettings) -> int | None:
    process = start_build(out, settings)
    process.join(SECONDS)
    code: int | None = process.exitcode
    return code


def build_with_kills(out: Path, settings: FlickrSettings, requests: Watched) -> int:
    """Build in `out`, killed at the first request after each bit of progress; how often it was killed."""
    n_killed = 0
    while True:
        victim: list[Any] = []
        at_start = progress(out)

        def kill_after_progress(
            n: int, victim: list[Any] = victim, at_start: list[tuple[str, int]] = at_start
        ) -> None:
            searching = not list(out.glob("parts/part-*"))
            if victim and (n == 2 if searching else progress(out) != at_start):
                kill(victim[0])

        requests.count_anew(kill_after_progress)
        victim.append(start_build(out, settings))
        victim[0].join(SECONDS)
        requests.count_anew(lambda n: None)
        if victim[0].exitcode == 0:
            return n_killed
        assert victim[0].exitcode == -signal.SIGKILL
        n_killed += 1


def progress(out: Path) -> list[tuple[str, int]]:
    """The pictures that are saved, in spools and parts."""
    return sorted((path.name, path.stat().st_size) for path in out.glob("parts/part-*"))


def test_killed_at_thirty_requests_it_ends_with_the_same_bytes(
    replay: Replay,
    settings: FlickrSettings,
    undisturbed: tuple[dict[str, bytes], Counter[str]],
    tmp_path: Path,
) -> None:
    files, asked = undisturbed
    requests = replay.requests
    assert isinstance(requests, Watched)
    n_killed = 0
    while n_killed < 30:
        requests.clear()
        out = tmp_path / f"round-{n_killed}" / "flickr"
        n_now = build_with_kills(out, settings, requests)
        n_killed += n_now
        assert files_of(out) == files
        again = Counter(request.path for request in requests) - asked
        assert again.total() <= n_now * AHEAD * settings.concurrency


def test_killed_as_each_file_appears_it_ends_with_the_same_bytes(
    settings: FlickrSettings, undisturbed: tuple[dict[str, bytes], Counter[str]], tmp_path: Path
) -> None:
    files, _ = undisturbed
    out, killed_at = tmp_path / "flickr", []
    for name in FILES:
        process = start_build(out, settings)
        while process.is_alive() and not (out / name).exists():
            pass
        if process.is_alive():
            kill(process)
        process.join(SECONDS)
        if process.exitcode == 0:
            break
        killed_at.append(name)
    if not (out / "dataset.json").exists() or (out / "parts").exists():
        assert run(out, settings) == 0
    assert len(killed_at) >= 8, killed_at
    assert files_of(out) == files
