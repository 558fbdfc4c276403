"""The gain of cached maps: an epoch through pixels ÷ an epoch from cached features."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Literal

import numpy as np
import torch

from mvsent.config import TrainSettings
from mvsent.features.backbones import load_backbone
from mvsent.learn.batches import Examples, Text
from mvsent.learn.finetune import ThroughEncoders
from mvsent.learn.loop import Fold, Trainer
from mvsent.models import registry
from mvsent.models.batch import Sizes

N_ROWS, N_WORDS, N_KNOWN, ROUNDS = 512, 40, 5000, 3
FOLD = Fold(0, train=np.arange(N_ROWS - 64), validation=np.arange(N_ROWS - 64, N_ROWS))


def rows() -> list[tuple[str, float, float, float, str]]:
    """`(figure, seconds through pixels, seconds from cache, ratio, goal)`, medians of alternating epochs."""
    random = np.random.default_rng(0)
    target = random.integers(0, 3, N_ROWS)
    words = Text(np.full(N_ROWS, N_WORDS), numbers=random.integers(1, N_KNOWN, (N_ROWS, N_WORDS)))
    pixels = random.integers(0, 256, (N_ROWS, 3, 224, 224), dtype=np.uint8)
    maps = random.normal(0, 1, (N_ROWS, 1280, 7, 7)).astype(np.float16)
    through = [
        _epoch(Examples(target, {"words": words, "pixels": pixels}), "all"),
        _epoch(Examples(target, {"words": words, "regions": maps}), "none"),
    ]
    seconds: list[list[float]] = [[], []]
    for _ in range(ROUNDS):
        for i, run in enumerate(through):
            seconds[i].append(run())
    slow, fast = map(median, seconds)
    return [("epoch through pixels ÷ epoch from cached features", slow, fast, slow / fast, "≥ 20")]


def _epoch(examples: Examples, fine_tune: Literal["none", "all"]) -> Callable[[], float]:
    settings = TrainSettings(epochs=1, fine_tune=fine_tune, batch_size=64 if fine_tune == "all" else 256)

    def run() -> float:
        backbone = load_backbone("efficientnet_lite0", weights="random")
        sizes = Sizes(backbone.channels, backbone.grid, torch.randn(N_KNOWN, 50), 3)
        network = registry.build("dmlanet", sizes, {})
        if fine_tune == "all":
            network = ThroughEncoders(network, list(backbone.parameters()), backbone=backbone)
        trainer = Trainer(network, examples, settings, torch.device("cpu"))
        with tempfile.TemporaryDirectory() as folder:
            started = perf_counter()
            trainer.fit(FOLD, Path(folder) / "checkpoint.pt")
            return perf_counter() - started

    return run


if __name__ == "__main__":
    for row in rows():
        print(row)
