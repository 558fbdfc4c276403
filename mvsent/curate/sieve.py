"""Which rows of a table may contain a query, found column by column for a million rows in a second.

The sieve lets through every row in which `PairMatcher` finds a query, and a few others.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mvsent.curate.matching import Field, signatures

Bytes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_CODES = np.arange(256, dtype=np.uint8)
_IS_UPPER = (ord("A") <= _CODES) & (ord("Z") >= _CODES)
_LOWER = np.where(_IS_UPPER, _CODES + 32, _CODES).astype(np.uint8)
_IS_RUN = ((ord("a") <= _LOWER) & (ord("z") >= _LOWER)) | ((ord("0") <= _CODES) & (ord("9") >= _CODES))
_ODD, _FOREIGN = np.uint8(1), np.uint8(2)
_IS_ODD = (ord("&") == _CODES) | (_CODES <= 8) | ((_CODES >= 0x0E) & (_CODES <= 0x1F)) | (_CODES == 0x7F)
_KIND = np.select([_IS_RUN, _IS_ODD, _CODES >= 0x80], [_LOWER, _ODD, _FOREIGN]).astype(np.uint8)
"""Byte → the letter or digit in lower case, _ODD for one that CHANGED finds, _FOREIGN if not ASCII, or 0."""

_SPACED = np.where(ord("+") == _CODES, ord(" "), _CODES).astype(np.uint8)
_HEX = np.full(256, -1, np.int16)
for _digit in b"0123456789abcdefABCDEF":
    _HEX[_digit] = int(chr(_digit), 16)

CHANGED = r"&|[\x00-\x08\x0e-\x1f\x7f-\x{9f}]|\p{Cf}|[\x{130}\x{212a}]"
"""Texts that cleaning may turn into other letters: with entities or invisible characters, and two letters
whose lower case or normal form is ASCII. Whether they contain a query is not decided here."""


def url_decoded(cells: pa.Array) -> pa.Array:
    """Decode URL-encoded texts (`+` is a blank, `%41` an A), as `urllib.parse.unquote_plus` does.

    Args:
        cells: binary.
    """
    data, offsets = _contents(cells)
    at = np.flatnonzero(data == ord("%"))
    ends = offsets[np.searchsorted(offsets, at, side="right")] if len(at) else at
    at = at[at + 2 < ends]
    high, low = _HEX[data[at + 1]], _HEX[data[at + 2]]
    at = at[(high >= 0) & (low >= 0)]
    # `take` and `compress` take half the time of brackets here.
    decoded = np.take(_SPACED, data)
    decoded[at] = _HEX[data[at + 1]] * 16 + _HEX[data[at + 2]]
    kept = np.ones(len(data), np.bool_)
    kept[at + 1] = kept[at + 2] = False
    shorter = offsets - 2 * np.searchsorted(at, offsets)
    return _cells(np.compress(kept, decoded) if len(at) else decoded, shorter)


def _contents(cells: pa.Array) -> tuple[Bytes, Numbers]:
    """The bytes of all cells after each other, and N + 1 offsets."""
    _, offsets, data = cells.buffers()
    starts = np.frombuffer(offsets, np.int32)[cells.offset : cells.offset + len(cells) + 1].astype(np.int64)
    if not len(cells) or data is None:
        return np.zeros(0, np.uint8), np.zeros(len(cells) + 1, np.int64)
    return np.frombuffer(data, np.uint8)[starts[0] : starts[-1]], starts - starts[0]


def _cells(data: Bytes, offsets: Numbers) -> pa.Array:
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.binary(), len(offsets) - 1, buffers)


def _rows_of(places: Numbers, offsets: Numbers) -> Numbers:
    """The row of each byte whose place is given; the places ascend."""
    # Looks up the rows, of which there are fewer.
    return np.repeat(np.arange(len(offsets) - 1), np.diff(np.searchsorted(places, offsets)))


def _may_change(kinds: Bytes, data: Bytes, offsets: Numbers) -> Mask:
    """[N]: whether CHANGED is in a text. Only those that are not ASCII are left to the slower pattern."""
    changed = np.zeros(len(offsets) - 1, np.bool_)
    changed[_rows_of(np.flatnonzero(kinds == _ODD), offsets)] = True
    foreign = np.unique(_rows_of(np.flatnonzero(kinds == _FOREIGN), offsets))
    # Not checked to be UTF-8: bytes that are not match no character.
    texts = pa.Array.from_buffers(pa.utf8(), len(changed), _cells(data, offsets).buffers())
    found = pc.match_substring_regex(texts.take(pa.array(foreign)), CHANGED)
    changed[foreign[found.to_numpy(zero_copy_only=False)]] = True
    return changed


class Sieve:
    """Tells the rows that may contain one of many queries from those that cannot.

    Args:
        queries: such as `misty woods`.
    """

    def __init__(self, queries: Sequence[str]) -> None:
        runs: dict[str, int] = {}
        pairs, alone = set[tuple[int, int]](), set[int]()
        self._knows_all = True
        for query in queries:
            signs = list(signatures(query.replace("_", " ").lower().split()))
            self._knows_all &= bool(signs)
            for sign in signs:
                numbers = [runs.setdefault(run, len(runs)) for run in sign if run]
                if len(numbers) == 2:
                    pairs.add((numbers[0], numbers[1]))
                else:
                    alone.add(numbers[0])
        self._runs = pa.array([run.encode() for run in runs], pa.binary())
        self._n = max(1, len(runs))
        self._pairs = np.array(sorted(a * self._n + b for a, b in pairs), np.int64)
        self._is_alone, self._is_first, self._is_second = (np.zeros(self._n, np.bool_) for _ in range(3))
        self._is_alone[list(alone)] = True
        self._is_first[[a for a, _ in pairs]] = True
        self._is_second[[b for _, b in pairs]] = True

    def may_contain(self, field: Field, cells: pa.Array) -> Mask:
        """[N]: whether a text may contain a query.

        Args:
            field: of the texts. Words of a title have to be neighbours, others need only be in one cell.
            cells: binary without nulls, UTF-8; of tags, all of a row with some separator.
        """
        if not self._knows_all:
            return np.ones(len(cells), np.bool_)
        data, offsets = _contents(cells)
        kinds = np.take(_KIND, data)
        may = _may_change(kinds, data, offsets)
        at, numbers, starts = self._known_runs(kinds, offsets)
        rows = _rows_of(starts, offsets)
        may[rows[self._is_alone[numbers]]] = True
        if field == "title":
            beside = (np.diff(at) == 1) & (np.diff(rows) == 0)
            beside &= self._is_first[numbers[:-1]] & self._is_second[numbers[1:]]
            left = np.flatnonzero(beside)
            may[rows[left[self._is_pair(numbers[left], numbers[left + 1])]]] = True
        else:
            may[self._rows_with_pairs(rows, numbers, len(cells))] = True
        return may

    def _known_runs(self, kinds: Bytes, offsets: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        """[K]: of the runs of letters that queries have, their places among all runs, numbers and starts."""
        is_letter = kinds > _FOREIGN
        begins, ends = is_letter.copy(), is_letter.copy()
        begins[1:] &= ~is_letter[:-1]
        ends[:-1] &= ~is_letter[1:]
        inner = offsets[(offsets > 0) & (offsets < len(kinds))]  # a run ends with its cell
        begins[inner] = is_letter[inner]
        ends[inner - 1] = is_letter[inner - 1]
        starts = np.flatnonzero(begins)
        lengths = np.flatnonzero(ends) - starts + 1
        runs = _cells(np.compress(is_letter, kinds), np.concatenate([[0], np.cumsum(lengths)]))
        numbers = pc.fill_null(pc.index_in(runs, value_set=self._runs), -1).to_numpy(zero_copy_only=False)
        at = np.flatnonzero(numbers >= 0)
        return at, numbers[at].astype(np.int64), starts[at]

    def _is_pair(self, first: Numbers, second: Numbers) -> Mask:
        keys = first * self._n + second
        if not len(self._pairs):
            return np.zeros(len(keys), np.bool_)
        place = np.minimum(np.searchsorted(self._pairs, keys), len(self._pairs) - 1)
        found: Mask = self._pairs[place] == keys
        return found

    def _rows_with_pairs(self, rows: Numbers, numbers: Numbers, n_rows: int) -> Numbers:
        """The rows that have both runs of a pair somewhere."""
        is_first, is_second = self._is_first[numbers], self._is_second[numbers]
        has_both = (np.bincount(rows[is_first], minlength=n_rows) > 0) & (
            np.bincount(rows[is_second], minlength=n_rows) > 0
        )
        # Each once per row, so that a cell of a megabyte has no more combinations than the lexicon.
        firsts = np.unique(rows[is_first & has_both[rows]] * self._n + numbers[is_first & has_both[rows]])
        seconds = np.unique(rows[is_second & has_both[rows]] * self._n + numbers[is_second & has_both[rows]])
        row, first = np.divmod(firsts, self._n)
        row_of_second, second = np.divmod(seconds, self._n)
        begin = np.searchsorted(row_of_second, row)
        count = np.searchsorted(row_of_second, row, side="right") - begin
        # Every first beside every second of its row.
        of_first = np.repeat(np.arange(len(row)), count)
        place = (
            np.arange(len(of_first)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(begin, count)
        )
        return row[of_first][self._is_pair(first[of_first], second[place])]
