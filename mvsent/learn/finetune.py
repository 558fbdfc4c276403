"""Encoders and a model trained as one network, through pixels, through a transformer, or through both."""

from dataclasses import replace
from typing import Self

from torch import Tensor, nn

from mvsent.learn.batches import blanked
from mvsent.models.batch import Batch, Batches, Output, Refitted, Settled


class ThroughEncoders(nn.Module):
    """`model` with inputs from `backbone`, which reads pixels, and `transformer`, which reads tokens.

    The encoders stay in evaluation mode: batches of one dataset are too few and too similar to estimate a
    backbone's batch statistics, and the features of a pair should not change from step to step.
    """

    def __init__(
        self,
        model: nn.Module,
        trained: list[nn.Parameter],
        *,
        backbone: nn.Module | None = None,
        transformer: nn.Module | None = None,
    ) -> None:
        """Let only `trained` of the encoders' parameters get gradients."""
        super().__init__()
        self.model = model
        if backbone is not None:
            self.backbone = backbone.requires_grad_(False)
        if transformer is not None:
            self.transformer = transformer.requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)

    def train(self, mode: bool = True) -> Self:
        """Set training mode for the model; the encoders stay in evaluation mode."""
        super().train(mode)
        for name in ("backbone", "transformer"):
            if name in self._modules:
                getattr(self, name).eval()
        return self

    def forward(self, batch: Batch) -> Output:
        """Apply the model to the batch, whose `pixels [B, 3, side, side]` are uint8."""
        output: Output = self.model(self.encode(batch))
        return output

    def settle(self, train: Batches, validation: Batches) -> None:
        """Settle the model, if it is a `Settled` one."""
        if isinstance(self.model, Settled):
            self.model.settle(lambda: map(self.encode, train()), lambda: map(self.encode, validation()))

    def refit(self, train: Batches, validation: Batches) -> None:
        """Refit the model, if it is a `Refitted` one."""
        if isinstance(self.model, Refitted):
            self.model.refit(lambda: map(self.encode, train()), lambda: map(self.encode, validation()))

    def encoder_parameters(self) -> list[nn.Parameter]:
        """The encoders' trained parameters."""
        return [p for name, p in self.named_parameters() if p.requires_grad and not name.startswith("model.")]

    def encode(self, batch: Batch) -> Batch:
        """The batch with maps and vectors instead of pixels and tokens."""
        if batch.pixels is not None:
            regions: Tensor = self.backbone(batch.pixels)
            batch = replace(batch, regions=regions, pixels=None)
        if batch.tokens is not None:
            assert batch.word_mask is not None
            vectors: Tensor = self.transformer(batch.tokens, batch.word_mask)
            batch = replace(batch, word_vectors=vectors, tokens=None)
        # An encoder's answer to an empty picture or text is not zero.
        return blanked(batch)
