"""Take-down: drop from a dataset the rows that its source has removed or made private since."""

import logging
import sqlite3
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from mvsent.build.parts import rejected_table
from mvsent.errors import DatasetError, UsageError
from mvsent.limits import TokenBucket
from mvsent.reasons import Reason
from mvsent.shards.reader import Dataset
from mvsent.shards.rejected import read_rejected
from mvsent.shards.staging import (
    absolute,
    lock_file,
    locked,
    recover,
    refuse_foreign_files,
    refuse_irreplaceable,
    staged,
)
from mvsent.shards.writer import DatasetWriter
from mvsent.sources.crawl.failures import RequestRefused, SourceFailure
from mvsent.sources.crawl.frontier import CRAWL_FILE
from mvsent.sources.crawl.http_json import check_endpoint
from mvsent.sources.crawl.patience import Asker
from mvsent.sources.crawl.sqlite_errors import readable
from mvsent.sources.registry import SEARCHED, Keys, S, SearchedSource, searched
from mvsent.storage import local_only
from mvsent.workers.interrupt import interruptible

log = logging.getLogger("mvsent")

_BATCH_ROWS = 256
_REFUSALS_IN_A_ROW = 20  # after which the next ones would only use up the quota


class NotAnswered(SourceFailure):
    """The source refused to say of some rows whether everyone can see them."""

    exit_code = 3


@dataclass(frozen=True, slots=True)
class RefreshResult:
    """A dataset whose rows were checked.

    Attributes:
        removed: ids of the rows that are gone.
        refused: ids of those of which the source would not say whether they are; they stay.
        refusal: the first of its answers to these.
    """

    folder: Path
    n_asked: int
    removed: list[str]
    refused: list[str]
    refusal: str


def open_refreshable(folder: Path) -> tuple[Dataset, SearchedSource[Any]]:
    """The dataset in `folder`, and the source that can be asked about its rows.

    Raises: UsageError for a dataset of no such source, or of several, or one that cannot be replaced.
    """
    folder = absolute(local_only(folder, "a dataset to refresh"))
    refuse_irreplaceable(folder)
    if folder.parent.is_dir():
        with locked(lock_file(folder)):
            recover(folder)  # one that was killed between its two renames left the dataset without its name
    dataset = Dataset.open(folder)
    refuse_foreign_files(folder)
    name = dataset.ids[0].partition(":")[0]
    strangers = [id for id in dataset.ids if not id.startswith(f"{name}:")]
    source = searched(name) if name in SEARCHED else None
    if source is None or source.still_public is None or strangers:
        can = [f"build-{each}" for each in SEARCHED if searched(each).still_public]
        title = source.title if source else name
        what = (
            f"has rows of several sources, as {strangers[0]}"
            if strangers
            else f"{title} cannot be asked whether it still shows {dataset.ids[0]}"
        )
        raise UsageError(f"{folder}: {what}", f"Only a dataset of {' or '.join(can)} can be refreshed")
    return dataset, source


def refresh(
    dataset: Dataset, source: SearchedSource[S], settings: S, keys: Keys, *, quiet: bool = False
) -> RefreshResult:
    """Drop from the dataset the rows that its source no longer shows to everyone.

    The answers so far are in `.NAME.refresh.sqlite` beside its folder until all are there.

    Args:
        dataset, source: as from `open_refreshable`.
        settings: of which `endpoint` and `quota_per_hour` count.

    Raises: Interrupted or SourceFailure, after which the same call continues. The dataset then is as it was.
        NotAnswered if the source refuses one row after the other.
    """
    assert source.still_public is not None
    check_endpoint(settings.endpoint)
    still_public = source.still_public(settings, keys)
    folder = dataset.folder
    state = folder.with_name(f".{folder.name}.refresh.sqlite")
    # A lock of its own: `staged` takes the dataset's when it is rewritten, and a lock cannot be taken twice.
    with locked(folder.with_name(f".{folder.name}.refresh.lock")), interruptible() as stop:
        with _Answers(state, dataset.sha256) as answers:
            bucket = TokenBucket.per_hour(settings.quota_per_hour)
            bucket.restore(answers.calls())
            asker = Asker(bucket, stop, answers.note_call)
            hidden = quiet or not sys.stderr.isatty()
            refused, refusal, n_in_a_row = list[str](), "", 0
            for id in tqdm(
                answers.without(dataset.ids), desc=f"ask {source.title}", unit=" rows", disable=hidden
            ):
                try:
                    is_public = asker.ask(lambda id=id: still_public(id))  # type: ignore[misc]
                except RequestRefused as failure:
                    # A refusal says nothing about the photo, and what is dropped cannot be restored.
                    refused.append(id)
                    refusal, n_in_a_row = refusal or failure.what, n_in_a_row + 1
                    if n_in_a_row == _REFUSALS_IN_A_ROW:
                        raise NotAnswered(failure.what, "The same command continues with this row") from None
                else:
                    answers.note(id, is_public)
                    n_in_a_row = 0
            gone = answers.gone()
            removed = [id for id in dataset.ids if id in gone]
            if removed:
                _tell_what_goes(folder)
                _rewrite(dataset, gone)
            # After a kill before this, the answers are about a version that is gone, and are discarded.
            if refused:
                answers.are_of(Dataset.open(folder).sha256)
        if not refused:
            state.unlink(missing_ok=True)
    return RefreshResult(folder, len(dataset), removed, refused, refusal)


