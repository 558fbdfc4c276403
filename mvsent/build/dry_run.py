"""The estimate of a build (`--dry-run`): queries, calls, time under the quota, disk; and its table."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mvsent.limits import HOUR_S
from mvsent.report.tables import UNDEFINED, aligned
from mvsent.shards.manifest import creation_time
from mvsent.sources.registry import S, SearchedSource

PICTURE_BYTES = 200_000
"""Average size of a JPEG of 1024 pixels; smaller ones take less."""

ROW_BYTES, KEPT = 2_000, 0.5
"""Bytes of a candidate in crawl.sqlite; and the rough share of candidates that the text filter keeps."""


@dataclass(frozen=True)
class BuildPlan:
    """Upper bounds, as far as they are known: a query that finds less costs less."""

    source: str
    n_queries: int
    n_positive: int
    n_negative: int
    per_query: int
    n_calls: int | None
    """None if a query has no upper bound."""
    n_candidates: int | None
    search_hours: float | None
    fetch_hours: float | None
    disk_gb: float | None
    """Disk during the build: at its end, fetched parts and finished shards exist side by side."""
    dataset_gb: float | None
    first_queries: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """The plan as JSON."""
        return vars(self) | {"first_queries": list(self.first_queries)}


def plan(source: SearchedSource[S], settings: S) -> BuildPlan:
    """Plan a build that begins from nothing. Raises: UsageError for settings that the build would refuse."""
    terms = source.words(settings)
    source.span(settings, creation_time())  # refuses a range of dates that the build would refuse
    n_positive = sum(term.sentiment > 0 for term in terms)
    # Without a limit per query this is None, and the `and`s below pass None on to all that follows from it.
    n_candidates = settings.per_query * len(terms) or None
    n_calls = n_candidates and len(terms) * -(-settings.per_query // source.paging.per_page)
    n_pairs = n_candidates and min(n_candidates * KEPT, settings.max_pairs or n_candidates)
    per_hour = settings.images_per_second * HOUR_S
    return BuildPlan(
        source=source.name,
        n_queries=len(terms),
        n_positive=n_positive,
        n_negative=len(terms) - n_positive,
        per_query=settings.per_query,
        n_calls=n_calls,
        n_candidates=n_candidates,
        search_hours=n_calls and n_calls / settings.quota_per_hour,
        fetch_hours=n_pairs / per_hour if n_pairs and per_hour else None,
        disk_gb=n_pairs and n_candidates and (2 * n_pairs * PICTURE_BYTES + n_candidates * ROW_BYTES) / 1e9,
        dataset_gb=n_pairs and n_pairs * PICTURE_BYTES / 1e9,
        first_queries=tuple(term.query for term in terms[:5]),
    )


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
