"""Values of strangers' columns → the four types that a further column can have."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from mvsent.errors import InputError
from mvsent.pairs import EXTRA_TYPES, ExtraType

MAX_CELL = 2**20  # characters

_WHOLE = re.compile(r"-?(?:0|[1-9]\d{0,17})")  # not 007, which is a name
_NUMBER = re.compile(r"-?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][+-]?\d{1,3})?")
_TRUTH = {"true": True, "false": False}
_SURROGATES = re.compile(r"[\ud800-\udfff]")


def plain_text(text: str) -> str:
    r"""Remove lone surrogates, which no file can hold.

    >>> plain_text("so \ud800good")
    'so good'
    """
    return _SURROGATES.sub("", text)


def extra_column(values: Sequence[Any], name: str, *, as_text: bool = False) -> tuple[ExtraType, pa.Array]:
    """The type that all values have, and the values as an array; empty text is null.

    >>> kind, array = extra_column(["1", "", "30"], "shop")
    >>> kind, array.to_pylist(), extra_column(["007", "8"], "code")[0], extra_column([1, 2.5], "x")[0]
    ('int64', [1, None, 30], 'string', 'double')

    Raises: InputError for a list, a struct, bytes, or a text longer than a megabyte.
    """
    given = [None if value == "" else value for value in values]
    present = [value for value in given if value is not None]
    for value in present:
        if isinstance(value, list | dict | bytes):
            raise InputError(f"--keep-columns {name}: holds {type(value).__name__}s", "Leave it out")
        if isinstance(value, str) and len(value) > MAX_CELL:
            raise InputError(
                f"--keep-columns {name}: holds a text of {len(value)} characters", "Leave it out"
            )
    kind: ExtraType = "string"
    convert: Callable[[Any], Any] = _to_text
    if present and not as_text:
        kind, convert = _kind(present)
    array = pa.array([None if value is None else convert(value) for value in given], EXTRA_TYPES[kind])
    return kind, array


def _kind(present: Sequence[Any]) -> tuple[ExtraType, Callable[[Any], Any]]:
    if all(isinstance(value, str) for value in present):
        if all(map(_WHOLE.fullmatch, present)):
            return "int64", int
        if all(len(value) < 40 and _NUMBER.fullmatch(value) for value in present) and not any(
            re.match(r"-?0\d", value) for value in present
        ):
            return "double", float
        if all(value.casefold() in _TRUTH for value in present):
            return "bool", lambda value: _TRUTH[value.casefold()]
        return "string", _to_text
    kinds = {type(value) for value in present}
    if kinds == {bool}:
        return "bool", bool
    if kinds == {int} and all(-(2**63) <= value < 2**63 for value in present):
        return "int64", int
    if kinds <= {int, float} and all(abs(value) < 2**63 for value in present if isinstance(value, int)):
        return "double", float
    return "string", _to_text


def _to_text(value: Any) -> str:
    return plain_text(str(value))
