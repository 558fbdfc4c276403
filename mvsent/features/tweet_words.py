"""Tweets spelled out: hashtags as words, handles, links and emoticons in one form, no stretched words.

`spelled_out` rewrites a text for everything that reads its words: the tokenizer of `vocabulary`, whose tokens
of a tweet are `tokenize(spelled_out(text))`, the lexicons, and the tokenizers of transformers.

| in the text | becomes |
|---|---|
| `https://t.co/x`, `www.x.org`, a link that is cut off: `htt…` | `http` |
| `#BestDay`, `#best_day`, `#Best2Day` | `Best Day`, `best day`, `Best 2 Day` |
| `#lovemydog`, `#THISISGREAT` | `love my dog`, `THIS IS GREAT`: the likeliest words |
| `@LoveMyDog` | `@user`: its words would be a name, and made answers worse |
| `sooo`, `goooood` | `so`, `good`: one or two letters, whichever word is more frequent |
| `:-))`, `=]`, `^_^` | `:)` |
| `:'(`, `=[`, `</3`, `T_T` | `:(` |
| `;-)`, `xD`, `:-P`, `:-*`, `:-/`, `<333` | `;)`, `:D`, `:P`, `:*`, `:/`, `<3` |
| `???`, `????` between spaces, which stand for lost emoji in published tweets | `??` |
| `&amp;lt;`, `&quot;` | `<`, `"` |
"""

import html
import re
from collections.abc import Iterable
from functools import cache, lru_cache
from importlib import util
from itertools import chain, product
from typing import Any, Literal, get_args

from mvsent.errors import WeightsError

TokenRules = Literal["plain", "tweets"]
"""How texts are read: as they are, or spelled out.

Other rules get another name, so that a run keeps those that it was trained with."""

PLAIN, TWEETS = get_args(TokenRules)

SEGMENTER = "wordsegment"
"""Package that divides letters into words, by its name for pip and for Python."""

MAX_JOINED = 60
"""Maximum number of letters that are divided into words; longer ones stay one word."""
_MAX_STRETCHES = 4  # in a word, whose spellings are compared; each doubles their number
_MAX_ROUNDS = 16  # one of them spells out all but the entities and emoticons that were joined or escaped

_FORMS = {
    ":)": r"[:=][-'o^]?[)\]}]+ | \^[-_.]?\^ | \(\^[-_.]?\^\) | [(\[][-'o^]?[:=]",
    ":(": r"[:=]['´]?[-o^]?[(\[{]+ | </3+ | (?<!\w)[TQ][_.][TQ] | [)\]][-'o^]?[:=]",
    ";)": r";[-'o^]?[)\]D]+",
    ":D": r"[:=][-'o^]?D+ | (?<!\w)[xX]['-]?D+",
    ":P": r"[:;=][-'o^]?[pP]+ | (?<!\w)[xX]-?[pP]+",
    ":*": r"[:;=][-'o^]?\*+",
    ":/": r"(?<!\w)[:=][-'o^]?[/\\]+",
    "<3": r"<3+",
}
"""Emoticon → the patterns of those that mean it. The tokenizer of `vocabulary` keeps each as one token."""
_FACES = {f"face{number}": face for number, face in enumerate(_FORMS)}
_ANY_FACE = "|".join(f"(?P<face{number}> {forms} )" for number, forms in enumerate(_FORMS.values()))

_HANDLE, _TAG = r"[@＠]\w+", r"[#＃]++\w+"
_PART = re.compile(
    rf"""
      (?<![^\W_]) (?P<url> (?: https?: | www\. ) \S* | h (?: t (?: t (?:ps?)? )? )? …+ )
    | (?P<entities> (?: (?<!\w) {_HANDLE} | (?<![\w&#＃]) {_TAG} ) (?: {_HANDLE} | {_TAG} )* )
    | (?<![\d:;=<>()/^-]) (?: {_ANY_FACE} ) (?![\w:;=<>()/^-])
    | (?P<lost> (?<!\S) \?{{2,}} (?!\S) )
    | (?P<word> [^\W\d_]+ )
    """,
    re.VERBOSE,
)
_ENTITY = re.compile(f"{_HANDLE}|{_TAG}")
_LETTERS_OR_DIGITS = re.compile(r"[^\W\d_]+|\d+")
_BETWEEN_CAPITALS = re.compile(r"(?<=[^\W\d_A-Z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")  # BestDay, NYCParty
_STRETCH = re.compile(r"([^\W\d_])\1{2,}", re.IGNORECASE)


