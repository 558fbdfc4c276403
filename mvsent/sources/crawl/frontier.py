"""The state of a crawl, `crawl.sqlite`: its queries, what is left to ask, and the candidates in order.

    queries     the words to search for, in the order of the lexicon
    windows     what is left of each search: upload dates (inclusive, in seconds) and the next page
    candidates  the items of all pages, each id once; skipped items have a reason and no body
    sightings   which queries found a candidate
    calls       times of the API calls of the last hours, so that a quota holds across restarts

Every page is one transaction, so a killed process loses at most the page that was under way.
"""

# Longer than other files, so that all statements on these tables are in one place.

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mvsent.errors import DatasetError, UsageError
from mvsent.limits import HOUR_S
from mvsent.reasons import Reason, Rejection
from mvsent.sources.crawl.candidate import (
    Candidate,
    Query,
    SearchPage,
    Window,
    candidate_from_json,
    candidate_to_json,
)
from mvsent.sources.crawl.sqlite_errors import readable

CRAWL_FILE = "crawl.sqlite"
CRAWL_SCHEMA_VERSION = 2

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE queries (number INTEGER PRIMARY KEY, text TEXT NOT NULL, word TEXT NOT NULL,
    sentiment REAL NOT NULL, found INTEGER NOT NULL DEFAULT 0, refusal TEXT);
CREATE TABLE windows (number INTEGER PRIMARY KEY, query INTEGER NOT NULL, since INTEGER NOT NULL,
    until INTEGER NOT NULL, page INTEGER NOT NULL, overlaps INTEGER NOT NULL, owed INTEGER);
CREATE INDEX windows_in_order ON windows (query, since);
CREATE TABLE candidates (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, rank INTEGER NOT NULL,
    found_at INTEGER NOT NULL, body TEXT, reason TEXT, detail TEXT);
CREATE TABLE sightings (candidate INTEGER NOT NULL, query INTEGER NOT NULL, PRIMARY KEY (candidate, query))
    WITHOUT ROWID;
