"""The match stage of a build from metadata dumps, in place of the search: dumps → candidates in crawl.sqlite.

Each part of a dump is scanned once, anywhere, into a file of its matches; this process notes the files in the
order of the parts and removes them. What was noted and scanned is not scanned again.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mvsent.build.crawl_progress import StageProgress
from mvsent.errors import InputError, MvsentError, UsageError
from mvsent.shards.atomic import atomic_write
from mvsent.sources.crawl.candidate import Candidate, candidate_to_json
from mvsent.sources.crawl.frontier import Frontier
from mvsent.sources.dump_files import Dump, DumpFile, DumpPart
from mvsent.workers.engine import Engine

STATE = "dump"
_MATCHES = pa.schema(
    {
        "id": pa.string(),
        "body": pa.string(),
        "reason": pa.string(),
        "detail": pa.string(),
        "queries": pa.list_(pa.int32()),
    }
)
_ROWS_AT_ONCE = 4096


@dataclass
class MatchCounts:
    """Counts of the rows of a dump, and of those that contain each query.

    Attributes:
        rows: `rows`, `videos`, `unusable`, `other_licence`, `other_dates`, `matched`.
        queries: index of a query → usable rows that contain it.
        broken: file → where it breaks off.
    """

    rows: Counter[str] = field(default_factory=Counter)
    queries: Counter[int] = field(default_factory=Counter)
    broken: dict[str, str] = field(default_factory=dict)

    def add(self, other: "MatchCounts") -> None:
        """Add the counts of another part."""
        self.rows.update(other.rows)
        self.queries.update(other.queries)
        self.broken |= other.broken

    def document(self) -> dict[str, Any]:
        """The counts as JSON."""
        queries = {str(number): n for number, n in sorted(self.queries.items())}
        return {"rows": dict(sorted(self.rows.items())), "queries": queries, "broken": self.broken}

    @classmethod
    def of(cls, document: dict[str, Any]) -> "MatchCounts":
        """The counts of a document."""
        queries = {int(number): n for number, n in document["queries"].items()}
        return cls(Counter(document["rows"]), Counter(queries), document["broken"])


class BrokenDump(MvsentError):
    """A compressed file of a dump breaks off; the rows before that are in the dataset."""

    exit_code = 3


def refuse_broken(broken: Mapping[str, str]) -> None:
    """Raise BrokenDump if a file of the dump breaks off."""
    for name, where in broken.items():
        raise BrokenDump(f"{name}: {where}", "Download it again and build with --overwrite for the rest")


def broken_in(notes: Any) -> Mapping[str, str]:
    """The files of a dump that break off, by the notes of a manifest, with where they do."""
    return notes.get(STATE, {}).get("broken", {}) if isinstance(notes, dict) else {}


def match_dump(
    frontier: Frontier,
    dump: Dump,
    folder: Path,
    engine: Engine,
    *,
    per_query: int,
    found_at: Callable[[], int],
    check_stop: Callable[[], object],
    workers: int,
    quiet: bool,
) -> None:
    """Record the candidates of a dump in the frontier, in its order.

    Args:
        folder: of the files of matches.
        check_stop: raises Interrupted if the user wants to stop; called several times a second.
        workers: processes on this machine; 0 for one per core.

    Raises: Interrupted; InputError for a dump that cannot be read, or has no candidate.
    """
    n_noted, counts = _state(frontier)
    left = [part for part in dump.parts[n_noted:] if not (folder / matches_name(part)).exists()]
    total = sum(part.n_bytes for part in dump.parts)

    def note_ready() -> None:
        nonlocal n_noted
        while n_noted < len(dump.parts) and (path := folder / matches_name(dump.parts[n_noted])).exists():
            with frontier.transaction():
                counts.add(_note(frontier, path, per_query, found_at()))
                n_noted += 1
                frontier.write_notes(STATE, _document(dump.files, n_noted, counts))
            path.unlink()

    done = total - sum(part.n_bytes for part in left)
    with StageProgress("match", total, done, "bytes", quiet=quiet) as stage:
        note_ready()
        for n_bytes in engine.spread(
            partial(match_part, dump.scan, True),
            left,
            folder=folder,
            files=lambda part: (matches_name(part),),
            on_wait=check_stop,
            workers=workers,
        ):
            stage.add(n_bytes)
            note_ready()
        note_ready()  # the last file gets its name after its last bytes were counted
    if not frontier.n_candidates:
        raise InputError(
            f"none of the {counts.rows['rows']} rows of the dump contains a pair that is looked for",
            "Look in more fields (--match tags,title,description), or see --license, --since and --until",
        )


def matches_name(part: DumpPart) -> str:
    """The name of the file of a part's matches."""
    return f"matches-{part.index:05d}.parquet"


