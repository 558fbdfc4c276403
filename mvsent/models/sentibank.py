"""SentiBank & SentiStrength: mid-level concepts of the picture beside sentiment strengths of the text.

Only a linear classifier is learned, on scores that are computed beforehand.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from mvsent.models.batch import ANP_SCORES, LEXICON, Batch, Output, Sizes
from mvsent.models.encoders import Standardize
from mvsent.models.registry import ModelCard, Published, register
from mvsent.setting import Settings


class SentiBankOptions(Settings):
    """Which half is left out, as in the paper's own comparison, and whether scores are standardised."""

    without: Literal["none", "sentibank", "sentistrength"] = "none"
    standardize: bool = True  # every score to mean zero and variance one over the training rows


@register(
    ModelCard(
        name="sentibank",
        tables=frozenset({2}),
        citation=(
            "Damian Borth, Rongrong Ji, Tao Chen, Thomas Breuel, Shih-Fu Chang: Large-scale Visual Sentiment "
            "Ontology and Detectors Using Adjective Noun Pairs. ACM Multimedia, 2013"
        ),
        url="https://doi.org/10.1145/2502081.2502282",
        fidelity="substitute",
        fidelity_note=(
            "Detectors trained here, or a column of scores, stand for SentiBank's 1200, and VADER for "
            "SentiStrength."
        ),
        reads=frozenset({ANP_SCORES, LEXICON}),
        options=SentiBankOptions,
        published={
            "mvsa-single": Published(accuracy=52.05, f1=50.08),
            "mvsa-multiple": Published(accuracy=65.62, f1=55.36),
        },
    )
)
class SentiBank(nn.Module):
    """A linear classifier on adjective-noun pairs in the picture and sentiment strengths of the text.

    Reference: Borth et al. 2013.
    """

    def __init__(self, sizes: Sizes, options: SentiBankOptions) -> None:
        super().__init__()
        self.options = options
        n_anps = 0 if options.without == "sentibank" else sizes.n_anps
        n_lexicon = 0 if options.without == "sentistrength" else sizes.n_lexicon
        n_scores = n_anps + n_lexicon
        self.standardize = Standardize(n_scores) if options.standardize else nn.Identity()
        self.classifier = nn.Linear(n_scores, sizes.n_classes)

    def forward(self, batch: Batch) -> Output:
        """Logits `[B, n_classes]`."""
        return Output(self.classifier(self.standardize(self.scores(batch))))

    def scores(self, batch: Batch) -> Tensor:
        """The scores of both modalities, concatenated, `[B, A + L]`."""
        assert batch.anp_scores is not None and batch.lexicon is not None
        if self.options.without == "sentibank":
            return batch.lexicon
        if self.options.without == "sentistrength":
            return batch.anp_scores
        return torch.cat([batch.anp_scores, batch.lexicon], dim=1)
