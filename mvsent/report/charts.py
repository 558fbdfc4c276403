"""Geometry of the charts on pages, in percent of the width, so that text keeps its size."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mvsent.report.gallery import shown
from mvsent.report.tables import in_percent
from mvsent.shards.manifest import Funnel

SHOWN_LABEL = 44
"""Maximum length of a bar's name in characters, which fits the width of a phone."""
_THINNEST = 0.4  # percent of the width: a count above zero is always seen
_BINS = 30
_BIN_HEIGHT = 110.0  # pixels of a histogram's tallest bar


@dataclass(frozen=True)
class Bar:
    """One horizontal bar.

    Attributes:
        label: its name, cut to `SHOWN_LABEL`.
        n: the count.
        share: share of the total as text; empty without a total.
        start, width: in percent of the drawing's width.
        kind: the class of its colour.
    """

    label: str
    n: int
    share: str
    start: float
    width: float
    kind: str


@dataclass(frozen=True)
class Histogram:
    """A histogram. Bins are (x, width in percent; y, height in pixels; text)."""

    title: str
    unit: str
    bins: list[tuple[float, float, float, float, str]]
    ticks: list[tuple[float, str, str]]
    """(x in percent, text, its anchor) of each number on the axis."""
    summary: str


def funnel_bars(funnel: Funnel) -> list[Bar]:
    """Bars of the input, of each reason at the position of its rows, and of the kept rows."""
    bars = [Bar("input", funnel.input, "", 0.0, 100.0 if funnel.input else 0.0, "input")]
    left = funnel.input
    for reason, n in sorted(funnel.dropped.items(), key=lambda item: -item[1]):
        left -= n
        start = 100 * left / max(funnel.input, 1)
        bars.append(_bar(reason, n, funnel.input, start, "dropped"))
    return [*bars, _bar("kept", funnel.kept, funnel.input, 0.0, "kept")]


def share_bars(counts: Iterable[tuple[str, int]], total: int) -> list[Bar]:
    """A bar for each (name, count), in that order, coloured by name; `total` has the full width.

    >>> [bar.width for bar in share_bars([("negative", 4), ("positive", 1)], 5)]
    [80.0, 20.0]
    """
    return [_bar(name, n, total, 0.0, name) for name, n in counts]


def count_bars(counts: Iterable[tuple[str, int]], total: int) -> list[Bar]:
    """A bar for each (name, count), in that order; the longest has the full width.

    >>> [bar.width for bar in count_bars([("a", 4), ("b", 1)], 5)]
    [100.0, 25.0]
    """
    listed = list(counts)
    most = max((n for _, n in listed), default=0)
    return [_bar(name, n, total, 0.0, "plain", most) for name, n in listed]


def _bar(name: str, n: int, total: int, start: float, kind: str, most: int | None = None) -> Bar:
    label = shown(name if len(name) <= SHOWN_LABEL else name[: SHOWN_LABEL - 1] + "…")
    width = 100 * n / max(total if most is None else most, 1)
    width = max(width, _THINNEST) if n else 0.0
    share = in_percent(n / total) if total else ""
    return Bar(label, n, share, min(start, 100 - width), width, kind)


def histogram(title: str, unit: str, counts: npt.NDArray[np.int64], summary: str) -> Histogram | None:
    """The histogram of values with these `counts` (index = value); None if there are none.

    The axis ends at the 99th percentile; the last bin includes all larger values.
    """
    total = int(counts.sum())
    if not total:
        return None
    reached = np.cumsum(counts)
    first = int(np.argmax(counts > 0))
    last = max(int(np.searchsorted(reached, 0.99 * total)), first)
    step = max(1, -(-(last + 1 - first) // _BINS))  # ceiling division
    n_bins = -(-(last + 1 - first) // step)
    values = np.arange(first, len(counts))
    heights = np.bincount(np.minimum((values - first) // step, n_bins - 1), counts[first:], n_bins)
    width, tallest = 100 / n_bins, heights.max()
    bins = []
    for place, n in enumerate(heights):
        low = first + place * step
        name = f"{low:,}" if step == 1 else f"{low:,}–{low + step - 1:,}"
        name = f"{low:,} or more" if place == n_bins - 1 and len(counts) > low + step else name
        height = _BIN_HEIGHT * float(n) / tallest
        bins.append((place * width, width, _BIN_HEIGHT - height, height, f"{name} {unit}: {int(n):,}"))
    middle = n_bins // 2
    ticks = [(0.0, f"{first:,}", "start")]
    if n_bins > 2:
        ticks.append((middle * width, f"{first + middle * step:,}", "middle"))
    if n_bins > 1:
        ticks.append((100.0, f"{first + (n_bins - 1) * step:,}+", "end"))
    return Histogram(title, unit, bins, ticks, summary)
