"""A build that is killed at any instant ends, by the same command, with the same bytes; so does a refresh.

Instants are chosen by progress: the stand-in kills its client at a request, a file has just appeared, or the
process kills itself at one of its steps that show on the disk.
"""

import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mvsent.config import BuildSettings
from mvsent.shards.manifest import MANIFEST_FILE
from mvsent.shards.reader import Dataset
from mvsent.standin.faults import Faults
from mvsent.standin.replay import Replay
from tests.building import (
    EPOCH,
    SETTINGS,
    TOKEN_PATH,
    Watched,
    build,
    die_at_step,
    files_of,
    flickr_settings,
    kill,
    refresh,
    small_world,
    start,
    start_build,
)

KILLED = (-signal.SIGKILL, 255)
"""255: multiprocessing's fork server could not say how its child ended."""

SECONDS = 120
N_KILLS = {"flickr": 12, "getty": 6}
Files = dict[str, bytes]

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
    "croissant.json",
    "dataset.json",
)


@pytest.fixture(scope="module")
def replay() -> Iterator[Replay]:
    # Of the ordinary faults those that a build meets again after a kill: others spoil a request only once.
    faults = Faults(total_off=0.1, disorder_s=600, getty_error_codes=1)
    with Replay(small_world(photos=14, like_reality=True), faults=faults) as running:
        running.requests = Watched()
        yield running


