"""A network of timm up to a map or a vector: the outputs that a backbone can have."""

from collections.abc import Callable
from enum import Enum
from functools import partial

import torch
from torch import Tensor, nn

from mvsent.errors import WeightsError, first_line
from mvsent.features.backbone import MeanOfMap


class TrunkEnd(Enum):
    """The output of a trunk: one feature level, the features that the head pools, or the pooled vector."""

    LEVEL = "map"
    LAST_MAP = "last map"
    VECTOR = "vector"


def trunk_of(
    network: nn.Module, name: str, output: TrunkEnd, level: int, *, size: int
) -> tuple[nn.Module, torch.Size]:
    """The network up to its `output`, and the shape of that for one picture of `size` pixels.

    Layers that come after a level are removed from the network. Where `forward_features` gives no map, the
    last map is that of `level`.

    Raises: WeightsError if the network `name` has no such output.
    """
    choices: list[Callable[[], nn.Module]] = [partial(Level, network, level)]
    if output is not TrunkEnd.LEVEL:
        # timm itself turns tokens of transformers into maps, as their order differs from family to family.
        choices = [partial(LastMap, network), partial(Level, network, level, norm=True), *choices]
    if output is TrunkEnd.VECTOR:
        choices.insert(0, partial(Pooled, network))
    problems = []
    for choice in choices:
        try:
            trunk = choice()
            if output is TrunkEnd.VECTOR and not isinstance(trunk, Pooled):
                trunk = MeanOfMap(trunk)
            with torch.inference_mode():
                shape = trunk.eval()(torch.zeros(1, 3, size, size)).shape
        except Exception as error:  # networks without maps fail in ways of their own
            problems.append(first_line(error))
            continue
        # The class token of some networks looks like a map of one region.
        if len(shape) == (2 if output is TrunkEnd.VECTOR else 4) and shape[2:] != (1, 1):
            return trunk, shape
        problems.append(f"its output is {' × '.join(map(str, shape))}")
    raise WeightsError(f"{name}: has no {output.value} ({problems[0]})", "Choose another backbone")


class LastMap(nn.Module):
    """The map that a network pools: `[B, 3, size, size]` → `[B, C, H, W]`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.channels = int(network.num_features)  # type: ignore[arg-type]

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        maps: Tensor = self.network.forward_features(pixels)  # type: ignore[operator]
        is_last = maps.dim() == 4 and maps.shape[1] != self.channels == maps.shape[3]  # as of Swin
        return maps.permute(0, 3, 1, 2) if is_last else maps


class Level(nn.Module):
    """The features of one level: `[B, 3, size, size]` → `[B, C, H, W]`; later layers are left out."""

    def __init__(self, network: nn.Module, number: int, *, norm: bool = False) -> None:
        """`norm`: apply the network's last normalisation."""
        super().__init__()
        self.network, self.norm = network, norm
        self.indices = network.prune_intermediate_layers([number], prune_norm=not norm)  # type: ignore[operator]

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        maps: list[Tensor] = self.network.forward_intermediates(  # type: ignore[operator]
            pixels, indices=self.indices, norm=self.norm, output_fmt="NCHW", intermediates_only=True
        )
        return maps[0]


class Pooled(nn.Module):
    """The vector that a network's classifier reads: `[B, 3, size, size]` → `[B, D]`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        features = self.network.forward_features(pixels)  # type: ignore[operator]
        vector: Tensor = self.network.forward_head(features, pre_logits=True)  # type: ignore[operator]
        return vector
