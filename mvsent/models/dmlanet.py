"""DMLANet, in the order of its paper.

Where the paper is silent or contradicts itself, the default below is a choice with an option beside it;
docs/dmlanet.md gives the reason for each.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mvsent.models.attention import (
    ChannelAttention,
    SpatialAttention,
    masked_mean,
    masked_softmax,
    regions_of,
)
from mvsent.models.batch import REGIONS, WORDS, Batch, Output, Sizes
from mvsent.models.encoders import LSTMEncoder, WordEmbedding
from mvsent.models.registry import ModelCard, Published, TrainingRecipe, register
from mvsent.setting import Settings


class DMLANetOptions(Settings):
    """Choices where the paper is silent, and the ablations of its Table IV."""

    without: Literal["none", "visual", "semantic", "self"] = "none"  # Table IV: SA + CA, SMAtt, SAtt
    gate: Literal["relu", "sigmoid"] = "relu"  # of Eq. 1 and 2; CBAM has sigmoid
    semantic: Literal["mean", "region_word"] = "mean"  # Eq. 4: what guides a word
    axis: Literal["words", "elementwise"] = "words"  # Eq. 5: one weight a word, or one a feature of a word
    sequence: Literal["two", "regions"] = "two"  # Eq. 7: [s; mean v], or [s; v_1 … v_m]
    hidden: int = Field(default=256, ge=1)  # d, of the LSTM and of the projected regions
    map_channels: int = Field(default=256, ge=1)  # of A_c, which the paper prints as 1 × 1 × 256
    reduction: int = Field(default=16, ge=1)  # r of the channel MLP
    dropout: float = Field(default=0.5, ge=0, lt=1)
    train_words: bool = False  # whether the word vectors are trained


@register(
    ModelCard(
        name="dmlanet",
        tables=frozenset({2, 3, 4}),
        citation=(
            "Ashima Yadav, Dinesh Kumar Vishwakarma: A Deep Multi-Level Attentive network for Multimodal "
            "Sentiment Analysis. arXiv:2012.08256, 2020"
        ),
        url="https://arxiv.org/abs/2012.08256",
        fidelity="reconstructed",
        fidelity_note=(
            "Every equation is there; sizes, axes and pooling that the paper leaves open are stated choices."
        ),
        reads=frozenset({REGIONS, WORDS}),
        options=DMLANetOptions,
        paper_recipe=TrainingRecipe(
            "§4.2 of the paper; it converges after about 50 epochs",
            {"optimizer": "adam", "learning_rate": 1e-3, "batch_size": 256, "epochs": 50},
        ),
        ablations={
            "w/o SA + CA": {"without": "visual"},
            "w/o SMAtt": {"without": "semantic"},
            "w/o SAtt": {"without": "self"},
        },
        published={
            "mvsa-single": Published(accuracy=79.47, f1=79.59),
            "mvsa-multiple": Published(accuracy=77.89, f1=75.26),
            "flickr": Published(accuracy=89.30, f1=89.19),
            "getty": Published(accuracy=92.65, f1=92.60),
        },
        published_ablations={  # Table IV
            "w/o SA + CA": {
                "mvsa-multiple": Published(accuracy=70.85, f1=71.29),
                "flickr": Published(accuracy=85.77, f1=85.54),
            },
            "w/o SMAtt": {
                "mvsa-multiple": Published(accuracy=70.00, f1=70.17),
                "flickr": Published(accuracy=81.90, f1=82.44),
            },
            "w/o SAtt": {
                "mvsa-multiple": Published(accuracy=73.54, f1=73.98),
                "flickr": Published(accuracy=87.98, f1=88.01),
            },
        },
    )
)
class DMLANet(nn.Module):
    """Deep multi-level attentive network: channel, spatial, semantic and self-attention.

    Reference: Yadav & Vishwakarma 2020, §3.
    """

    def __init__(self, sizes: Sizes, options: DMLANetOptions) -> None:
        super().__init__()
        self.options = options
        c, d = options.map_channels, options.hidden
        self.project = nn.Identity() if sizes.channels == c else nn.Conv2d(sizes.channels, c, 1)
        if options.without != "visual":
            self.channel_attention = ChannelAttention(c, options.reduction, _gate(options.gate))
            self.spatial_attention = SpatialAttention(_gate(options.gate))
        self.to_region = nn.Linear(c, d)
        self.embedding = WordEmbedding(sizes, trained=options.train_words, dropout=options.dropout)
        self.lstm = LSTMEncoder(self.embedding.size, d)
        if options.without != "semantic":
            self.w_semantic = nn.Linear(d, d if options.axis == "elementwise" else 1, bias=False)
        if options.without != "self":
            self.w_self = nn.Linear(d, 1)
        self.dropout = nn.Dropout(options.dropout)
        self.w_s = nn.Linear(2 * d if options.without == "self" else d, sizes.n_classes)

    def forward(self, batch: Batch) -> Output:
        """Logits `[B, n_classes]` and the attention maps `channel`, `spatial`, `words`, `fusion`."""
        assert batch.regions is not None
        attention: dict[str, Tensor] = {}
        v_f = self.visual(batch.regions, attention)  # [B, M, d]
        words, mask = self.embedding(batch)
        t_f = self.lstm(words, mask)  # [B, S, d]
        s_f = self.semantic(v_f, t_f, mask, attention)  # [B, d]
        m = self.joint(s_f, v_f, attention)  # [B, d], or [B, 2d] without self-attention
        return Output(self.w_s(self.dropout(m)), attention)  # Eq. 9; its softmax is in the loss, Eq. 10

    def visual(self, feature_map: Tensor, attention: dict[str, Tensor]) -> Tensor:
        """§3.2: `[B, C, H, W]` → bi-attentive visual features `[B, M, d]`."""
        m = self.project(feature_map)  # [B, c, H, W]
        if self.options.without == "visual":
            return self.to_region(regions_of(m))  # type: ignore[no-any-return]
        a_c = self.channel_attention(m)  # [B, c], Eq. 1
        f = m * a_c[:, :, None, None]  # [B, c, H, W]
        a_s = self.spatial_attention(f)  # [B, 1, H, W], Eq. 2
        attention["channel"] = a_c
        attention["spatial"] = a_s.squeeze(1)
        v_f: Tensor = self.to_region(regions_of(f * a_s))  # [B, M, d], Eq. 3
        return v_f

    def semantic(self, v_f: Tensor, t_f: Tensor, mask: Tensor, attention: dict[str, Tensor]) -> Tensor:
        """§3.2.3: the words that matter to this picture, `[B, M, d]`, `[B, S, d]` → `[B, d]`."""
        if self.options.without == "semantic":
            return masked_mean(t_f, mask)
        if self.options.semantic == "mean":
            v_f = v_f.mean(dim=1, keepdim=True)  # [B, 1, d]
        w = self.w_semantic.weight  # [1 or d, d]; W(v ⊙ t) without ever holding v ⊙ t
        m_f = torch.tanh(torch.einsum("bmd,od,bsd->bmso", v_f, w, t_f))  # [B, M or 1, S, 1 or d], Eq. 4
        alpha = masked_softmax(m_f, mask[:, None, :, None], dim=2).mean(dim=1)  # [B, S, 1 or d], Eq. 5
        attention["words"] = alpha.mean(dim=-1)
        return (alpha * t_f).sum(dim=1)  # Eq. 6

    def joint(self, s_f: Tensor, v_f: Tensor, attention: dict[str, Tensor]) -> Tensor:
        """§3.2.3: what matters of both modalities, `[B, d]`, `[B, M, d]` → `[B, d]`."""
        v_mean = v_f.mean(dim=1)  # [B, d]
        if self.options.without == "self":
            return torch.cat([s_f, v_mean], dim=1)
        visual = v_f if self.options.sequence == "regions" else v_mean.unsqueeze(1)
        j_f = torch.cat([s_f.unsqueeze(1), visual], dim=1)  # [B, 1 + M, d]
        upsilon = torch.softmax(torch.tanh(self.w_self(j_f)), dim=1)  # [B, 1 + M, 1], Eq. 7
        attention["fusion"] = upsilon.squeeze(-1)
        return (upsilon * j_f).sum(dim=1)  # Eq. 8


def _gate(name: str) -> nn.Module:
    return nn.ReLU() if name == "relu" else nn.Sigmoid()
