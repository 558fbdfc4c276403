"""ANP scores: a score of each adjective-noun pair for a picture, by detectors or from a file."""

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path

from mvsent.errors import RunError, UsageError, WeightsError
from mvsent.features.anps import AnpDetectors, read_scores
from mvsent.features.backbone import Backbone
from mvsent.models.batch import ANP_SCORES
from mvsent.runs.inputs.kind import Input, register
from mvsent.runs.inputs.pair_sources import Pairs
from mvsent.runs.inputs.regions import Floats, pooled_maps
from mvsent.runs.inputs.setup import Setup

log = logging.getLogger("mvsent")


@register(ANP_SCORES)
class AnpScores(Input):
    """Scores by the detectors of `--anps`; without detectors, the backbone's mean features."""

    columns = ("image",)

    def __init__(self, setup: Setup) -> None:
        super().__init__()
        settings, self.detectors = setup.settings, None
        self.backbone: Backbone = setup.backbone
        if settings.anps:
            path = Path(settings.anps)
            self.detectors = AnpDetectors.load(path)
            if self.detectors.backbone_sha256 != self.backbone.weights_sha256:
                raise WeightsError(
                    f"{path}: these ANP detectors read another backbone than {settings.backbone}",
                    "Give the --backbone and --weights that they were trained on",
                )
            self.hashes["anps"] = hashlib.sha256(path.read_bytes()).hexdigest()
            return
        if settings.fine_tune != "none":
            raise UsageError("--fine-tune needs no frozen features, and this model does", "Leave it out")
        if setup.dataset:
            log.warning("no ANP detectors (--anps): the backbone's mean features stand for their scores")
        self.hashes["backbone"] = self.backbone.weights_sha256

    @classmethod
    def make(cls, setup: Setup) -> Input:
        return StoredAnpScores(setup) if setup.settings.anps.endswith(".parquet") else cls(setup)

    def read(self, pairs: Pairs) -> Mapping[str, Floats]:
        features = pooled_maps(pairs.maps(self.backbone))
        return {"anp_scores": self.detectors.scores(features) if self.detectors else features}


class StoredAnpScores(Input):
    """Scores of a Parquet file, by the id of the pair."""

    def __init__(self, setup: Setup) -> None:
        super().__init__()
        self.path = Path(setup.settings.anps)
        self.needs_all_rows = f"--anps {self.path}"
        if setup.dataset is None:
            assert setup.run is not None
            raise RunError(
                f"{setup.run.path}: reads ANP scores from {self.path}, which has none for new pictures",
                "Train it with detectors instead: mvsent train-anps, then train --anps anps.safetensors",
            )

    @classmethod
    def make(cls, setup: Setup) -> Input:
        return cls(setup)

    def read(self, pairs: Pairs) -> Mapping[str, Floats]:
        return {"anp_scores": read_scores(self.path, pairs.ids)}
