"""AHRM: the text chooses channels, then regions; linked pairs complete the content.

Only the abstract of the paper was available; what it leaves open is a choice named in the options and in
docs/models.md.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mvsent.models.attention import AdditiveAttention, masked_mean, regions_of
from mvsent.models.batch import OWNER_LINKS, REGIONS, TAG_LINKS, WORDS, Batch, Output, Sizes
from mvsent.models.encoders import LSTMEncoder, WordEmbedding
from mvsent.models.registry import ModelCard, Published, register
from mvsent.setting import Settings


class AHRMOptions(Settings):
    """Sizes, and choices that the abstract leaves open."""

    graph: Literal["none", "tags", "owner"] = "none"  # which links between pairs are edges
    layers: int = Field(default=1, ge=1, le=2)  # graph convolutions; only direct links are known
    channel_gate: Literal["sigmoid", "softmax"] = "sigmoid"  # a gate for each, or a sum of one
    hidden: int = Field(default=128, ge=1)  # channels of the projected map, of the text, of a node
    dropout: float = Field(default=0.5, ge=0, lt=1)
    train_words: bool = False  # whether the word vectors are trained


class GraphConvolution(nn.Module):
    """A graph convolution: the mean of each node and its neighbours, transformed.

    Reference: Kipf & Welling 2017, Eq. 2, with the mean for the symmetric normalisation.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.w = nn.Linear(size, size)

    def forward(self, node: Tensor, linked: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, d]`, `[B, K, d]`, `[B, K]` → the same shapes; a node without links is its own neighbour."""
        total = node + (linked * mask.unsqueeze(-1)).sum(dim=1)  # [B, d]
        around_node = total / (1 + mask.sum(dim=1, keepdim=True))  # [B, d]
        around_linked = (linked + node.unsqueeze(1)) / 2  # [B, K, d], whose one known neighbour is the node
        return torch.relu(self.w(around_node)), torch.relu(self.w(around_linked))


@register(
    ModelCard(
        name="ahrm",
        tables=frozenset({3}),
        citation=(
            "Jie Xu, Zhoujun Li, Feiran Huang, Chaozhuo Li, Philip S. Yu: Social Image Sentiment Analysis by "
            "Exploiting Multimodal Content and Heterogeneous Relations. IEEE Transactions on Industrial "
            "Informatics, 2020"
        ),
        url="https://doi.org/10.1109/TII.2020.3005405",
        fidelity="substitute",
        fidelity_note=(
            "The heterogeneous relation network is replaced by links of one kind to training rows, and by "
            "none where a dataset has none; the form of the attention is a stated choice."
        ),
        reads=frozenset({REGIONS, WORDS}),
        reads_with={("graph", "tags"): TAG_LINKS, ("graph", "owner"): OWNER_LINKS},
        options=AHRMOptions,
        published={
            "flickr": Published(accuracy=87.1, f1=87.5),
            "getty": Published(accuracy=87.8, f1=88.4),
        },
    )
)
class AHRM(nn.Module):
    """Attention-based heterogeneous relational model: progressive dual attention, then graph convolution.

    Reference: Xu et al. 2020.
    """

    def __init__(self, sizes: Sizes, options: AHRMOptions) -> None:
        super().__init__()
        self.options = options
        d = options.hidden
        self.embedding = WordEmbedding(sizes, trained=options.train_words, dropout=options.dropout)
        self.lstm = LSTMEncoder(self.embedding.size, d)
        self.project = nn.Linear(sizes.channels, d)
        self.w_pooled, self.w_text = nn.Linear(d, d), nn.Linear(d, d, bias=False)
        self.w_channel = nn.Linear(d, d)
        self.region_attention = AdditiveAttention(d, guide_size=d)
        self.fusion = nn.Linear(2 * d, d)
        if options.graph != "none":
            self.to_node = nn.Linear(sizes.channels + sizes.word_size, d)
            self.convolutions = nn.ModuleList(GraphConvolution(d) for _ in range(options.layers))
        self.dropout = nn.Dropout(options.dropout)
        self.classifier = nn.Linear(d, sizes.n_classes)

    def forward(self, batch: Batch) -> Output:
        """Logits `[B, n_classes]` and the attention `channel`, `regions`."""
        attention: dict[str, Tensor] = {}
        words, mask = self.embedding(batch)
        t = masked_mean(self.lstm(words, mask), mask)  # [B, d]
        v = self.attended(batch, t, attention)  # [B, d]
        content = torch.tanh(self.fusion(self.dropout(torch.cat([v, t], dim=1))))  # [B, d]
        node = content if self.options.graph == "none" else self.related(content, batch)
        return Output(self.classifier(self.dropout(node)), attention)

    def attended(self, batch: Batch, t: Tensor, attention: dict[str, Tensor]) -> Tensor:
        """Progressive dual attention, guided by the text: over channels, then over regions, `[B, d]`."""
        assert batch.regions is not None
        m = self.project(regions_of(batch.regions))  # [B, M, d]
        scores = self.w_channel(torch.tanh(self.w_pooled(m.mean(dim=1)) + self.w_text(t)))  # [B, d]
        a_c = scores.sigmoid() if self.options.channel_gate == "sigmoid" else scores.softmax(dim=1)
        f = m * a_c.unsqueeze(1)  # [B, M, d]
        v, a_r = self.region_attention(f, guide=t)  # [B, d], [B, M]
        attention["channel"] = a_c
        attention["regions"] = a_r.view(-1, *batch.regions.shape[2:])  # [B, H, W]
        return v  # type: ignore[no-any-return]

    def related(self, node: Tensor, batch: Batch) -> Tensor:
        """Complete the content with that of linked pairs, `[B, d]` → `[B, d]`."""
        assert batch.links is not None and batch.link_mask is not None
        linked = torch.tanh(self.to_node(self.dropout(batch.links)))  # [B, K, C + D] → [B, K, d]
        for convolution in self.convolutions:
            node, linked = convolution(node, linked, batch.link_mask)
        return node
