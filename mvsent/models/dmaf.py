"""DMAF: classifiers of the picture, of the text and of both, and a weighted average of the three.

The text of the paper was not available: attention, late weights and sizes are choices consistent with its
abstract.
"""

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mvsent.models.attention import AdditiveAttention, regions_of
from mvsent.models.batch import REGIONS, WORDS, Batch, Batches, Output, Sizes
from mvsent.models.encoders import LSTMEncoder, WordEmbedding
from mvsent.models.registry import ModelCard, Published, register
from mvsent.setting import Settings

GRID_STEPS = 20
"""The late weights are multiples of one part in this many."""


class DMAFOptions(Settings):
    """Choices where the paper is silent."""

    late: Literal["fitted", "equal"] = "fitted"  # weights of the three classifiers
    hidden: int = Field(default=128, ge=1)
    dropout: float = Field(default=0.5, ge=0, lt=1)
    train_words: bool = False  # whether the word vectors are trained


@register(
    ModelCard(
        name="dmaf",
        tables=frozenset({3}),
        citation=(
            "Feiran Huang, Xiaoming Zhang, Zhonghua Zhao, Jie Xu, Zhoujun Li: Image–text sentiment analysis "
            "via deep multimodal attentive fusion. Knowledge-Based Systems, 2019"
        ),
        url="https://doi.org/10.1016/j.knosys.2019.01.019",
        fidelity="reconstructed",
        fidelity_note=(
            "The three attention models and the late fusion of its abstract are there; they share encoders, "
            "are trained together, and are weighted by a stated rule."
        ),
        reads=frozenset({REGIONS, WORDS}),
        options=DMAFOptions,
        published={
            "flickr": Published(accuracy=85.9, f1=85.0),
            "getty": Published(accuracy=86.9, f1=86.6),
        },
    )
)
class DMAF(nn.Module):
    """Visual, semantic and joint attention models, fused late.

    Reference: Huang et al. 2019.
    """

    late: Tensor

    def __init__(self, sizes: Sizes, options: DMAFOptions) -> None:
        super().__init__()
        self.options = options
        d = options.hidden
        self.project = nn.Conv2d(sizes.channels, d, 1)
        self.embedding = WordEmbedding(sizes, trained=options.train_words, dropout=options.dropout)
        self.lstm = LSTMEncoder(self.embedding.size, d)
        self.visual_attention = AdditiveAttention(d)
        self.semantic_attention = AdditiveAttention(d)
        self.regions_for_text = AdditiveAttention(d, guide_size=d)
        self.words_for_image = AdditiveAttention(d, guide_size=d)
        self.fuse = nn.Linear(2 * d, d)
        self.dropout = nn.Dropout(options.dropout)
        self.of_image, self.of_text, self.of_both = (nn.Linear(d, sizes.n_classes) for _ in range(3))
        self.register_buffer("late", torch.full((3,), 1 / 3))

    def forward(self, batch: Batch) -> Output:
        """Logits `[B, n_classes]` and the attention maps `words`, `regions`.

        In evaluation they are the logarithm of the weighted average of the three classifiers. In training
        they are those of the joint classifier, and the penalty has the cross-entropy of the other two: each
        has its own loss, as if the three were trained one by one.
        """
        attention: dict[str, Tensor] = {}
        image, text, both = self.classifiers(batch, attention)
        if self.training:
            own = None
            if batch.target is not None:
                loss = nn.functional.cross_entropy
                own = loss(image.float(), batch.target) + loss(text.float(), batch.target)
            return Output(both, attention, own)
        probabilities = torch.stack([image, text, both]).float().softmax(dim=2)  # [3, B, n_classes]
        return Output(_log(torch.einsum("k,kbc->bc", self.late, probabilities)), attention)

    def classifiers(self, batch: Batch, attention: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Logits `[B, n_classes]` of the picture, of the text and of both."""
        assert batch.regions is not None
        regions = torch.tanh(regions_of(self.project(batch.regions)))  # [B, M, d]
        vectors, mask = self.embedding(batch)
        words = self.lstm(vectors, mask)  # [B, S, d]
        image, where = self.visual_attention(regions)  # [B, d], [B, M]
        text, attention["words"] = self.semantic_attention(words, mask)  # [B, d], [B, S]
        attention["regions"] = where.view(-1, *batch.regions.shape[2:])  # [B, H, W]
        image_of_text, _ = self.regions_for_text(regions, guide=text)  # [B, d]
        text_of_image, _ = self.words_for_image(words, mask, guide=image)  # [B, d]
        both = torch.tanh(self.fuse(torch.cat([image_of_text, text_of_image], dim=1)))  # [B, d]
        return (
            self.of_image(self.dropout(image)),
            self.of_text(self.dropout(text)),
            self.of_both(self.dropout(both)),
        )

    def settle(self, train: Batches, validation: Batches) -> None:
        """Choose the late weights of the grid that maximise the likelihood of the validation rows."""
        if self.options.late == "equal":
            return
        correct = torch.cat([self._of_truth(batch.to(self.late.device)) for batch in validation()], dim=1)
        grid = torch.tensor(list(simplex(GRID_STEPS)), device=self.late.device)  # [G, 3]
        self.late.copy_(grid[_log(grid @ correct).sum(dim=1).argmax()])

    def _of_truth(self, batch: Batch) -> Tensor:
        """Probability of the true class by each classifier, `[3, B]`."""
        assert batch.target is not None
        probabilities = torch.stack(self.classifiers(batch, {})).float().softmax(dim=2)
        index = batch.target.expand(3, -1).unsqueeze(-1)  # [3, B, 1]
        return probabilities.gather(2, index).squeeze(-1)


def simplex(steps: int) -> Iterator[tuple[float, float, float]]:
    """All triples of weights that are multiples of `1 / steps` and sum to one.

    >>> list(simplex(1))
    [(0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)]
    """
    for a in range(steps + 1):
        for b in range(steps + 1 - a):
            yield a / steps, b / steps, (steps - a - b) / steps


def _log(probabilities: Tensor) -> Tensor:
    return probabilities.clamp_min(1e-12).log()
