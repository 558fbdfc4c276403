"""Keys, secrets and tokens are in nothing that a build says, shows of itself, or leaves behind."""

import logging
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mvsent.cli import app, exit_code
from mvsent.sources.crawl.failures import AccessRevoked
from mvsent.standin.faults import Faults
from mvsent.standin.replay import KEY, SECRET, Replay
from tests import programs
from tests.building import (
    SENTIMENTS,
    SETTINGS,
    Watched,
    build,
    flickr_settings,
    getty_settings,
    kill,
    small_world,
    start_build,
    still_time,
    write_lexicon,
)

ROOT = Path(__file__).parents[1]
SECRETS = (KEY, SECRET, "token1")


@pytest.fixture(autouse=True)
def fixed_clock_and_no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    still_time(monkeypatch)


@pytest.fixture
def replay() -> Iterator[Replay]:
    with Replay(small_world(photos=6)) as running:
        running.requests = Watched()
        yield running


def assert_no_secret_in(text: str) -> None:
    assert [secret for secret in SECRETS if secret in text] == []


def left_behind(folder: Path) -> dict[str, str]:
    """Every file below `folder` as text; what Parquet compresses is unpacked."""
    files = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    texts = {str(path.relative_to(folder)): data.decode("latin-1") for path, data in files.items()}
    for path in files:
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            texts[f"{path.name} unpacked"] = f"{table.to_pylist()} {table.schema.metadata}"
    return texts


@pytest.mark.slow
def test_what_a_crawl_leaves_behind_and_logs(
    replay: Replay, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    replay.faults = Faults(api_500=0.3, api_html=0.3, fail_105=0.3)
    build(tmp_path / "flickr", flickr_settings(replay, tmp_path))
    replay.faults = Faults(revoked_after=1, getty_token=0.5)
    with pytest.raises(AccessRevoked) as failure:
        build(tmp_path / "getty", getty_settings(replay, tmp_path))
    left = left_behind(tmp_path)
    assert {"flickr/dataset.json", "flickr/README.md", "getty/crawl.sqlite"} <= left.keys()
    for text in (*left.values(), caplog.text, str(failure.value), repr(failure.value)):
        assert_no_secret_in(text)


@pytest.mark.slow
@pytest.mark.parametrize("source", list(SETTINGS))
def test_what_a_killed_build_leaves_behind(replay: Replay, tmp_path: Path, source: str) -> None:
    requests, victim = replay.requests, []
    assert isinstance(requests, Watched)
    out = tmp_path / source

    spool = out / "parts" / "part-00001.spool"
    requests.count_anew(lambda n: victim and spool.exists() and kill(victim[0]))
    victim.append(start_build(out, SETTINGS[source](replay, tmp_path, shard_size=8)))
    victim[0].join(120)
    left = left_behind(tmp_path)
    wanted = {"crawl.sqlite", "crawl.sqlite-wal", "parts/part-00000.parquet", "parts/part-00001.spool"}
    assert {f"{source}/{name}" for name in wanted} <= left.keys()
    for text in left.values():
        assert_no_secret_in(text)


def environment(replay: Replay, keys: bool = True) -> dict[str, str]:
    given = {**os.environ, "PYTHONPATH": str(ROOT), **replay.environment()}
    return given if keys else {name: value for name, value in given.items() if "_API_" not in name}


def arguments(source: str, folder: Path) -> list[str]:
    lexicon = {"flickr": "--anps", "getty": "--keywords"}[source]
    path = write_lexicon(folder / "lexicon.tsv", dict(list(SENTIMENTS.items())[:2]))
    return [f"build-{source}", lexicon, str(path), "--language", "any"]


@pytest.mark.slow
@pytest.mark.parametrize("by_file", [False, True])
def test_the_titles_and_threads_of_a_running_build(tmp_path: Path, by_file: bool) -> None:
    key, secret = "f00dface-key", "decade00-secret"  # told by 8 characters: a thread's name has only 15
    key_file = tmp_path / "keys"
    key_file.write_text(f"GETTY_API_KEY={key}\nGETTY_API_SECRET={secret}\n")
    key_file.chmod(0o600)
    command = [sys.executable, "-m", "mvsent", *arguments("getty", tmp_path)]
    command += ["--key-file", str(key_file)] if by_file else []
    running: list[subprocess.Popen[bytes]] = []
    titles: list[str] = []

    def look(n: int) -> None:
        proc = Path("/proc", str(running[0].pid))
        titles.append((proc / "cmdline").read_text())
        for path in proc.glob("task/*/comm"):
            with suppress(OSError):  # threads come and go
                titles.append(path.read_text())

    with Replay(small_world(photos=4), key=key, secret=secret) as replay:
        replay.requests = requests = Watched()
        requests.count_anew(look)
        given = environment(replay, keys=not by_file)
        running.append(subprocess.Popen(command, cwd=tmp_path, env=given, stdout=subprocess.DEVNULL))
        assert running[0].wait(120) == 0
    assert any("build-getty" in title for title in titles)
    assert not [title for title in titles if key[:8] in title or secret[:8] in title]


FAILING = """
import sys
from importlib import import_module

def fail(*_, **__):
    raise RuntimeError("nobody foresaw this")

module, _, name = sys.argv.pop(1).partition(":")
holder, _, name = name.rpartition(".")
place = import_module(module)
setattr(getattr(place, holder) if holder else place, name, fail)

from mvsent.cli import main
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("flickr", "httpx:Client.send"),
        ("flickr", "mvsent.sources.crawl.crawl_queries:follow_up"),
        ("getty", "httpx:Client.send"),
        ("getty", "mvsent.sources.getty:parse_token"),
    ],
)
def test_the_traceback_of_a_failure_that_nobody_foresaw(
    replay: Replay, tmp_path: Path, source: str, place: str
) -> None:
    command = programs.python("-c", FAILING, place, *arguments(source, tmp_path), "--json")
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(replay), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "RuntimeError: nobody foresaw this" in done.stderr
    assert_no_secret_in(done.stdout + done.stderr)
    for text in left_behind(tmp_path).values():
        assert_no_secret_in(text)


@pytest.mark.parametrize("source", list(SETTINGS))
def test_the_values_of_all_variables_on_the_way_to_an_unforeseen_failure(
    replay: Replay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("nobody foresaw this")

    monkeypatch.setattr(f"mvsent.sources.{source}.parse_search", fail)
    with pytest.raises(RuntimeError) as failure:
        build(tmp_path / source, SETTINGS[source](replay, tmp_path))
    shown = traceback.TracebackException.from_exception(failure.value, capture_locals=True)
    text = "".join(shown.format())
    assert "Client(127.0.0.1:" in text
    assert_no_secret_in(text)


@pytest.mark.parametrize(
    ("source", "fault"), [("flickr", "revoked_after"), ("getty", "revoked_after"), ("getty", "daily_limit")]
)
def test_the_error_of_a_command_that_should_print_json(
    replay: Replay,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    source: str,
    fault: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in replay.environment().items():
        monkeypatch.setenv(name, value)
    replay.faults = Faults(**{fault: 1})
    assert exit_code(lambda: app([*arguments(source, tmp_path), "--json"], standalone_mode=False)) == 3
    said = capsys.readouterr()
    assert said.out == "" and "mvsent: " in said.err
    assert_no_secret_in(said.err)