def as_read(texts: Iterable[str], rules: TokenRules) -> list[str]:
    """The texts as `rules` have them read. Raises: WeightsError if that needs a missing package."""
    if rules == PLAIN:
        return list(texts)
    if util.find_spec(SEGMENTER) is None:
        raise WeightsError(
            f"--tokens {rules}: {SEGMENTER} is not installed", 'pip install "mvsent[lexicons]"'
        )
    return [spelled_out(text) for text in texts]


def spelled_out(text: str) -> str:
    """Rewrite a tweet by the table of this module; single spaced.

    Idempotent, unless a dozen escapes or emoticons are nested.

    >>> spelled_out("RT @LoveMyDog: sooo happy ?? #bestdayever #ThrowBack :-)) http://t.co/x1")
    'RT @user : so happy ?? best day ever Throw Back :) http'
    """
    for _ in range(_MAX_ROUNDS):
        before, text = text, " ".join(_PART.sub(_written, html.unescape(text)).split())
        if text == before:
            break
    return text


def _written(match: re.Match[str]) -> str:
    kind = match.lastgroup or ""
    found = match.group(kind)
    match kind:
        case "word":
            return unstretched(found)
        case "entities":
            words = [("@user",) if part[0] in "@＠" else divided(part) for part in _ENTITY.findall(found)]
            return f" {' '.join(chain.from_iterable(words))} "
        case "url":
            return " http "
        case "lost":
            return "??"
    return f" {_FACES[kind]} "


@lru_cache(maxsize=2**16)
def divided(tag: str) -> tuple[str, ...]:
    """The words of a hashtag without its sign.

    Underscores, digits and capitals divide it. Letters between which there is no capital are divided into the
    likeliest English words, unless there are more than MAX_JOINED. No letter or digit is lost.

    >>> divided("ThisIsGreat"), divided("lovemydog2"), divided("NYC_party")
    (('This', 'Is', 'Great'), ('love', 'my', 'dog', '2'), ('NYC', 'party'))

    Reference: Norvig 2009 (Natural Language Corpus Data), by the package wordsegment.
    """
    words: list[str] = []
    for chunk in _LETTERS_OR_DIGITS.findall(tag):
        parts = _BETWEEN_CAPITALS.split(chunk)
        if len(parts) == 1 and chunk.isascii() and chunk.isalpha() and len(chunk) <= MAX_JOINED:
            start, parts = 0, []
            for word in _english().segment(chunk):  # in lower case, so the letters are taken from the tag
                parts.append(chunk[start : start + len(word)])
                start += len(word)
        words += map(unstretched, parts)
    return tuple(words)


@lru_cache(maxsize=2**16)
def unstretched(word: str) -> str:
    """`word` with one or two letters in place of three or more equal ones: the most frequent spelling.

    A word of one repeated letter keeps three; a word without a known spelling keeps two of each.

    >>> [unstretched(word) for word in ("Sooo", "goooood", "heyyy", "www", "zzzzz", "bookkeeper")]
    ['So', 'good', 'hey', 'www', 'zzz', 'bookkeeper']
    """
    stretches = list(_STRETCH.finditer(word))
    if not stretches:
        return word
    if len(stretches[0].group()) == len(word):
        return word[:3]
    # Two letters first, as `max` returns the first of equals.
    lengths = (
        product((2, 1), repeat=len(stretches))
        if len(stretches) <= _MAX_STRETCHES
        else [(2,) * len(stretches)]
    )
    known = _english().unigrams
    return max(
        (_with_lengths(word, stretches, each) for each in lengths),
        key=lambda spelling: known.get(spelling.lower(), 0),
    )


def _with_lengths(word: str, stretches: list[re.Match[str]], lengths: tuple[int, ...]) -> str:
    parts, end = [], 0
    for stretch, length in zip(stretches, lengths, strict=True):
        parts += [word[end : stretch.start()], stretch.group()[:length]]
        end = stretch.end()
    return "".join([*parts, word[end:]])


@cache
def _english() -> Any:
    """Frequencies of words and pairs of words on the web; loading takes half a second and 95 MB."""
    from wordsegment import Segmenter

    segmenter = Segmenter()
    segmenter.load()
    return segmenter
