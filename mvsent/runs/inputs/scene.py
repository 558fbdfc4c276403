"""Scene: the mean over the regions of a second backbone's map."""

from collections.abc import Mapping
from typing import Self

from mvsent.features.backbone import Backbone
from mvsent.models.batch import SCENE
from mvsent.runs.inputs.kind import Input, register
from mvsent.runs.inputs.pair_sources import Pairs
from mvsent.runs.inputs.regions import Floats, pooled_maps
from mvsent.runs.inputs.setup import Setup


@register(SCENE)
class Scene(Input):
    """Features of `--scene-backbone`."""

    columns = ("image",)

    def __init__(self, setup: Setup) -> None:
        super().__init__()
        self.backbone: Backbone = setup.other_backbone(setup.settings.scene_backbone, "--scene-backbone")
        self.hashes["scene"] = self.backbone.weights_sha256

    @classmethod
    def make(cls, setup: Setup) -> Self | None:
        return cls(setup) if setup.settings.scene_backbone else None

    def read(self, pairs: Pairs) -> Mapping[str, Floats]:
        return {"scene": pooled_maps(pairs.maps(self.backbone))}
