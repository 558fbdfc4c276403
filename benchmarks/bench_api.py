"""Loading by `mvsent.open(…).to_torch(…)` through a `DataLoader` ÷ the trainer's own loader, rows a second.

Both read the same rows in the same random order: squares of pixels, and the inputs of DMLANet. What frozen
networks computed is in the cache before the clock starts, as in every epoch of a training but the first.
"""

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

import mvsent
from benchmarks.bench_features import alternate, draw_photograph, write_shards
from mvsent.api import PairDataset, PairSplit
from mvsent.api.torch_pairs import DecodedPairs, ReadyPairs
from mvsent.learn.batches import Examples, cut

Row = tuple[str, float, float, float, str]

RANDOM: dict[str, Any] = {"weights": "random", "words": "random"}
N_ROWS, N_DRAWN, BATCH_SIZE, SIDE, EPOCHS = 2048, 64, 256, 224, 4


def rows() -> list[Row]:
    """`(figure, rows/s through the API, rows/s of the trainer's loader, ratio, goal)`."""
    with tempfile.TemporaryDirectory() as folder:
        pictures = [draw_photograph(seed) for seed in range(N_DRAWN)]
        drawn = write_shards(Path(folder) / "shards", [pictures[row % N_DRAWN] for row in range(N_ROWS)])
        dataset = mvsent.open(drawn.folder)
        split = dataset.split("paper-5x")
        return [pixels_row(dataset, split), inputs_row(dataset, split)]


def pixels_row(dataset: PairDataset, split: PairSplit) -> Row:
    """Decoded pictures and texts, against the squares and words that the trainer of a backbone reads."""
    ours = dataset.to_torch(split, 0, "train", side=SIDE)
    assert isinstance(ours, DecodedPairs)
    theirs = dataset.to_torch(split, 0, "train", inputs="dmlanet", fine_tune="all", **RANDOM)
    assert isinstance(theirs, ReadyPairs)
    loader = DataLoader(ours, batch_size=BATCH_SIZE, shuffle=True, collate_fn=ours.collate)
    return compared("decoded pictures and texts", loader, theirs.examples, ours.rows)


def inputs_row(dataset: PairDataset, split: PairSplit) -> Row:
    """Ready inputs of DMLANet, against the trainer's batches of them."""
    ours = dataset.to_torch(split, 0, "train", inputs="dmlanet", **RANDOM)
    assert isinstance(ours, ReadyPairs)
    loader = DataLoader(ours, batch_size=BATCH_SIZE, shuffle=True, collate_fn=ours.collate)
    return compared("ready inputs of dmlanet", loader, ours.examples, ours.rows)


def compared(name: str, loader: Iterable[object], examples: Examples, wanted: np.ndarray) -> Row:
    """Alternating epochs of both loaders over the same rows."""

    def own() -> None:
        for epoch in range(EPOCHS):
            order = examples.order(wanted, seed=0, fold=0, epoch=epoch)
            exhaust(examples.batches(cut(order, BATCH_SIZE)))

    def through_api() -> None:
        for _ in range(EPOCHS):
            exhaust(loader)

    calls: dict[str, Callable[[], object]] = {"api": through_api, "trainer": own}
    torch.manual_seed(0)
    seconds = alternate(calls)
    ours, other = (len(wanted) * EPOCHS / seconds[which] for which in ("api", "trainer"))
    return f"{name}, to_torch ÷ trainer, rows/s", ours, other, ours / other, "≥ 0.9"


def exhaust(batches: Iterable[object]) -> None:
    for _ in batches:
        pass


if __name__ == "__main__":
    for row in rows():
        print(row)
