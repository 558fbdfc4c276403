"""A comparison of runs as tables for the terminal and notebooks."""

from collections.abc import Mapping
from typing import Any

from mvsent.report.results import interval, mean_std
from mvsent.report.tables import UNDEFINED, aligned

Document = Mapping[str, Any]

COMPARED = ("accuracy", "f1_weighted")
"""The metrics that are compared."""

_TESTS = {
    "mcnemar": "McNemar",
    "permutation_accuracy": "permutation, accuracy",
    "permutation_f1_weighted": "permutation, F1",
    "t_test": "t-test",
}


def comparison_title(document: Document) -> str:
    """The rows on which the runs are compared, in one line."""
    n_folds, n_rows, n_pairs = len(document["folds"]), document["n_rows"], document["n_pairs"]
    folds = f"{n_folds} {'fold' if n_folds == 1 else 'folds'}"
    rows = f"{n_rows} test rows" + ("" if n_pairs == n_rows else f" of {n_pairs} pairs")
    return f"{len(document['runs'])} runs on {document['dataset']}, {document['protocol']}, {folds}, {rows}"


def system_table(document: Document) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows: each run, numbered, with its metrics on the common rows."""
    header = ("run", "accuracy, percent", "95 % interval", "F1 weighted", "95 % interval")
    rows = []
    for number, run in enumerate(document["runs"], 1):
        of = [run["metrics"][key] for key in COMPARED]
        cells = [text for summary in of for text in (mean_std(summary), interval(summary))]
        rows.append((f"{number}  {run['name']}", *cells))
    return header, rows


def comparison_table(document: Document) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows: every two runs by number, their differences, and p-values corrected by Holm."""
    header = ("runs", "accuracy, points", "F1 weighted, points", "only one right", *_TESTS.values())
    number = {run["name"]: place for place, run in enumerate(document["runs"], 1)}
    rows = []
    for each in document["comparisons"]:
        right = f"{each['only_first_right']} : {each['only_second_right']}"
        gaps = [points(each[key]["mean"], each[key]) for key in COMPARED]
        p = [p_value(each["p_holm"][test]) for test in _TESTS]
        rows.append((f"{number[each['first']]} − {number[each['second']]}", *gaps, right, *p))
    return header, rows


def p_value(p: float | None) -> str:
    """A p-value with three decimals.

    >>> p_value(0.0312), p_value(0.00002), p_value(None)
    ('0.031', '<0.001', '–')
    """
    if p is None:
        return UNDEFINED
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def points(difference: float | None, bounds: Mapping[str, float | None] | None = None) -> str:
    """The difference of two shares in percentage points, with the interval from `low` to `high` if known.

    >>> points(0.0123), points(0.0123, {"low": -0.004, "high": 0.03}), points(None)
    ('+1.23', '+1.23 (-0.40 to +3.00)', '–')
    """
    if difference is None:
        return UNDEFINED
    signed = f"{100 * difference:+.2f}"
    if bounds is None:
        return signed
    return f"{signed} ({points(bounds['low'])} to {points(bounds['high'])})"


def comparison_notes(document: Document) -> list[str]:
    """Sentences on the columns, without their full stops."""
    n, n_swaps = len(document["comparisons"]), document["permutations"]
    corrected = f"P-values are corrected by Holm for the {n} comparisons of a column; --json has both"
    return [
        "Intervals resample distinct pairs",
        "Only one right: pairs that only the first, and pairs that only the second run answers correctly",
        f"McNemar's test is exact; permutation tests swap the runs' answers pair by pair, {n_swaps} times",
        "The t-test over folds compares accuracies, corrected for the training rows that folds share",
        *([corrected] if n > 1 else []),
        *document["notes"],
    ]


def render_comparison(document: Document) -> str:
    """Title, both tables and notes for the terminal."""
    below = "\n".join(f"{note}." for note in comparison_notes(document))
    tables = [aligned(*system_table(document)), aligned(*comparison_table(document))]
    return "\n\n".join([comparison_title(document), *tables, below])
