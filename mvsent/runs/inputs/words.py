"""Words: numbers of a vocabulary, or tokens or vectors of a transformer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch

from mvsent.errors import UsageError, WeightsError
from mvsent.features.encoder_packages import MINILM
from mvsent.features.transformer import TextEncoder, is_encoder, pooled
from mvsent.features.vocabulary import sentence_numbers
from mvsent.learn.batches import Text
from mvsent.models.batch import SENTENCES, WORDS
from mvsent.runs.inputs.kind import Input, OfFold, register
from mvsent.runs.inputs.pair_sources import Pairs
from mvsent.runs.inputs.regions import Floats
from mvsent.runs.inputs.setup import Setup

_AT_ONCE = 256  # texts: the vectors of a whole dataset may exceed the memory


@register(WORDS, SENTENCES)
class Words(Input):
    """The texts' words by `--words`.

    Attributes:
        encoder: the transformer that reads the texts; None if a vocabulary numbers their words.
        tuned: whether the transformer is trained with the model, which then gets its tokens.
    """

    columns = ("text",)

    def __init__(self, setup: Setup) -> None:
        super().__init__()
        self.encoder = word_encoder(setup)
        self.tuned = setup.settings.fine_tune_words != "none"
        if self.encoder is None:
            self.max_words = setup.max_words
            self.sentences = SENTENCES in setup.needed
        else:
            self.hashes["encoder"] = self.encoder.weights_sha256

    @classmethod
    def make(cls, setup: Setup) -> Self:
        return cls(setup)

    def read(self, pairs: Pairs) -> Mapping[str, Text | Callable[[OfFold], Text]]:
        if self.encoder is None:
            return {"words": Unnumbered(pairs.texts, self.max_words, self.sentences)}
        if not self.tuned:
            return {"words": pairs.words(self.encoder)}
        tokens = self.encoder.tokenize(pairs.texts, pairs.setup.max_tokens)
        numbers = tokens.numbers
        return {"words": Text(tokens.lengths, numbers=numbers, sentence=tokens.sentence, tuned=True)}


def word_encoder(setup: Setup) -> TextEncoder | None:
    """The transformer of `--words`; None if it names a table of vectors.

    Raises: UsageError if a table is to be fine-tuned; WeightsError if the transformer is missing.
    """
    settings, run = setup.settings, setup.run
    if run and run.resolved.words_sha256:  # it read a table, even if a folder has its name now
        return None
    if is_encoder(settings.words):
        return setup.encoder(settings.words)
    if run:
        raise WeightsError(
            f"{settings.words}: the run read its words through this transformer, and it is not here",
            "Restore it",
        )
    if settings.fine_tune_words != "none":
        raise UsageError(
            f"--fine-tune-words: --words {settings.words} is a table of vectors, no transformer",
            f"Give --words {MINILM} or a transformer's folder, or leave it out",
        )
    return None


@dataclass(frozen=True)
class Unnumbered:
    """Texts whose words each fold numbers by its own vocabulary."""

    texts: Sequence[str]
    max_words: int
    sentences: bool = False

    def __call__(self, fold: OfFold) -> Text:
        """The words, in sentences if they matter."""
        numbers = fold.vocabulary.encode(self.texts, self.max_words)
        words = Text((numbers != 0).sum(axis=1), numbers=numbers)
        if self.sentences:
            words = replace(words, sentence=sentence_numbers(self.texts, self.max_words))
        return words


def mean_words(words: Text) -> Floats:
    """`[N, D]`, the mean of each text's word vectors, of length 1 each."""
    assert words.vectors is not None
    means = []
    for start in range(0, len(words.lengths), _AT_ONCE):
        rows = slice(start, start + _AT_ONCE)
        vectors = torch.from_numpy(np.asarray(words.vectors[rows], np.float32))
        mask = torch.arange(vectors.shape[1]) < torch.from_numpy(words.lengths[rows])[:, None]
        means.append(pooled(vectors, mask).numpy())
    return np.concatenate(means)
