"""A network without its head: pixels in, the feature maps of one layer out."""

import copy
import hashlib
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

State = dict[str, Tensor]

HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Tap:
    """A feature map at which a backbone can be cut off."""

    layer: str  # the last child module that is run
    channels: int
    grid: tuple[int, int]  # height, width
    last: tuple[str, ...]  # the children that `--fine-tune last` trains


class Backbone(nn.Module):
    """A network without its head: pixels in, the feature maps of one layer out.

    Batch normalisation keeps the statistics of its weights, also in training: batches are too small and too
    different to re-estimate them, and a picture's map must not depend on its neighbours in the batch.

    Attributes: name, tap, size (pixels), channels, grid (height, width), weights (as asked for),
    weights_sha256 (over names and values of the parameters as loaded).
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        name: str,
        tap: str,
        trunk: nn.Module,
        weights: str,
        at: Tap,
        *,
        size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        """`mean` and `std` are those of pixels scaled to 0..1, red green blue."""
        super().__init__()
        self.name, self.tap, self.weights, self.size = name, tap, weights, size
        self.channels, self.grid, self._last = at.channels, at.grid, at.last
        self.trunk = trunk
        self.weights_sha256 = state_sha256(trunk.state_dict())
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", 1 / (255 * torch.tensor(std)).view(1, 3, 1, 1), persistent=False)
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """Maps [B, channels, *grid], float, of `pixels` [B, 3, size, size], uint8 or float in 0..255."""
        x = pixels.contiguous(memory_format=torch.channels_last).to(self.mean.dtype)
        maps: Tensor = self.trunk((x - self.mean) * self.scale)
        return maps

    def train(self, mode: bool = True) -> "Backbone":
        """Set training mode for everything except batch normalisation."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def last_block_parameters(self) -> list[nn.Parameter]:
        """The parameters that `--fine-tune last` trains: those of the last block before the map."""
        return [
            parameter for child in self._last for parameter in self.trunk.get_submodule(child).parameters()
        ]


def fused(backbone: Backbone) -> Backbone:
    """A copy for inference only, with batch normalisations folded into the preceding convolutions.

    It gives the same maps, up to rounding, a fifth to a third faster.
    """
    copied = copy.deepcopy(backbone).requires_grad_(False)
    _fold(copied.trunk)
    copied.trunk.to(memory_format=torch.channels_last)
    return copied


def _fold(module: nn.Module) -> None:
    # In all three families a batch norm directly follows its convolution; timm's includes the activation.
    children = list(module.named_children())
    for (conv_name, conv), (norm_name, norm) in pairwise([*children, ("", nn.Identity())]):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
            setattr(module, norm_name, getattr(norm, "act", nn.Identity()))
        else:
            _fold(conv)


def state_sha256(state: State) -> str:
    """Hash of the names, shapes, types and values of `state`, independent of the file format."""
    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach().cpu().contiguous()
        digest.update(f"{key} {tuple(value.shape)} {value.dtype}\n".encode())
        # Flat, as a scalar cannot be viewed as bytes; as bytes, as numpy has no bfloat16.
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
