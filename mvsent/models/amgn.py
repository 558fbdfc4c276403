"""AMGN: each word attends to regions, and a gate mixes word and regions as the input of a recurrent network.

The text of the paper was not available: attention, gate and sizes are choices consistent with its abstract.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mvsent.models.attention import AdditiveAttention, attended_regions, masked_mean, regions_of
from mvsent.models.batch import REGIONS, WORDS, Batch, Output, Sizes
from mvsent.models.encoders import WordEmbedding
from mvsent.models.registry import ModelCard, Published, register
from mvsent.setting import Settings


class AMGNOptions(Settings):
    """Choices where the paper is silent."""

    gate: Literal["state", "input"] = "state"  # whether the gate reads the previous state
    axis: Literal["elementwise", "word"] = "elementwise"  # one gate a feature, or one a word
    hidden: int = Field(default=128, ge=1)
    dropout: float = Field(default=0.5, ge=0, lt=1)
    train_words: bool = False  # whether the word vectors are trained


@register(
    ModelCard(
        name="amgn",
        tables=frozenset({3}),
        citation=(
            "Feiran Huang, Kaimin Wei, Jian Weng, Zhoujun Li: Attention-Based Modality-Gated Networks for "
            "Image-Text Sentiment Analysis. ACM Transactions on Multimedia Computing, Communications, and "
            "Applications 16(3), 2020"
        ),
        url="https://doi.org/10.1145/3388861",
        fidelity="reconstructed",
        fidelity_note=(
            "The three parts of its abstract are there; how attention and gate work are stated choices."
        ),
        reads=frozenset({REGIONS, WORDS}),
        options=AMGNOptions,
        published={
            "flickr": Published(accuracy=87.3, f1=86.8),
            "getty": Published(accuracy=88.2, f1=88.7),
        },
    )
)
class AMGN(nn.Module):
    """Visual-semantic attention, a modality-gated LSTM, semantic self-attention.

    Reference: Huang et al. 2020.
    """

    def __init__(self, sizes: Sizes, options: AMGNOptions) -> None:
        super().__init__()
        d = options.hidden
        self.project = nn.Conv2d(sizes.channels, d, 1)
        self.embedding = WordEmbedding(sizes, trained=options.train_words, dropout=options.dropout)
        self.to_word = nn.Linear(self.embedding.size, d)
        self.lstm = ModalityGatedLSTM(d, 1 if options.axis == "word" else d, options.gate == "state")
        self.self_attention = AdditiveAttention(d)
        self.dropout = nn.Dropout(options.dropout)
        self.classify = nn.Linear(d, sizes.n_classes)

    def forward(self, batch: Batch) -> Output:
        """Logits `[B, n_classes]` and the attention maps `words`, `regions`, `fusion`."""
        assert batch.regions is not None
        vectors, mask = self.embedding(batch)
        words = torch.tanh(self.to_word(vectors))  # [B, S, d]
        seen, seen_where = attended_regions(words, torch.tanh(regions_of(self.project(batch.regions))))
        states, gates = self.lstm(words, seen)  # [B, S, d], [B, S, 1 or d]
        text, weights = self.self_attention(states, mask)  # [B, d], [B, S]
        of_words = masked_mean(gates, mask).mean(dim=1)  # [B]
        # A region counts as much as the words that attend to it: [B, S] · [B, S, M] → [B, M] → [B, H, W].
        attention = {
            "words": weights,
            "regions": torch.einsum("bs,bsm->bm", weights, seen_where).view(-1, *batch.regions.shape[2:]),
            "fusion": torch.stack([of_words, 1 - of_words], dim=1),
        }
        return Output(self.classify(self.dropout(text)), attention)


class ModalityGatedLSTM(nn.Module):
    """An LSTM whose input is a gated mixture of a word and of the regions that it attends to.

    It reads left to right only, so that padding at the end cannot influence a real word.
    """

    def __init__(self, size: int, n_gates: int, gate_knows_state: bool) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * size, n_gates)
        self.gate_of_state = nn.Linear(size, n_gates, bias=False) if gate_knows_state else None
        self.cell = nn.LSTMCell(size, size)

    def forward(self, words: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, S, d]` twice → the states `[B, S, d]` and the share of the word `[B, S, 1 or d]`."""
        of_input = self.gate(torch.cat([words, seen], dim=2))  # [B, S, 1 or d]
        h = c = words.new_zeros(words.shape[0], words.shape[2])
        states, gates = [], []
        for x, v, score in zip(words.unbind(1), seen.unbind(1), of_input.unbind(1), strict=True):
            g = torch.sigmoid(score if self.gate_of_state is None else score + self.gate_of_state(h))
            h, c = self.cell(g * x + (1 - g) * v, (h, c))
            states.append(h)
            gates.append(g)
        return torch.stack(states, dim=1), torch.stack(gates, dim=1)
