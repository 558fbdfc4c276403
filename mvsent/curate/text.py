"""Bytes and HTML to text, text to clean text, its words, and the normal form for comparing texts.

docs/text-rules.md states what counts as a word, and how links, @names and hashtags are treated.
"""

import codecs
import html
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from selectolax.lexbor import LexborHTMLParser

from mvsent.reasons import Reason

_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_RETWEET = re.compile(r"^\s*rt\b")
_URL = re.compile(r"(?:https?:|www\.)\S*")
_NAME = re.compile(r"@\w+")
# A zero-width joiner between two emoji is part of one emoji (a family, a profession); elsewhere it is noise.
_EMOJI = "\u2190-\u2bff\ufe0f\U0001f000-\U0001faff"
_STRAY_JOINER = re.compile(f"(?<![{_EMOJI}])\u200d|\u200d(?![{_EMOJI}])")

MAX_MARKUP = 2**15  # characters of HTML that are parsed: nested tags take quadratic time
_UNREAD = "script, style, template, noscript, iframe, object, svg, title"  # elements that are not displayed
_BREAKS = (  # elements that separate the words beside them
    "br, p, div, hr, li, ul, ol, dl, dt, dd, table, tr, td, th, caption, h1, h2, h3, h4, h5, h6, blockquote, "
    "pre, article, section, header, footer, figure, figcaption, img, textarea, option"
)

_HASH = re.compile(r"(?<![\w&#＃])[#＃]+(?=\w)")
# `++` is possessive: a long run of letters without an @ would otherwise take quadratic time.
_LINK = re.compile(
    r"""
      (?<![^\W_]) (?: (?:https?|ftp):// | www\. ) \S*
    | (?<![\w.+-]) [\w.+-]++ @ [\w-]+ (?:\.[\w-]+)+                                   # ana@example.org
    | (?<![\w.-]) (?:[\w-]++\.)+ (?:com|edu|gov|info|net|org) (?![\w-]) (?: / \S* )?  # example.org/x
    | (?<!\w) [@＠]+ \w+
    """,
    re.VERBOSE | re.IGNORECASE,
)

_CJK = (  # Han, Hiragana and Katakana, of full and of half width
    "\u3005-\u3007\u3041-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"
    "\U00020000-\U0003ffff"
)
_CHARACTER = rf"[^\W_{_CJK}]"  # a letter or a digit
_WORD = re.compile(
    rf"""
      (?:(?<![^\W_])[^\W\d_]\.){{2,}}{_CHARACTER}?                                    # U.S., e.g.
    | {_CHARACTER}+ (?: (?: ['’ʼ＇`_‐‑-] | (?<=\d)[.,:](?=\d) ) {_CHARACTER}+ )*         # don't, 3.50, 10:30
    | [{_CJK}]
    """,
    re.VERBOSE,
)
_EMOJI_OF_LETTERS = re.compile(".\ufe0f\u20e3?|[0-9#*]\u20e3")  # 1️⃣ and ℹ️ are pictures, though 1 and ℹ are not


