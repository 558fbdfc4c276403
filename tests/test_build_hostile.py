"""Builds against servers that are busy, broken or lying, and on a machine whose clock is set meanwhile.

What may pass leaves the same dataset as if nothing had happened; what lasts is one clear line or a reason, and
the same command goes on later.
"""

import json
import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from mvsent.build import search as pipeline
from mvsent.build.search import BuildResult
from mvsent.cli import app, exit_code
from mvsent.errors import DatasetError, StorageError
from mvsent.limits import HOUR_S, TokenBucket
from mvsent.shards.reader import Dataset
from mvsent.sources.crawl import frontier
from mvsent.sources.crawl.failures import AccessRevoked, BadAnswer
from mvsent.sources.flickr import FlickrSettings
from mvsent.standin.faults import Faults
from mvsent.standin.replay import Replay
from tests.api_answers import flickr_answer, flickr_photo
from tests.building import (
    EPOCH,
    SENTIMENTS,
    SETTINGS,
    Watched,
    build,
    files_of,
    flickr_settings,
    small_world,
    still_time,
    write_lexicon,
)
from tests.fault_server import FaultServer, answer, serving
from tests.fetching import picture

WORDS = "A dog that runs along the beach in the evening"


@pytest.fixture(autouse=True)
def fixed_clock_and_no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    still_time(monkeypatch)


@pytest.fixture
def replay() -> Iterator[Replay]:
    with Replay(small_world(photos=6)) as running:
        yield running


def built(replay: Replay, folder: Path, source: str = "flickr", **given: Any) -> BuildResult:
    """The stand-in's dataset of a source in `folder`."""
    folder.mkdir(exist_ok=True)
    return build(folder / source, SETTINGS[source](replay, folder, **given))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Each source's rows without a disturbance."""
    with pytest.MonkeyPatch.context() as patch, Replay(small_world(photos=6)) as running:
        patch.setenv("SOURCE_DATE_EPOCH", EPOCH)
        folder = tmp_path_factory.mktemp("undisturbed")
        return {source: rows(built(running, folder, source).folder) for source in SETTINGS}


def rows(folder: Path) -> dict[str, Any]:
    """What was kept and what was not, without addresses: every stand-in has a port of its own.

    A photo without an id is named by its content, of which its addresses are a part.
    """
    kept = Dataset.open(folder).table(["id", "label", "text", "sha256", "query"]).to_pylist()
    rejected = pq.read_table(folder / "rejected.parquet").to_pylist()
    for row in rejected:
        row["id"] = re.sub("without-id-.*", "without-id", row["id"])
    return {"kept": kept, "rejected": rejected}


# What the APIs answer

BUSY = ["api_429", "api_429_seconds", "api_429_date", "api_500", "api_truncated", "api_silent"]
NO_ANSWER = ["api_html", "api_jsonp", "api_redirect"]
ONLY_FLICKR = ["fail_0", "fail_105", "fail_201"]
ONLY_GETTY = ["getty_per_second", "getty_token"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "fault"),
    [
        *(("flickr", fault) for fault in BUSY + NO_ANSWER + ONLY_FLICKR),
        *(("getty", fault) for fault in BUSY + NO_ANSWER + ONLY_GETTY),
    ],
)
def test_a_fault_of_the_api_that_passes_leaves_no_trace(
    replay: Replay, tmp_path: Path, undisturbed: dict[str, Any], source: str, fault: str
) -> None:
    replay.faults = Faults(**{fault: 1.0}, repeats=1, retry_after_s=0, silent_s=0.01)
    assert rows(built(replay, tmp_path, source).folder) == undisturbed[source]
    n_searches = replay.calls["flickr.photos.search"] + replay.calls["getty.search"]
    assert n_searches == 2 * len(SENTIMENTS)
    assert replay.trespasses == []


@pytest.mark.slow
@pytest.mark.parametrize("source", list(SETTINGS))
@pytest.mark.parametrize(("fault", "named"), [("api_html", "HTML"), ("api_jsonp", "JSONP")])
def test_what_is_no_json_ends_the_build_by_name_and_the_same_command_goes_on(
    replay: Replay, tmp_path: Path, undisturbed: dict[str, Any], source: str, fault: str, named: str
) -> None:
    replay.faults = Faults(**{fault: 1.0}, repeats=99)
    with pytest.raises(BadAnswer, match=f"sent {named} instead of JSON") as failure:
        built(replay, tmp_path, source)
    assert failure.value.exit_code == 3
    replay.faults = Faults()
    assert rows(built(replay, tmp_path, source).folder) == undisturbed[source]


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with serving() as running:
        yield running