@pytest.fixture(scope="module", params=list(SETTINGS))
def source(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def settings(replay: Replay, source: str, tmp_path_factory: pytest.TempPathFactory) -> BuildSettings:
    return SETTINGS[source](replay, tmp_path_factory.mktemp("lexicon"))


@pytest.fixture(scope="module")
def undisturbed(
    replay: Replay, source: str, settings: BuildSettings, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Files, Counter[str]]:
    """The files of an uninterrupted build, and what it asked for."""
    out = tmp_path_factory.mktemp("undisturbed") / source
    replay.requests.clear()
    assert exit_code(start_build(out, settings)) == 0
    return files_of(out), asked(replay)


def exit_code(process: Any) -> int | None:
    process.join(SECONDS)
    code: int | None = process.exitcode
    return code


def asked(replay: Replay) -> Counter[str]:
    """How often everything was asked for, but tokens: every process needs its own."""
    paths = [request.path for request in replay.requests]
    return Counter(path for path in paths if not path.startswith(TOKEN_PATH))


def build_with_kills(out: Path, settings: BuildSettings, requests: Watched) -> int:
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
        code = exit_code(victim[0])
        requests.count_anew(lambda n: None)
        if code == 0:
            return n_killed
        assert code in KILLED
        n_killed += 1


def progress(out: Path) -> list[tuple[str, int]]:
    """The pictures that are saved, in spools and parts."""
    return sorted((path.name, path.stat().st_size) for path in out.glob("parts/part-*"))


@pytest.mark.slow
def test_killed_at_many_requests_it_ends_with_the_same_bytes(
    replay: Replay,
    source: str,
    settings: BuildSettings,
    undisturbed: tuple[Files, Counter[str]],
    tmp_path: Path,
) -> None:
    files, asked_before = undisturbed
    requests = replay.requests
    assert isinstance(requests, Watched)
    n_killed = 0
    while n_killed < N_KILLS[source]:
        requests.clear()
        out = tmp_path / f"round-{n_killed}" / source
        n_now = build_with_kills(out, settings, requests)
        n_killed += n_now
        assert files_of(out) == files
        again = asked(replay) - asked_before
        assert again.total() <= n_now * settings.concurrency


@pytest.mark.slow
def test_killed_as_each_file_appears_it_ends_with_the_same_bytes(
    settings: BuildSettings, source: str, undisturbed: tuple[Files, Counter[str]], tmp_path: Path
) -> None:
    files, _ = undisturbed
    out, killed_at = tmp_path / source, []
    for name in FILES:
        process = start_build(out, settings)
        while process.is_alive() and not (out / name).exists():
            process.join(0.001)
        if process.is_alive():
            kill(process)
        if exit_code(process) == 0:
            break
        killed_at.append(name)
    if not (out / "dataset.json").exists() or (out / "parts").exists():
        assert exit_code(start_build(out, settings)) == 0
    assert len(killed_at) >= 8, killed_at
    assert files_of(out) == files


@pytest.mark.slow
def test_killed_as_its_database_begins_it_goes_on(
    settings: BuildSettings, source: str, undisturbed: tuple[Files, Counter[str]], tmp_path: Path
) -> None:
    out = tmp_path / source
    out.mkdir()
    for name in ("crawl.sqlite", "crawl.sqlite-journal"):  # as SQLite leaves them before its first commit
        (out / name).touch()
    assert exit_code(start_build(out, settings)) == 0
    assert files_of(out) == undisturbed[0]
    assert not (out / "crawl.sqlite-journal").exists()


# What replaces a finished dataset


@pytest.fixture
def old(replay: Replay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished dataset of Flickr's, small enough for one shard."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", EPOCH)
    return build(tmp_path / "old" / "flickr", flickr_settings(replay, tmp_path, per_query=3)).folder


@pytest.fixture
def gone(replay: Replay, old: Path) -> Iterator[list[str]]:
    """Ids of photos in `old` that Flickr shows no longer."""
    ids = Dataset.open(old).ids[::4]
    replay.removed.update(id.removeprefix("flickr:") for id in ids)
    yield ids
    replay.removed.clear()


@pytest.mark.slow
def test_overwriting_killed_at_each_step_of_the_swap_leaves_the_old_dataset_or_the_new_one(
    replay: Replay, old: Path, tmp_path: Path
) -> None:
    settings = flickr_settings(replay, tmp_path, per_query=6)
    fresh = build(tmp_path / "fresh" / "flickr", settings).folder
    crawled = copy(old, tmp_path / "crawled")

    def overwrite(folder: Path) -> Callable[[], object]:
        return partial(build, folder, settings, overwrite=True)

    assert exit_code(start(overwrite(crawled), partial(die_at_step, 0, crawled))) == -signal.SIGKILL
    assert (crawled.with_name(".flickr.crawl") / MANIFEST_FILE).exists()
    kill_at_each_step(overwrite, crawled, files_of(fresh))


@pytest.mark.slow
def test_a_refresh_killed_at_each_step_of_the_swap_leaves_the_old_dataset_or_the_new_one(
    replay: Replay, old: Path, gone: list[str], tmp_path: Path
) -> None:
    fresh = copy(old, tmp_path / "fresh")
    assert refreshing(replay, fresh)().removed == gone
    kill_at_each_step(partial(refreshing, replay), old, files_of(fresh))


@pytest.mark.slow
def test_a_refresh_killed_at_its_requests_ends_with_the_same_bytes_and_asks_nothing_else_twice(
    replay: Replay, old: Path, gone: list[str], tmp_path: Path
) -> None:
    before, n_photos, fresh = files_of(old), len(Dataset.open(old)), copy(old, tmp_path / "fresh")
    refreshing(replay, fresh)()
    requests = replay.requests
    assert isinstance(requests, Watched)
    requests.clear()
    n_killed, code = 0, None
    while code != 0:
        victim: list[Any] = []
        requests.count_anew(lambda n, victim=victim: n >= 3 and victim and kill(victim[0]))  # type: ignore[misc]
        victim.append(start(refreshing(replay, old)))
        code = exit_code(victim[0])
        assert code in (0, -signal.SIGKILL)
        n_killed += code != 0
        assert files_of(old) == (before if code else files_of(fresh))
    requests.count_anew(lambda n: None)
    assert n_killed >= 4
    assert len(requests) == n_photos + n_killed


def copy(folder: Path, parent: Path) -> Path:
    """The dataset in `folder`, again in `parent`."""
    return Path(shutil.copytree(folder, parent / folder.name))


def refreshing(replay: Replay, folder: Path) -> Callable[[], Any]:
    return partial(refresh, folder, replay.flickr_endpoint)


def kill_at_each_step(command: Callable[[Path], Callable[[], object]], out: Path, after: Files) -> None:
    """Assert that a command which replaces `out` may be killed at each of its steps from there on.

    Whatever has the dataset's name then is the old one or the new one, whole; and the same command ends with
    the files `after`, and with nothing beside them.
    """
    before = files_of(out)
    for step in range(100):
        place = out.parents[1] / f"step-{step}" / out.name
        shutil.copytree(out.parent, place.parent)
        code = exit_code(start(command(place), partial(die_at_step, step, place)))
        if code != 0:
            assert code in KILLED
            assert not place.exists() or files_of(place) in (before, after)
            assert exit_code(start(command(place))) == 0
        assert files_of(place) == after
        assert [path.name for path in place.parent.iterdir()] == [place.name]
        if code == 0:
            assert step >= 3
            return
    raise AssertionError("it never came to an end")
