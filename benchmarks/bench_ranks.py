"""The gain of a second rank: pixels a second of training, 2 ranks × 1 thread ÷ 1 rank × 1 thread.

The last block of efficientnet_lite0 (random weights) is trained with DMLANet, through small pictures, at the
same global batch. Ours and the other run alternately, in processes of their own. Two cores must be idle.
"""

from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from mvsent.config import TrainSettings
from mvsent.features.backbones import load_backbone
from mvsent.learn.batches import Examples, Text
from mvsent.learn.finetune import ThroughEncoders
from mvsent.learn.loop import Fold, Trainer
from mvsent.models import registry
from mvsent.models.batch import Sizes
from mvsent.workers.launcher import in_ranks
from mvsent.workers.ranks import joined

N_ROWS, BATCH, SIDE, N_WORDS, N_KNOWN, EPOCHS, ROUNDS = 258, 64, 96, 40, 5000, 3, 3
# Two validation rows, one for each rank: training is measured.
FOLD = Fold(0, train=np.arange(N_ROWS - 2), validation=np.arange(N_ROWS - 2, N_ROWS))


def rows() -> list[tuple[str, float, float, float, str]]:
    """`(figure, megapixels/s of two ranks, of one, ratio, goal)`, medians of rounds that alternate."""
    rates = [[in_ranks(rate, n_ranks, lambda run: None) for n_ranks in (2, 1)] for _ in range(ROUNDS)]
    two, one = (median(each) for each in zip(*rates, strict=True))
    ratio = median(ours / other for ours, other in rates)
    return [("training, Mpixels/s, 2 ranks × 1 thread ÷ 1 × 1", two, one, ratio, "≥ 1.6")]


def rate(*, ready: Any) -> float:
    """Megapixels a second of all ranks together, in the fastest epoch after the first."""
    torch.set_num_threads(1)  # otherwise one rank would use both cores
    torch.manual_seed(0)
    with joined() as ranks, TemporaryDirectory() as folder:
        settings = TrainSettings(epochs=EPOCHS, fine_tune="last", batch_size=BATCH)
        trainer = Trainer(network(), examples(), settings, torch.device("cpu"), ranks=ranks)
        history = trainer.fit(FOLD, Path(folder) / "checkpoint.pt")
    return len(FOLD.train) * SIDE**2 / 1e6 / min(record.seconds for record in history[1:])


def network() -> ThroughEncoders:
    """DMLANet behind a backbone of which the last block is trained."""
    backbone = load_backbone("efficientnet_lite0", weights="random")
    model = registry.build("dmlanet", Sizes(backbone.channels, (3, 3), torch.randn(N_KNOWN, 50), 3), {})
    return ThroughEncoders(model, backbone.last_block_parameters(), backbone=backbone)


def examples() -> Examples:
    """Random words and pixels."""
    random = np.random.default_rng(0)
    words = Text(np.full(N_ROWS, N_WORDS), numbers=random.integers(1, N_KNOWN, (N_ROWS, N_WORDS)))
    pixels = random.integers(0, 256, (N_ROWS, 3, SIDE, SIDE), dtype=np.uint8)
    return Examples(random.integers(0, 3, N_ROWS), {"words": words, "pixels": pixels})


if __name__ == "__main__":
    for row in rows():
        print(row)
