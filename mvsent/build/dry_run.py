"""The estimate of a build (`--dry-run`): queries, calls, time under the quota, disk; and its table."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvsent.config import BuildSettings
from mvsent.curate.table_one import PAPER_TABLE_I
from mvsent.errors import MvsentError
from mvsent.limits import HOUR_S
from mvsent.reasons import Reason
from mvsent.report.tables import UNDEFINED, aligned
from mvsent.shards.manifest import Manifest, creation_time
from mvsent.sources.crawl.candidate import USUAL_SIDE
from mvsent.sources.registry import S, SearchedSource

PICTURE_BYTES = 200_000
"""Average size of a JPEG of 1024 pixels; smaller ones take less."""

ROW_BYTES, LISTED_BYTES, KEPT = 2_000, 1_000, 0.5
"""Bytes of a candidate in crawl.sqlite, and of a pair without its picture; and the rough share of candidates
that the filters keep, if no dataset tells it."""

SLOW = 10
"""A host that refuses may have to be asked as many times less often."""


@dataclass(frozen=True)
class BuildPlan:
    """The cost if every query finds as much as `per_query` allows and no call has to be repeated.

    Time and disk are for the share of the candidates that is kept.
    """

    source: str
    n_queries: int
    n_positive: int
    n_negative: int
    per_query: int
    metadata_only: bool
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


def needs(settings: BuildSettings, n_pairs: float, n_candidates: int, side: int) -> dict[str, float | None]:
    """Hours and gigabytes that pairs take: their pictures, or without them (`--metadata-only`) their texts.

    Args:
        side: longer side of the pictures of PICTURE_BYTES; with a smaller `--size` they have fewer pixels.
    """
    pictures = 0 if settings.metadata_only else PICTURE_BYTES * min(1.0, settings.size / side) ** 2
    per_hour = settings.images_per_second * HOUR_S
    hours = n_pairs / per_hour if per_hour else None
    copies = 1 if settings.metadata_only else 2  # fetched parts exist beside the shards
    pair = pictures or LISTED_BYTES
    return {
        "fetch_hours": hours if pictures else 0.0,
        "disk_gb": (copies * n_pairs * pair + n_candidates * ROW_BYTES) / 1e9,
        "dataset_gb": n_pairs * pair / 1e9,
    }


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
    needed = dict.fromkeys(("fetch_hours", "disk_gb", "dataset_gb"))
    if n_candidates:
        n_pairs = min(n_candidates * kept, settings.max_pairs or n_candidates)
        needed = needs(settings, n_pairs, n_candidates, USUAL_SIDE)
    paper_pairs = sum(PAPER_TABLE_I.get(source.name, {}).values())
    paper_calls = -(-round(paper_pairs / kept) // source.paging.per_page)
    return BuildPlan(
        source=source.name,
        n_queries=len(terms),
        n_positive=n_positive,
        n_negative=len(terms) - n_positive,
        per_query=settings.per_query,
        metadata_only=settings.metadata_only,
        n_calls=n_calls,
        n_candidates=n_candidates,
        search_hours=n_calls and n_calls / settings.quota_per_hour,
        fetch_hours=needed["fetch_hours"],
        disk_gb=needed["disk_gb"],
        dataset_gb=needed["dataset_gb"],
        first_queries=tuple(term.query for term in terms[:5]),
        images_per_second=settings.images_per_second,
        share_kept=kept,
        share_of=of,
        paper_pairs=paper_pairs,
        paper_calls=paper_calls,
        paper_search_hours=paper_calls / settings.quota_per_hour,
        paper_fetch_hours=needs(settings, paper_pairs, 0, USUAL_SIDE)["fetch_hours"],
    )


def render_plan(plan: Mapping[str, Any]) -> str:
    """Render the document of a `BuildPlan`: queries, calls, time, disk."""
    rows = [
        ("queries", f"{plan['n_queries']} ({plan['n_positive']} positive, {plan['n_negative']} negative)"),
        ("candidates of a query", str(plan["per_query"] or "all")),
        ("candidates", _counted(plan["n_candidates"], " at most")),
        ("calls of the API, without repeats", _counted(plan["n_calls"])),
        ("time to search, under the quota", hours(plan["search_hours"])),
        ("time to fetch pictures", fetching(plan["fetch_hours"], plan)),
        ("disk while building", gigabytes(plan["disk_gb"])),
        ("disk of the dataset", gigabytes(plan["dataset_gb"])),
    ]
    if pairs := plan["paper_pairs"]:
        calls, search = f"{plan['paper_calls']:,} calls", hours(plan["paper_search_hours"])
        fetch = "" if plan["metadata_only"] else f"; pictures {fetching(plan['paper_fetch_hours'], plan)}"
        rows.append((f"the paper's {pairs:,} pairs", f"{calls} ({search}){fetch}"))
    examples = ", ".join(plan["first_queries"])
    basis = f", as in {plan['share_of']}" if plan["share_of"] else ", roughly"
    bounds = f"Time and disk are for the {plan['share_kept']:.0%} of the candidates that are kept{basis}."
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


def fetching(hours: float | None, plan: Mapping[str, Any]) -> str:
    """The time to fetch pictures at the plan's rate and at a tenth of it."""
    if plan["metadata_only"]:
        return "none are fetched"
    return at_both_rates(hours, plan["images_per_second"])


def _counted(value: int | None, bound: str = "") -> str:
    return UNDEFINED if value is None else f"{value:,}{bound}"


def gigabytes(value: float | None) -> str:
    """Format gigabytes; those below a tenth as megabytes.

    >>> gigabytes(121.2), gigabytes(0.0021), gigabytes(None)
    ('121.2 GB', '2 MB', '–')
    """
    if value is None:
        return UNDEFINED
    return f"{value:.1f} GB" if value >= 0.1 else f"{max(1, round(value * 1000))} MB"
