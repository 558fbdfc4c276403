"""Which language a caption is in, by py3langid and the model that it ships; see docs/decisions.md."""

from functools import cache
from typing import Any

from mvsent.config import LANGUAGES
from mvsent.curate.text import plain_words

UNDETERMINED = "und"
MAX_CHARACTERS = 2000
"""How much of a text is looked at: what decides a caption's language stands in far less."""


def detect(text: str) -> tuple[str, float]:
    """The language of `text` (ISO 639-1) and how probable the model holds it, 0 to 1.

    Links and @names do not count, nor what follows 2000 characters of words. A text without a letter is
    `("und", 0.0)`.

    >>> detect("a lonely bench by the river, early in the morning")[0], detect("Mein Hund schläft heute")[0]
    ('en', 'de')
    >>> detect("😀 1920")
    ('und', 0.0)
    """
    words = plain_words(text)[:MAX_CHARACTERS]
    if not any(map(str.isalpha, words)):
        return UNDETERMINED, 0.0
    # Capitals alone say nothing about a language, and the model has seen few of them.
    language, confidence = _identifier().classify(words.lower() if words.isupper() else words)
    return str(language), float(confidence)


def is_english(text: str) -> bool:
    """Whether English is the most probable language of `text`; False where it has no letter."""
    return detect(text)[0] == "en"


@cache
def _identifier() -> Any:
    # Loaded on first use: it takes a second, and most commands need none of it.
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(LANGUAGES)
    return identifier
