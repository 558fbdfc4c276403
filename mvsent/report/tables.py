"""Rows as aligned plain text for the terminal, and shares in percent."""

from collections.abc import Sequence

UNDEFINED = "–"


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lines of equal columns: the first to the left, the others to the right; a rule under the header.

    >>> print(aligned(["label", "rows"], [["positive", "2683"], ["neutral", "470"]]))
    label     rows
    --------  ----
    positive  2683
    neutral    470
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(_line(cells, widths) for cells in lines)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]).rstrip()


def percent(value: float | None) -> str:
    """A share in percent with two decimals, as the paper prints it.

    >>> percent(0.79468), percent(None)
    ('79.47', '–')
    """
    return UNDEFINED if value is None else f"{100 * value:.2f}"


def in_percent(share: float) -> str:
    """A share in a page's words; the space before the sign breaks no line.

    >>> in_percent(0.8742)
    '87.4\\xa0%'
    """
    return f"{100 * share:.1f}\u00a0%"