def decode_text(data: bytes) -> str:
    r"""Decode `data` by its byte order mark, else as UTF-8, else as GB18030 (a quarter of MVSA).

    Bytes in none of these encodings are read as UTF-8, with U+FFFD for invalid sequences.

    >>> decode_text(b"happy\xa1\xad"), decode_text("happy…".encode()), decode_text(b"\xff\xfeh\x00i\x00")
    ('happy…', 'happy…', 'hi')
    """
    for bom, encoding in _BOMS:
        if data.startswith(bom):
            return data[len(bom) :].decode(encoding, errors="replace")
    # UTF-8 first: GB18030 also accepts much UTF-8, and reads it as Chinese.
    for encoding in ("utf-8", "gb18030"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("utf-8", errors="replace")


def clean_text(text: str) -> str:
    r"""Clean a text: HTML entities resolved once, NFC, single spaces, no invisible characters.

    Control, zero-width and direction characters are removed; a joiner inside an emoji stays. Case, URLs,
    @names and hashtags are unchanged.

    >>> clean_text("  caf\u0065\u0301 &amp; \u200bsun\n\tshine \ufeff")
    'café & sun shine'
    """
    return _single_spaced(html.unescape(text))


def html_to_text(markup: str) -> str:
    """The text that a browser would display of an HTML description, on one line and cleaned.

    Scripts, styles and comments are removed; line breaks and the edges of paragraphs become spaces; other
    tags are removed; entities are resolved once. Text that is not HTML is unchanged: a `<` that begins no tag
    is a `<`. The text is cut off after MAX_MARKUP characters.

    >>> html_to_text("Our <b>sun</b>set<br>with <a href='x'>Tom &amp; Ana</a>, I <3 it<script>x()</script>")
    'Our sunset with Tom & Ana, I <3 it'
    """
    # As a fragment: in a whole document, a stray <frameset> loses the text.
    tree = LexborHTMLParser(markup[:MAX_MARKUP].translate(_VISIBLE), is_fragment=True)
    for unread in tree.css(_UNREAD):
        unread.decompose()
    for edge in tree.css(_BREAKS):
        edge.insert_before(" ")
        edge.insert_after(" ")
    return _single_spaced(tree.root.text() if tree.root else "")


def plain_words(text: str) -> str:
    """Remove links, e-mail addresses and @names from `text`, and turn hashtags into words. Idempotent.

    >>> plain_words("Shot by @ana at #GoldenGate, see http://x.org/1 or www.x.org, mail a.b@x.org")
    'Shot by at GoldenGate, see or mail'
    """
    before = None
    while text != before:  # without a link, what stood beside it may be one: 0.com@ana
        before, text = text, " ".join(_LINK.sub(" ", _HASH.sub("", text)).split())
    return text


def count_words(text: str) -> int:
    """Count the words of `plain_words`, split as a reader of English would.

    A word is a run of letters and digits, with apostrophes, hyphens and underscores inside; a number with its
    points, commas and colons; or initials with their full stops. Each Chinese or Japanese character counts as
    one word; emoji, punctuation and other signs do not count.

    >>> count_words("I don't know this well-known place, 3.50 at 10:30 in the U.S. 😀 — #wow @ana")
    13
    """
    letters = _EMOJI_OF_LETTERS.sub(" ", plain_words(text)).translate(_UNMARKED)
    return sum(1 for _ in _WORD.finditer(letters))


def check_length(text: str, low: int = 5, high: int = 100) -> Reason | None:
    """The reason to drop a text for its number of words; None if it has from `low` to `high` words.

    >>> check_length("four words are few"), check_length("but five words are enough")
    (<Reason.TEXT_TOO_SHORT: 'text-too-short'>, None)

    Reference: the DMLANet paper, section 4.1: fewer than 5 or more than 100 words are dropped.
    """
    if not text or text.isspace():
        return Reason.TEXT_MISSING
    n_words = count_words(text)
    if n_words < low:
        return Reason.TEXT_TOO_SHORT
    return Reason.TEXT_TOO_LONG if n_words > high else None


def mask_query(text: str, query: str) -> str:
    """Remove the words of the query from `text`, as they give the weak label away; single spaced.

    Whole words are removed, in any case, separate or joined, with plural and possessive endings.

    >>> mask_query("Beautiful flowers! The flower's scent in a beautiful-flower pot", "beautiful flower")
    '! The scent in a pot'
    """
    return " ".join(_query_pattern(query).sub(" ", text).split())


@lru_cache(maxsize=4096)  # more than a lexicon has words
def _query_pattern(query: str) -> re.Pattern[str]:
    words = query.replace("_", " ").split()
    forms = [with_endings(word) for word in words]
    return re.compile(rf"(?<![^\W_])(?:{'|'.join([side_by_side(words), *forms])})(?![^\W_])", re.IGNORECASE)


def with_endings(word: str) -> str:
    """A pattern of `word`, alone or with the ending of a plural or a possessive."""
    babies = f"|{re.escape(word[:-1])}ies" if word.endswith("y") else ""
    return rf"(?:{re.escape(word)}(?:['’]?s|es|['’])?{babies})"


def side_by_side(words: Sequence[str]) -> str:
    """A pattern of `words` after each other, the last one with an ending: separate, hyphened or joined."""
    return r"[\s_-]*".join([*map(re.escape, words[:-1]), *map(with_endings, words[-1:])])


def _single_spaced(text: str) -> str:
    visible = _STRAY_JOINER.sub("", text.translate(_VISIBLE))
    return " ".join(unicodedata.normalize("NFC", visible).split())


def normalised_text(text: str) -> str:
    """The form for finding repeated tweets: lower case, without RT prefix, URLs, @names and punctuation.

    Emoji and other symbols stay, as a tweet may consist of nothing else.

    >>> normalised_text("RT @ana: So HAPPY, #happy!! 😀 http://t.co/1"), normalised_text("So happy happy 😀")
    ('so happy happy 😀', 'so happy happy 😀')
    """
    words = _NAME.sub(" ", _URL.sub(" ", _RETWEET.sub(" ", clean_text(text).casefold())))
    return " ".join(words.translate(_UNPUNCTUATED).split())


class _Translation(dict[int, str]):
    """A table for `str.translate` that maps characters by their Unicode category, filled on demand.

    Args:
        removed: categories of the characters to remove.
        spaced: major categories (first letters) of characters that become a space; white space always does.
    """

    def __init__(self, removed: tuple[str, ...], spaced: str = "Z") -> None:
        super().__init__({0x200D: "\u200d"})  # depends on its neighbours, see _STRAY_JOINER
        self._removed, self._spaced = removed, spaced

    def __missing__(self, codepoint: int) -> str:
        character = chr(codepoint)
        category = unicodedata.category(character)
        kept = "" if category in self._removed else character
        self[codepoint] = " " if character.isspace() or category[0] in self._spaced else kept
        return self[codepoint]


_INVISIBLE = ("Cc", "Cf", "Cs")  # controls; zero-width and direction marks; lone surrogates
_VISIBLE = _Translation(_INVISIBLE)
_UNPUNCTUATED = _Translation(_INVISIBLE, spaced="ZP")
_UNMARKED = _Translation(
    (*_INVISIBLE, "Mn", "Mc", "Me")
)  # also combining accents and the vowel signs of Indic scripts
