"""From the ids or line numbers of a split file to the rows of a dataset."""

import re
from collections.abc import Sequence
from pathlib import PurePath

import numpy as np
import numpy.typing as npt

from mvsent.errors import SplitError

NO_ROW = -1

Ints = npt.NDArray[np.int64]

_FILE_SUFFIXES = {".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".txt"}


def bare_id(value: str) -> str:
    """An id without the folder and suffix of a file, and without the decimals that pandas adds.

    >>> bare_id("data/12.jpg"), bare_id("mvsa:12"), bare_id("12.0"), bare_id("v1.2")
    ('12', 'mvsa:12', '12', 'v1.2')
    """
    name = PurePath(value.replace("\\", "/")).name or value
    stem, dot, suffix = name.rpartition(".")
    if dot and f".{suffix.lower()}" in _FILE_SUFFIXES:
        name = stem
    return re.sub(r"^([0-9]+)\.0$", r"\1", name)


class RowFinder:
    """Finds rows by their ids, which may be file names, and lack the prefix that ends with a colon."""

    def __init__(self, ids: Sequence[str]) -> None:
        self._row_of = {id: row for row, id in enumerate(ids)}
        bare = {id.partition(":")[2]: row for row, id in enumerate(ids)}
        bare.pop("", None)
        # Two sources may share a number, which then names neither row.
        self._bare_row_of = bare if len(bare) == len(self._row_of) else {}

    def row(self, value: str) -> int:
        """The row with this id, or `NO_ROW`; an id as the dataset has it comes before any other reading."""
        for given in (value, bare_id(value)):
            for rows in (self._row_of, self._bare_row_of):
                if (row := rows.get(given)) is not None:
                    return row
        return NO_ROW


def rows_of(
    place: str, values: Sequence[str], finder: RowFinder, *, drop_unknown: bool, advice: str = ""
) -> Ints:
    """The row of each id [V]; `NO_ROW` for an unknown one with `drop_unknown`.

    Raises: SplitError naming the first three unknown ids, with further `advice`; also with `drop_unknown` if
        none is known.
    """
    rows = np.fromiter((finder.row(value) for value in values), np.int64, len(values))
    unknown = np.flatnonzero(rows == NO_ROW)
    if len(unknown) and (not drop_unknown or len(unknown) == len(values)):
        named = ", ".join(repr(values[at][:80]) for at in unknown[:3])
        more = " …" if len(unknown) > 3 else ""
        use = "Use the split of this dataset" + (f"; {advice}" if advice else "")
        raise SplitError(
            f"{place}: {len(unknown)} of {len(values)} ids are not in the dataset: {named}{more}",
            use if len(unknown) == len(values) else f"{use}; or leave them out: --split-unknown drop",
        )
    return rows


def counted_from(place: str, numbers: Ints, n_lines: int, stated: str = "auto") -> int:
    """The number of a list's first line, 0 or 1, told by whether 0 or the number of lines occurs.

    Args:
        numbers: all line numbers of the split files.
        stated: auto, 0 or 1.

    Raises: SplitError if a number is beyond the list, or if neither or both occur.

    >>> counted_from("train.txt", np.array([0, 3]), 5), counted_from("train.txt", np.array([2, 5]), 5)
    (0, 1)
    """
    low, high = int(numbers.min()), int(numbers.max())
    if stated != "auto":
        first = int(stated)
        if low < first or high >= n_lines + first:
            outside = low if low < first else high
            raise SplitError(
                f"{place}: line {outside} is not in --split-ids, which has the lines {first} to "
                f"{n_lines - 1 + first}",
                "Give the list that belongs to it, or the other --split-first-line",
            )
        return first
    if low < 0 or high > n_lines or (low == 0 and high == n_lines):
        outside = low if low < 0 else high
        raise SplitError(
            f"{place}: line {outside} is not in --split-ids, which has {n_lines} lines",
            "Give the list that belongs to it",
        )
    if low > 0 and high < n_lines:
        raise SplitError(
            f"{place}: its lines {low} to {high} may count from 0 or 1, as neither 0 nor {n_lines} occurs",
            "Say which: --split-first-line 0, or 1",
        )
    return 0 if low == 0 else 1


def as_numbers(place: str, values: Sequence[str]) -> Ints:
    """Line numbers [V]. Raises: SplitError naming the first value that is none."""
    for value in values:
        if not re.fullmatch(r"[0-9]{1,15}(\.0)?", value):
            raise SplitError(
                f"{place}: {value[:80]!r} is no line number of --split-ids", "Leave --split-ids out for ids"
            )
    return np.array([int(value.removesuffix(".0")) for value in values], dtype=np.int64)


def look_like_numbers(values: Sequence[str]) -> bool:
    """Whether every value is a number, which could be an id or a line."""
    return all(value.isascii() and value.isdigit() for value in values)
