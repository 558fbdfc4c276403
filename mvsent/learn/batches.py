"""Rows of a dataset to batches: which rows, in which order, as which tensors."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from mvsent.models.batch import Batch

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Examples:
    """The inputs of every row of a dataset, `N` rows; a field that the model does not read is None.

    Attributes:
        target: `[N]` int64, index into the run's classes.
        words: `[N, S]` int64, numbers of the vocabulary, 0 after the last word.
        regions: `[N, C, H, W]` float16, memory-mapped.
        pixels: `[N, 3, side, side]` uint8, memory-mapped.
    """

    target: npt.NDArray[np.int64]
    words: npt.NDArray[np.int64] | None = None
    regions: npt.NDArray[np.float16] | None = None
    pixels: npt.NDArray[np.uint8] | None = None

    def batch(self, rows: Rows) -> Batch:
        """The batch of `rows`, as long as its longest text."""
        words = word_mask = None
        if self.words is not None:
            chosen = self.words[rows]
            longest = max(1, int((chosen != 0).sum(axis=1).max()))
            words = torch.from_numpy(chosen[:, :longest])
            word_mask = words != 0
        return Batch(
            regions=None if self.regions is None else _gather(self.regions, rows).float(),
            pixels=None if self.pixels is None else _gather(self.pixels, rows),
            words=words,
            word_mask=word_mask,
            target=torch.from_numpy(self.target[rows]),
        )


def epoch_order(rows: Rows, *, seed: int, fold: int, epoch: int) -> Rows:
    """`rows` shuffled; the order depends on seed, fold and epoch alone, so that a resumed run repeats it."""
    return np.random.default_rng([seed, fold, epoch]).permutation(rows)


def batches(examples: Examples, rows: Rows, batch_size: int, *, pin: bool = False) -> Iterator[Batch]:
    """The batches of `rows` in the order given; the last one may be smaller."""
    for start in range(0, len(rows), batch_size):
        batch = examples.batch(rows[start : start + batch_size])
        yield batch.map(torch.Tensor.pin_memory) if pin else batch


def _gather(stored: npt.NDArray[np.generic], rows: Rows) -> torch.Tensor:
    # In the order of the file, then back: a memory map is read once from front to back.
    order = np.argsort(rows, kind="stable")
    gathered = np.empty((len(rows), *stored.shape[1:]), dtype=stored.dtype)
    gathered[order] = stored[rows[order]]
    return torch.from_numpy(gathered)