CREATE TABLE calls (at REAL NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Found:
    """A candidate of the crawl, with its queries in the order of the lexicon."""

    id: str
    found_at: datetime
    candidate: Candidate | None
    queries: tuple[Query, ...]
    reason: Reason | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Beginning:
    """Arguments of a new crawl.

    Args:
        settings: those that decide the result; a crawl that was begun with others is not continued.
        queries: (text, word, sentiment) of each search.
        span: the upload dates to search, inclusive, in seconds.
        started_at: seconds since 1970.
        defaults: of the settings; a crawl of an earlier version, without a setting, has the default.
    """

    settings: Mapping[str, Any]
    queries: Sequence[tuple[str, str, float]]
    span: tuple[int, int]
    started_at: int
    defaults: Mapping[str, Any] = field(default_factory=dict)


class Frontier:
    """The open `crawl.sqlite`; one process at a time, see `shards.staging.locked`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with readable(self.path):
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            # In WAL mode, anything less may lose the last commits in a power cut.
            self._db.execute("PRAGMA synchronous = FULL")

    @classmethod
    def open(cls, path: Path, start: Beginning) -> "Frontier":
        """Open the crawl at `path`, or begin it; one that exists keeps the dates of its beginning.

        Raises: DatasetError for a file of another version or kind; UsageError for other settings;
            StorageError for a file that another program holds or a disk that fails.
        """
        frontier = cls(path)
        try:
            frontier._begin_or_check(start)
        except BaseException:
            frontier.close()
            raise
        return frontier

    def __enter__(self) -> "Frontier":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, which then needs no WAL."""
        self._db.close()

    def _begin_or_check(self, start: Beginning) -> None:
        with readable(self.path):
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            (n_tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if version == 0 and n_tables == 0:
            self._begin(start)
        elif version != CRAWL_SCHEMA_VERSION:
            raise DatasetError(
                f"{self.path}: a crawl of another version of mvsent (schema {version}, this one has "
                f"{CRAWL_SCHEMA_VERSION})",
                "Continue it with that version, or begin anew with --overwrite",
            )
        # As it is stored: JSON makes lists of tuples.
        begun, given = {**start.defaults, **self.settings}, json.loads(json.dumps(start.settings))
        for key in {**self.settings, **given}:
            if begun.get(key) != given.get(key):
                what = f"{key} was {_short(begun.get(key))} and is {_short(given.get(key))}"
                raise UsageError(
                    f"{self.path}: this crawl was begun with other settings ({what})",
                    "Give the same ones to continue it, name another --out, or begin anew with --overwrite",
                )

    def _begin(self, start: Beginning) -> None:
        with self.transaction():
            # One by one: `executescript` would end the transaction first.
            for statement in _TABLES.split(";"):
                self._db.execute(statement)
            self._db.executemany(
                "INSERT INTO meta VALUES (?, ?)",
                [
                    ("settings", json.dumps(start.settings, sort_keys=True)),
                    ("started_at", str(start.started_at)),
                    ("span", json.dumps(start.span)),
                ],
            )
            self._db.executemany(
                "INSERT INTO queries (text, word, sentiment) VALUES (?, ?, ?)", start.queries
            )
            self._db.execute(
                "INSERT INTO windows (query, since, until, page, overlaps) "
                "SELECT number, ?, ?, 1, 0 FROM queries",
                start.span,
            )
            # Within the transaction: a beginning that was killed has neither version nor tables.
            self._db.execute(f"PRAGMA user_version = {CRAWL_SCHEMA_VERSION}")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Write everything in the block to the disk, or nothing."""
        with readable(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _meta(self, key: str) -> str:
        with readable(self.path):
            row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise DatasetError(f"{self.path}: not a crawl", "Move it away, or begin anew with --overwrite")
        return str(row[0])

    @property
    def span(self) -> tuple[int, int]:
        """The first and the last second of upload that is searched for."""
        since, until = json.loads(self._meta("span"))
        return since, until

    @property
    def settings(self) -> dict[str, Any]:
        """The settings with which the crawl was begun."""
        begun: dict[str, Any] = json.loads(self._meta("settings"))
        return begun

    @property
    def n_queries(self) -> int:
        return self._count("SELECT count(*) FROM queries")

    @property
    def n_queries_left(self) -> int:
        return self._count("SELECT count(DISTINCT query) FROM windows")

    @property
    def n_candidates(self) -> int:
        return self._count("SELECT count(*) FROM candidates")

    def _count(self, query: str) -> int:
        with readable(self.path):
            return int(self._db.execute(query).fetchone()[0])

    def refusals(self) -> dict[str, str]:
        """The queries that the source refused, with the reasons."""
        with readable(self.path):
            return dict(self._db.execute("SELECT text, refusal FROM queries WHERE refusal IS NOT NULL"))

    def next_window(self) -> Window | None:
        """The next window to ask; None once everything was asked."""
        with readable(self.path):
            row = self._db.execute(
                "SELECT query, since, until, page, overlaps, owed, number FROM windows "
                "ORDER BY query, since, number LIMIT 1"
            ).fetchone()
        return row and Window(row[0], row[1], row[2], row[3], bool(row[4]), row[5], row[6])

    def query(self, number: int) -> Query:
        """The query with this number."""
        with readable(self.path):
            row = self._db.execute(
                "SELECT number, text, word, sentiment, found FROM queries WHERE number = ?", (number,)
            ).fetchone()
        return Query(*row)

    def replace(self, window: Window, successors: Sequence[Window]) -> None:
        """Replace a window that was asked by its successors, within a transaction."""
        self._db.execute("DELETE FROM windows WHERE number = ?", (window.number,))
        self._db.executemany(
            "INSERT INTO windows (query, since, until, page, overlaps, owed) VALUES (?, ?, ?, ?, ?, ?)",
            [(one.query, one.since, one.until, one.page, one.overlaps, one.owed) for one in successors],
        )

    def is_left(self, query: int) -> bool:
        """Whether something is left to ask of the query. Within a transaction."""
        found = self._db.execute("SELECT 1 FROM windows WHERE query = ? LIMIT 1", (query,)).fetchone()
        return found is not None

    def end_query(self, query: int) -> None:
        """Ask nothing more of the query. Within a transaction."""
        self._db.execute("DELETE FROM windows WHERE query = ?", (query,))

    def refuse(self, query: int, why: str) -> None:
        """End a query that the source refuses, and record why."""
        with self.transaction():
            self.end_query(query)
            self._db.execute("UPDATE queries SET refusal = ? WHERE number = ?", (why, query))

    def note(self, query: int, page: SearchPage, room: int | None, found_at: int) -> int:
        """Record up to `room` items of a page, within a transaction; return how many are new to the query."""
        rows: list[tuple[str, str | None, str | None, str | None]] = [
            (one.id, candidate_to_json(one), None, None) for one in page.candidates
        ]
        rows += [(id, None, str(reason), detail) for id, reason, detail in page.skipped]
        n_before, n_new = self.query(query).found, 0
        for row in rows:
            if room is not None and n_new >= room:
                break
            n_new += self._note_one(query, n_before + n_new, row, found_at)
        self._db.execute("UPDATE queries SET found = found + ? WHERE number = ?", (n_new, query))
        return n_new

    def _note_one(
        self, query: int, rank: int, row: tuple[str, str | None, str | None, str | None], found_at: int
    ) -> int:
        """Record an item; return 1 if it is new to the query, else 0. `rank` counts the items before it."""
        self._insert(row, rank, found_at)
        return self._sight(row[0], query)

    def _insert(self, row: tuple[str, str | None, str | None, str | None], rank: int, found_at: int) -> None:
        id, *rest = row
        self._db.execute(
            "INSERT INTO candidates (id, rank, found_at, body, reason, detail) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT DO NOTHING",
            (id, rank, found_at, *rest),
        )

    def _sight(self, id: str, query: int) -> int:
        (number,) = self._db.execute("SELECT number FROM candidates WHERE id = ?", (id,)).fetchone()
        done = self._db.execute("INSERT INTO sightings VALUES (?, ?) ON CONFLICT DO NOTHING", (number, query))
        return done.rowcount

    def note_matched(
        self, row: tuple[str, str | None, str | None, str | None], queries: Sequence[int], room: int, at: int
    ) -> bool:
        """Record a candidate that contains these queries, within a transaction; return whether it is one.

        It is one if a query has room, and then has all its queries, so that one of both signs is known.

        Args:
            row: id, body, reason and detail.
            room: candidates of a query at most; 0 for all.
        """
        found = [self.query(number).found for number in queries]
        taking = [n for n, have in zip(queries, found, strict=True) if not room or have < room]
        if queries and not taking:
            return False
        self._insert(row, min(found, default=0), at)
        new = [number for number in queries if self._sight(row[0], number)]
        for number in set(new) & set(taking):
            self._db.execute("UPDATE queries SET found = found + 1 WHERE number = ?", (number,))
        return True

    def notes(self, key: str) -> Any:
        """The value that `write_notes` wrote under a key; None if it wrote none."""
        with readable(self.path):
            row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return row and json.loads(row[0])

    def write_notes(self, key: str, value: Any) -> None:
        """Keep a value as JSON under a key. Within a transaction."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value)))

    def numbers(self, *, by_turns: bool = False) -> npt.NDArray[np.int64]:
        """Numbers of all candidates in the order of finding; or by turns, the first of each query first."""
        order = "rank, number" if by_turns else "number"
        with readable(self.path):
            rows = self._db.execute(f"SELECT number FROM candidates ORDER BY {order}")  # noqa: S608
            return np.fromiter((row[0] for row in rows), dtype=np.int64)

    def ids(self, numbers: Sequence[int]) -> list[str]:
        """The ids of candidates."""
        with readable(self.path):
            return [
                self._db.execute("SELECT id FROM candidates WHERE number = ?", (int(number),)).fetchone()[0]
                for number in numbers
            ]

    def found(self, number: int, rejection: Rejection | None = None) -> Found:
        """The candidate with this number, or why it is dropped, if that is known already."""
        with readable(self.path):
            id, found_at, body, reason, detail = self._db.execute(
                "SELECT id, found_at, body, reason, detail FROM candidates WHERE number = ?", (int(number),)
            ).fetchone()
            queries = self._db.execute(
                "SELECT q.number, q.text, q.word, q.sentiment, q.found FROM sightings s JOIN queries q "
                "ON q.number = s.query WHERE s.candidate = ? ORDER BY q.number",
                (int(number),),
            ).fetchall()
        return Found(
            id=id,
            found_at=datetime.fromtimestamp(found_at, UTC),
            candidate=None if body is None or rejection else candidate_from_json(id, body),
            queries=tuple(Query(*row) for row in queries),
            reason=rejection.reason if rejection else None if reason is None else Reason(reason),
            detail=rejection.detail if rejection else detail or "",
        )

    def note_call(self, at: float | None = None) -> None:
        """Record a call of the API, and forget old ones."""
        now = time.time() if at is None else at
        with self.transaction():
            self._db.execute("INSERT INTO calls VALUES (?)", (now,))
            self._db.execute("DELETE FROM calls WHERE at < ?", (now - 2 * HOUR_S,))

    def calls(self) -> list[float]:
        """Times of the recorded calls, in seconds since 1970."""
        with readable(self.path):
            return [row[0] for row in self._db.execute("SELECT at FROM calls ORDER BY at")]


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"