def _tell_what_goes(folder: Path) -> None:
    """Say what the earlier version has that the new one has not."""
    if (folder / "splits").is_dir():
        log.warning("%s: its splits are removed, as rows of theirs are gone. Split it again", folder)
    if (folder / CRAWL_FILE).exists():
        log.warning("%s: its %s is removed, so a build there searches anew", folder, CRAWL_FILE)


def _rewrite(dataset: Dataset, gone: set[str]) -> None:
    """Replace the dataset by a version without the rows of `gone`."""
    manifest = dataset.manifest
    values = pa.array(sorted(gone), pa.string())
    shard_size = max(1, *(shard.rows for shard in manifest.shards))  # every shard but the last has it
    with (
        staged(dataset.folder, overwrite=True) as fresh,
        DatasetWriter(
            fresh, manifest.name, settings=manifest.settings, shard_size=shard_size, **manifest.layout
        ) as writer,
    ):
        for pairs in dataset.pairs(_BATCH_ROWS):
            writer.write(pairs.filter(pc.invert(pc.is_in(pairs["id"], value_set=values))))
        for earlier in read_rejected(dataset.folder):
            writer.reject(earlier)
        taken = [id for id in dataset.ids if id in gone]
        writer.reject(
            rejected_table([(id, str(Reason.TAKEN_DOWN), "removed or made private since") for id in taken])
        )
        if len(taken) == len(dataset):
            raise DatasetError(f"{dataset.folder}: none of its rows is public any more", "Delete it")
        writer.finish(
            manifest.funnel.input,
            extra={
                "agreement": manifest.agreement,
                "notes": {
                    "refreshed": {"version_before": dataset.sha256, "removed": len(taken)},
                    "before": manifest.notes,
                },
            },
        )


class _Answers:
    """The source's answers so far about this version of the dataset, in a small database."""

    def __init__(self, path: Path, dataset_sha256: str) -> None:
        self._path = path
        with self._readable():
            self._db = sqlite3.connect(path, isolation_level=None)  # each answer is on the disk at once
            self._db.execute("CREATE TABLE IF NOT EXISTS version (sha256 TEXT)")
            if self._db.execute("SELECT sha256 FROM version").fetchall() != [(dataset_sha256,)]:
                self._begin(dataset_sha256)

    def _readable(self) -> AbstractContextManager[None]:
        advice = "Delete it, then run the same command again, which asks for every row anew"
        return readable(self._path, if_spoilt=advice)

    def _begin(self, dataset_sha256: str) -> None:
        self._db.executescript(
            "BEGIN; DROP TABLE IF EXISTS photos; DROP TABLE IF EXISTS calls; DELETE FROM version;"
            "CREATE TABLE photos (id TEXT PRIMARY KEY, public INTEGER NOT NULL) WITHOUT ROWID;"
            "CREATE TABLE calls (at REAL NOT NULL); COMMIT;"
        )
        # Last: a database without a version was killed while it began, and begins again.
        self._db.execute("INSERT INTO version VALUES (?)", (dataset_sha256,))

    def __enter__(self) -> "_Answers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def are_of(self, dataset_sha256: str) -> None:
        """Keep the answers about rows that are still public, for the version that has these rows."""
        with self._readable():
            self._db.execute("DELETE FROM photos WHERE NOT public")
            self._db.execute("UPDATE version SET sha256 = ?", (dataset_sha256,))

    def note_call(self) -> None:
        with self._readable():
            self._db.execute("INSERT INTO calls VALUES (?)", (time.time(),))

    def calls(self) -> list[float]:
        return self._column("SELECT at FROM calls ORDER BY at DESC LIMIT 100000")

    def note(self, id: str, public: bool) -> None:
        with self._readable():
            self._db.execute("INSERT OR REPLACE INTO photos VALUES (?, ?)", (id, public))

    def without(self, ids: Sequence[str]) -> list[str]:
        """Those of `ids` without an answer."""
        known = set(self._column("SELECT id FROM photos"))
        return [id for id in ids if id not in known]

    def gone(self) -> set[str]:
        return set(self._column("SELECT id FROM photos WHERE NOT public"))

    def _column(self, query: str) -> list[Any]:
        with self._readable():
            return [row[0] for row in self._db.execute(query)]
