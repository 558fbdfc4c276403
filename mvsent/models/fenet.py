"""FENet: attention between words and regions in both directions, then gated convolutions.

The text of the paper was not available: the formulas follow its abstract and a public re-implementation.
"""

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from mvsent.models.attention import masked_mean, masked_softmax, regions_of
from mvsent.models.batch import REGIONS, WORDS, Batch, Output, Sizes
from mvsent.models.encoders import WordEmbedding
from mvsent.models.registry import ModelCard, Published, register
from mvsent.setting import Settings


class FENetOptions(Settings):
    """Sizes."""

    hidden: int = Field(default=128, ge=1)  # of regions, of the space where they are compared with words
    kernels: int = Field(default=128, ge=1)  # channels of each gated convolution
    width: int = Field(default=3, ge=1)  # words or regions that a gated convolution sees; odd
    dropout: float = Field(default=0.5, ge=0, lt=1)
    train_words: bool = False  # whether the word vectors are trained

    @field_validator("width")
    @classmethod
    def _has_a_middle(cls, width: int) -> int:
        if width % 2 == 0:
            raise ValueError("should be odd")
        return width


class Fusion(nn.Module):
    """Each item of one modality, with the items of the other that it attends to."""

    def __init__(self, n_items: int, n_others: int, hidden: int) -> None:
        super().__init__()
        self.w_1 = nn.Linear(n_items, hidden)
        self.w_2 = nn.Linear(n_others, hidden)
        self.w_fuse = nn.Linear(n_items + n_others, hidden)

    def forward(self, items: Tensor, others: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, N, D]`, `[B, O, E]` under `mask [B, O]` → `[B, N, hidden]` and the weights `[B, N, O]`."""
        scores = torch.tanh(self.w_1(items)) @ torch.tanh(self.w_2(others)).transpose(1, 2)  # [B, N, O]
        a = masked_softmax(scores, mask.unsqueeze(1), dim=2)  # A = softmax(tanh(T W1) tanh(I W2)^T)
        return torch.tanh(self.w_fuse(torch.cat([items, a @ others], dim=2))), a


class Extraction(nn.Module):
    """The largest value of each channel of a gated convolution."""

    def __init__(self, n_inputs: int, kernels: int, width: int) -> None:
        super().__init__()
        self.gate = nn.Conv1d(n_inputs, kernels, width, padding=width // 2)
        self.content = nn.Conv1d(n_inputs, kernels, width, padding=width // 2)

    def forward(self, items: Tensor, mask: Tensor) -> Tensor:
        """`[B, N, D]`, `[B, N]` → `[B, kernels]` in (-1, 1); -1 without real items."""
        x = (items * mask.unsqueeze(-1)).transpose(1, 2)  # [B, D, N]
        valid = torch.sigmoid(self.gate(x)) * torch.tanh(self.content(x))  # [B, kernels, N]
        return valid.masked_fill(~mask.unsqueeze(1), -1.0).amax(dim=2)


@register(
    ModelCard(
        name="fenet",
        tables=frozenset({2}),
        citation=(
            "Tao Jiang, Jiahai Wang, Zhiyue Liu, Yingbiao Ling: Fusion-Extraction Network for Multimodal "
            "Sentiment Analysis. Pacific-Asia Conference on Knowledge Discovery and Data Mining (PAKDD), 2020"
        ),
        url="https://doi.org/10.1007/978-3-030-47436-2_59",
        fidelity="reconstructed",
        fidelity_note=(
            "Fusion and extraction are the paper's; the sizes, the regions as positions of the picture and "
            "the projection of the map before them are stated choices."
        ),
        reads=frozenset({REGIONS, WORDS}),
        options=FENetOptions,
        published={
            "mvsa-single": Published(accuracy=74.21, f1=74.06),
            "mvsa-multiple": Published(accuracy=71.46, f1=71.21),
        },
    )
)
class FENet(nn.Module):
    """Interactive information fusion and specific information extraction.

    Reference: Jiang et al. 2020.
    """

    def __init__(self, sizes: Sizes, options: FENetOptions) -> None:
        super().__init__()
        d = options.hidden
        self.embedding = WordEmbedding(sizes, trained=options.train_words)
        n_words = self.embedding.size
        self.project = nn.Linear(sizes.channels, d)
        self.fuse_text, self.fuse_image = Fusion(n_words, d, d), Fusion(d, n_words, d)
        self.extract_text = Extraction(d, options.kernels, options.width)
        self.extract_image = Extraction(d, options.kernels, options.width)
        self.dropout = nn.Dropout(options.dropout)
        self.classifier = nn.Linear(2 * options.kernels, sizes.n_classes)

    def forward(self, batch: Batch) -> Output:
        """Logits `[B, n_classes]` and the attention `words`, `regions`, averaged over the other modality."""
        assert batch.regions is not None
        words, mask = self.embedding(batch)
        t = self.dropout(words)  # [B, S, D]
        i = self.dropout(self.project(regions_of(batch.regions)))  # [B, M, d]
        everywhere = torch.ones(i.shape[:2], dtype=torch.bool, device=i.device)  # [B, M]
        visual_specific_text, to_regions = self.fuse_text(t, i, everywhere)  # [B, S, d], [B, S, M]
        text_specific_image, to_words = self.fuse_image(i, t, mask)  # [B, M, d], [B, M, S]
        extracted = [
            self.extract_text(self.dropout(visual_specific_text), mask),
            self.extract_image(self.dropout(text_specific_image), everywhere),
        ]
        h, w = batch.regions.shape[2:]
        attention = {
            "words": to_words.mean(dim=1),  # [B, S]
            "regions": masked_mean(to_regions, mask).view(-1, h, w),  # [B, H, W]
        }
        return Output(self.classifier(torch.cat(extracted, dim=1)), attention)
