"""BDMLA: the text at three levels chooses regions, the picture at two levels chooses words.

Only the abstract of the paper was available; what it leaves open is a choice named in the options and in
docs/models.md.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from mvsent.models.attention import AdditiveAttention, masked_mean, masked_softmax, regions_of, weighted_sum
from mvsent.models.batch import REGIONS, WORDS, Batch, Output, Sizes
from mvsent.models.encoders import BiGRUEncoder, PhraseEncoder, WordEmbedding
from mvsent.models.registry import ModelCard, Published, register
from mvsent.setting import Settings


class BDMLAOptions(Settings):
    """Sizes, and how much of the picture guides the words."""

    local: bool = True  # every region chooses words, besides the picture as a whole
    hidden: int = Field(default=128, ge=2, multiple_of=2)  # of words, phrases, sentence and regions
    dropout: float = Field(default=0.5, ge=0, lt=1)
    train_words: bool = False  # whether the word vectors are trained


@register(
    ModelCard(
        name="bdmla",
        tables=frozenset({3}),
        citation=(
            "Jie Xu, Feiran Huang, Xiaoming Zhang, Senzhang Wang, Chaozhuo Li, Zhoujun Li, Yueying He: "
            "Visual-textual sentiment classification with bi-directional multi-level attention networks. "
            "Knowledge-Based Systems, 2019"
        ),
        url="https://doi.org/10.1016/j.knosys.2019.04.018",
        fidelity="reconstructed",
        fidelity_note=(
            "The levels of text and picture and both directions are the paper's; how a level becomes a "
            "query, the recurrent layer and all sizes are stated choices."
        ),
        reads=frozenset({REGIONS, WORDS}),
        options=BDMLAOptions,
        published={
            "flickr": Published(accuracy=84.9, f1=84.8),
            "getty": Published(accuracy=86.5, f1=86.2),
        },
    )
)
class BDMLA(nn.Module):
    """Bi-directional multi-level attention: a visual and a semantic attention network, joined by an MLP.

    Reference: Xu, Huang et al. 2019; the levels of a text as in Lu et al. 2016.
    """

    def __init__(self, sizes: Sizes, options: BDMLAOptions) -> None:
        super().__init__()
        self.local = options.local
        d = options.hidden
        self.embedding = WordEmbedding(sizes, trained=options.train_words, dropout=options.dropout)
        self.to_word = nn.Linear(self.embedding.size, d)
        self.to_phrase = PhraseEncoder(d, d)
        self.to_sentence = BiGRUEncoder(d, d // 2)
        self.to_region = nn.Linear(sizes.channels, d)
        self.visual_attention = nn.ModuleList(AdditiveAttention(d, guide_size=d) for _ in range(3))
        self.global_attention = AdditiveAttention(d, guide_size=d)
        if options.local:
            self.w_local = nn.Linear(d, d, bias=False)
        self.dropout = nn.Dropout(options.dropout)
        self.mlp = nn.Sequential(
            nn.Linear((5 if options.local else 4) * d, d),
            nn.ReLU(),
            nn.Dropout(options.dropout),
            nn.Linear(d, sizes.n_classes),
        )

    def forward(self, batch: Batch) -> Output:
        """Logits `[B, n_classes]` and the attention `regions`, `words`, each the mean over its levels."""
        assert batch.regions is not None
        words, mask = self.embedding(batch)
        regions = torch.tanh(self.to_region(regions_of(batch.regions)))  # [B, M, d]
        levels = self.levels(words, mask)  # three of [B, S, d]
        alphas = self.visual(regions, levels, mask)  # three of [B, M]
        betas = self.semantic(levels[-1], regions, mask)  # two of [B, S]
        attended = [weighted_sum(alpha, regions) for alpha in alphas]
        attended += [weighted_sum(beta, levels[-1]) for beta in betas]
        h, w = batch.regions.shape[2:]
        attention = {
            "regions": torch.stack(alphas).mean(dim=0).view(-1, h, w),  # [B, H, W]
            "words": torch.stack(betas).mean(dim=0),  # [B, S]
        }
        return Output(self.mlp(self.dropout(torch.cat(attended, dim=1))), attention)

    def levels(self, words: Tensor, mask: Tensor) -> list[Tensor]:
        """The text as words, as phrases and as a sentence, each `[B, S, d]` and zero on padding."""
        word = torch.tanh(self.to_word(words)) * mask.unsqueeze(-1)
        phrase = self.to_phrase(word, mask)
        return [word, phrase, self.to_sentence(phrase, mask)]

    def visual(self, regions: Tensor, levels: list[Tensor], mask: Tensor) -> list[Tensor]:
        """Attention over regions, guided by each level of the text, each `[B, M]`."""
        queries = [masked_mean(level, mask) for level in levels]  # [B, d] each
        return [
            attend(regions, guide=query)[1]
            for attend, query in zip(self.visual_attention, queries, strict=True)
        ]

    def semantic(self, states: Tensor, regions: Tensor, mask: Tensor) -> list[Tensor]:
        """Attention over words, guided by the whole picture and by its regions, each `[B, S]`."""
        betas = [self.global_attention(states, mask, guide=regions.mean(dim=1))[1]]
        if self.local:
            scores = self.w_local(regions) @ states.transpose(1, 2)  # [B, M, S]
            betas.append(masked_softmax(scores, mask.unsqueeze(1), dim=2).mean(dim=1))  # [B, S]
        return betas
