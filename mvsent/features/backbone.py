"""A network without its head: pixels in, the feature maps of one layer or a vector of the picture out."""

import copy
import hashlib
import logging
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mvsent.errors import UsageError

log = logging.getLogger("mvsent")

State = dict[str, Tensor]

HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Tap:
    """A place at which a backbone can be cut off."""

    layer: str  # the last child module that is run
    channels: int
    grid: tuple[int, int] | None  # height, width; None if the output is one vector
    last: tuple[str, ...]  # the modules or parameters that `--fine-tune last` trains


@dataclass(frozen=True)
class Scaling:
    """The pictures that a backbone was trained on.

    Attributes:
        size: side of the square, in pixels.
        mean, std: of pixels scaled to 0..1, red green blue.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Backbone(nn.Module):
    """A network without its head: pixels in, the feature maps of one layer out, or one vector.

    Batch normalisation keeps the statistics of its weights, also in training: batches are too small and too
    different to re-estimate them, and a picture's map must not depend on its neighbours in the batch.

    Attributes: name, tap, size (pixels), channels, grid (height, width; 1, 1 for one vector), shape (of the
    output for a picture, [channels, *grid] or [channels]), weights (as asked for), weights_sha256 (over names
    and values of the parameters as loaded), revision (the commit, if they are from Hugging Face's hub),
    projects (whether it is a CLIP's or SigLIP's, with a vector of the whole picture that it was trained for),
    foldable (whether every batch normalisation is known to follow its convolution; see `fused`).
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self, name: str, tap: str, trunk: nn.Module, weights: str, at: Tap, *, scaling: Scaling
    ) -> None:
        super().__init__()
        self.name, self.tap, self.weights, self.size = name, tap, weights, scaling.size
        self.channels, self.grid, self._last = at.channels, at.grid or (1, 1), at.last
        self.shape = (at.channels, *(at.grid or ()))
        self.trunk = trunk
        self.weights_sha256 = state_sha256(trunk.state_dict())
        self.revision, self.projects, self.foldable = "", False, False
        mean, std = torch.tensor(scaling.mean), torch.tensor(scaling.std)
        self.register_buffer("mean", 255 * mean.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", 1 / (255 * std).view(1, 3, 1, 1), persistent=False)
        self.eval()

    def hash_scaling(self) -> None:
        """Let `weights_sha256` cover mean and scale, too, where these are read from a file or a library."""
        self.weights_sha256 = state_sha256(self.trunk.state_dict() | {"mean": self.mean, "scale": self.scale})

    def forward(self, pixels: Tensor) -> Tensor:
        """Maps [B, *shape], float, of `pixels` [B, 3, size, size], uint8 or float in 0..255."""
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
        """The parameters that `--fine-tune last` trains: those of the last block before the map.

        Raises: UsageError if it is not known which these are.
        """
        if not self._last:
            raise UsageError(
                f"{self.name}: it is not known which of its layers come last", "Use --fine-tune all"
            )
        within = tuple(f"{name}." for name in self._last)
        return [
            parameter
            for name, parameter in self.trunk.named_parameters()
            if name in self._last or name.startswith(within)
        ]


class MeanOfMap(nn.Module):
    """`trunk` followed by the mean over its map: `[B, C, H, W]` → `[B, C]`."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised `[B, 3, size, size]` → `[B, C]`."""
        maps: Tensor = self.trunk(pixels)
        return maps.mean(dim=(2, 3))


def fused(backbone: Backbone) -> Backbone:
    """A copy for inference only, with batch normalisations folded into the preceding convolutions.

    It gives the same maps, up to rounding, a fifth to a third faster. A network in which folding changes the
    output, as a batch normalisation does not follow the convolution before it, is copied as it is.
    """
    copied = copy.deepcopy(backbone).requires_grad_(False)
    if not any(isinstance(module, nn.BatchNorm2d) for module in copied.modules()):
        return copied
    try:
        _fold(copied.trunk)
        copied.trunk.to(memory_format=torch.channels_last)
        if backbone.foldable or _alike(backbone, copied):
            return copied
    except Exception:  # a layer of a kind of its own, or one that reads an attribute of what was replaced
        log.debug("%s cannot be folded", backbone.name, exc_info=True)
    return copy.deepcopy(backbone).requires_grad_(False)


@torch.inference_mode()
def _alike(one: Backbone, other: Backbone) -> bool:
    """Whether two networks give the same output for noise, up to rounding."""
    noise = torch.randint(0, 256, (1, 3, one.size, one.size), generator=torch.Generator().manual_seed(0))
    noise = noise.to(one.mean.device)
    expected, found = one(noise), other(noise)
    largest = float(expected.abs().max())
    return bool(torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * largest))


def _fold(module: nn.Module) -> None:
    # In most families a batch norm directly follows its convolution; timm's includes the activation.
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