def photos(server: FaultServer, *numbers: int, **changes: object) -> list[dict[str, Any]]:
    """Photos as Flickr lists them, whose pictures the server shows."""
    return [
        flickr_photo(
            **{
                "id": str(number),
                "description": {"_content": WORDS},
                "url_m": None,
                "url_z": server.url(f"/{number}.jpg", answer(body=picture(number))),
                **changes,
            }
        )
        for number in numbers
    ]


def built_of(server: FaultServer, folder: Path, *pages: dict[str, Any]) -> BuildResult:
    """The dataset of one query to which the server gives these answers in turn, the last one for ever."""
    bodies = [json.dumps(page).encode() for page in pages]
    endpoint = server.url("/services/rest/", *(answer(body=body, Connection="close") for body in bodies))
    lexicon = write_lexicon(folder / "lexicon.tsv", {"happy dog": 1.0})
    settings = FlickrSettings(
        anps=str(lexicon),
        endpoint=endpoint,
        language="any",
        images_per_second=0,
        require_query=("none",),
        repeated_texts="keep",
    )
    return build(folder / "flickr", settings)


def n_searches(server: FaultServer) -> int:
    return server.requests.count("/services/rest/")


@pytest.mark.parametrize(
    ("total", "n_calls"),
    [(2, 1), ("2", 1), ("2,000", 4), (None, 2), ("many", 2), (-1, 2), (10**30, 2), ([], 2)],
)
def test_whatever_the_total_says_every_photo_is_found_once(
    server: FaultServer, tmp_path: Path, total: object, n_calls: int
) -> None:
    result = built_of(server, tmp_path, flickr_answer(*photos(server, 1, 2), total=total))
    assert Dataset.open(result.folder).ids == ["flickr:1", "flickr:2"]
    # A page that repeats the last ends the search; with a total that promises more, each is asked for again.
    assert n_searches(server) == n_calls


def test_a_total_that_is_missing_is_no_hindrance(server: FaultServer, tmp_path: Path) -> None:
    page = flickr_answer(*photos(server, 1))
    del page["photos"]["total"], page["photos"]["page"], page["photos"]["pages"]
    assert Dataset.open(built_of(server, tmp_path, page).folder).ids == ["flickr:1"]


def test_ids_that_come_again_on_other_pages_are_one_candidate(server: FaultServer, tmp_path: Path) -> None:
    pages = [flickr_answer(*photos(server, *ids), total=None) for ids in ((1, 2), (2, 3, 3), (4, 1), ())]
    result = built_of(server, tmp_path, *pages)
    assert Dataset.open(result.folder).ids == ["flickr:1", "flickr:2", "flickr:3", "flickr:4"]
    assert result.manifest.funnel.input == 4
    assert server.requests.count("/2.jpg") == 1


def test_a_photo_without_words_addresses_or_an_id_has_its_reason(server: FaultServer, tmp_path: Path) -> None:
    page = flickr_answer(
        *photos(server, 1),
        *photos(server, 2, description=None),
        *photos(server, 3, description={"_content": None}),
        *photos(server, 4, url_z=None),
        *photos(server, 5, id=None),
        None,
        "a photo",
    )
    result = built_of(server, tmp_path, page)
    assert result.manifest.funnel.dropped == {"text-missing": 2, "image-missing": 4}
    assert result.manifest.funnel.adds_up


@pytest.mark.slow
def test_a_caption_that_is_null_has_its_reason(tmp_path: Path) -> None:
    with Replay(small_world(quirks=4)) as odd:
        result = built(odd, tmp_path, "getty")
        found = [odd.world.results("getty creative", query) for query in SENTIMENTS]
    assert any(photo.text == "" for photos in found for photo in photos)  # null in the stand-in's answer
    assert result.manifest.funnel.dropped["text-missing"] > 0
    assert result.manifest.funnel.adds_up


