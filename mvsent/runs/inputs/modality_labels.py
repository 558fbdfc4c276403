"""Labels of the text and of the picture, for losses only: a model's answers never depend on them."""

from collections.abc import Mapping
from typing import Self

import numpy as np
import numpy.typing as npt

from mvsent.models.batch import MODALITY_LABELS
from mvsent.runs.inputs.kind import Input, register
from mvsent.runs.inputs.pair_sources import Pairs
from mvsent.runs.inputs.setup import Setup


@register(MODALITY_LABELS)
class ModalityLabels(Input):
    """The columns `text_label` and `image_label` of a dataset, -1 where a row has none."""

    columns = ("text_label", "image_label")

    @classmethod
    def make(cls, setup: Setup) -> Self | None:
        return cls() if setup.dataset else None

    def read(self, pairs: Pairs) -> Mapping[str, npt.NDArray[np.int64]]:
        return {
            name.replace("label", "target"): np.array(
                [-1 if label is None else label for label in pairs.column(name)], np.int64
            )
            for name in self.columns
        }
