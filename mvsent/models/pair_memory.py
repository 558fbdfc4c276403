"""pair-memory: the memory of dmlanet-plus alone, which is solved at once."""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from mvsent.models.batch import (
    IMAGE_VECTOR,
    LEXICON,
    MODALITY_LABELS,
    REGIONS,
    TEXT_VECTOR,
    WORDS,
    Batch,
    Batches,
    Output,
    Sizes,
)
from mvsent.models.encoders import WordEmbedding
from mvsent.models.memory import PairMemory, log_of, present
from mvsent.models.registry import ModelCard, register
from mvsent.setting import Settings


class PairMemoryOptions(Settings):
    """Its inputs, and how it remembers."""

    lexicon: bool = True
    heads: bool = True  # a label of each modality, joined by the label rule
    width: float = Field(default=0.5, gt=0, allow_inf_nan=False)
    pairs: int = Field(default=4096, ge=1)  # kept of the training pairs
    adjust: float = Field(default=0.3, ge=0, le=1)  # 1: as if all classes were equally frequent
    refit: bool = True  # on validation rows, too, once everything is chosen by them


@register(
    ModelCard(
        name="pair-memory",
        citation=(
            "mvsent: a baseline that no paper claims. Kernel ridge regression of both modalities' labels and "
            "of the class on whole vectors of text and picture, joined by the label rule"
        ),
        url="https://scikit-learn.org/stable/modules/kernel_ridge.html",
        fidelity="exact",
        fidelity_note="It is defined by its code.",
        reads=frozenset({REGIONS, WORDS}),
        may_read=frozenset({TEXT_VECTOR, IMAGE_VECTOR, LEXICON, MODALITY_LABELS}),
        options=PairMemoryOptions,
        ablations={
            "w/o lexicon": {"lexicon": "false"},
            "w/o label rule": {"heads": "false"},
            "w/o adjustment": {"adjust": "0"},
            "w/o refit": {"refit": "false"},
        },
        kind="ours",
    )
)
class PairMemoryAlone(nn.Module):
    """Kernel ridge regression on the vectors of training pairs; see `memory`.

    The likeliest class is too often a frequent one for the F1 score: logits are lowered by `adjust` times the
    logarithm of the class's share of the training rows. Reference: Menon et al. 2021 (logit adjustment).
    """

    lowered: Tensor

    def __init__(self, sizes: Sizes, options: PairMemoryOptions) -> None:
        super().__init__()
        self.options = options
        self.embedding = WordEmbedding(sizes)
        self.memory = PairMemory(
            sizes, lexicon=options.lexicon, heads=options.heads, width=options.width, capacity=options.pairs
        )
        self.register_buffer("lowered", torch.zeros(sizes.n_classes))

    def forward(self, batch: Batch) -> Output:
        """Logits `[B, n_classes]`."""
        vectors = self.memory.vectors(batch, *self.embedding(batch))
        return Output(log_of(self.memory(*vectors, *present(batch))) - self.lowered)

    def solve(self, train: Batches, validation: Batches) -> None:
        """Solve on the training rows; choose ridges, scales and shares on the validation rows."""
        known, seen = (self.memory.known(rows, self.embedding) for rows in (train, validation))
        self.memory.solve(known, seen)
        counts = torch.bincount(known[2][2], minlength=len(self.lowered)).clamp_min(1)
        self.lowered = self.options.adjust * (counts / counts.sum()).log().to(self.lowered)

    def refit(self, train: Batches, validation: Batches) -> None:
        """Solve again on training and validation rows."""
        if self.options.refit:
            self.memory.refit(*(self.memory.known(rows, self.embedding) for rows in (train, validation)))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state_dict.setdefault(prefix + "lowered", torch.zeros_like(self.lowered))  # versions without it
        super()._load_from_state_dict(state_dict, prefix, *args)