# What the picture hosts answer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("image_404", "http-404"),
        ("image_html", "image-not-an-image"),
        ("image_svg", "image-not-an-image"),
        ("image_corrupt", "image-corrupt"),
        ("image_endless", "image-too-large"),
        ("image_bomb", "image-too-large"),
        ("image_noai", "robots-noai"),
        ("image_unavailable", "image-missing"),
        ("image_loop", "http-error"),
        ("image_private", "blocked-host"),
    ],
)
def test_a_picture_that_is_none_has_its_reason_and_the_others_are_kept(
    replay: Replay, tmp_path: Path, undisturbed: dict[str, Any], fault: str, reason: str
) -> None:
    replay.faults = Faults(**{fault: 0.4})
    result = built(replay, tmp_path)
    kept, expected = rows(result.folder)["kept"], undisturbed["flickr"]["kept"]
    n_spoilt = sum(row not in kept for row in expected)
    assert 0 < n_spoilt < len(expected)
    assert result.manifest.funnel.dropped[reason] >= n_spoilt
    assert result.manifest.funnel.adds_up
    assert replay.trespasses == []


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["image_500", "image_truncated", "image_silent", "image_chain"])
def test_a_fault_of_a_picture_that_passes_leaves_no_trace(
    replay: Replay, tmp_path: Path, undisturbed: dict[str, Any], fault: str
) -> None:
    replay.faults = Faults(**{fault: 0.4}, repeats=1, silent_s=0.01)
    assert rows(built(replay, tmp_path).folder) == undisturbed["flickr"]


# When nobody answers


@pytest.mark.slow
@pytest.mark.parametrize("n_pictures", [0, 10, 20])
def test_an_outage_loses_no_picture_and_the_same_command_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], n_pictures: int
) -> None:
    monkeypatch.setattr("mvsent.fetch.client.backoff", lambda attempt, *, base_s: 0.0)
    with Replay(small_world(photos=6)) as replay:
        port = int(replay.address.rpartition(":")[2])
        settings = flickr_settings(replay, tmp_path)
        expected = files_of(build(tmp_path / "undisturbed", settings).folder)
        replay.requests = requests = Watched()
        requests.count_anew(lambda n: n > len(SENTIMENTS) + n_pictures and hang_up(replay))
        assert exit_code(lambda: build(tmp_path / "out", settings)) == 3
    for _ in range(2):  # it lasts
        assert exit_code(lambda: build(tmp_path / "out", settings)) == 3
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3
    assert all("the network or 127.0.0.1 is unreachable" in line for line in said)
    assert all("The same command continues" in line for line in said)
    with Replay(small_world(photos=6), port=port):
        assert files_of(build(tmp_path / "out", settings).folder) == expected


def hang_up(replay: Replay) -> None:
    """The stand-in is gone; so is the connection of the request that is being answered."""
    if not replay.stopped.is_set():
        replay.stop()
    raise ConnectionAbortedError


# What lies in the folder


@pytest.mark.slow
@pytest.mark.parametrize("content", ["another version", "no database"])
def test_a_crawl_that_cannot_go_on_is_kept_until_its_owner_wants_it_begun_anew(
    replay: Replay, tmp_path: Path, undisturbed: dict[str, Any], content: str
) -> None:
    crawl = tmp_path / "flickr" / "crawl.sqlite"
    crawl.parent.mkdir()
    if content == "no database":
        crawl.write_bytes(b"not a database, but long enough to look at" * 50)
    else:
        with closing(sqlite3.connect(crawl)) as db:
            db.executescript("PRAGMA journal_mode = WAL; CREATE TABLE old (x); PRAGMA user_version = 7")
    before = crawl.read_bytes()
    with pytest.raises(DatasetError, match=r"crawl\.sqlite.*begin anew with --overwrite"):
        built(replay, tmp_path)
    assert crawl.read_bytes() == before
    assert not replay.requests
    result = build(tmp_path / "flickr", flickr_settings(replay, tmp_path), overwrite=True)
    assert rows(result.folder) == undisturbed["flickr"]


