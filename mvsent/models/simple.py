"""Simple baselines: the picture alone, the text alone, both concatenated."""

import torch
from pydantic import Field
from torch import Tensor, nn

from mvsent.models.attention import masked_mean
from mvsent.models.batch import REGIONS, WORDS, Batch, Output, Sizes
from mvsent.models.encoders import LSTMEncoder, WordEmbedding
from mvsent.models.registry import ModelCard, register
from mvsent.setting import Settings


class ImageOnlyOptions(Settings):
    """Sizes."""

    hidden: int = Field(default=128, ge=1)
    dropout: float = Field(default=0.5, ge=0, lt=1)


class TextOptions(ImageOnlyOptions):
    """Sizes, and the words."""

    train_words: bool = False  # whether the word vectors are trained


def _card(name: str, what: str, reads: set[str], options: type[Settings]) -> ModelCard:
    return ModelCard(
        name=name,
        citation=f"mvsent: a baseline that no paper claims. {what}",
        url="https://github.com/mvsent/mvsent",
        fidelity="exact",
        fidelity_note="It is defined by its code.",
        reads=frozenset(reads),
        options=options,
        kind="baseline",
    )


@register(_card("image-only", "A hidden layer on the mean of the map", {REGIONS}, ImageOnlyOptions))
class ImageOnly(nn.Module):
    """A hidden layer on the mean of the map."""

    def __init__(self, sizes: Sizes, options: ImageOnlyOptions) -> None:
        super().__init__()
        self.classify = _hidden_layer(sizes.channels, options, sizes.n_classes)

    def forward(self, batch: Batch) -> Output:
        """Logits `[B, n_classes]`."""
        return Output(self.classify(_image(batch)))


@register(_card("text-only", "The mean of an LSTM's states over the words", {WORDS}, TextOptions))
class TextOnly(nn.Module):
    """The mean of an LSTM's states."""

    def __init__(self, sizes: Sizes, options: TextOptions) -> None:
        super().__init__()
        self.text = MeanLSTM(sizes, options)
        self.dropout = nn.Dropout(options.dropout)
        self.classify = nn.Linear(options.hidden, sizes.n_classes)

    def forward(self, batch: Batch) -> Output:
        """Logits `[B, n_classes]`."""
        return Output(self.classify(self.dropout(self.text(batch))))


@register(
    _card("early-concat", "A hidden layer on the mean of the map and an LSTM", {REGIONS, WORDS}, TextOptions)
)
class EarlyConcat(nn.Module):
    """A hidden layer on the mean of the map beside the mean of an LSTM's states."""

    def __init__(self, sizes: Sizes, options: TextOptions) -> None:
        super().__init__()
        self.text = MeanLSTM(sizes, options)
        self.classify = _hidden_layer(sizes.channels + options.hidden, options, sizes.n_classes)

    def forward(self, batch: Batch) -> Output:
        """Logits `[B, n_classes]`."""
        return Output(self.classify(torch.cat([_image(batch), self.text(batch)], dim=1)))


class MeanLSTM(nn.Module):
    """The text as the mean of an LSTM's states over its words."""

    def __init__(self, sizes: Sizes, options: TextOptions) -> None:
        super().__init__()
        self.embedding = WordEmbedding(sizes, trained=options.train_words, dropout=options.dropout)
        self.lstm = LSTMEncoder(self.embedding.size, options.hidden)

    def forward(self, batch: Batch) -> Tensor:
        """`[B, hidden]`."""
        words, mask = self.embedding(batch)
        return masked_mean(self.lstm(words, mask), mask)


def _image(batch: Batch) -> Tensor:
    """`[B, C]`, the mean of the map."""
    assert batch.regions is not None
    return batch.regions.mean(dim=(2, 3))


def _hidden_layer(n_inputs: int, options: ImageOnlyOptions, n_classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(n_inputs, options.hidden),
        nn.ReLU(),
        nn.Dropout(options.dropout),
        nn.Linear(options.hidden, n_classes),
    )
