"""MultiSentiNet: the objects and the scene of a picture choose the words that matter.

Only the abstract of the paper and descriptions by others were available; what they leave open is a choice
named in the options and in docs/models.md.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from mvsent.models.attention import AdditiveAttention, weighted_sum
from mvsent.models.batch import REGIONS, SCENE, WORDS, Batch, Output, Sizes
from mvsent.models.encoders import LSTMEncoder, WordEmbedding
from mvsent.models.registry import ModelCard, Published, TrainingRecipe, register
from mvsent.setting import Settings


class MultiSentiNetOptions(Settings):
    """Sizes, and whether the picture guides the words."""

    guided: bool = True  # False: every word counts the same
    hidden: int = Field(default=128, ge=1)  # of the LSTM, of each visual vector, and of the fusion
    dropout: float = Field(default=0.5, ge=0, lt=1)
    train_words: bool = False  # whether the word vectors are trained


@register(
    ModelCard(
        name="multisentinet",
        tables=frozenset({2}),
        citation=(
            "Nan Xu, Wenji Mao: MultiSentiNet: A Deep Semantic Network for Multimodal Sentiment Analysis. "
            "Conference on Information and Knowledge Management (CIKM), 2017"
        ),
        url="https://doi.org/10.1145/3132847.3133142",
        fidelity="substitute",
        fidelity_note=(
            "In place of networks trained to name objects and scenes, the object vector is the largest value "
            "over the regions of one map, and the scene vector their mean or that of a second backbone."
        ),
        reads=frozenset({REGIONS, WORDS}),
        may_read=frozenset({SCENE}),
        options=MultiSentiNetOptions,
        paper_recipe=TrainingRecipe(
            "its authors' code, https://github.com/xunan0812/MultiSentiNet (src/att_sc_ob_txt.py)",
            {
                "optimizer": "rmsprop",
                "learning_rate": 1e-3,
                "batch_size": 32,
                "epochs": 100,
                "patience": 5,
                "best_by": "loss",
            },
            {"train_words": True, "dropout": 0.0},
        ),
        published={
            "mvsa-single": Published(accuracy=69.84, f1=69.63),
            "mvsa-multiple": Published(accuracy=68.86, f1=68.11),
        },
    )
)
class MultiSentiNet(nn.Module):
    """Visual feature guided attention LSTM, aggregated with the visual features.

    Reference: Xu & Mao 2017.
    """

    def __init__(self, sizes: Sizes, options: MultiSentiNetOptions) -> None:
        super().__init__()
        self.options = options
        d = options.hidden
        self.has_scene = sizes.scene_channels > 0
        self.to_object = nn.Linear(sizes.channels, d)
        self.to_scene = nn.Linear(sizes.scene_channels or sizes.channels, d)
        self.embedding = WordEmbedding(sizes, trained=options.train_words, dropout=options.dropout)
        self.lstm = LSTMEncoder(self.embedding.size, d)
        if options.guided:
            self.attention = AdditiveAttention(d, guide_size=2 * d)
        self.fusion = nn.Linear(3 * d, d)
        self.dropout = nn.Dropout(options.dropout)
        self.classifier = nn.Linear(d, sizes.n_classes)

    def forward(self, batch: Batch) -> Output:
        """Logits `[B, n_classes]`, and the attention `words`."""
        visual = self.visual(batch)  # [B, 2d]
        words, mask = self.embedding(batch)
        h = self.lstm(words, mask)  # [B, S, d]
        if self.options.guided:
            alpha = self.attention(h, mask, visual)[1]  # [B, S]
        else:  # the same weight for each real word
            alpha = mask / mask.sum(dim=1, keepdim=True).clamp(min=1)
        text = weighted_sum(alpha, h)  # [B, d]
        joint = torch.relu(self.fusion(self.dropout(torch.cat([visual, text], dim=1))))  # [B, d]
        return Output(self.classifier(self.dropout(joint)), {"words": alpha} if self.options.guided else {})

    def visual(self, batch: Batch) -> Tensor:
        """Objects and scene of the picture, `[B, 2d]`."""
        assert batch.regions is not None
        i_object = batch.regions.amax(dim=(2, 3))  # [B, C]
        i_scene = batch.scene if self.has_scene else batch.regions.mean(dim=(2, 3))  # [B, C2] or [B, C]
        v_object, v_scene = self.to_object(i_object), self.to_scene(i_scene)  # [B, d] each
        return torch.relu(torch.cat([v_object, v_scene], dim=1))  # [B, 2d]
