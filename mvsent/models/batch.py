"""What a model reads: one batch of pairs, and the sizes that are known before the first batch."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor

REGIONS = "regions"
WORDS = "words"


@dataclass(frozen=True)
class Batch:
    """`B` pairs; a field that no one asked for is None.

    Attributes:
        regions: `[B, C, H, W]` float, a backbone's feature map of each picture.
        pixels: `[B, 3, side, side]` uint8, only where the backbone itself is trained.
        words: `[B, S]` int64, numbers of the vocabulary; 0 is padding.
        word_mask: `[B, S]` bool, True where there is a word.
        target: `[B]` int64, index into the run's classes.
    """

    regions: Tensor | None = None
    pixels: Tensor | None = None
    words: Tensor | None = None
    word_mask: Tensor | None = None
    target: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The batch with `change` applied to every tensor it carries."""
        carried = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: change(v) for k, v in carried.items() if v is not None})

    def to(self, device: torch.device) -> Self:
        """The batch on `device`; asynchronous from pinned memory."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))


@dataclass(frozen=True)
class Sizes:
    """What a model must know to be built.

    Attributes:
        channels: of the region map.
        grid: `(H, W)` of the region map.
        vectors: `[V, D]` float32, a vector for each word of the vocabulary; row 0 (padding) is zero.
        n_classes: how many sentiments the dataset has.
    """

    channels: int
    grid: tuple[int, int]
    vectors: Tensor
    n_classes: int


@dataclass(frozen=True)
class Output:
    """What a model says.

    Attributes:
        logits: `[B, n_classes]`.
        attention: name → weights, for pictures; empty unless asked for. `words` `[B, S]` sums to one over
            real words and is zero on padding; `spatial` `[B, H, W]` and `channel` `[B, C]` are gates;
            `fusion` `[B, 2]` or `[B, 1 + M]` splits between the text (first) and the picture or its regions.
    """

    logits: Tensor
    attention: dict[str, Tensor]
