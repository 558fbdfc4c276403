"""Lexicon: sentiment strengths of the texts."""

from collections.abc import Mapping
from typing import Self

from mvsent.features.lexicon_scores import VADER, Scores, lexicon_scores
from mvsent.models.batch import LEXICON
from mvsent.runs.inputs.kind import Input, register
from mvsent.runs.inputs.pair_sources import Pairs
from mvsent.runs.inputs.setup import Setup


@register(LEXICON)
class Lexicon(Input):
    """Scores of `--lexicon`; a model that needs some takes VADER's for `none`."""

    columns = ("text",)

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    @classmethod
    def make(cls, setup: Setup) -> Self | None:
        name = setup.settings.lexicon
        if name != "none":
            return cls(name)
        return cls(VADER) if LEXICON in setup.needed else None

    def read(self, pairs: Pairs) -> Mapping[str, Scores]:
        return {"lexicon": lexicon_scores(pairs.texts, self.name)}
