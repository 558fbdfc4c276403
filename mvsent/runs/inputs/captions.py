"""Captions of the pictures, from a file beside the dataset; their words are read as those of the texts."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from torch import Tensor

from mvsent.features.caption_files import read_captions
from mvsent.learn.batches import Rows, Text
from mvsent.models.batch import CAPTION
from mvsent.runs.inputs.kind import Input, OfFold, register
from mvsent.runs.inputs.pair_sources import Pairs
from mvsent.runs.inputs.setup import Setup
from mvsent.runs.inputs.words import Unnumbered, word_encoder
from mvsent.shards.reader import Dataset

log = logging.getLogger("mvsent")


@register(CAPTION)
class Captions(Input):
    """The captions in the file of `--captions`."""

    needs_all_rows = "--captions"

    def __init__(self, setup: Setup, dataset: Dataset) -> None:
        super().__init__()
        self.path, self.dataset, self.max_words = Path(setup.settings.captions), dataset, setup.max_words
        self.encoder = word_encoder(setup)

    @classmethod
    def make(cls, setup: Setup) -> Self | None:
        if not setup.settings.captions:
            return None
        if setup.dataset is None:
            log.warning("the run was trained with captions; these pictures have none")
            return None
        return cls(setup, setup.dataset)

    def read(self, pairs: Pairs) -> Mapping[str, "Caption | UnnumberedCaption"]:
        captions = read_captions(self.path, self.dataset)
        if not any(captions):
            return {}
        if self.encoder is None:
            return {"caption": UnnumberedCaption(captions, self.max_words)}
        return {"caption": Caption.of(pairs.encoded(self.encoder, captions), captions)}


class Caption(Text):
    """Words of captions, in fields of a batch that are their own."""

    @classmethod
    def of(cls, words: Text, captions: Sequence[str]) -> Self:
        """`words` of `captions`: an empty text is one unknown word, but an empty caption is none at all."""
        written = [bool(caption.strip()) for caption in captions]
        return cls(np.where(written, words.lengths, 0), words.numbers, words.vectors)

    def tensors(self, rows: Rows) -> dict[str, Tensor | None]:
        """The words of `rows`; see `InputColumn`."""
        numbers, vectors, mask, _ = self.cut(rows)
        return {"caption": numbers, "caption_vectors": vectors, "caption_mask": mask}


class UnnumberedCaption(Unnumbered):
    """Captions whose words a fold's vocabulary will number."""

    def __call__(self, fold: OfFold) -> Caption:
        """The words of the captions."""
        return Caption.of(super().__call__(fold), self.texts)
