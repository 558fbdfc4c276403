"""The estimate of a build (`--dry-run`): queries, calls, time under the quota, disk; and its table."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvsent.curate.table_one import PAPER_TABLE_I
from mvsent.errors import MvsentError
from mvsent.limits import HOUR_S
from mvsent.reasons import Reason
from mvsent.report.tables import UNDEFINED, aligned
from mvsent.shards.manifest import Manifest, creation_time
from mvsent.sources.registry import S, SearchedSource

PICTURE_BYTES = 200_000
"""Average size of a JPEG of 1024 pixels; smaller ones take less."""

ROW_BYTES, KEPT = 2_000, 0.5
"""Bytes of a candidate in crawl.sqlite; and the rough share of candidates that the filters keep, if no
dataset tells it."""

SLOW = 10
"""A host that refuses may have to be asked as many times less often."""


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
    images_per_second: float
    share_kept: float
    share_of: str
    """The dataset of which the share is known; empty for a rough one."""
    paper_pairs: int
    paper_calls: int
    paper_search_hours: float
    paper_fetch_hours: float | None

    def document(self) -> dict[str, Any]:
        """The plan as JSON."""
        return vars(self) | {"first_queries": list(self.first_queries)}


def share_kept(folder: Path) -> tuple[float, str]:
    """The share of candidates that a finished build in `folder` kept, and its name; else a rough share."""
    try:
        manifest = Manifest.load(folder)
    except MvsentError:
        return KEPT, ""
    funnel = manifest.funnel
    tried = funnel.input - funnel.dropped.get(Reason.OVER_MAX_PAIRS, 0)
    return (funnel.kept / tried, str(folder)) if tried and funnel.kept else (KEPT, "")


def plan(source: SearchedSource[S], settings: S, last: Path) -> BuildPlan:
    """Plan a build that begins from nothing.

    Args:
        last: where an earlier build of the source may be, whose share of kept candidates is taken.

    Raises: UsageError for settings that the build would refuse.
    """
    terms = source.words(settings)
    source.span(settings, creation_time())  # refuses a range of dates that the build would refuse
    n_positive = sum(term.sentiment > 0 for term in terms)
    # Without a limit per query this is None, and the `and`s below pass None on to all that follows from it.
    n_candidates = settings.per_query * len(terms) or None
    n_calls = n_candidates and len(terms) * -(-settings.per_query // source.paging.per_page)
    kept, of = share_kept(last)
    n_pairs = n_candidates and min(n_candidates * kept, settings.max_pairs or n_candidates)
    per_hour = settings.images_per_second * HOUR_S
    paper_pairs = sum(PAPER_TABLE_I.get(source.name, {}).values())
    paper_calls = -(-round(paper_pairs / kept) // source.paging.per_page)
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
        images_per_second=settings.images_per_second,
        share_kept=kept,
        share_of=of,
        paper_pairs=paper_pairs,
        paper_calls=paper_calls,
        paper_search_hours=paper_calls / settings.quota_per_hour,
        paper_fetch_hours=paper_pairs / per_hour if per_hour else None,
    )


def render_plan(plan: Mapping[str, Any]) -> str:
    """Render the document of a `BuildPlan`: queries, calls, time, disk."""
    rows = [
        ("queries", f"{plan['n_queries']} ({plan['n_positive']} positive, {plan['n_negative']} negative)"),
        ("candidates of a query", str(plan["per_query"] or "all")),
        ("candidates", _at_most(plan["n_candidates"])),
        ("calls of the API", _at_most(plan["n_calls"])),
        ("time to search, under the quota", hours(plan["search_hours"])),
        ("time to fetch pictures", at_both_rates(plan["fetch_hours"], plan["images_per_second"])),
        ("disk while building", _gigabytes(plan["disk_gb"])),
        ("disk of the dataset", _gigabytes(plan["dataset_gb"])),
    ]
    if pairs := plan["paper_pairs"]:
        calls, search = f"{plan['paper_calls']:,} calls at least", hours(plan["paper_search_hours"])
        fetch = at_both_rates(plan["paper_fetch_hours"], plan["images_per_second"])
        rows.append((f"the paper's {pairs:,} pairs", f"{calls} ({search}); pictures {fetch}"))
    examples = ", ".join(plan["first_queries"])
    share = f"{plan['share_kept']:.0%} of the candidates are kept"
    share += f", as in {plan['share_of']}." if plan["share_of"] else ", roughly."
    bounds = f"These are upper bounds; {share}"
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


def at_both_rates(value: float | None, per_second: float) -> str:
    """Hours at the stated rate, and at a tenth of it, which a host that refuses may ask for.

    >>> at_both_rates(2.0, 10.0), at_both_rates(None, 0.0)
    ('2.0 h at 10 a second, 20.0 h at 1', '–')
    """
    if value is None:
        return UNDEFINED
    return f"{hours(value)} at {per_second:g} a second, {hours(value * SLOW)} at {per_second / SLOW:g}"


def _at_most(value: int | None) -> str:
    return UNDEFINED if value is None else f"{value:,} at most"


def _gigabytes(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:.1f} GB"
