"""Sentiment of texts by three lexicons, as one set of features: `--lexicon all`.

| lexicon | package, tested version | licence of the package; of the lexicon |
|---|---|---|
| VADER, 7506 words and emoticons | vaderSentiment 3.3.2 | MIT; MIT |
| AFINN-en-165 and its emoticons, 3474 words and phrases | afinn 0.1, only its data | GPL; ODbL 1.0 |
| the adjectives of pattern, 2860 words | textblob 0.20.1 | MIT; PDDL, public domain |

Texts are spelled out first (`tweet_words`). The packages find the entries of their lexicons in a text, and
decide about negation: VADER and TextBlob reverse what follows a "not", AFINN has phrases such as "not good".
"""

import hashlib
import json
import re
from collections.abc import Sequence
from functools import cache
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mvsent.errors import WeightsError
from mvsent.features.tweet_words import SEGMENTER, spelled_out
from mvsent.features.vocabulary import tokenize

Scores = npt.NDArray[np.float32]

PACKAGES = ("vaderSentiment", "afinn", "textblob", SEGMENTER)
"""Packages by their names, which are the same for pip and for Python."""

AFINN_FILES = ("AFINN-en-165.txt", "AFINN-emoticon-8.txt")

VADER_SCORES = ("neg", "neu", "pos", "compound")
OF_ENTRIES = ("sum", "mean", "max", "min", "n_positive", "n_negative")
COLUMNS = (
    *(f"vader_{name}" for name in VADER_SCORES),
    *(f"vader_words_{name}" for name in OF_ENTRIES),
    *(f"afinn_{name}" for name in OF_ENTRIES),
    *("textblob_polarity", "textblob_subjectivity"),
    *(f"textblob_entries_{name}" for name in OF_ENTRIES),
)
"""The features of a text, in order.

`vader_neg` to `vader_compound`, and `textblob_polarity` and `_subjectivity`, are the packages' own scores of
a text. The others are statistics of the scores of its single words or entries, 0 if it has none: of VADER's
words (-4 to 4) without regard to negation, AFINN's entries (-5 to 5), and TextBlob's entries (-1 to 1).
"""

_PROBES = (
    "I don't like this, it's not good :(",
    "SOOO happy!!! #bestdayever :-))",
    "very nice, but hardly great",
)
"""Texts whose scores are part of the hash, so that it changes with the rules of a package."""


def all_scores(texts: Sequence[str]) -> Scores:
    """Score texts by every lexicon: `[N, 24]`, a column for each of COLUMNS.

    Raises: WeightsError if a package is missing.
    """
    refuse_missing()
    rows = [_scores(spelled_out(text)) for text in texts]
    return np.array(rows, dtype=np.float32).reshape(len(texts), len(COLUMNS))


def lexicons_sha256() -> str:
    """Hash of the lexicons and of how they score some texts. Raises: as `all_scores`."""
    refuse_missing()
    textblob = _textblob()
    textblob("load")  # it reads its file with the first text
    entries = [_vader().lexicon, _afinn()[0], {word: textblob[word][None] for word in textblob}]
    document = [sorted(lexicon.items()) for lexicon in entries]
    probed = np.round(all_scores(_PROBES).astype(np.float64), 4).tolist()
    return hashlib.sha256(json.dumps([COLUMNS, document, probed]).encode()).hexdigest()


def refuse_missing() -> None:
    """Raises: WeightsError naming the packages that are not installed."""
    missing = [package for package in PACKAGES if util.find_spec(package) is None]
    if missing:
        raise WeightsError(
            f"--lexicon all: not installed: {', '.join(missing)}", 'pip install "mvsent[lexicons]"'
        )


def _scores(text: str) -> list[float]:
    vader, polarity = _vader().polarity_scores(text), _textblob()(text)
    entries, pattern = _afinn()
    valences = _vader().lexicon
    words = [valences[word] for word in map(str.lower, tokenize(text)) if word in valences]
    return [
        *(vader[name] for name in VADER_SCORES),
        *_statistics(words),
        *_statistics([entries[found] for found in pattern.findall(text.lower())]),
        *polarity,
        *_statistics([entry[1] for entry in polarity.assessments]),
    ]


def _statistics(scores: Sequence[float]) -> list[float]:
    """The statistics named in OF_ENTRIES."""
    if not scores:
        return [0.0] * len(OF_ENTRIES)
    n_positive, n_negative = sum(score > 0 for score in scores), sum(score < 0 for score in scores)
    total = sum(scores)
    return [total, total / len(scores), max(scores), min(scores), n_positive, n_negative]


@cache
def _vader() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


@cache
def _afinn() -> tuple[dict[str, int], re.Pattern[str]]:
    """AFINN's entries, and a pattern that finds the longest ones: whole words and phrases, and emoticons."""
    spec = util.find_spec("afinn")
    assert spec is not None and spec.origin is not None
    # Only the data of the package are used, as its code is under the GPL.
    files = [Path(spec.origin).parent / "data" / name for name in AFINN_FILES]
    words, faces = (dict(map(_afinn_entry, file.read_text("utf-8").splitlines())) for file in files)
    any_word, any_face = (
        "|".join(map(re.escape, sorted(part, key=len, reverse=True))) for part in (words, faces)
    )
    return words | faces, re.compile(rf"\b(?:{any_word})\b|{any_face}")


def _afinn_entry(line: str) -> tuple[str, int]:
    entry, score = line.strip().split("\t")
    return entry, int(score)


@cache
def _textblob() -> Any:
    from textblob.en import sentiment

    return sentiment
