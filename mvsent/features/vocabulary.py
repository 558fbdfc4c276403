"""Texts to word numbers: the tokenizer, and a vocabulary with a number for unknown words.

The tokenizer follows the one that GloVe's vectors were made with (contractions as in the Penn Treebank), and
adds rules for tweets, which `--tokens tweets` spells out first (`tweet_words`):

| in the text | becomes |
|---|---|
| `https://t.co/x`, `www.x.org`, `pic.twitter.com/x` | `<url>` |
| `@name` | `<user>` |
| `#BestDay`, `#best_day`, `#bestday` | `best day`, `best day`, `bestday` |
| `don't`, `I'm`, `it’s` | `do n't`, `i 'm`, `it 's` |
| `!!!`, `??`, `....`, `…` | `!`, `?`, `...`, `...` |
| `:)`, `:-(`, `<3` | kept whole |
| ❤️, 👍🏽, 🇫🇷, 👨‍👩‍👧 | kept, one token each, without skin colour and variation marks |
| `3.50`, `10:30`, `1st`, `u.s.` | kept whole |
| `well-known` | `well - known` |
| any other sign | a token by itself |
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mvsent.errors import RunError

SENTENCE_ENDS = frozenset((".", "!", "?", "..."))

PAD, UNK = 0, 1
PAD_WORD, UNK_WORD = "<pad>", "<unk>"
URL, USER = "<url>", "<user>"

_EMOJI_MARKS = "[\U0001f3fb-\U0001f3ff\ufe0e\ufe0f]"  # skin colours, text or picture style
_EMOJI = f"[\u2190-\u21ff\u2300-\u27bf\u2b00-\u2bff\U0001f300-\U0001faff]{_EMOJI_MARKS}*"

_TOKEN = re.compile(
    rf"""
      (?P<url> (?:https?:/|www\.|\b(?:pic\.twitter\.com|t\.co|bit\.ly|instagr\.am)/) \S* | \bhttps?\b )
    | (?P<user> (?<!\w) [@＠] \w+ )
    | (?P<tag> [#＃] \w+ )
    | (?P<face> (?<!\w) [:;=] [-'o^]? [)(\][DPp/\\|*3] (?!\w) | <3+ )
    | (?P<emoji> [\U0001f1e6-\U0001f1ff]{{2}} | {_EMOJI} (?: \u200d {_EMOJI} )* )
    | (?P<short> \b (?: [a-zA-Z]\. ){{2,}} )
    | (?P<number> \d+ (?: [.,:] \d+ )* (?:st|nd|rd|th)? (?![^\W_]) )
    | (?P<word> [^\W_]+ (?: ' [^\W_]+ )* )
    | (?P<dots> \.{{2,}} | … )
    | (?P<sign> !+ | \?+ | \S )
    """,
    re.VERBOSE,
)
_CONTRACTION = re.compile(r"(?<=\w)(n't|'(?:s|m|d|re|ve|ll))$")
# Between the words of a hashtag: BestDay, NYCParty, best_day, 50shades.
_WITHIN_TAG = re.compile(
    r"_+|(?<=[^\W\d_A-Z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=\d)(?=[^\W\d_])|(?<=[^\W\d_])(?=\d)"
)
_PLAIN = str.maketrans("’‘ʼ＇`！？‐", "'''''!?-")


def tokenize(text: str) -> list[str]:
    """Split `text` into lower-case words without white space, by the rules in the module's table.

    >>> tokenize("RT @bob: I don't know… #ThrowBack http://t.co/x1")
    ['rt', '<user>', ':', 'i', 'do', "n't", 'know', '...', 'throw', 'back', '<url>']
    >>> tokenize("It’s 3.50 in the U.S. :) ❤️👍🏽 sooo well-known!!!")
    ['it', "'s", '3.50', 'in', 'the', 'u.s.', ':)', '❤', '👍', 'sooo', 'well', '-', 'known', '!']
    """
    tokens: list[str] = []
    for match in _TOKEN.finditer(text.translate(_PLAIN)):
        tokens += _tokens_of(match.lastgroup or "", match.group())
    return tokens


def _tokens_of(kind: str, matched: str) -> list[str]:
    if kind == "word":
        word = matched.lower()
        ending = _CONTRACTION.search(word)
        return [word[: ending.start()], ending.group()] if ending else [word]
    if kind == "tag":
        return [word.lower() for word in _WITHIN_TAG.split(matched[1:]) if word]
    if kind == "emoji":
        return [re.sub(_EMOJI_MARKS, "", matched) or matched]
    if kind in ("url", "user", "dots"):
        return [{"url": URL, "user": USER, "dots": "..."}[kind]]
    return [matched[0] if matched[0] in "!?" else matched if kind == "face" else matched.lower()]


def sentence_numbers(texts: Sequence[str], max_words: int) -> npt.NDArray[np.int64]:
    """The number of the sentence that each word is in, from 0: [N, max_words], 0 after the last word.

    A sentence ends with the word `.`, `!`, `?` or `...`. Abbreviations such as `u.s.` are one word and end
    none.

    >>> sentence_numbers(["so good ! u.s. rocks", ""], 6).tolist()
    [[0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0]]
    """
    numbers = np.zeros((len(texts), max_words), dtype=np.int64)
    for row, text in enumerate(texts):
        words = tokenize(text)[:max_words]
        ends = [word in SENTENCE_ENDS for word in words[:-1]]
        numbers[row, 1 : len(words)] = np.cumsum(ends)
    return numbers


class Vocabulary:
    """Words and their numbers: 0 is padding, 1 every unknown word, then `words` in order.

    >>> vocabulary = Vocabulary(["good", "day"])
    >>> vocabulary.encode(["good day", "what a day", ""], max_words=2).tolist()
    [[2, 3], [1, 1], [1, 0]]
    """

    def __init__(self, words: Iterable[str]) -> None:
        self.words = [PAD_WORD, UNK_WORD, *words]
        self._numbers = {word: number for number, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    @classmethod
    def build(cls, texts: Iterable[str], min_count: int = 1) -> "Vocabulary":
        """Words that occur at least `min_count` times, the most frequent first, ties by alphabet."""
        counts = Counter(word for text in texts for word in tokenize(text))
        kept = [word for word, n in counts.items() if n >= min_count and word not in (PAD_WORD, UNK_WORD)]
        return cls(sorted(kept, key=lambda word: (-counts[word], word)))

    def encode(self, texts: Sequence[str], max_words: int) -> npt.NDArray[np.int64]:
        """Word numbers [N, S]: the first `max_words` words of each text, then zeros.

        S is the length of the longest text, at most `max_words`. A text without words becomes one unknown
        word, so that every row starts with a number above zero.
        """
        numbers = self._numbers
        rows = [[numbers.get(word, UNK) for word in tokenize(text)[:max_words]] or [UNK] for text in texts]
        encoded = np.zeros((len(rows), max(map(len, rows), default=1)), dtype=np.int64)
        for i, row in enumerate(rows):
            encoded[i, : len(row)] = row
        return encoded

    def save(self, path: Path) -> None:
        """Write one word a line, in UTF-8; line n, counted from zero, holds word number n."""
        path.write_bytes(("\n".join(self.words) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Load the vocabulary that `save` wrote. Raises: RunError if the file is not a vocabulary."""
        try:
            words = path.read_bytes().decode("utf-8").removesuffix("\n").split("\n")
        except (FileNotFoundError, UnicodeDecodeError) as error:
            raise RunError(f"{path}: not a readable vocabulary ({error})", "Train the fold again") from None
        if words[:2] != [PAD_WORD, UNK_WORD]:
            raise RunError(
                f"{path}: not a vocabulary: it does not start with {PAD_WORD} and {UNK_WORD}",
                "Train the fold again",
            )
        return cls(words[2:])
