"""Lexicons of queries with sentiment scores: 1200 adjective-noun pairs (ANPs) and 101 affective keywords.

A lexicon is a UTF-8 text file with one term a line after the header; lines that begin with # are comments:

    word⇥sentiment
    misty_woods⇥-1.0
"""

import io
import math
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from mvsent.errors import InputError, did_you_mean

HEADER = "word\tsentiment"
MAX_WORD = 200
"""Maximum length of a word in characters; a longer one suggests that the file is not a lexicon."""

_UNSEARCHABLE = re.compile(r"[\x00-\x1f\x7f]")
_CORRECT = "Correct the line"


class Term(NamedTuple):
    """A query. The sign of `sentiment`, which is never zero, is the weak label of its results."""

    word: str
    sentiment: float

    @property
    def query(self) -> str:
        """The query as sent to the service; the two words of an ANP are separated by a space.

        >>> Term("misty_woods", -1.0).query
        'misty woods'
        """
        return " ".join(self.word.replace("_", " ").split())

    @property
    def polarity(self) -> str:
        return "positive" if self.sentiment > 0 else "negative"


def load_anps(path: Path | None = None) -> list[Term]:
    """Load the 1200 ANPs of SentiBank 1.1, scores in -2..2, 738 positive, 462 negative; or a file.

    Reference: Borth et al. 2013, "Large-scale visual sentiment ontology and detectors using adjective noun
    pairs", ACM Multimedia.

    Raises: InputError for a file that is not a lexicon, see `parse_lexicon`.
    """
    return _load(path, "anps.tsv")


def load_keywords(path: Path | None = None) -> list[Term]:
    """Load the 101 affective keywords, scores in -4..4, 51 positive, 50 negative; or a file.

    They are a reconstruction by the rule stated in keywords.tsv, as the paper does not print its list.

    Raises: InputError for a file that is not a lexicon, see `parse_lexicon`.
    """
    return _load(path, "keywords.tsv")


def load_lexicon(name: str) -> list[Term]:
    """Load the lexicon "anps" or "keywords", or the file `name`."""
    packaged = {"anps": load_anps, "keywords": load_keywords}
    if name in packaged:
        return packaged[name]()
    try:
        return _load(Path(name), "")
    except InputError as error:
        near = "" if Path(name).exists() else did_you_mean(name, packaged)
        raise InputError(error.what, near + error.next_step) from None


def parse_lexicon(data: bytes, where: str) -> list[Term]:
    r"""Parse a lexicon file into terms, in its order; a byte order mark and CRLF are accepted.

    >>> parse_lexicon(b"# mine\nword\tsentiment\nhappy\t2.7\ndead_tree\t-1.5\n", "mine.tsv")
    [Term(word='happy', sentiment=2.7), Term(word='dead_tree', sentiment=-1.5)]

    Raises: InputError with file:line for bytes that are not UTF-8, a missing header, a line that is not a
        word, a tab and a finite number other than zero, or a repeated query; with the file if it has no term.
    """
    terms: list[Term] = []
    seen: dict[str, int] = {}
    has_header = False
    for number, line in enumerate(_lines(data, where), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        if not has_header:
            if [cell.strip().lower() for cell in line.split("\t")] != HEADER.split("\t"):
                raise InputError(
                    f"{where}:{number}: expected the header {HEADER!r}, found {line[:60]!r}",
                    "Put it above the first word",
                )
            has_header = True
            continue
        here = f"{where}:{number}"
        word, *scores = (cell.strip() for cell in line.split("\t"))
        if len(scores) != 1:
            raise InputError(f"{here}: expected a word, a tab and a score, found {line[:60]!r}", _CORRECT)
        if len(word) > MAX_WORD:
            raise InputError(f"{here}: a word of {len(word)} characters, more than {MAX_WORD}", _CORRECT)
        if _UNSEARCHABLE.search(word) or not any(map(str.isalnum, word)):
            raise InputError(f"{here}: {word[:60]!r} is not a word to search for", _CORRECT)
        try:
            sentiment = float(scores[0])
        except ValueError:
            sentiment = math.nan
        if not math.isfinite(sentiment):
            raise InputError(f"{here}: the score {scores[0][:60]!r} is not a number", _CORRECT)
        if sentiment == 0:
            raise InputError(
                f"{here}: {word!r} has the score 0, which is neither positive nor negative", "Remove the line"
            )
        term = Term(word, sentiment)
        first = seen.setdefault(term.query.casefold(), number)
        if first != number:
            raise InputError(
                f"{where}:{number}: {term.word!r} is the same query as line {first}",
                "Remove one of the two",
            )
        terms.append(term)
    if not terms:
        raise InputError(
            f"{where}: contains no word", f"Write the line {HEADER!r}, then one word and score a line"
        )
    return terms


def select(
    terms: Iterable[Term], polarity: str | None = None, min_sentiment: float = 0.0, pattern: str = "*"
) -> list[Term]:
    """Select terms by polarity ("positive", "negative"; None: both), minimum strength and pattern.

    The pattern has the wildcards of file names, ignores case, and is matched with the word and the query.

    >>> select([Term("dead_tree", -1.5), Term("tiny_tree", 0.4), Term("sad_dog", -0.5)], pattern="*tree")
    [Term(word='dead_tree', sentiment=-1.5), Term(word='tiny_tree', sentiment=0.4)]
    """
    return [
        term
        for term in terms
        if polarity in (None, term.polarity)
        and abs(term.sentiment) >= min_sentiment
        and any(fnmatchcase(form.lower(), pattern.lower()) for form in (term.word, term.query))
    ]


def format_lexicon(terms: Sequence[Term], comment: str = "") -> str:
    r"""Format a lexicon file, which `parse_lexicon` can read.

    >>> format_lexicon([Term("misty_woods", -1.0)], comment="two words")
    '# two words\nword\tsentiment\nmisty_woods\t-1.0\n'
    """
    comments = [f"# {line}".rstrip() for line in comment.splitlines()]
    # repr, because it is read back as exactly the same number.
    rows = [f"{term.word}\t{term.sentiment!r}" for term in terms]
    return "\n".join([*comments, HEADER, *rows]) + "\n"


def _load(path: Path | None, packaged: str) -> list[Term]:
    if path is None:
        return parse_lexicon((files(__name__) / packaged).read_bytes(), packaged)
    advice = "Name a lexicon file, as `mvsent lexicon` prints one"
    if path.is_fifo() or path.is_char_device():  # reading would wait for ever
        raise InputError(f"{path}: not a regular file", advice)
    try:
        return parse_lexicon(path.read_bytes(), str(path))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", advice) from None


def _lines(data: bytes, where: str) -> list[str]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = data[: error.start].count(b"\n") + 1
        raise InputError(f"{where}:{number}: not UTF-8", "Save the file as UTF-8") from None
    # Not splitlines, which also splits at form feeds and Unicode's line separators.
    return io.StringIO(text, newline=None).read().split("\n")
