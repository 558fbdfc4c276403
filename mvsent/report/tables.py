"""Results as rows, and rows as aligned plain text for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

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


class ResultRow(NamedTuple):
    """One metric as a reader sees it, in percent."""

    metric: str
    ours: str
    interval: str
    majority: str
    paper: str


RESULT_HEADER = ("percent", "mean ± std", "95 % interval", "majority", "paper")

_FAMILIES = {
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
}
PAPER_F1 = "The paper does not say how it averages F1; its number stands beside the weighted one"
_PAPER_KEYS = {"accuracy": "accuracy", "f1_weighted": "f1"}


def result_rows(document: Mapping[str, Any]) -> list[ResultRow]:
    """The metrics of a `metrics.json` that a reader looks for, in reading order."""
    published = document["published"] or {}
    rows = []
    for name in _shown(document["classes"]):
        ours, majority = document["metrics"][name], document["majority"][name]
        paper = published.get(_PAPER_KEYS.get(name, ""))
        rows.append(
            ResultRow(
                metric_title(name),
                mean_std(ours),
                interval(ours),
                percent(majority["mean"]),
                "" if paper is None else f"{paper:.2f}",
            )
        )
    return rows


def result_table(document: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of the metrics; the paper's column only where it has numbers."""
    n_columns = len(RESULT_HEADER) - (not document["published"])
    return RESULT_HEADER[:n_columns], [row[:n_columns] for row in result_rows(document)]


def _shown(classes: Sequence[str]) -> list[str]:
    names = ["accuracy"]
    names += [f"{family}_{of}" for family in ("precision", "recall", "f1") for of in ("weighted", "macro")]
    names += [f"f1_{name}" for name in classes]
    names += [
        f"{family}_{of}" for family in ("roc_auc", "average_precision") for of in (*classes, "macro", "micro")
    ]
    return names


def metric_title(name: str) -> str:
    """The words for a metric's key.

    >>> metric_title("roc_auc_micro"), metric_title("accuracy")
    ('ROC AUC, micro', 'accuracy')
    """
    family = next((family for family in _FAMILIES if name.startswith(family + "_")), None)
    return name if family is None else f"{_FAMILIES[family]}, {name.removeprefix(family + '_')}"


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


def mean_std(summary: Mapping[str, float | None]) -> str:
    """`79.47 ± 0.52`; without the second part where only one fold has the metric."""
    if summary["std"] is None:
        return percent(summary["mean"])
    return f"{percent(summary['mean'])} ± {percent(summary['std'])}"


def interval(summary: Mapping[str, float | None]) -> str:
    """`78.31–80.64`."""
    if summary["low"] is None:
        return UNDEFINED
    return f"{percent(summary['low'])}–{percent(summary['high'])}"


def result_title(document: Mapping[str, Any]) -> str:
    """What was measured on what, in one line."""
    n_folds, n_wanted = len(document["folds"]), document["n_folds"]
    counted = str(n_wanted) if n_folds == n_wanted else f"{n_folds} of {n_wanted}"
    folds = f"{counted} {'fold' if n_wanted == 1 else 'folds'}"
    seeds = ", ".join(map(str, document["seeds"]))
    notes = [document["fidelity"], *(f"{key}={value}" for key, value in document["options"].items())]
    model = f"{document['model']} ({', '.join(notes)})"
    n_test = sum(fold["n_test"] for fold in document["folds"])
    without = f" without {document['missing']}" if "missing" in document else ""
    return (
        f"{model} on {document['dataset']}{without}, {document['protocol']}, {folds}, {n_test} test rows, "
        f"seed {seeds}"
    )


def result_notes(document: Mapping[str, Any]) -> list[str]:
    """What a reader must know before quoting a number."""
    notes = list(document["notes"])
    return [*notes, PAPER_F1] if document["published"] else notes


def render_results(document: Mapping[str, Any]) -> str:
    """A `metrics.json` as title, table and, if the paper has numbers, a word on them, for the terminal.

    The document's own notes are not repeated: they are warnings, and have been shown as such.
    """
    table = aligned(*result_table(document))
    footnote = f"\n\n{PAPER_F1}." if document["published"] else ""
    return f"{result_title(document)}\n\n{table}{footnote}"
