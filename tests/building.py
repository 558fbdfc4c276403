"""Builds against the stand-in, in a child process that may be killed."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from mvsent.build import search
from mvsent.build.refresh import RefreshResult, open_refreshable
from mvsent.build.refresh import refresh as refreshed
from mvsent.build.search import BuildResult
from mvsent.config import BuildSettings
from mvsent.sources import flickr, getty
from mvsent.sources.crawl import patience
from mvsent.sources.flickr import FlickrSettings
from mvsent.sources.getty import GettySettings
from mvsent.standin.replay import KEY, SECRET, Replay
from mvsent.standin.world import World
from mvsent.workers.engine import LOCAL, Engine

SENTIMENTS = {
    "happy dog": 1.5,
    "dead tree": -1.25,
    "sunny day": 0.75,
    "sad song": -0.5,
    "lovely bench": 1.0,
    "broken window": -1.0,
}
KEYS = {
    "FLICKR_API_KEY": SecretStr(KEY),
    "GETTY_API_KEY": SecretStr(KEY),
    "GETTY_API_SECRET": SecretStr(SECRET),
}
EPOCH = "1700000000"
TOKEN_PATH = "/oauth2/token"


def still_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Datasets say that they were made at EPOCH, and nobody waits before asking again."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", EPOCH)
    monkeypatch.setattr(patience, "backoff", lambda attempt, rng: 0.0)


def write_lexicon(path: Path, sentiments: Mapping[str, float] = SENTIMENTS) -> Path:
    """A lexicon file of `sentiments`."""
    rows = [f"{query.replace(' ', '_')}\t{score}" for query, score in sentiments.items()]
    path.write_text("\n".join(["word\tsentiment", *rows]) + "\n")
    return path


def small_world(photos: int = 12, **given: Any) -> World:
    """A stand-in's world that a busy machine draws in no time."""
    return World(SENTIMENTS, **{"photos": photos, "side": 120, "seed": 3, **given})


def flickr_settings(replay: Replay, folder: Path, **given: Any) -> FlickrSettings:
    """Settings for the stand-in: any language (the identifier takes seconds to load), no image limit."""
    return FlickrSettings(
        **{
            "anps": str(write_lexicon(folder / "lexicon.tsv")),
            "endpoint": replay.flickr_endpoint,
            "images_per_second": 0,
            "language": "any",
            "concurrency": 2,
            "shard_size": 16,
            **given,
        }
    )


def getty_settings(replay: Replay, folder: Path, **given: Any) -> GettySettings:
    """Settings for the stand-in: no image limit."""
    return GettySettings(
        **{
            "keywords": str(write_lexicon(folder / "lexicon.tsv")),
            "endpoint": replay.getty_endpoint,
            "token_url": replay.getty_token_url,
            "images_per_second": 0,
            "concurrency": 2,
            "shard_size": 16,
            **given,
        }
    )


SETTINGS: dict[str, Callable[..., BuildSettings]] = {"flickr": flickr_settings, "getty": getty_settings}
"""Of each source, what makes its settings."""


def build(
    out: Path,
    settings: BuildSettings,
    *,
    key: str = "",
    overwrite: bool = False,
    engine: Engine = LOCAL,
) -> BuildResult:
    """Build what the settings are for, with the stand-in's keys, or with `key` alone."""
    source = next(one for one in (flickr.SOURCE, getty.SOURCE) if isinstance(settings, one.settings))
    keys = {name: SecretStr(key) for name in KEYS} if key else KEYS
    return search.build(
        source, out, settings, keys, overwrite=overwrite, workers=1, engine=engine, quiet=True
    )


def refresh(folder: Path, endpoint: str = "") -> RefreshResult:
    """Refresh the dataset in `folder`, with the stand-in's key and no quota."""
    dataset, source = open_refreshable(folder)
    settings = source.settings(endpoint=endpoint, quota_per_hour=10_000_000)
    return refreshed(dataset, source, settings, KEYS, quiet=True)


def files_of(folder: Path) -> dict[str, bytes]:
    """The files of a finished dataset, without the crawl's own."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith("crawl.sqlite")
    }


def _nothing() -> None: ...


def _child(call: Callable[[], object], before: Callable[[], object], environment: dict[str, str]) -> None:
    """What a child process does: the call, and then exit as the command would."""
    from mvsent.cli import exit_code

    os.environ |= environment  # the fork server keeps that of the first test that needed it
    os.environ["SOURCE_DATE_EPOCH"] = EPOCH
    before()
    os._exit(exit_code(lambda: call() and 0))


_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["mvsent.build.search", "mvsent.build.refresh", "mvsent.cli", "tests.building"]
)


def start(call: Callable[[], object], before: Callable[[], object] = _nothing) -> Any:
    """A child process that makes the call after `before`; in no time, since its modules are loaded once."""
    process = _context.Process(target=_child, args=(call, before, dict(os.environ)), daemon=True)
    process.start()
    return process


def start_build(out: Path, settings: BuildSettings) -> Any:
    """A child process that builds."""
    return start(partial(build, out, settings))


def kill(process: Any) -> None:
    """kill -9, unless it is gone."""
    if process.pid is not None and process.is_alive():
        os.kill(process.pid, signal.SIGKILL)


_SHOWING = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"}


def die_at_step(step: int, after: Path) -> None:
    """From here on this process kills itself at its step number `step` that shows on the disk.

    Steps are counted from 0, which is the first one that renames `after`.
    """
    n_left = step

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal n_left
        if event in _SHOWING and (n_left < step or (event == "os.rename" and Path(arguments[0]) == after)):
            n_left -= 1
            if n_left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


class Watched(list[Any]):
    """The stand-in's list of requests, which calls `on_request` for each, numbered, before it is answered.

    Requests for a token do not count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.on_request: Callable[[int], object] = lambda n: None
        self.n = 0

    def append(self, request: Any) -> None:
        super().append(request)
        if not request.path.startswith(TOKEN_PATH):
            self.n += 1
            self.on_request(self.n)

    def count_anew(self, on_request: Callable[[int], object]) -> None:
        self.n, self.on_request = 0, on_request
