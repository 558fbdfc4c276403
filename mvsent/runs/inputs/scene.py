"""Scene: the mean over the regions of a second backbone's map."""

from collections.abc import Mapping
from typing import Self

from mvsent.features.backbone import Backbone
from mvsent.features.backbones import load_scene_backbone
from mvsent.models.batch import SCENE
from mvsent.runs.inputs.kind import Input, register
from mvsent.runs.inputs.pair_sources import Pairs
from mvsent.runs.inputs.regions import Floats, pooled_maps
from mvsent.runs.inputs.setup import Setup


@register(SCENE)
class Scene(Input):
    """Features of `--scene-backbone`."""

    columns = ("image",)

    def __init__(self, name: str) -> None:
        super().__init__()
        self.backbone: Backbone = load_scene_backbone(name)
        self.hashes["scene"] = self.backbone.weights_sha256

    @classmethod
    def make(cls, setup: Setup) -> Self | None:
        return cls(setup.settings.scene_backbone) if setup.settings.scene_backbone else None

    def read(self, pairs: Pairs) -> Mapping[str, Floats]:
        return {"scene": pooled_maps(pairs.maps(self.backbone))}
