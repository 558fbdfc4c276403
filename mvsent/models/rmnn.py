"""Early-RMNN and Late-RMNN: a CNN for each modality, merged by a residual layer, early or late.

Residual means `x + F(x)`: the layer learns what the merged modalities add to each of them.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mvsent.models.batch import REGIONS, WORDS, Batch, Output, Sizes
from mvsent.models.encoders import TextCNN, WordEmbedding
from mvsent.models.registry import ModelCard, Published, register
from mvsent.setting import Settings

# The publisher's address could not be confirmed; this paper describes the model and prints its numbers.
URL = "https://arxiv.org/abs/2012.08256"
CITATION = (
    "Nan Xu, Wenji Mao: A Residual Merged Neutral Network for Multimodal Sentiment Analysis. "
    "IEEE International Conference on Big Data Analysis (ICBDA), 2017"
)
FIDELITY_NOTE = (
    "A frozen backbone takes the place of an image CNN trained along, and the sizes and the form of the "
    "residual layer are stated choices."
)


class EarlyRMNNOptions(Settings):
    """Sizes, which are choices."""

    channels: int = Field(default=100, ge=1)  # of each width of the text CNN, as Kim 2014
    hidden: int = Field(default=128, ge=1)  # of the residual layer F
    dropout: float = Field(default=0.5, ge=0, lt=1)
    train_words: bool = False  # whether the word vectors are trained


class LateRMNNOptions(EarlyRMNNOptions):
    """Sizes, and the form in which a modality's output is merged."""

    outputs: Literal["logits", "probabilities"] = "logits"  # of each modality's own classifier


class _Modalities(nn.Module):
    """Features of both CNNs: of the text by windows of 3, 4 and 5 words, of the picture by the backbone."""

    def __init__(self, sizes: Sizes, options: EarlyRMNNOptions) -> None:
        super().__init__()
        self.embedding = WordEmbedding(sizes, trained=options.train_words, dropout=options.dropout)
        self.text = TextCNN(self.embedding.size, options.channels)
        self.image = nn.Linear(sizes.channels, self.text.size)  # as wide as the text
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The text and the picture, each `[B, d]`."""
        assert batch.regions is not None
        t = self.text(*self.embedding(batch))  # [B, d]
        v = torch.relu(self.image(batch.regions.mean(dim=(2, 3))))  # [B, d]
        return self.dropout(t), self.dropout(v)


@register(
    ModelCard(
        name="early-rmnn",
        tables=frozenset({2}),
        citation=CITATION,
        url=URL,
        fidelity="reconstructed",
        fidelity_note=FIDELITY_NOTE,
        reads=frozenset({REGIONS, WORDS}),
        options=EarlyRMNNOptions,
        unpublished_note="The comparison that we follow names it but prints numbers of Late-RMNN only.",
    )
)
class EarlyRMNN(nn.Module):
    """A residual layer merges the features, which are then classified once.

    Reference: Xu & Mao 2017.
    """

    def __init__(self, sizes: Sizes, options: EarlyRMNNOptions) -> None:
        super().__init__()
        self.modalities = _Modalities(sizes, options)
        n_features = 2 * self.modalities.text.size
        self.residual = _two_layers(n_features, options.hidden, n_features)
        self.classifier = nn.Linear(n_features, sizes.n_classes)

    def forward(self, batch: Batch) -> Output:
        """Logits `[B, n_classes]`."""
        x = torch.cat(self.modalities(batch), dim=1)  # [B, 2d]
        return Output(self.classifier(torch.relu(x + self.residual(x))))


@register(
    ModelCard(
        name="late-rmnn",
        tables=frozenset({2}),
        citation=CITATION,
        url=URL,
        fidelity="reconstructed",
        fidelity_note=FIDELITY_NOTE,
        reads=frozenset({REGIONS, WORDS}),
        options=LateRMNNOptions,
        published={
            "mvsa-single": Published(accuracy=67.09),
            "mvsa-multiple": Published(accuracy=67.90),
        },
    )
)
class LateRMNN(nn.Module):
    """Each modality is classified alone, and a residual layer merges the outputs.

    Reference: Xu & Mao 2017.
    """

    def __init__(self, sizes: Sizes, options: LateRMNNOptions) -> None:
        super().__init__()
        self.options = options
        self.modalities = _Modalities(sizes, options)
        self.judge_text = nn.Linear(self.modalities.text.size, sizes.n_classes)
        self.judge_image = nn.Linear(self.modalities.text.size, sizes.n_classes)
        self.residual = _two_layers(2 * sizes.n_classes, options.hidden, sizes.n_classes)

    def forward(self, batch: Batch) -> Output:
        """Logits `[B, n_classes]`."""
        t, v = self.modalities(batch)
        y_t, y_v = self.judge_text(t), self.judge_image(v)  # [B, n_classes] each
        if self.options.outputs == "probabilities":
            y_t, y_v = y_t.softmax(dim=1), y_v.softmax(dim=1)
        return Output(y_t + y_v + self.residual(torch.cat([y_t, y_v], dim=1)))


def _two_layers(n_inputs: int, hidden: int, n_outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(n_inputs, hidden), nn.ReLU(), nn.Linear(hidden, n_outputs))
