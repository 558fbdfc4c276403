"""Image vector: the whole picture by one or several encoders, or vectors of one's own, side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np

from mvsent.errors import RunError, UsageError
from mvsent.features.backbone import Backbone
from mvsent.features.backbones import load_backbone
from mvsent.features.own_vectors import file_sha256, is_vector_file, own_vectors
from mvsent.models.batch import IMAGE_VECTOR, REGIONS
from mvsent.runs.inputs.kind import Input, register
from mvsent.runs.inputs.pair_sources import Pairs
from mvsent.runs.inputs.regions import Floats
from mvsent.runs.inputs.setup import Setup

OPTION, BACKBONE = "--image-vector", "backbone"


@register(IMAGE_VECTOR)
class ImageVector(Input):
    """The vectors of the pictures by each encoder or file of `--image-vector`, side by side.

    Attributes:
        parts: the encoders and files, in the order in which they are given.
    """

    def __init__(self, setup: Setup, names: list[str]) -> None:
        super().__init__()
        self.parts: list[Backbone | Path] = []
        for name in names:
            if is_vector_file(name):
                self._read_from(name, setup)
            else:
                self.parts.append(_encoder(setup, name))
        if self.networks:
            self.columns = ("image",)
        self.hashes["image_vector"] = ",".join(
            file_sha256(part) if isinstance(part, Path) else part.weights_sha256 for part in self.parts
        )

    def _read_from(self, name: str, setup: Setup) -> None:
        if setup.dataset is None:
            assert setup.run is not None
            raise RunError(
                f"{setup.run.path}: reads vectors of pictures from {name}, which has none for new ones",
                f"Train with an encoder instead: {OPTION} NAME; or evaluate a dataset whose rows it has: "
                "mvsent eval --dataset",
            )
        self.parts.append(Path(name))
        self.needs_all_rows = f"{OPTION} {name}"

    @property
    def networks(self) -> Sequence[Backbone]:
        """The encoders."""
        return [part for part in self.parts if isinstance(part, Backbone)]

    @classmethod
    def make(cls, setup: Setup) -> Self | None:
        given, needed = setup.settings.image_vector, IMAGE_VECTOR in setup.needed
        if given == "auto":
            given = BACKBONE if needed or _has_own_vector(setup) else "none"
        if given == "none":
            if needed:
                raise UsageError("the model needs a vector of the picture", f"Give {OPTION} {BACKBONE}")
            return None
        names = [part.strip() for part in given.split(",")]
        among_others = len(names) > 1 and {"none", "auto"} & set(names)
        if not all(names) or len(set(names)) < len(names) or among_others:
            raise UsageError(
                f"{OPTION} {given}: not a list of different encoders", f"Name each once: {BACKBONE},FOLDER"
            )
        return cls(setup, names)

    def read(self, pairs: Pairs) -> Mapping[str, Floats]:
        vectors = [
            own_vectors(part, pairs.ids)
            if isinstance(part, Path)
            else np.asarray(pairs.maps(part), np.float32)
            for part in self.parts
        ]
        return {"image_vector": np.concatenate(vectors, axis=1)}


def _has_own_vector(setup: Setup) -> bool:
    """Whether a vector is read by default: that of a CLIP or SigLIP whose map the model reads, too."""
    if setup.run:  # a run reads what it was trained with
        return setup.run.resolved.width("image_vector_size") > 0
    return REGIONS in setup.needed | setup.optional and setup.backbone.projects


def _encoder(setup: Setup, name: str) -> Backbone:
    """The encoder `name`; `--backbone` itself is not cut off at `--tap`."""
    if name != BACKBONE:
        return setup.other_backbone(name, OPTION, whole=True)
    settings = setup.settings
    revision = setup.revision(settings.backbone)
    loaded = load_backbone(settings.backbone, weights=settings.weights, revision=revision, whole=True)
    setup.note_revision(settings.backbone, loaded.revision)
    return loaded
