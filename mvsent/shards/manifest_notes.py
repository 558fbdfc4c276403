"""The notes of a manifest in sentences. Queries, names and answers in them are untrusted text."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

MAX_LISTED = 50
"""Maximum number of queries that are named; the others are counted."""

_OF_GAPS = ("incomplete", "refused_queries", "drift")


def gaps(notes: object) -> list[str]:
    """Name what a search did not list and what moved meanwhile, a sentence each.

    These are notes of the dataset, and of those that it was made from.
    """
    lines, drift = [], Counter[str]()
    for each in _all_notes(notes):
        lines += [f"{query}: {_lack(lack)}" for query, lack in _mapping(each.get("incomplete")).items()]
        lines += [f"{query}: refused ({why})" for query, why in _mapping(each.get("refused_queries")).items()]
        drift.update(_counts(each.get("drift")))
    if len(lines) > MAX_LISTED:
        more = f"The same holds for {len(lines) - MAX_LISTED} more queries; dataset.json names them."
        lines = [*lines[:MAX_LISTED], more]
    if n := drift["queries_with_moving_totals"]:
        lines.append(f"The totals of {n} queries moved, or were less than what was listed.")
    if n := drift["repeated_items"]:
        lines.append(f"{n} items came again on a later page.")
    return lines


def other_notes(notes: object) -> list[str]:
    """The notes that are no gaps of a search, a sentence each; one of an unknown kind is JSON."""
    if not isinstance(notes, Mapping):
        return [json.dumps(notes, ensure_ascii=False)] if notes else []
    return [
        sentence
        for each in _all_notes(notes)
        for key, value in each.items()
        if key not in (*_OF_GAPS, "before")
        for sentence in _sentences(key, value)
    ]


def _sentences(key: str, value: Any) -> list[str]:
    match key, value:
        case "query_not_found", {**found}:
            return [f"Candidates without the words of their query: {_most(_counts(found))}."]
        case "refreshed", {"version_before": before, "removed": removed}:
            return [f"Rows that the source no longer shows: {removed} were dropped from version {before}."]
        case "sharded", {"version_before": before}:
            return [f"The shards have another size than those of version {before}."]
        case "merged", [*origins]:
            return [f"Merged from {', '.join(map(_origin, origins))}."]
        case "subset_of", {**origin}:
            return [f"Taken from {_origin(origin)}."]
        case "contradictions", int():
            return [f"{value} pictures had several labels in the merged datasets."]
        case "annotations", {**counts}:
            return [f"Annotations: {_listed(_counts(counts))}."]
        case "dump", {"files": [*files], "rows": {**rows}, **rest}:
            names = ", ".join(str(_mapping(file).get("name")) for file in files)
            broken = _mapping(rest.get("broken"))
            return [
                f"Found in {names}: {_listed(_counts(rows))}.",
                *(f"{name} breaks off: {where}." for name, where in broken.items()),
            ]
    return [f"{key}: {json.dumps(value, ensure_ascii=False)}"]


def _all_notes(notes: object) -> Iterator[Mapping[str, Any]]:
    """The notes, and those of the datasets that this one was made from."""
    if not isinstance(notes, Mapping):
        return
    yield notes
    yield from _all_notes(notes.get("before"))
    merged = notes.get("merged")
    for origin in [notes.get("subset_of"), *(merged if isinstance(merged, list) else [])]:
        yield from _all_notes(_mapping(origin).get("notes"))


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _counts(value: object) -> dict[str, int]:
    return {name: n for name, n in _mapping(value).items() if isinstance(n, int)}


def _lack(lack: object) -> str:
    numbers = _mapping(lack)
    listed = f"{numbers.get('listed')} of {numbers.get('promised')} that were promised were listed"
    return f"{listed} ({numbers.get('why')})"


def _origin(manifest: object) -> str:
    """
    >>> _origin({"name": "flickr", "funnel": {"kept": 5}})
    'flickr (5 rows)'
    """
    origin = _mapping(manifest)
    return f"{origin.get('name')} ({_mapping(origin.get('funnel')).get('kept')} rows)"


def _listed(counts: Mapping[str, int]) -> str:
    """
    >>> _listed({"counted": 3, "no-choice": 1})
    'counted 3, no-choice 1'
    """
    return ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in counts.items())


def _most(counts: Mapping[str, int]) -> str:
    """
    >>> _most({"misty woods": 2, "cloudy moon": 7})
    'cloudy moon 7, misty woods 2'
    """
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    named, rest = _listed(dict(ordered[:MAX_LISTED])), ordered[MAX_LISTED:]
    return f"{named}, and {sum(n for _, n in rest)} of {len(rest)} other queries" if rest else named
