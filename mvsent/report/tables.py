"""Rows as aligned plain text for the terminal, and shares in percent."""

from collections.abc import Sequence

UNDEFINED = "–"


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align columns: the first left, the others right, with a rule under the header.

    >>> print(aligned(["label", "rows"], [["positive", "2683"], ["neutral", "470"]]))
    label     rows
    --------  ----
    positive  2683
    neutral    470
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    first, *others = widths
    return "\n".join(
        "  ".join([cells[0].ljust(first), *map(str.rjust, cells[1:], others)]).rstrip() for cells in lines
    )


def percent(value: float | None) -> str:
    """Format a share in percent with two decimals, as in the paper.

    >>> percent(0.79468), percent(None)
    ('79.47', '–')
    """
    return UNDEFINED if value is None else f"{100 * value:.2f}"


def in_percent(share: float) -> str:
    """Format a share for text on a page, with a non-breaking space.

    >>> in_percent(0.8742)
    '87.4\\xa0%'
    """
    return f"{100 * share:.1f}\u00a0%"
