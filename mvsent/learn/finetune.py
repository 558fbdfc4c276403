"""A backbone and a model trained as one network, through pixels."""

from dataclasses import replace
from typing import Self

from torch import Tensor, nn

from mvsent.models.batch import Batch, Output


class ThroughPixels(nn.Module):
    """`model` reading the maps that `backbone` makes of the batch's pixels.

    The backbone's batch norms keep the statistics they were pretrained with: batches of one dataset are too
    few and too alike to estimate them again.
    """

    def __init__(self, backbone: nn.Module, model: nn.Module, trained: list[nn.Parameter]) -> None:
        """Only `trained` of the backbone's parameters get a gradient."""
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)
        self.model = model

    def train(self, mode: bool = True) -> Self:
        """Training mode for the model; the backbone stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, batch: Batch) -> Output:
        """What `model` says of the batch whose `pixels [B, 3, side, side]` are uint8."""
        regions: Tensor = self.backbone(batch.pixels)
        output: Output = self.model(replace(batch, regions=regions, pixels=None))
        return output
