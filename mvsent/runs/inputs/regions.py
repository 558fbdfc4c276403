"""Regions: a backbone's maps of the pictures, or their pixels if the backbone is trained with the model."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from mvsent.features.backbone import Backbone
from mvsent.models.batch import REGIONS
from mvsent.runs.inputs.kind import Input, register
from mvsent.runs.inputs.pair_sources import Maps, Pairs
from mvsent.runs.inputs.setup import Setup

_AT_ONCE = 256  # rows: the maps of a whole dataset may exceed the memory

Floats = npt.NDArray[np.float32]


@register(REGIONS)
class Regions(Input):
    """Maps of `--backbone`; pixels with `--fine-tune`."""

    columns = ("image",)

    def __init__(self, setup: Setup) -> None:
        super().__init__()
        self.tuned = setup.settings.fine_tune != "none"
        self.backbone: Backbone = setup.backbone
        self.hashes["backbone"] = self.backbone.weights_sha256

    @classmethod
    def make(cls, setup: Setup) -> Self:
        return cls(setup)

    def read(self, pairs: Pairs) -> Mapping[str, npt.NDArray[Any]]:
        if self.tuned:
            return {"pixels": pairs.pixels(self.backbone.size)}
        return {"regions": pairs.maps(self.backbone)}


def pooled_maps(maps: Maps) -> Floats:
    """`[N, C, H, W]` → the mean over regions `[N, C]`."""
    means = [
        np.asarray(maps[start : start + _AT_ONCE], np.float32).mean(axis=(2, 3))
        for start in range(0, len(maps), _AT_ONCE)
    ]
    return np.concatenate(means) if means else np.zeros((0, maps.shape[1]), np.float32)
