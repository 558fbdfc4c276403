"""CoMN: two memories, each read with the last reading of the other.

Only the abstract of the paper and descriptions by others were available; what they leave open is a choice
named in the options.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from mvsent.models.attention import AdditiveAttention, masked_mean, regions_of
from mvsent.models.batch import REGIONS, WORDS, Batch, Output, Sizes
from mvsent.models.encoders import LSTMEncoder, WordEmbedding
from mvsent.models.registry import ModelCard, Published, register
from mvsent.setting import Settings


class CoMNOptions(Settings):
    """The number of readings of the memories, and sizes."""

    hops: int = Field(default=2, ge=1)
    tied: bool = False  # whether every hop has the same weights; stacked layers have their own
    hidden: int = Field(default=128, ge=1)  # of both memories and of the attention
    dropout: float = Field(default=0.5, ge=0, lt=1)
    train_words: bool = False  # whether the word vectors are trained


@register(
    ModelCard(
        name="comn",
        tables=frozenset({2}),
        citation=(
            "Nan Xu, Wenji Mao, Guandan Chen: A Co-Memory Network for Multimodal Sentiment Analysis. "
            "SIGIR, 2018, pages 929-932"
        ),
        url="https://doi.org/10.1145/3209978.3210093",
        fidelity="reconstructed",
        fidelity_note=(
            "Hops of mutual attention as described; the score, the update of a memory and the sizes are "
            "stated choices."
        ),
        reads=frozenset({REGIONS, WORDS}),
        options=CoMNOptions,
        published={
            "mvsa-single": Published(accuracy=70.51, f1=70.01),
            "mvsa-multiple": Published(accuracy=68.92, f1=68.83),
        },
    )
)
class CoMN(nn.Module):
    """Co-memory network: the picture attends to words and the text to regions, in turns.

    Reference: Xu, Mao & Chen 2018.
    """

    def __init__(self, sizes: Sizes, options: CoMNOptions) -> None:
        super().__init__()
        d = options.hidden
        self.hops = options.hops
        self.embedding = WordEmbedding(sizes, trained=options.train_words, dropout=options.dropout)
        self.lstm = LSTMEncoder(self.embedding.size, d)
        self.to_region = nn.Linear(sizes.channels, d)
        n_weights = 1 if options.tied else options.hops
        self.attend_words = nn.ModuleList(AdditiveAttention(d, guide_size=d) for _ in range(n_weights))
        self.attend_regions = nn.ModuleList(AdditiveAttention(d, guide_size=d) for _ in range(n_weights))
        self.dropout = nn.Dropout(options.dropout)
        self.classifier = nn.Linear(2 * d, sizes.n_classes)

    def forward(self, batch: Batch) -> Output:
        """Logits `[B, n_classes]` and the last hop's attention maps `words`, `regions`."""
        assert batch.regions is not None
        words, mask = self.embedding(batch)
        text = self.lstm(words, mask)  # [B, S, d]
        image = torch.tanh(self.to_region(regions_of(batch.regions)))  # [B, M, d]
        t, v = masked_mean(text, mask), image.mean(dim=1)  # [B, d] each
        for hop in range(self.hops):
            t, v, alpha, beta = self.read(hop, text, image, mask, t, v)
        h, w = batch.regions.shape[2:]
        attention = {"words": alpha, "regions": beta.view(-1, h, w)}  # [B, S], [B, H, W]
        return Output(self.classifier(self.dropout(torch.cat([t, v], dim=1))), attention)

    def read(
        self, hop: int, text: Tensor, image: Tensor, mask: Tensor, t: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One hop: the new states of text and picture `[B, d]`, and both attentions."""
        layer = hop % len(self.attend_words)  # tied weights are one layer
        from_text, alpha = self.attend_words[layer](text, mask, guide=v)  # [B, d], [B, S]
        from_image, beta = self.attend_regions[layer](image, guide=t)  # [B, d], [B, M]
        return t + from_text, v + from_image, alpha, beta
