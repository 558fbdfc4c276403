"""An estimate of what a build asks for and needs: queries, calls, time under the quota, disk."""

from dataclasses import dataclass
from typing import Any

from mvsent.limits import HOUR_S
from mvsent.shards.manifest import creation_time
from mvsent.sources.registry import S, SearchedSource

PICTURE_BYTES = 200_000
"""A JPEG of 1024 pixels, on average; smaller ones take less."""

ROW_BYTES, KEPT = 2_000, 0.5
"""Of a candidate in crawl.sqlite; and the share of candidates that the text filter leaves, roughly."""


@dataclass(frozen=True)
class BuildPlan:
    """Upper bounds, as far as they are known: a query that finds less costs less."""

    source: str
    n_queries: int
    n_positive: int
    n_negative: int
    per_query: int
    n_calls: int | None
    """None where each query may go on without end."""
    n_candidates: int | None
    search_hours: float | None
    fetch_hours: float | None
    disk_gb: float | None
    """While it builds: fetched parts and finished shards lie side by side at the end."""
    dataset_gb: float | None
    first_queries: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """The plan as JSON."""
        return vars(self) | {"first_queries": list(self.first_queries)}


def plan(source: SearchedSource[S], settings: S) -> BuildPlan:
    """Plan a build that begins from nothing. Raises: UsageError for settings that the build would refuse."""
    terms = source.words(settings)
    source.span(settings, creation_time())
    n_positive = sum(term.sentiment > 0 for term in terms)
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
