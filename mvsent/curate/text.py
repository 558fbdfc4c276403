"""Bytes to text, text to clean text, and the form in which two texts are compared."""

import codecs
import html
import re
import unicodedata

_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_RETWEET = re.compile(r"^\s*rt\b")
_URL = re.compile(r"(?:https?:|www\.)\S*")
_NAME = re.compile(r"@\w+")
# A zero-width joiner between two emoji is part of one emoji (a family, a profession); elsewhere it is noise.
_EMOJI = "\u2190-\u2bff\ufe0f\U0001f000-\U0001faff"
_STRAY_JOINER = re.compile(f"(?<![{_EMOJI}])\u200d|\u200d(?![{_EMOJI}])")


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
    visible = html.unescape(text).translate(_VISIBLE)
    return " ".join(unicodedata.normalize("NFC", _STRAY_JOINER.sub("", visible)).split())


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
