"""Bytes and HTML to text, text to clean text, its words, and the form in which two texts are compared.

What counts as a word and what becomes of links, @names and hashtags: docs/text-rules.md.
"""

import codecs
import html
import re
import unicodedata
from functools import lru_cache

from selectolax.lexbor import LexborHTMLParser

from mvsent.pairs import Reason

_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_RETWEET = re.compile(r"^\s*rt\b")
_URL = re.compile(r"(?:https?:|www\.)\S*")
_NAME = re.compile(r"@\w+")
# A zero-width joiner between two emoji is part of one emoji (a family, a profession); elsewhere it is noise.
_EMOJI = "\u2190-\u2bff\ufe0f\U0001f000-\U0001faff"
_STRAY_JOINER = re.compile(f"(?<![{_EMOJI}])\u200d|\u200d(?![{_EMOJI}])")

MAX_MARKUP = 2**15  # characters of an HTML description that are looked at: nested tags cost their square
_UNREAD = "script, style, template, noscript, iframe, object, svg, title"  # elements that nobody reads
_BREAKS = (  # elements that stand apart from the words beside them
    "br, p, div, hr, li, ul, ol, dl, dt, dd, table, tr, td, th, caption, h1, h2, h3, h4, h5, h6, blockquote, "
    "pre, article, section, header, footer, figure, figcaption, img, textarea, option"
)

_HASH = re.compile(r"(?<![\w&#＃])[#＃]+(?=\w)")
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
    r"""The text in `data`: as its byte order mark says, else UTF-8, else GB18030 (a quarter of MVSA).

    Bytes that are neither are UTF-8 with U+FFFD in place of what cannot be read.

    >>> decode_text(b"happy\xa1\xad"), decode_text("happy…".encode()), decode_text(b"\xff\xfeh\x00i\x00")
    ('happy…', 'happy…', 'hi')
    """
    for bom, encoding in _BOMS:
        if data.startswith(bom):
            return data[len(bom) :].decode(encoding, errors="replace")
    for encoding in ("utf-8", "gb18030"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("utf-8", errors="replace")


def clean_text(text: str) -> str:
    r"""The same words as plain text: HTML entities resolved once, NFC, single spaces, nothing invisible.

    Control, zero-width and direction characters go; a joiner inside an emoji stays. Case, URLs, @names and
    hashtags stay as they are.

    >>> clean_text("  caf\u0065\u0301 &amp; \u200bsun\n\tshine \ufeff")
    'café & sun shine'
    """
    return _single_spaced(html.unescape(text))


def html_to_text(markup: str) -> str:
    """What a browser would show of an HTML description, on one line and as clean as `clean_text` makes it.

    Scripts, styles and comments go; a line break or the edge of a paragraph becomes a space, other tags
    nothing; entities are resolved once. What is not HTML stays as it is: a `<` that begins no tag is a `<`.
    What follows after MAX_MARKUP characters is cut off.

    >>> html_to_text("Our <b>sun</b>set<br>with <a href='x'>Tom &amp; Ana</a>, I <3 it<script>x()</script>")
    'Our sunset with Tom & Ana, I <3 it'
    """
    tree = LexborHTMLParser(markup[:MAX_MARKUP].translate(_VISIBLE), is_fragment=True)
    for unread in tree.css(_UNREAD):
        unread.decompose()
    for edge in tree.css(_BREAKS):
        edge.insert_before(" ")
        edge.insert_after(" ")
    return _single_spaced(tree.root.text() if tree.root else "")


def plain_words(text: str) -> str:
    """`text` without links, e-mail addresses and @names, and with hashtags as words: `#sunset` is `sunset`.

    Doing it twice changes nothing.

    >>> plain_words("Shot by @ana at #GoldenGate, see http://x.org/1 or www.x.org, mail a.b@x.org")
    'Shot by at GoldenGate, see or mail'
    """
    return " ".join(_LINK.sub(" ", _HASH.sub("", text)).split())


def count_words(text: str) -> int:
    """The number of words: what is left of `plain_words`, split where a reader of English would.

    A word is letters and digits, with apostrophes, hyphens and underscores between them; a number with its
    points, commas and colons; initials with their full stops. Each Chinese or Japanese character is one.
    Emoji, punctuation and other signs are none.

    >>> count_words("I don't know this well-known place, 3.50 at 10:30 in the U.S. 😀 — #wow @ana")
    13
    """
    letters = _EMOJI_OF_LETTERS.sub(" ", plain_words(text)).translate(_UNMARKED)
    return sum(1 for _ in _WORD.finditer(letters))


def check_length(text: str, low: int = 5, high: int = 100) -> Reason | None:
    """Why a text is not used for its number of words, None where it is: `low` and `high` themselves are in.

    >>> check_length("four words are few"), check_length("but five words are enough")
    (<Reason.TEXT_TOO_SHORT: 'text-too-short'>, None)

    Reference: the DMLANet paper, section 4.1: fewer than 5 or more than 100 words are out.
    """
    if not text or text.isspace():
        return Reason.TEXT_MISSING
    n_words = count_words(text)
    if n_words < low:
        return Reason.TEXT_TOO_SHORT
    return Reason.TEXT_TOO_LONG if n_words > high else None


def mask_query(text: str, query: str) -> str:
    """`text` without the words of the query that found it, which tell its weak label; single spaced.

    Whole words go, in any case, alone or joined, with an ending of the plural or the possessive.

    >>> mask_query("Beautiful flowers! The flower's scent in a beautiful-flower pot", "beautiful flower")
    '! The scent in a pot'
    """
    return " ".join(_query_pattern(query).sub(" ", text).split())


@lru_cache(maxsize=4096)
def _query_pattern(query: str) -> re.Pattern[str]:
    words = query.replace("_", " ").split()
    forms = [_inflected(word) for word in words]
    joined = r"[\s_-]*".join([*map(re.escape, words[:-1]), *forms[-1:]])
    return re.compile(rf"(?<![^\W_])(?:{'|'.join([joined, *forms])})(?![^\W_])", re.IGNORECASE)


def _inflected(word: str) -> str:
    babies = f"|{re.escape(word[:-1])}ies" if word.endswith("y") else ""
    return rf"(?:{re.escape(word)}(?:['’]?s|es|['’])?{babies})"


def _single_spaced(text: str) -> str:
    visible = _STRAY_JOINER.sub("", text.translate(_VISIBLE))
    return " ".join(unicodedata.normalize("NFC", visible).split())


def normalised_text(text: str) -> str:
    """What is compared to find the same tweet again: lower case, no RT prefix, URL, @name or punctuation.

    Emoji and other symbols stay, since they may be all that a tweet says.

    >>> normalised_text("RT @ana: So HAPPY, #happy!! 😀 http://t.co/1"), normalised_text("So happy happy 😀")
    ('so happy happy 😀', 'so happy happy 😀')
    """
    words = _NAME.sub(" ", _URL.sub(" ", _RETWEET.sub(" ", clean_text(text).casefold())))
    return " ".join(words.translate(_UNPUNCTUATED).split())


class _Translation(dict[int, str]):
    """A table for `str.translate` that decides each character by its Unicode category, once.

    Args:
        removed: categories of characters that go.
        spaced: major categories (first letters) of characters that become a space; white space always does.
    """

    def __init__(self, removed: tuple[str, ...], spaced: str = "Z") -> None:
        super().__init__({0x200D: "\u200d"})  # decided by its neighbours, see _STRAY_JOINER
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
)  # accents by themselves and the vowel signs of Indic scripts
