"""Figures for a paper: ROC and precision-recall curves (Fig. 4), training curves (Fig. 5), confusion, bars.

Every function returns a matplotlib `Figure`; pyplot's global state is not used.
Colours are Okabe and Ito's, for colour-blind readers; line styles distinguish the curves in grey.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mvsent.report.tables import in_percent
from mvsent.shards.atomic import atomic_write

Floats = npt.NDArray[np.floating]
Summary = Mapping[str, float | None]

_STYLE: Any = {
    "font.family": "DejaVu Sans",  # included in matplotlib, so figures look the same everywhere
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.fonttype": "none",  # keeps text as text
    "svg.hashsalt": "mvsent",  # makes files reproducible
}
_LINES: dict[str, dict[str, Any]] = {
    "negative": {"color": "#D55E00", "linestyle": "-"},
    "neutral": {"color": "#009E73", "linestyle": (0, (5, 1.2))},
    "positive": {"color": "#0072B2", "linestyle": (0, (6, 1.2, 1.5, 1.2))},
    "macro": {"color": "#000000", "linestyle": (0, (2.5, 1.2))},
    "micro": {"color": "#666666", "linestyle": (0, (1, 1))},
}
_ROLES: dict[str, tuple[str, dict[str, Any]]] = {
    "train": ("training", {"color": "#0072B2", "linestyle": "-"}),
    "validation": ("validation", {"color": "#D55E00", "linestyle": (0, (5, 1.2))}),
}
_DOT: dict[str, Any] = {
    "linestyle": "",
    "marker": "o",
    "markersize": 3.5,
    "color": "#D55E00",
    "markeredgecolor": "white",
    "markeredgewidth": 0.5,
}
_BARS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_DIAMOND: dict[str, Any] = {
    "linestyle": "",
    "marker": "D",
    "markersize": 4,
    "color": "black",
    "markeredgecolor": "white",
    "markeredgewidth": 0.6,
    "zorder": 5,
}
_NO_DATE = {"Date": None, "Creator": None}  # the same figure gives the same bytes
DPI = 300
_COLUMN = 3.45  # inches: one column of a two-column paper


@mpl.rc_context(_STYLE)
def roc(curves: Mapping[str, Floats], grid: Floats, auc: Mapping[str, Summary]) -> Figure:
    """ROC curves: the mean over folds, and one standard deviation around it.

    Args:
        curves: true positive rates [F, G] by class, "macro" and "micro"; NaN in a fold that has none.
        grid: the false positive rates [G].
        auc: the summary of each curve's area.
    """
    figure, axes = _unit_square("False positive rate", "True positive rate")
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.7, zorder=1)
    for name, of_folds in curves.items():
        _mean_line(axes, grid, of_folds, _LINES[name], f"{name}, AUC {_score(auc[name])}")
    _legend(figure, axes)
    return figure


@mpl.rc_context(_STYLE)
def prc(
    curves: Mapping[str, Floats], grid: Floats, ap: Mapping[str, Summary], prevalence: Mapping[str, float]
) -> Figure:
    """Precision-recall curves: the mean over folds, and one standard deviation around it.

    A thin line shows the precision of a random classifier, which is the class's share of the rows.

    Args:
        curves: precisions [F, G] by class, "macro" and "micro"; NaN in a fold that has none.
        grid: the recalls [G].
        ap: the summary of each curve's average precision.
        prevalence: each class's share of the rows.
    """
    figure, axes = _unit_square("Recall", "Precision")
    for name, share in prevalence.items():
        axes.axhline(share, color=_LINES[name]["color"], linewidth=0.6, alpha=0.7, zorder=1)
    for name, of_folds in curves.items():
        guessing = f" (guessing {prevalence[name]:.3f})" if name in prevalence else ""
        _mean_line(axes, grid, of_folds, _LINES[name], f"{name}, AP {_score(ap[name])}{guessing}")
    _legend(figure, axes)
    return figure


@mpl.rc_context(_STYLE)
def training_curves(histories: Sequence[Mapping[str, Floats]], kept: Sequence[int]) -> Figure:
    """Loss and accuracy by epoch: a thin line for each fold; mean ± std while every fold was training.

    Args:
        histories: of each fold the columns of `history.csv`, arrays [E].
        kept: of each fold the index of the epoch whose network was kept.
    """
    figure = Figure(figsize=(2 * _COLUMN, 2.6), layout="constrained")
    panels = figure.subplots(1, 2)
    longest = max(len(history["epoch"]) for history in histories)
    for axes, what, panel in zip(panels, ("loss", "accuracy"), "ab", strict=True):
        for role, (label, line) in _ROLES.items():
            column = f"{role}_{what}"
            for history in histories:
                axes.plot(history["epoch"], history[column], color=line["color"], alpha=0.3, linewidth=0.5)
            n_shared = min(len(history["epoch"]) for history in histories)
            together = np.stack([history[column][:n_shared] for history in histories])
            marker = "s" if n_shared == 1 else ""  # one epoch is a point, not a line
            shown = {**line, "marker": marker, "markersize": 3}
            _mean_line(axes, histories[0]["epoch"][:n_shared], together, shown, label)
        axes.set_title(f"({panel})", loc="left", fontweight="bold")
        axes.set(xlabel="Epoch", ylabel=what.capitalize(), xlim=(-0.5, longest - 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(color="0.92", linewidth=0.5)
    ends = [(h["epoch"][i], h["validation_accuracy"][i]) for h, i in zip(histories, kept, strict=True)]
    panels[1].plot(*zip(*ends, strict=True), **_DOT, label="kept network of a fold")
    for axes in panels:
        axes.legend()
    return figure


@mpl.rc_context(_STYLE)
def confusion(counts: Floats, labels: Sequence[str], predicted: Sequence[str]) -> Figure:
    """Confusion matrix: shares of each label's pairs, as colour and text, with counts below them.

    Args:
        counts: pairs of each label (first axis) that were predicted as each label (second axis); with one
            decimal where a pair is divided among the answers of several folds.
        labels: names of the first axis.
        predicted: names of the second axis.
    """
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
    decimals = 0 if np.allclose(counts, np.round(counts), atol=1e-3) else 1
    figure = Figure(figsize=(2.7, 2.7 * len(labels) / len(predicted) + 0.1), layout="constrained")
    axes = figure.subplots()
    # Not imshow, which would embed pixels in an SVG.
    axes.pcolormesh(shares, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=1)
    for (row, column), share in np.ndenumerate(shares):
        text = "–" if np.isnan(share) else f"{in_percent(share)}\n({counts[row, column]:,.{decimals}f})"
        color = "white" if share > 0.55 else "black"  # legible on its cell
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=color)
    axes.set_xticks(np.arange(len(predicted)) + 0.5, predicted)
    axes.set_yticks(np.arange(len(labels)) + 0.5, labels, rotation=90, va="center")
    axes.set(xlabel="Predicted", ylabel="True", aspect="equal")
    axes.invert_yaxis()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


@mpl.rc_context(_STYLE)
def accuracy_bars(accuracies: Mapping[str, Mapping[str, Summary]], published: Mapping[str, float]) -> Figure:
    """Accuracy of each system: a bar for each protocol, with 95% interval; diamonds are published numbers.

    Args:
        accuracies: system → protocol → the summary of its accuracy; the first system is on top.
        published: system → the accuracy that its paper prints.
    """
    systems = list(accuracies)
    protocols = list(dict.fromkeys(name for of in accuracies.values() for name in of))
    height = 0.8 / len(protocols)
    inches = 0.9 + len(systems) * (0.12 + 0.11 * len(protocols))
    figure = Figure(figsize=(2 * _COLUMN, inches), layout="constrained")
    axes = figure.subplots()
    for i, protocol in enumerate(protocols):
        places = [k for k, system in enumerate(systems) if protocol in accuracies[system]]
        y = np.array(places) + (i - (len(protocols) - 1) / 2) * height
        _bars(axes, y, [accuracies[systems[k]][protocol] for k in places], height, i, protocol)
    if published:
        rows = [systems.index(system) for system in published]
        axes.plot(list(published.values()), rows, **_DIAMOND, label="published")
    axes.set(xlim=(0, 1.09), ylim=(len(systems) - 0.5, -0.5), xlabel="Accuracy")
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.set_yticks(range(len(systems)), systems)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="0.92", linewidth=0.5)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=len(protocols) + 1)
    return figure


def _bars(
    axes: Axes, y: Floats, summaries: Sequence[Summary], height: float, number: int, label: str
) -> None:
    mean, low, high = (np.array([s[part] for s in summaries], float) for part in ("mean", "low", "high"))
    colour = _BARS[number % len(_BARS)]
    spread = np.maximum([mean - low, high - mean], 0)
    error = {"elinewidth": 0.8, "capsize": 1.5, "ecolor": "0.25"}
    axes.barh(y, mean, height, color=colour, xerr=spread, error_kw=error, label=label)
    for place, end, value in zip(y, high, mean, strict=True):
        axes.text(end + 0.012, place, f"{100 * value:.1f}", va="center", fontsize=5.5)


@mpl.rc_context(_STYLE)
def save_figure(figure: Figure, folder: Path, stem: str) -> tuple[Path, Path]:
    """Write `STEM.png` (`DPI`) and `STEM.svg`; the same figure gives the same bytes."""
    png, svg = folder / f"{stem}.png", folder / f"{stem}.svg"
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # its places are kept: laying out takes as long as drawing
    with atomic_write(png) as file:
        figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})  # else matplotlib's version
    with atomic_write(svg) as file:
        figure.savefig(file, format="svg", metadata=_NO_DATE)
    return png, svg


def svg_element(path: Path) -> str:
    """The `<svg>` element of a saved figure, for a page."""
    text = path.read_text(encoding="utf-8")
    return text[text.index("<svg") :]


def _legend(figure: Figure, axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:  # of a single class there is no curve
        figure.legend(loc="outside lower center", handlelength=3, borderaxespad=0.2)


def _unit_square(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_COLUMN, 4.15), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, 1), ylim=(0, 1.005), xlabel=xlabel, ylabel=ylabel, aspect="equal")
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.grid(color="0.92", linewidth=0.5)
    axes.set_axisbelow(True)
    return figure, axes


def _mean_line(axes: Axes, x: Floats, of_folds: Floats, line: Mapping[str, Any], label: str) -> None:
    """The mean of the folds [F, G] that have the curve, and a band of ± one standard deviation."""
    defined = of_folds[~np.isnan(of_folds).any(axis=1)]
    if len(defined) == 0:
        return
    mean, std = defined.mean(axis=0), defined.std(axis=0, ddof=1 if len(defined) > 1 else 0)
    axes.fill_between(x, mean - std, mean + std, color=line["color"], alpha=0.12, linewidth=0)
    axes.plot(x, mean, linewidth=1.2, label=label, **line)


def _score(summary: Summary) -> str:
    mean, std = summary["mean"], summary["std"]
    if mean is None:
        return "–"
    return f"{mean:.3f}" if std is None else f"{mean:.3f} ± {std:.3f}"
