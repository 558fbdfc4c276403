"""Flickr's licences: their numbers, names and addresses."""

import re
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import unquote_plus

from mvsent.errors import did_you_mean

# 11 to 16, Creative Commons 4.0, were added in June 2025.
LICENSES = {
    "0": "All Rights Reserved",
    "1": "CC BY-NC-SA 2.0",
    "2": "CC BY-NC 2.0",
    "3": "CC BY-NC-ND 2.0",
    "4": "CC BY 2.0",
    "5": "CC BY-SA 2.0",
    "6": "CC BY-ND 2.0",
    "7": "No known copyright restrictions",
    "8": "United States Government Work",
    "9": "CC0 1.0",
    "10": "Public Domain Mark 1.0",
    "11": "CC BY 4.0",
    "12": "CC BY-SA 4.0",
    "13": "CC BY-ND 4.0",
    "14": "CC BY-NC 4.0",
    "15": "CC BY-NC-SA 4.0",
    "16": "CC BY-NC-ND 4.0",
}
_CC = re.compile(r"creativecommons\.org/licenses/(by[a-z-]*)/(\d\.\d)", re.IGNORECASE)
_PLACES = (
    ("publicdomain/zero", "9"),
    ("publicdomain/mark", "10"),
    ("flickr.com/commons", "7"),
    ("usa.gov", "8"),
)
_CC_2 = {"by-nc-sa": "1", "by-nc": "2", "by-nc-nd": "3", "by": "4", "by-sa": "5", "by-nd": "6"}
_CC_4 = {"by": "11", "by-sa": "12", "by-nd": "13", "by-nc": "14", "by-nc-sa": "15", "by-nc-nd": "16"}


def _without(part: str) -> tuple[str, ...]:
    """The numbers of the Creative Commons licences without a part such as `nc`."""
    return tuple(n for of in (_CC_2, _CC_4) for kind, n in of.items() if part not in kind.split("-"))


GROUPS: Mapping[str, tuple[str, ...]] = {
    **{f"cc-{kind}": (_CC_2[kind], _CC_4[kind]) for kind in _CC_2},
    "cc0": ("9",),
    "pdm": ("10",),
    "us-government": ("8",),
    "no-known-restrictions": ("7",),
    "all-cc": (*_CC_2.values(), *_CC_4.values(), "9"),
    "commercial": (*_without("nc"), "9", "10"),
    "derivatives": (*_without("nd"), "9", "10"),
    "commercial-derivatives": (*(n for n in _without("nc") if n in _without("nd")), "9", "10"),
}
"""Names for --license → numbers: Creative Commons licences of both versions, and what some allow."""

_WORDS_OF_CC = {
    "attribution": "by",
    "noncommercial": "nc",
    "sharealike": "sa",
    "noderivs": "nd",
    "noderivatives": "nd",
}


def license_numbers(text: str) -> tuple[str, ...]:
    """The numbers that a list of numbers and names means, ascending.

    >>> license_numbers("cc-by, 9"), license_numbers("")
    (('4', '9', '11'), ())

    Raises: ValueError for a number or a name that is none, or a list of nothing.
    """
    numbers: set[str] = set()
    words = [word for word in (part.strip().lower() for part in text.split(",")) if word]
    if text and not words:
        raise ValueError(f"names no licence. Known are: {', '.join(GROUPS)}")
    for word in words:
        if word.isascii() and word.isdigit() and str(int(word[:9])) in LICENSES:
            numbers.add(str(int(word[:9])))
        elif word in GROUPS:
            numbers.update(GROUPS[word])
        else:
            known = f"{did_you_mean(word, GROUPS)}Known are: {', '.join(GROUPS)}"
            raise ValueError(f"should be numbers and names of licences, and {word[:40]!r} is none. {known}")
    return tuple(sorted(numbers, key=int))


ADDRESSES: Mapping[str, str] = {
    **{LICENSES[n]: f"https://creativecommons.org/licenses/{kind}/2.0/" for kind, n in _CC_2.items()},
    **{LICENSES[n]: f"https://creativecommons.org/licenses/{kind}/4.0/" for kind, n in _CC_4.items()},
    LICENSES["7"]: "https://www.flickr.com/commons/usage/",
    LICENSES["8"]: "https://www.usa.gov/government-copyright",
    LICENSES["9"]: "https://creativecommons.org/publicdomain/zero/1.0/",
    LICENSES["10"]: "https://creativecommons.org/publicdomain/mark/1.0/",
}
"""Name of a licence → its address."""


def row_license(row: Mapping[str, bytes]) -> tuple[str, str]:
    """Flickr's number of a row's licence ("" if it has none there), and its name as in the crawl.

    >>> row_license({"license_url": b"http://creativecommons.org/licenses/by-nc/2.0/"})
    ('2', 'CC BY-NC 2.0')
    >>> row_license({"license": b"Attribution-ShareAlike License"})
    ('5', 'CC BY-SA 2.0')
    >>> row_license({"license_url": b"https://creativecommons.org/licenses/by/3.0/"})
    ('', 'CC BY 3.0')
    """
    return _license(row.get("license_url", b""), row.get("license", b""))


@lru_cache(maxsize=4096)
def _license(url_cell: bytes, name_cell: bytes) -> tuple[str, str]:
    url = url_cell.decode("utf-8", "replace").strip()
    given = unquote_plus(name_cell.decode("utf-8", "replace")).strip()
    number, name = "", given or url
    for text in (url, given):
        if match := _CC.search(text):
            kind, version = match[1].lower(), match[2]
            number = {"2.0": _CC_2, "4.0": _CC_4}.get(version, {}).get(kind, "")
            name = f"CC {kind.upper()} {version}"
        number = number or next((n for place, n in _PLACES if place in text), "")
        if number or match:
            break
    else:
        words = re.findall("[a-z]+", given.lower().replace("non-commercial", "noncommercial"))
        kind = "-".join(_WORDS_OF_CC[word] for word in words if word in _WORDS_OF_CC)
        by_name = {text: n for n, text in LICENSES.items()}
        number = given if given in LICENSES else by_name.get(given, _CC_2.get(kind, ""))
    return number, LICENSES.get(number, f"Flickr licence {number}" if number else name)
