"""Attribution: class-activation maps, and the faithfulness of rankings of regions and words."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mvsent.features.vocabulary import UNK
from mvsent.models.batch import Batch

STEPS = 10
"""Number of portions in which regions or words are removed or restored."""


class _OfRegions(nn.Module):
    """The network as a function of the map alone; the map enters at `seen`."""

    def __init__(self, network: nn.Module, batch: Batch) -> None:
        super().__init__()
        self.network, self.batch, self.seen = network, batch, nn.Identity()

    def forward(self, regions: Tensor) -> Tensor:
        logits: Tensor = self.network(replace(self.batch, regions=self.seen(regions))).logits
        return logits


def grad_cam(network: nn.Module, batch: Batch, target: Tensor) -> Tensor:
    """Grad-CAM maps `[B, H, W]` from 0 to 1: evidence of each region for the class `target` `[B]`.

    All zero without any evidence. The network must be in evaluation mode.

    Reference: Selvaraju et al. 2017 (Grad-CAM), by captum.
    """
    from captum.attr import LayerGradCam

    assert batch.regions is not None
    of_regions = _OfRegions(network, batch)
    # cuDNN's recurrent layers have no backward pass in evaluation mode.
    with torch.backends.cudnn.flags(enabled=False), torch.enable_grad():
        regions = batch.regions.detach().requires_grad_(True)
        found = LayerGradCam(of_regions, of_regions.seen).attribute(regions, target, relu_attributions=True)
    maps: Tensor = found.detach().squeeze(1)  # [B, H, W]
    return maps / maps.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)


@dataclass(frozen=True)
class Faithfulness:
    """Areas under the curve of the predicted class's probability, means over rows, from 0 to 1.

    Attributes:
        deletion: as parts are removed, the most important first; lower is better.
        insertion: as parts are restored to an empty input, the most important first; higher is better.
    """

    deletion: float
    insertion: float


@torch.no_grad()
def faithfulness(
    network: nn.Module, batch: Batch, importance: Tensor, without: Callable[[Batch, Tensor], Batch]
) -> Faithfulness:
    """Measure the faithfulness of an importance ranking by deletion and insertion.

    Reference: Petsiuk et al. 2018 (RISE).

    Args:
        network: in evaluation mode.
        batch: `B` rows.
        importance: `[B, N]` of regions or words; negative for absent ones.
        without: returns the batch without the parts where the mask `[B, N]` is True.
    """
    predicted = network(batch).logits.argmax(dim=1, keepdim=True)  # [B, 1]
    # Sorting twice gives the place of each part in the order.
    rank = importance.argsort(dim=1, descending=True, stable=True).argsort(dim=1)  # [B, N]
    there = importance >= 0
    n_there = there.sum(dim=1, keepdim=True)  # [B, 1]
    deletion: list[Tensor] = []
    insertion: list[Tensor] = []
    for step in range(STEPS + 1):
        first = there & (rank < (n_there * step / STEPS).round())
        for curve, mask in ((deletion, first), (insertion, there & ~first)):
            probabilities = network(without(batch, mask)).logits.softmax(dim=1)
            curve.append(probabilities.gather(1, predicted).mean())
    area = torch.trapezoid(torch.stack([torch.stack(deletion), torch.stack(insertion)]), dx=1 / STEPS)
    return Faithfulness(float(area[0]), float(area[1]))


def without_regions(batch: Batch, mask: Tensor) -> Batch:
    """Set the map to zero where `mask` `[B, H·W]` is True."""
    assert batch.regions is not None
    gone = mask.view(-1, 1, *batch.regions.shape[2:])
    return replace(batch, regions=batch.regions.masked_fill(gone, 0))


def without_words(batch: Batch, mask: Tensor) -> Batch:
    """Replace words where `mask` `[B, S]` is True by unknown ones, or by vectors of zeros.

    The vector of the whole text and lexicon scores are unchanged.
    """
    if batch.words is not None:
        return replace(batch, words=batch.words.masked_fill(mask, UNK))
    assert batch.word_vectors is not None
    return replace(batch, word_vectors=batch.word_vectors.masked_fill(mask.unsqueeze(-1), 0))


def shuffled(importance: Tensor, seed: int) -> Tensor:
    """Random importance for comparison; negative for absent parts."""
    # On the CPU: a GPU's generator would draw another order.
    random = torch.rand(importance.shape, generator=torch.Generator().manual_seed(seed))
    return random.to(importance.device).where(importance >= 0, -1)