def match_part(
    scan: Callable[[DumpPart], Iterator[Any]], keep: bool, folder: Path, part: DumpPart
) -> Iterator[int]:
    """Scan a part into a file of its matches in `folder`, or with `keep` false of their counts alone.

    Yields bytes that were read, after every few thousand rows.
    """
    counts = MatchCounts()
    with (
        atomic_write(folder / matches_name(part)) as file,
        pq.ParquetWriter(file, _MATCHES, compression="zstd") as writer,
    ):
        for matches in scan(part):
            counts.rows.update(matches.counts)
            rows = [(_row(one), queries) for one, queries in matches.found]
            for (_, body, _, _), queries in rows:
                if body is not None:
                    counts.rows["matched"] += 1
                    counts.queries.update(queries)
            if matches.broken:
                counts.broken[part.file.name] = matches.broken
            if rows and keep:
                columns = [[row[n] for row, _ in rows] for n in range(4)]
                writer.write_table(pa.table([*columns, [queries for _, queries in rows]], schema=_MATCHES))
            yield matches.n_bytes
        writer.add_key_value_metadata({STATE: json.dumps(counts.document())})


Row = tuple[str, str | None, str | None, str | None]


def _row(found: Any) -> Row:
    if isinstance(found, Candidate):
        return found.id, candidate_to_json(found), None, None
    id, reason, detail = found
    return id, None, str(reason), detail


def read_counts(path: Path) -> MatchCounts:
    """The counts of a file of matches."""
    metadata = pq.read_metadata(path).metadata or {}
    return MatchCounts.of(json.loads(metadata[STATE.encode()]))


def _note(frontier: Frontier, path: Path, per_query: int, found_at: int) -> MatchCounts:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_ROWS_AT_ONCE):
            ids, bodies, reasons, details, queries = (column.to_pylist() for column in batch.columns)
            for *row, numbers in zip(ids, bodies, reasons, details, queries, strict=True):
                # Queries are numbered from 1.
                frontier.note_matched(tuple(row), [n + 1 for n in numbers], per_query, found_at)
    return read_counts(path)


def _document(files: Sequence[DumpFile], n_noted: int, counts: MatchCounts) -> dict[str, Any]:
    described = [{"name": file.name, "size": file.size, "ends_sha256": file.ends_sha256} for file in files]
    return {"files": described, "parts_noted": n_noted, "counts": counts.document()}


def _state(frontier: Frontier) -> tuple[int, MatchCounts]:
    state = frontier.notes(STATE)
    return (state["parts_noted"], MatchCounts.of(state["counts"])) if state else (0, MatchCounts())


def begin_or_check(frontier: Frontier, dump: Dump | None) -> None:
    """Note the files of a new build, or check that those of one that is continued are the same.

    Raises: UsageError if they are others, or if candidates come from a search in one and a dump in the other.
    """
    state = frontier.notes(STATE)
    again = "Give the same files to continue, name another --out, or begin anew with --overwrite"
    if dump is None:
        if state:
            raise UsageError(f"{frontier.path}: this build was begun with --from", again)
        return
    if not state:
        if frontier.n_candidates or frontier.n_queries_left < frontier.n_queries:
            raise UsageError(f"{frontier.path}: this crawl was begun without --from", again)
        with frontier.transaction():
            frontier.write_notes(STATE, _document(dump.files, 0, MatchCounts()))
        return
    begun = {each["name"]: each for each in state["files"]}
    given = _document(dump.files, 0, MatchCounts())["files"]
    for each in given:
        if each["name"] in begun and each != begun[each["name"]]:
            what = f"had {begun[each['name']]['size']} bytes and has {each['size']}"
            raise UsageError(f"{each['name']}: changed since this build was begun with it ({what})", again)
    if given != state["files"]:
        names = ", ".join(each["name"] for each in state["files"][:3])
        more = "" if len(begun) <= 3 else f" and {len(begun) - 3} more"
        is_order = sorted(map(str, given)) == sorted(map(str, state["files"]))
        other = "the same files in another order" if is_order else "other files"
        raise UsageError(f"--from: this build was begun with {other} ({names}{more})", again)


def dump_notes(frontier: Frontier) -> dict[str, Any]:
    """The part of a manifest's notes that says which dump was read, and how many rows contain each query."""
    state = frontier.notes(STATE)
    if not state:
        return {}
    counts = MatchCounts.of(state["counts"])
    return {
        STATE: {
            "matched": "locally: each query was looked for in the rows of these files, by docs/dumps.md",
            "files": state["files"],
            "rows": counts.document()["rows"],
            "rows_with_query": {
                frontier.query(n + 1).text: rows for n, rows in sorted(counts.queries.items())
            },
            **({"broken": counts.broken} if counts.broken else {}),
        }
    }


def count_matches(
    dump: Dump, engine: Engine, check_stop: Callable[[], object], *, workers: int, quiet: bool
) -> MatchCounts:
    """Count the rows of a dump that contain each query; nothing is kept."""
    counts = MatchCounts()
    with TemporaryDirectory(prefix="mvsent-dump-") as name, engine:
        folder, total = Path(name), sum(part.n_bytes for part in dump.parts)
        with StageProgress("match", total, 0, "bytes", quiet=quiet) as stage:
            for n_bytes in engine.spread(
                partial(match_part, dump.scan, False),
                dump.parts,
                folder=folder,
                files=lambda part: (matches_name(part),),
                on_wait=check_stop,
                workers=workers,
            ):
                stage.add(n_bytes)
        for part in dump.parts:
            counts.add(read_counts(folder / matches_name(part)))
    return counts
