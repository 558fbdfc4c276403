"""The estimate of a build from metadata dumps (`--from`, `--dry-run`): candidates, time and disk."""

import threading
from collections.abc import Mapping
from typing import Any

from mvsent.build.dry_run import KEPT, fetching, gigabytes, needs
from mvsent.build.match_dump import count_matches
from mvsent.errors import Interrupted
from mvsent.report.tables import aligned
from mvsent.sources.dump_files import Dump
from mvsent.sources.registry import S, SearchedSource
from mvsent.workers.engine import Engine
from mvsent.workers.interrupt import interruptible

TOP = 10

DUMP_SIDE = 500
"""Pixels of the pictures that a dump leads to; only `--size` below that makes them smaller."""


def plan_dump(
    source: SearchedSource[S], settings: S, dump: Dump, engine: Engine, *, workers: int, quiet: bool
) -> dict[str, Any]:
    """Scan a dump, and estimate the build of its candidates. Raises: Interrupted; InputError."""
    words = source.words(settings)
    with interruptible() as stop:
        counts = count_matches(dump, engine, lambda: _check(stop), workers=workers, quiet=quiet)
    per_pair = {word.query: counts.queries[number] for number, word in enumerate(words)}
    most = settings.per_query
    # A row with several pairs counts once for each, so this is an upper bound.
    taken = sum(min(n, most) if most else n for n in per_pair.values())
    n_candidates = min(counts.rows["matched"], taken)
    n_pairs = min(n_candidates * KEPT, settings.max_pairs or n_candidates)
    return {
        "source": source.name,
        "files": [{"name": file.name, "size": file.size} for file in dump.files],
        "rows": {
            name: counts.rows[name]
            for name in ("rows", "matched", "videos", "unusable", "other_licence", "other_dates")
        },
        "pairs": len(words),
        "pairs_without_candidate": sum(not n for n in per_pair.values()),
        "per_query": most,
        "metadata_only": settings.metadata_only,
        "images_per_second": settings.images_per_second,
        "candidates": n_candidates,
        **needs(settings, n_pairs, n_candidates, DUMP_SIDE),
        "candidates_per_pair": per_pair,
        "broken": counts.broken,
    }


def _check(stop: threading.Event) -> None:
    if stop.is_set():
        raise Interrupted(next_step="Nothing was written")


def render_dump_plan(plan: Mapping[str, Any]) -> str:
    """Render the document of `plan_dump`: rows, candidates, time and disk, and the most frequent pairs."""
    read, n_pairs = plan["rows"], plan["pairs"]
    rows = [
        ("files", f"{len(plan['files'])} ({sum(file['size'] for file in plan['files']) / 1e9:.1f} GB)"),
        ("rows", f"{read['rows']:,} ({read['videos']:,} videos, {read['unusable']:,} unusable)"),
        ("photos with a pair", f"{read['matched']:,}"),
        ("pairs without a photo", f"{plan['pairs_without_candidate']} of {n_pairs}"),
        ("candidates of a pair", f"{plan['per_query']} at most" if plan["per_query"] else "all"),
        ("candidates", f"{plan['candidates']:,} at most"),
        ("time to fetch pictures", fetching(plan["fetch_hours"], plan)),
        ("disk while building", gigabytes(plan["disk_gb"])),
        ("disk of the dataset", gigabytes(plan["dataset_gb"])),
    ]
    most = sorted(plan["candidates_per_pair"].items(), key=lambda pair: -pair[1])[:TOP]
    top = aligned(("most frequent pairs", "photos"), [(pair, f"{n:,}") for pair, n in most if n])
    share = f"Time and disk are for the {KEPT:.0%} of the candidates that are kept, roughly."
    note = f"Nothing was requested or written. {share}"
    return f"{aligned(('build ' + plan['source'], 'estimate'), rows)}\n\n{top}\n\n{note}"
