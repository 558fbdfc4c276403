"""Words and numbers of strangers' label columns → labels."""

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

from mvsent.curate.labels import MISSING
from mvsent.pairs import LABEL_NAMES, Label

_SHORT = {"neg": Label.NEGATIVE, "neu": Label.NEUTRAL, "neut": Label.NEUTRAL, "pos": Label.POSITIVE}
WORDS: Mapping[str, int] = {**{str(label): int(label) for label in Label}, **_SHORT}
"""Words that are labels in any table, in lower case."""

SIGNS: Mapping[str, int] = {"-1": Label.NEGATIVE, "0": Label.NEUTRAL, "1": Label.POSITIVE}
"""Numbers that are labels in a table that has no others, and a negative one among them."""

_NUMBER = re.compile(r"[+-]?\d+(?:\.0*)?")


def label_cell(value: Any) -> str:
    """The normal form of a cell: lower case without spaces around it, 1.0 as 1; empty for no label.

    >>> label_cell(" Positive"), label_cell(1.0), label_cell("-1.0"), label_cell(None), label_cell("N/A")
    ('positive', '1', '-1', '', 'n/a')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    text = str(value).strip().casefold()
    return str(int(float(text))) if len(text) < 16 and _NUMBER.fullmatch(text) else text


def label_meanings(cells: Collection[str], given: Mapping[str, int]) -> dict[str, int]:
    """The label of each cell in its normal form, `MISSING` for none; cells that are no label are left out.

    Args:
        cells: all different cells of the label columns of a table.
        given: meanings by normal form, as of --labels; they come first.

    >>> label_meanings({"pos", "Happy".casefold()}, {"happy": 2})["happy"]
    2
    >>> sorted(label_meanings({"-1", "0", "1"}, {}).items()), label_meanings({"0", "1", "2"}, {})
    ([('-1', 0), ('0', 1), ('1', 2)], {})
    """
    numbers = {cell for cell in cells if _NUMBER.fullmatch(cell)}
    # 0 and 1 alone may be anything; with -1 beside them they are signs.
    signs = SIGNS if "-1" in numbers and numbers <= SIGNS.keys() else {}
    known = {"": int(MISSING), **WORDS, **signs, **given}
    return {cell: int(known[cell]) for cell in cells if cell in known}


def what_to_do(cell: str) -> str:
    """The next step for a user whose label column has a cell that is no label."""
    if _NUMBER.fullmatch(cell):
        return "Say which numbers are which, as --labels 0=negative,1=neutral,2=positive"
    known = f"Labels are {', '.join(LABEL_NAMES)}, or pos, neg, neu"
    return f"{known}; give others by --labels WORD=positive, or WORD= for no label"


def parse_labels(pairs: Collection[str]) -> dict[str, int]:
    """Parse `WORD=LABEL` pairs, as --labels takes them, into labels by the normal form of the word.

    >>> parse_labels(["0=negative", "4=Pos", "unclear="])
    {'0': 0, '4': 2, 'unclear': -1}

    Raises: ValueError for a pair without =, an unknown label, or a word that is given twice.
    """
    meanings: dict[str, int] = {}
    for pair in pairs:
        word, equals, name = pair.rpartition("=")
        cell, label = label_cell(word), WORDS.get(name.strip().casefold())
        if not equals or not cell or (label is None and name.strip()):
            raise ValueError(f"should be such as 0=negative,1=neutral,2=positive, and {pair!r} is not")
        if cell in meanings:
            raise ValueError(f"{word!r} is given twice")
        meanings[cell] = int(MISSING) if label is None else int(label)
    return meanings
