"""HDF: LSTMs over words, phrases and the sentence, each of which reads the picture; then linked pairs.

The text of the paper was not available: phrases, pooling and sizes are choices.
"""

from typing import Literal

import torch
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from mvsent.models.attention import masked_mean
from mvsent.models.batch import OWNER_LINKS, REGIONS, TAG_LINKS, WORDS, Batch, Output, Sizes
from mvsent.models.encoders import LSTMEncoder, WordEmbedding
from mvsent.models.registry import ModelCard, Published, register
from mvsent.setting import Settings


class HDFOptions(Settings):
    """Choices where the paper is silent."""

    links: Literal["none", "tags", "owner"] = "none"  # which rows are linked; a dataset may have none
    phrase: int = Field(default=3, ge=1)  # words of a phrase; phrases do not overlap
    hidden: int = Field(default=128, ge=1)
    dropout: float = Field(default=0.5, ge=0, lt=1)
    train_words: bool = False  # whether the word vectors are trained


@register(
    ModelCard(
        name="hdf",
        tables=frozenset({3}),
        citation=(
            "Jie Xu, Feiran Huang et al.: Sentiment analysis of social images via hierarchical deep fusion "
            "of content and links. Applied Soft Computing, 2019"
        ),
        url="https://www.sciencedirect.com/journal/applied-soft-computing",
        fidelity="substitute",
        fidelity_note=(
            "The embedding of a picture's links is replaced by the mean of the linked rows, "
            "phrases by runs of words."
        ),
        reads=frozenset({REGIONS, WORDS}),
        reads_with={("links", "tags"): TAG_LINKS, ("links", "owner"): OWNER_LINKS},
        options=HDFOptions,
        published={
            "flickr": Published(accuracy=85.9, f1=86.1),
            "getty": Published(accuracy=88.1, f1=88.0),
        },
    )
)
class HDF(nn.Module):
    """Three LSTMs, one above the other, each of which reads the picture too; a multi-layer perceptron.

    Reference: Xu, Huang et al. 2019.
    """

    def __init__(self, sizes: Sizes, options: HDFOptions) -> None:
        super().__init__()
        self.options = options
        d = options.hidden
        self.to_image = nn.Linear(sizes.channels, d)
        self.embedding = WordEmbedding(sizes, trained=options.train_words, dropout=options.dropout)
        self.word_lstm = LSTMEncoder(self.embedding.size + d, d)
        self.phrase_lstm = LSTMEncoder(2 * d, d)
        self.sentence_lstm = LSTMEncoder(2 * d, d)
        if options.links != "none":
            self.to_link = nn.Linear(sizes.channels + sizes.word_size, d)
        self.mlp = nn.Sequential(
            nn.Dropout(options.dropout),
            nn.Linear(3 * d if options.links == "none" else 4 * d, d),
            nn.ReLU(),
            nn.Dropout(options.dropout),
            nn.Linear(d, sizes.n_classes),
        )

    def forward(self, batch: Batch) -> Output:
        """Logits `[B, n_classes]`."""
        assert batch.regions is not None
        image = torch.tanh(self.to_image(batch.regions.mean(dim=(2, 3))))  # [B, d]
        words, mask = self.embedding(batch)
        fused = self.levels(words, mask, image)
        if self.options.links != "none":
            assert batch.links is not None and batch.link_mask is not None
            fused.append(masked_mean(torch.tanh(self.to_link(batch.links)), batch.link_mask))
        return Output(self.mlp(torch.cat(fused, dim=1)))

    def levels(self, words: Tensor, mask: Tensor, image: Tensor) -> list[Tensor]:
        """The picture with the words, the phrases and the sentence: `[B, S, D]`, `[B, S]` → 3 · `[B, d]`."""
        word_states = self.word_lstm(_with(words, image), mask)  # [B, S, d]
        phrases, phrase_mask = self.phrases(word_states, mask)  # [B, P, d]
        phrase_states = self.phrase_lstm(_with(phrases, image), phrase_mask)  # [B, P, d]
        sentence_states = self.sentence_lstm(_with(phrase_states, image), phrase_mask)  # [B, P, d]
        return [
            masked_mean(word_states, mask),
            masked_mean(phrase_states, phrase_mask),
            last(sentence_states, phrase_mask),
        ]

    def phrases(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The mean over the words of each phrase: `[B, S, d]`, `[B, S]` → `[B, P, d]`, `[B, P]`."""
        n = self.options.phrase
        missing = -mask.shape[1] % n
        states = nn.functional.pad(states, (0, 0, 0, missing))  # [B, P · n, d]
        # Phrases become rows, so that masked_mean averages each: [B · P, n], then [B · P, d].
        mask = rearrange(nn.functional.pad(mask, (0, missing)), "b (p n) -> (b p) n", n=n)
        means = masked_mean(rearrange(states, "b (p n) d -> (b p) n d", n=n), mask)
        batch_size = len(states)
        return (
            rearrange(means, "(b p) d -> b p d", b=batch_size),
            rearrange(mask.any(dim=1), "(b p) -> b p", b=batch_size),
        )


def last(states: Tensor, mask: Tensor) -> Tensor:
    """The state of the last real item: `[B, P, d]`, `[B, P]` → `[B, d]`; zero without a real item."""
    index = (mask.sum(dim=1) - 1).clamp(min=0)
    return states[torch.arange(len(states), device=states.device), index]


def _with(items: Tensor, image: Tensor) -> Tensor:
    """The picture beside every item: `[B, N, D]`, `[B, d]` → `[B, N, D + d]`."""
    return torch.cat([items, image.unsqueeze(1).expand(-1, items.shape[1], -1)], dim=2)
