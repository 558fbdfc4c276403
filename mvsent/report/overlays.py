"""Pictures of attention: heat maps over a picture, shaded words, and figures like the paper's 6 and 7."""

import textwrap
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

from mvsent.pairs import LABEL_NAMES

Floats = npt.NDArray[np.floating]

SHADES = 9
"""Number of shades of a word's background; 0 is none."""
_HEAT = mpl.colormaps["inferno"]
_WORDS_A_LINE, _LINES = 46, 16  # characters of a line, and lines of a text in a square of a figure


@dataclass(frozen=True)
class Explained:
    """A pair with a network's answer and attention.

    Attributes:
        id: id of the row, or a file name.
        kind: reason for its choice: `correct positive`, `correct negative`, `error` …
        picture: RGB; None if absent.
        words: as the network read them.
        maps: name → `[H, W]` from 0 to 1 over the picture: `class activation`, `spatial attention` …
        shades: name → `[S]` from 0 to 1, a weight for each word.
        text_share: share of the text in the self-attention, from 0 to 1; None without self-attention.
        probabilities: label name → probability.
        gold: the label in the dataset; empty if unknown.
    """

    id: str
    kind: str
    picture: Image.Image | None
    words: list[str]
    maps: dict[str, Floats]
    shades: dict[str, Floats]
    text_share: float | None
    probabilities: dict[str, float]
    gold: str = ""

    @property
    def predicted(self) -> str:
        """The name of the most probable label."""
        return max(self.probabilities, key=self.probabilities.__getitem__)


def heat(picture: Image.Image, weights: Floats) -> Image.Image:
    """Overlay a picture with a heat map of `weights` `[H, W]` from 0 to 1; large weights are more opaque."""
    grid = Image.fromarray(np.asarray(weights, np.float32), mode="F")
    smooth = np.asarray(grid.resize(picture.size, Image.Resampling.BICUBIC)).clip(0, 1)
    colour = (_HEAT(smooth)[..., :3] * 255).astype(np.uint8)
    mask = Image.fromarray(((0.25 + 0.45 * smooth) * 255).astype(np.uint8), mode="L")
    return Image.composite(Image.fromarray(colour), picture.convert("RGB"), mask)


def spread(weights: Floats) -> Floats:
    """Scale weights so that the largest is 1 and the smallest 0; all 0 if they are equal.

    >>> spread(np.array([[0.2, 0.4], [0.3, 0.2]])).round(2).tolist()
    [[0.0, 1.0], [0.5, 0.0]]
    """
    low, high = float(weights.min(initial=1)), float(weights.max(initial=0))
    return np.zeros_like(weights) if high - low < 1e-9 else (weights - low) / (high - low)


def shade(weights: Floats) -> list[int]:
    """The shade of each word's background, from 0 to `SHADES`, proportional to its weight.

    The strongest shade is that of the largest weight, or of twice the mean if that is larger: words with
    equal weights have half the strength.

    >>> shade(np.array([0.1, 0.2, 0.0])), shade(np.array([0.5, 0.5]))
    ([4, 9, 0], [4, 4])
    """
    if not weights.any():
        return [0] * len(weights)
    strongest = max(float(weights.max()), 2 * float(weights.mean()))
    return [int(step) for step in np.round(SHADES * weights / strongest)]


def paper_figure(pairs: Sequence[Explained]) -> Figure:
    """Draw a row for each pair, as the paper's Figures 6 and 7: pair, first map, shaded words."""
    figure = Figure(figsize=(7.2, 2.7 * len(pairs)), layout=ConstrainedLayoutEngine(h_pad=0.25))
    grid = figure.subplots(len(pairs), 3, squeeze=False)
    over_picture, over_words = _first_name(pair.maps for pair in pairs), _first_name(p.shades for p in pairs)
    titles = ("pair, as the network read it", over_picture, over_words)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # texts use scripts that the font lacks
        for row, pair in zip(grid, pairs, strict=True):
            _draw_pair(row, pair)
        figure.canvas.draw()  # within the block, as matplotlib warns when it draws
    return figure


def _first_name(layers: Iterable[Mapping[str, Floats]]) -> str:
    """The name of the first layer; empty if no pair has one."""
    return next((name for layer in layers for name in layer), "")


def _draw_pair(row: Sequence[Axes], pair: Explained) -> None:
    for axes in row:
        axes.set_axis_off()
    original, visual, semantic = row
    if pair.picture is not None:
        original.imshow(pair.picture)
        if pair.maps:
            visual.imshow(heat(pair.picture, next(iter(pair.maps.values()))))
    text = "\n".join(textwrap.wrap(_literal(" ".join(pair.words)), _WORDS_A_LINE)[:3])
    original.text(0.5, -0.04, text, ha="center", va="top", fontsize=5.5, transform=original.transAxes)
    said = ", ".join(f"{name} {value:.2f}" for name, value in pair.probabilities.items())
    gold = f"; labelled {pair.gold}" if pair.gold else ""
    visual.text(0.5, -0.04, f"{said}{gold}", ha="center", va="top", fontsize=5.5, transform=visual.transAxes)
    tall = pair.picture.height / pair.picture.width if pair.picture else 0.7
    semantic.set_box_aspect(tall)  # as high as the picture beside it
    weights = next(iter(pair.shades.values()), np.zeros(len(pair.words)))
    _draw_words(semantic, pair.words, weights, max(3, round(tall * _LINES)))


def _draw_words(axes: Axes, words: Sequence[str], weights: Floats, n_lines: int) -> None:
    """Draw words from left to right, line by line, each on its shade."""
    axes.set(xlim=(0, _WORDS_A_LINE), ylim=(n_lines, 0))
    x, line = 0, 1
    for word, step in zip(words, shade(weights), strict=False):
        shown = _literal(word)[: _WORDS_A_LINE - 1]
        if x and x + len(shown) > _WORDS_A_LINE:
            x, line = 0, line + 1
        if line >= n_lines:
            break
        box: Mapping[str, Any] = {
            "facecolor": (0.9, 0.35, 0.0, 0.75 * step / SHADES),
            "edgecolor": "none",
            "pad": 1.2,
        }
        axes.text(x, line, shown, fontsize=5.5, family="DejaVu Sans Mono", bbox=dict(box))
        x += len(shown) + 1


def _literal(text: str) -> str:
    """Escape signs that matplotlib would interpret as mathematics."""
    return text.replace("$", r"\$")


def fraction_bar(pair: Explained) -> tuple[int, int]:
    """Percentages of text and picture in the self-attention, 100 in total; (0, 0) without self-attention."""
    if pair.text_share is None:
        return 0, 0
    text = round(100 * pair.text_share)
    return text, 100 - text


def ordered(probabilities: Mapping[str, float]) -> list[tuple[str, float]]:
    """Labels with their probabilities, in the order of `LABEL_NAMES`."""
    return [(name, probabilities[name]) for name in LABEL_NAMES if name in probabilities]