@pytest.mark.slow
def test_a_crawl_that_another_program_holds_is_never_thrown_away(
    replay: Replay, tmp_path: Path, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    replay.faults = Faults(revoked_after=3)
    with pytest.raises(AccessRevoked):
        built(replay, tmp_path)
    replay.faults = Faults()
    crawl = tmp_path / "flickr" / "crawl.sqlite"
    monkeypatch.setattr(frontier.sqlite3, "connect", partial(sqlite3.connect, timeout=0))
    with closing(sqlite3.connect(crawl, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StorageError, match=r"crawl\.sqlite: database is locked.*end it or wait"):
            build(tmp_path / "flickr", flickr_settings(replay, tmp_path), overwrite=True)
    result = build(tmp_path / "flickr", flickr_settings(replay, tmp_path), overwrite=True)
    assert rows(result.folder) == undisturbed["flickr"]
    assert replay.calls["flickr.photos.search"] == len(SENTIMENTS) + 1  # it went on


def test_a_disk_that_fails_is_no_reason_to_throw_a_crawl_away(
    replay: Replay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_READ
        raise error

    crawl = tmp_path / "flickr" / "crawl.sqlite"
    crawl.parent.mkdir()
    crawl.write_bytes(b"a crawl")
    monkeypatch.setattr(frontier.sqlite3, "connect", fail)
    with pytest.raises(StorageError, match=r"disk I/O error\. See to the disk"):
        build(tmp_path / "flickr", flickr_settings(replay, tmp_path), overwrite=True)
    assert crawl.read_bytes() == b"a crawl"


# Keys


@pytest.mark.parametrize("source", list(SETTINGS))
@pytest.mark.parametrize("key", ["", "a-key-that-nobody-knows"])
def test_without_a_key_that_is_known_the_command_says_so_and_never_the_key(
    replay: Replay,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    source: str,
    key: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in replay.environment().items():
        monkeypatch.setenv(name, key if name.endswith("API_KEY") else value)
    assert exit_code(lambda: app([f"build-{source}", "--json"], standalone_mode=False)) == 2
    said = capsys.readouterr()
    assert f"{source.upper()}_API_KEY" in said.err
    assert "Traceback" not in said.err and said.out == ""
    assert not key or key not in said.err
    assert len(replay.requests) == bool(key)
    assert not (tmp_path / "data" / source / "dataset.json").exists()


# The clock


class Clock(threading.Event):
    """A clock that only goes forward and a wall clock that can be set; to wait moves both and takes no time."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self._patch, self.real_s, self._wall_s = patch, 0.0, int(EPOCH)
        self.set_by(0)

    def set_by(self, seconds: float) -> None:
        """The wall clock jumps."""
        self._wall_s += seconds
        self._patch.setenv("SOURCE_DATE_EPOCH", str(int(self.wall())))

    def forward(self) -> float:
        return self.real_s

    def wall(self) -> float:
        return self._wall_s + self.real_s

    def wait(self, timeout: float | None = None) -> bool:
        self.real_s += timeout or 0.0
        return self.is_set()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of everything in a build that looks at one."""
    clock = Clock(monkeypatch)
    per_hour = partial(TokenBucket.per_hour, clock=clock.forward, wall=clock.wall)
    monkeypatch.setattr(pipeline, "TokenBucket", SimpleNamespace(per_hour=per_hour))
    monkeypatch.setattr(pipeline, "interruptible", lambda: nullcontext(clock))
    monkeypatch.setattr(frontier, "time", SimpleNamespace(time=clock.wall))
    return clock


@pytest.mark.parametrize("jump_s", [86_400, -3600])
@pytest.mark.parametrize("n_searched", [1, 3])
def test_a_clock_that_jumps_changes_no_id_and_never_breaks_the_quota(
    replay: Replay,
    tmp_path: Path,
    undisturbed: dict[str, Any],
    clock: Clock,
    jump_s: int,
    n_searched: int,
) -> None:
    replay.requests = requests = Watched()
    asked_at = note_searches(requests, clock, jump_s, n_searched)
    assert rows(built(replay, tmp_path, quota_per_hour=3).folder) == undisturbed["flickr"]
    assert len(asked_at) == len(SENTIMENTS)
    assert most_in_an_hour(asked_at) == 3


@pytest.mark.slow
def test_a_clock_that_was_put_back_before_the_build_goes_on_never_breaks_the_quota(
    replay: Replay, tmp_path: Path, undisturbed: dict[str, Any], clock: Clock
) -> None:
    replay.requests = requests = Watched()
    asked_at = note_searches(requests, clock, -3600, 4)
    replay.faults = Faults(revoked_after=3)
    with pytest.raises(AccessRevoked):
        built(replay, tmp_path, quota_per_hour=3)
    replay.faults = Faults()
    assert rows(built(replay, tmp_path, quota_per_hour=3).folder) == undisturbed["flickr"]
    assert len(asked_at) == len(SENTIMENTS) + 1
    assert most_in_an_hour(asked_at) <= 3


def note_searches(requests: Watched, clock: Clock, jump_s: int, n_searched: int) -> list[float]:
    """The real seconds at which the searches come in; at number `n_searched` the wall clock jumps."""
    asked_at: list[float] = []

    def look(n: int) -> None:
        if requests[-1].path.startswith("/services/rest/"):
            asked_at.append(clock.real_s)
            if n == n_searched:
                clock.set_by(jump_s)

    requests.count_anew(look)
    return asked_at


def most_in_an_hour(moments: list[float]) -> int:
    """The most of the moments that lie in one hour."""
    return max(sum(start <= moment < start + HOUR_S for moment in moments) for start in moments)
