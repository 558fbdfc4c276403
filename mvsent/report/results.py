"""A `metrics.json` as the tables that a reader sees, in the terminal and on pages."""

from collections.abc import Mapping
from typing import Any

from mvsent.learn.metrics import METRICS, PERCENT, Metric, headlines
from mvsent.report.tables import UNDEFINED, aligned, percent

UNSEEN, PAPER = "without seen rows", "paper"
RESULT_HEADER = ("percent", "mean ± std", "95 % interval", "majority")
LOWER_IS_BETTER = "↓: lower is better"
PAPER_F1 = "The paper does not say how it averages F1; its number stands beside the weighted one"
_PAPER_KEYS = {"accuracy": "accuracy", "f1_weighted": "f1"}

Document = Mapping[str, Any]


def shown(document: Document) -> dict[str, Metric]:
    """The keys of the table of results, without those that are newer than the document."""
    keys = {key: metric for metric in METRICS for key in metric.keys(metric.rows, document["classes"])}
    return {key: metric for key, metric in keys.items() if key in document["metrics"]}


def result_table(document: Document) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of the metrics; the columns of paper and unseen rows only if they have numbers."""
    published, unseen = document["published"] or {}, unseen_metrics(document)
    rows = []
    for key, metric in shown(document).items():
        ours, paper = document["metrics"][key], published.get(_PAPER_KEYS.get(key, ""))
        cells = [metric.heading(key), mean_std(ours, metric.unit), interval(ours, metric.unit)]
        cells.append(number(document["majority"][key]["mean"], metric.unit))
        cells += [mean_std(unseen[key], metric.unit)] if unseen else []
        cells += ["" if paper is None else f"{paper:.2f}"] if published else []
        rows.append(tuple(cells))
    return (*RESULT_HEADER, *([UNSEEN] if unseen else []), *([PAPER] if published else [])), rows


def unseen_metrics(document: Document) -> Mapping[str, Any]:
    """The metrics without the rows that the networks have seen; empty if there are none."""
    seen = document.get("seen") or {}
    return (seen.get("metrics") or {}) if seen.get("n_seen") else {}


def seen_sentence(document: Document) -> str:
    """A sentence on the rows that the networks have seen, without its full stop; empty if unknown."""
    seen = document.get("seen")
    if not seen:
        return ""
    if not seen["n_seen"]:
        return (
            f"None of the {seen['n_rows']} rows was seen in training or validation (by id, text or picture)"
        )
    rest = " + ".join(str(fold["n_unseen"]) for fold in seen["folds"])
    left = f"Rows left without those seen, by fold: {rest}"
    return left if unseen_metrics(document) else "Every row was seen in training or validation"


def second_annotation(document: Document) -> str:
    """A sentence on how often a second annotation agrees, without its full stop; empty if unknown."""
    again = document.get("second_annotation")
    if not again:
        return ""
    accuracy, f1 = again["metrics"]["accuracy"], again["metrics"]["f1_weighted"]
    return (
        f"Second annotation: {again['n_pairs']} pairs of {document['dataset']} were annotated twice, and "
        f"{percent(accuracy['mean'])} % got the same label again ({interval(accuracy)}; weighted F1 "
        f"{percent(f1['mean'])})"
    )


def page_tables(document: Document) -> dict[str, Any]:
    """The tables of results and of folds, as the templates name their parts."""
    header, rows = result_table(document)
    columns = {key: metric for key, metric in headlines().items() if key in document["metrics"]}
    return {
        "header": header,
        "rows": rows,
        "resamples": document["bootstrap"]["resamples"],
        "footnotes": footnotes(document),
        "fold_header": [metric.heading(key) for key, metric in columns.items()],
        "fold_rows": [
            [
                fold["fold"],
                fold["n_test"],
                *(number(fold["metrics"][key], metric.unit) for key, metric in columns.items()),
            ]
            for fold in document["folds"]
        ],
        "summary": [mean_std(document["metrics"][key], metric.unit) for key, metric in columns.items()],
    }


def footnotes(document: Document) -> list[str]:
    """Sentences on the metrics in the table of results, without their full stops."""
    metrics = dict.fromkeys(shown(document).values())
    arrow = [LOWER_IS_BETTER] if any(metric.lower_is_better for metric in metrics) else []
    told = filter(None, (second_annotation(document), seen_sentence(document)))
    return [*told, *arrow, *(metric.caution for metric in metrics if metric.caution)]


def number(value: float | None, unit: str) -> str:
    """A metric's value: a share in percent, another with three decimals.

    >>> number(0.79468, "percent"), number(0.79468, "nats"), number(None, "nats")
    ('79.47', '0.795', '–')
    """
    if unit == PERCENT or value is None:
        return percent(value)
    return f"{value:.3f}"


def mean_std(summary: Mapping[str, float | None], unit: str = PERCENT) -> str:
    """`79.47 ± 0.52`; without the second part where only one fold has the metric."""
    mean = number(summary["mean"], unit)
    return mean if summary["std"] is None else f"{mean} ± {number(summary['std'], unit)}"


def interval(summary: Mapping[str, float | None], unit: str = PERCENT) -> str:
    """`78.31–80.64`."""
    if summary["low"] is None:
        return UNDEFINED
    return f"{number(summary['low'], unit)}–{number(summary['high'], unit)}"


def result_title(document: Document) -> str:
    """Model, dataset, protocol and seed in one line."""
    n_folds, n_wanted = len(document["folds"]), document["n_folds"]
    counted = str(n_wanted) if n_folds == n_wanted else f"{n_folds} of {n_wanted}"
    folds = f"{counted} {'fold' if n_wanted == 1 else 'folds'}"
    seeds = ", ".join(map(str, document["seeds"]))
    notes = [document["fidelity"], *(f"{key}={value}" for key, value in document["options"].items())]
    model = f"{document['model']} ({', '.join(notes)})"
    n_test = sum(fold["n_test"] for fold in document["folds"])
    n_pairs = document.get("n_pairs", n_test)  # a file of an older version does not say
    of_pairs = "" if n_pairs == n_test else f" of {n_pairs} pairs"
    without = f" without {document['missing']}" if "missing" in document else ""
    return (
        f"{model} on {document['dataset']}{without}, {document['protocol']}, {folds}, "
        f"{n_test} test rows{of_pairs}, seed {seeds}"
    )


def result_notes(document: Document) -> list[str]:
    """Everything to know before quoting a number."""
    return [*document["notes"], *([PAPER_F1] if document["published"] else [])]


def render_results(document: Document) -> str:
    """Title, table and footnotes for the terminal.

    The document's own notes are not repeated: they are warnings, and have been shown as such.
    """
    below = [*footnotes(document), *([PAPER_F1] if document["published"] else [])]
    parts = [
        result_title(document),
        aligned(*result_table(document)),
        "\n".join(f"{note}." for note in below),
    ]
    return "\n\n".join(filter(None, parts))
