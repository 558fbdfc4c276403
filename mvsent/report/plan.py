"""The estimate of a build (`--dry-run`) as text for the terminal."""

from collections.abc import Mapping
from typing import Any

from mvsent.report.tables import UNDEFINED, aligned


def render_plan(plan: Mapping[str, Any]) -> str:
    """Render the document of a `BuildPlan`: queries, calls, time, disk."""
    rows = [
        ("queries", f"{plan['n_queries']} ({plan['n_positive']} positive, {plan['n_negative']} negative)"),
        ("candidates of a query", str(plan["per_query"] or "all")),
        ("candidates", _at_most(plan["n_candidates"])),
        ("calls of the API", _at_most(plan["n_calls"])),
        ("time to search, under the quota", hours(plan["search_hours"])),
        ("time to fetch pictures", hours(plan["fetch_hours"])),
        ("disk while building", _gigabytes(plan["disk_gb"])),
        ("disk of the dataset", _gigabytes(plan["dataset_gb"])),
    ]
    examples = ", ".join(plan["first_queries"])
    bounds = "These are upper bounds; about half of the candidates are kept."
    if plan["n_calls"] is None:
        bounds = "With --per-query 0 a query has no upper bound, so the other figures are unknown."
    note = f"Nothing was requested or written. {bounds}"
    return f"{aligned(('build ' + plan['source'], 'estimate'), rows)}\n\nFirst queries: {examples}\n{note}"


def hours(value: float | None) -> str:
    """Format hours in the unit a person would use.

    >>> hours(0.335), hours(3.3), hours(77.0), hours(None)
    ('20 min', '3.3 h', '3.2 days', '–')
    """
    if value is None:
        return UNDEFINED
    if value < 1:
        return f"{max(1, round(60 * value))} min"
    return f"{value:.1f} h" if value < 48 else f"{value / 24:.1f} days"


def _at_most(value: int | None) -> str:
    return UNDEFINED if value is None else f"{value:,} at most"


def _gigabytes(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:.1f} GB"
