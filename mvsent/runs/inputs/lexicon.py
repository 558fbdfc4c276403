"""Lexicon: sentiment strengths of the texts by VADER, by several lexicons, or by SentiStrength's jar."""

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from mvsent.errors import InputError, WeightsError
from mvsent.features.sentiment_lexicons import VADER_SCORES, all_scores, lexicons_sha256
from mvsent.models.batch import LEXICON
from mvsent.runs.inputs.kind import Input, register
from mvsent.runs.inputs.pair_sources import Pairs
from mvsent.runs.inputs.setup import Setup

VADER, ALL = "vader", "all"

Scores = npt.NDArray[np.float32]


@register(LEXICON)
class Lexicon(Input):
    """Scores of `--lexicon`; with `none`, a model that requires scores reads VADER's."""

    columns = ("text",)

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        if name == ALL:
            self.hashes["lexicon"] = lexicons_sha256()

    @classmethod
    def make(cls, setup: Setup) -> Self | None:
        name = setup.settings.lexicon
        if name != "none":
            return cls(name)
        return cls(VADER) if LEXICON in setup.needed else None

    def read(self, pairs: Pairs) -> Mapping[str, Scores]:
        return {"lexicon": lexicon_scores(pairs.texts, self.name)}


def lexicon_scores(texts: Sequence[str], lexicon: str = VADER) -> Scores:
    """Score texts `[N, L]` by VADER (negative, neutral, positive, compound), all lexicons, or SentiStrength.

    Args:
        lexicon: `vader`; `all`, see `features.sentiment_lexicons`; or the path of SentiStrengthCom.jar with
            its data beside it, which gives two strengths.

    Raises: WeightsError if a package, Java or the jar is missing; InputError if the jar fails.
    """
    if lexicon == ALL:
        return all_scores(texts)
    return _vader(texts) if lexicon == VADER else _sentistrength(texts, Path(lexicon))


def _vader(texts: Sequence[str]) -> Scores:
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError:
        raise WeightsError(
            "lexicon scores need the package vaderSentiment", 'pip install "mvsent[transformers]"'
        ) from None
    score = SentimentIntensityAnalyzer().polarity_scores
    rows = [[scores[name] for name in VADER_SCORES] for scores in map(score, texts)]
    return np.array(rows, dtype=np.float32).reshape(len(texts), len(VADER_SCORES))


def _sentistrength(texts: Sequence[str], jar: Path) -> Scores:
    """Positive strength (1 … 5) and negative strength (-1 … -5) of each text.

    Reference: Thelwall et al. 2010.
    """
    java = shutil.which("java")
    if java is None or not jar.is_file():
        raise WeightsError(
            f"{jar}: SentiStrength needs Java and its jar",
            "Give the path of SentiStrengthCom.jar, or use --lexicon vader",
        )
    # With the slash, as SentiStrength appends names of files to it.
    data = f"{jar.parent.resolve()}/"
    # SentiStrength scores line by line, so a text must not contain a line break.
    lines = "".join(" ".join(text.split()).replace("\0", "") + "\n" for text in texts)
    ran = subprocess.run(
        [java, "-jar", str(jar.resolve()), "stdin", "sentidata", data],
        input=lines.encode(),
        capture_output=True,
        check=False,
    )
    answers = ran.stdout.decode("utf-8", "replace").splitlines()
    if ran.returncode or len(answers) != len(texts):
        said = (ran.stderr.decode("utf-8", "replace").strip().splitlines() or ["nothing"])[-1]
        raise InputError(
            f"{jar}: scored {len(answers)} of {len(texts)} texts and printed {said[:200]!r}",
            "Try it by hand: java -jar SentiStrengthCom.jar stdin sentidata FOLDER/",
        )
    try:
        rows = [[float(value) for value in answer.split()[:2]] for answer in answers]
        return np.array(rows, dtype=np.float32).reshape(len(texts), 2)
    except ValueError:
        raise InputError(
            f"{jar}: did not print two numbers a line", "Give the path of SentiStrengthCom.jar"
        ) from None
