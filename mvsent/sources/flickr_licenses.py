"""Flickr's licences: their numbers, names and addresses."""

import re
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import unquote_plus

# Flickr added Creative Commons 4.0 in June 2025; their numbers are not documented, so they keep the number.
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
_WORDS_OF_CC = {
    "attribution": "by",
    "noncommercial": "nc",
    "sharealike": "sa",
    "noderivs": "nd",
    "noderivatives": "nd",
}


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
