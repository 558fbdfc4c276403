"""The joint cross-modal model of Table III, from its description in DMLANet's paper.

"The textual features are computed using attention-based GRU, and visual features are calculated using
maximum mean discrepancy. Finally, attention-based LSTM is used to compute the final-sentiment polarity."
Its own paper was not available: everything else is a choice.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from mvsent.models.attention import AdditiveAttention, attended_regions, regions_of
from mvsent.models.batch import REGIONS, WORDS, Batch, Output, Sizes
from mvsent.models.encoders import BiGRUEncoder, LSTMEncoder, WordEmbedding
from mvsent.models.registry import ModelCard, Published, register
from mvsent.setting import Settings

BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Widths of the Gaussian kernels, in mean squared distances of the batch."""


class JointCrossModalOptions(Settings):
    """Choices that the description leaves open."""

    alignment: float = Field(default=0.1, ge=0)  # weight of the discrepancy in the loss
    hidden: int = Field(default=128, ge=1)
    dropout: float = Field(default=0.5, ge=0, lt=1)
    train_words: bool = False  # whether the word vectors are trained


@register(
    ModelCard(
        name="joint-cross-modal",
        tables=frozenset({3}),
        citation=(
            "The joint cross-modal model (2019) of Table III of Ashima Yadav, Dinesh Kumar Vishwakarma: A "
            "Deep Multi-Level Attentive network for Multimodal Sentiment Analysis. arXiv:2012.08256, 2020, "
            "reference 33"
        ),
        url="https://arxiv.org/abs/2012.08256",
        fidelity="reconstructed",
        fidelity_note="Built from the two sentences that DMLANet's paper spends on it.",
        reads=frozenset({REGIONS, WORDS}),
        options=JointCrossModalOptions,
        published={"flickr": Published(accuracy=80.6, f1=81.0)},
    )
)
class JointCrossModal(nn.Module):
    """Regions aligned with an attentive GRU's text, each word's regions, an attentive LSTM over both.

    Reference: Yadav & Vishwakarma 2020, §4.4.2.
    """

    def __init__(self, sizes: Sizes, options: JointCrossModalOptions) -> None:
        super().__init__()
        self.options = options
        d = options.hidden
        self.project = nn.Conv2d(sizes.channels, d, 1)
        self.embedding = WordEmbedding(sizes, trained=options.train_words, dropout=options.dropout)
        self.gru = BiGRUEncoder(self.embedding.size, d)
        self.to_word = nn.Linear(2 * d, d)
        self.text_attention = AdditiveAttention(d)
        self.lstm = LSTMEncoder(2 * d, d)
        self.joint_attention = AdditiveAttention(d, guide_size=d)
        self.dropout = nn.Dropout(options.dropout)
        self.classify = nn.Linear(d, sizes.n_classes)

    def forward(self, batch: Batch) -> Output:
        """Logits `[B, n_classes]` and the attention maps `words`, `regions`; the penalty aligns."""
        assert batch.regions is not None
        vectors, mask = self.embedding(batch)
        words = torch.tanh(self.to_word(self.gru(vectors, mask)))  # [B, S, d]
        text, _ = self.text_attention(words, mask)  # [B, d]
        regions = torch.tanh(regions_of(self.project(batch.regions)))  # [B, M, d]
        seen, seen_where = attended_regions(words, regions)  # [B, S, d], [B, S, M]
        states = self.lstm(torch.cat([words, seen], dim=2), mask)  # [B, S, d]
        joint, weights = self.joint_attention(states, mask, guide=text)  # [B, d], [B, S]
        where = torch.einsum("bs,bsm->bm", weights, seen_where)
        attention = {"words": weights, "regions": where.view(-1, *batch.regions.shape[2:])}
        return Output(self.classify(self.dropout(joint)), attention, self._penalty(text, regions))

    def _penalty(self, text: Tensor, regions: Tensor) -> Tensor | None:
        if not self.training:
            return None
        # Distances are differences of products: half precision leaves nothing of those of near vectors.
        with torch.autocast(text.device.type, enabled=False):
            return self.options.alignment * discrepancy(text.float(), regions.float().mean(dim=1))


def discrepancy(x: Tensor, y: Tensor) -> Tensor:
    """The squared maximum mean discrepancy of two samples `[B, d]`: zero where they are alike.

    The kernel is the mean of Gaussians of several widths. The estimate is the biased one, which is never
    negative, and is defined for a single pair.

    Reference: Gretton et al. 2012, Eq. 5.

    >>> discrepancy(torch.eye(3), torch.eye(3)).item()
    0.0
    """
    n = len(x)
    both = torch.cat([x, y])
    norms = both.pow(2).sum(dim=1)
    distances = (norms[:, None] + norms[None, :] - 2 * both @ both.T).clamp_min(0)  # [2B, 2B], squared
    width = distances.detach().mean().clamp_min(1e-6)
    kernel = torch.stack([torch.exp(-distances / (w * width)) for w in BANDWIDTHS]).mean(dim=0)
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()
