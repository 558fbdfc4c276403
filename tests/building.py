"""Builds against the stand-in, in a child process that may be killed."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from mvsent.config import FlickrSettings
from mvsent.sources.replay import KEY, Replay
from mvsent.sources.replay_world import World

SENTIMENTS = {
    "happy dog": 1.5,
    "dead tree": -1.25,
    "sunny day": 0.75,
    "sad song": -0.5,
    "lovely bench": 1.0,
    "broken window": -1.0,
}
EPOCH = "1700000000"


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


def files_of(folder: Path) -> dict[str, bytes]:
    """The files of a finished dataset, without the crawl's own."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith("crawl.sqlite")
    }


def child_build(out: str, settings: dict[str, Any]) -> None:
    """What a child process does: build, and exit as the command would."""
    from mvsent.cli import exit_code
    from mvsent.pipelines.build import build_flickr

    os.environ["SOURCE_DATE_EPOCH"] = EPOCH
    os._exit(
        exit_code(
            lambda: (
                build_flickr(Path(out), FlickrSettings(**settings), SecretStr(KEY), workers=1, quiet=True)
                and 0
            )
        )
    )


_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["mvsent.pipelines.build", "mvsent.cli", "tests.building"])


def start_build(out: Path, settings: FlickrSettings) -> Any:
    """A child process that builds; started in no time, since its modules are loaded once."""
    process = _context.Process(target=child_build, args=(str(out), settings.model_dump()), daemon=True)
    process.start()
    return process


def kill(process: Any) -> None:
    """kill -9, unless it is gone."""
    if process.pid is not None and process.is_alive():
        os.kill(process.pid, signal.SIGKILL)


class Watched(list[Any]):
    """The stand-in's list of requests, which calls `on_request` for each before it is answered."""

    def __init__(self) -> None:
        super().__init__()
        self.on_request: Callable[[int], object] = lambda n: None
        self.n = 0

    def append(self, request: Any) -> None:
        super().append(request)
        self.n += 1
        self.on_request(self.n)

    def count_anew(self, on_request: Callable[[int], object]) -> None:
        self.n, self.on_request = 0, on_request
