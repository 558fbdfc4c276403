"""Language identification by py3langid and the model that it ships; see docs/decisions.md."""

from functools import cache
from typing import Any

from mvsent.config import LANGUAGES
from mvsent.curate.text import plain_words

UNDETERMINED = "und"
MAX_CHARACTERS = 2000
"""Maximum length of the text that is examined; far less is enough to identify a language."""


def detect(text: str) -> tuple[str, float]:
    """Identify the language of `text` (ISO 639-1), with the model's probability.

    Links and @names are ignored, as is everything after 2000 characters of words. A text without letters
    gives `("und", 0.0)`.

    >>> detect("a lonely bench by the river, early in the morning")[0], detect("Mein Hund schläft heute")[0]
    ('en', 'de')
    >>> detect("😀 1920")
    ('und', 0.0)
    """
    words = plain_words(text)[:MAX_CHARACTERS]
    if not any(map(str.isalpha, words)):
        return UNDETERMINED, 0.0
    # The model has seen few texts in capitals.
    language, confidence = _identifier().classify(words.lower() if words.isupper() else words)
    return str(language), float(confidence)


def is_english(text: str) -> bool:
    """Whether English is the most probable language of `text`; False if it has no letters."""
    return detect(text)[0] == "en"


@cache
def _identifier() -> Any:
    # Loaded on first use: it takes a second, and most commands do not need it.
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(LANGUAGES)
    return identifier
