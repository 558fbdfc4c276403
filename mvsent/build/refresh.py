"""A dataset of Flickr's without the photos that were removed or made private since: the take-down duty."""

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
from pydantic import SecretStr
from tqdm import tqdm

from mvsent.build.parts import rejected_table
from mvsent.build.search import endpoint_place
from mvsent.errors import DatasetError, UsageError
from mvsent.limits import TokenBucket
from mvsent.pairs import Reason
from mvsent.shards.manifest import Manifest
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
from mvsent.sources.failures import RequestRefused
from mvsent.sources.flickr import FlickrClient
from mvsent.sources.frontier import readable
from mvsent.sources.patience import Asker
from mvsent.storage import local_only
from mvsent.workers.interrupt import interruptible

log = logging.getLogger("mvsent")

_BATCH_ROWS = 256


@dataclass(frozen=True, slots=True)
class RefreshResult:
    """Where the new version is, how many photos Flickr was asked for, and the ids of those that are gone."""

    folder: Path
    n_asked: int
    removed: list[str]


def refresh(
    folder: Path, key: SecretStr, *, endpoint: str = "", quota_per_hour: int = 3600, quiet: bool = False
) -> RefreshResult:
    """The dataset in `folder` holds only photos that Flickr still shows to everyone.

    What Flickr said so far is in `.NAME.refresh.sqlite` beside the folder until that is done.

    Raises: UsageError for a dataset that is not Flickr's or cannot be replaced; Interrupted or SourceFailure,
        after which the same call goes on. The dataset then is as it was.
    """
    endpoint_place(endpoint)
    folder = absolute(local_only(folder, "a dataset to refresh"))
    refuse_irreplaceable(folder)
    if folder.parent.is_dir():
        with locked(lock_file(folder)):
            recover(folder)  # one that was killed between its two renames left the dataset without its name
    dataset = Dataset.open(folder)
    refuse_foreign_files(folder)
    strangers = [id for id in dataset.ids if not id.startswith("flickr:")]
    if strangers:
        raise UsageError(
            f"{folder}: {strangers[0]} is not Flickr's", "Only datasets of build-flickr are refreshed"
        )
    client = FlickrClient(key.get_secret_value(), endpoint=endpoint or None)
    state = folder.with_name(f".{folder.name}.refresh.sqlite")
    with locked(folder.with_name(f".{folder.name}.refresh.lock")), interruptible() as stop:
        with _Answers(state, dataset.sha256) as answers:
            bucket = TokenBucket.per_hour(quota_per_hour)
            bucket.restore(answers.calls())
            _ask(dataset.ids, client, Asker(bucket, stop, answers.note_call), answers, quiet)
            gone = answers.gone()
        removed = [id for id in dataset.ids if id in gone]
        if removed:
            _rewrite(dataset, gone)
        state.unlink(missing_ok=True)
    return RefreshResult(folder, len(dataset), removed)


def _ask(ids: Sequence[str], client: FlickrClient, asker: Asker, answers: "_Answers", quiet: bool) -> None:
    """Flickr has said of every photo whether it is public; one that it will not talk about stays."""
    left = answers.without(ids)
    hidden = quiet or not sys.stderr.isatty()
    for id in tqdm(left, desc="ask Flickr", unit=" photos", disable=hidden):
        try:
            public = asker.ask(lambda id=id: client.is_public(id))  # type: ignore[misc]
        except RequestRefused as refusal:
            log.warning("%s: %s. It stays", id, refusal.what)
            public = True
        answers.note(id, public)


def _rewrite(dataset: Dataset, gone: set[str]) -> None:
    """A new version of the dataset without the rows of `gone` is in its place."""
    manifest = dataset.manifest
    values = pa.array(sorted(gone), pa.string())
    with (
        staged(dataset.folder, overwrite=True) as fresh,
        DatasetWriter(
            fresh, manifest.name, settings=manifest.settings, shard_size=_shard_size(manifest)
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
            raise DatasetError(f"{dataset.folder}: not one of its photos is public any more", "Delete it")
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


def _shard_size(manifest: Manifest) -> int:
    return max(1, *(shard.rows for shard in manifest.shards))


class _Answers:
    """What Flickr said so far, in a small database, of this version of the dataset only."""

    def __init__(self, path: Path, dataset_sha256: str) -> None:
        self._path = path
        with self._readable():
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("CREATE TABLE IF NOT EXISTS version (sha256 TEXT)")
            if self._db.execute("SELECT sha256 FROM version").fetchall() != [(dataset_sha256,)]:
                self._begin(dataset_sha256)

    def _readable(self) -> AbstractContextManager[None]:
        advice = "Delete it, then run the same command again: every photo is asked for anew"
        return readable(self._path, if_spoilt=advice)

    def _begin(self, dataset_sha256: str) -> None:
        self._db.executescript(
            "BEGIN; DROP TABLE IF EXISTS photos; DROP TABLE IF EXISTS calls; DELETE FROM version;"
            "CREATE TABLE photos (id TEXT PRIMARY KEY, public INTEGER NOT NULL) WITHOUT ROWID;"
            "CREATE TABLE calls (at REAL NOT NULL); COMMIT;"
        )
        self._db.execute("INSERT INTO version VALUES (?)", (dataset_sha256,))

    def __enter__(self) -> "_Answers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def note_call(self) -> None:
        with self._readable():
            self._db.execute("INSERT INTO calls VALUES (?)", (time.time(),))

    def calls(self) -> list[float]:
        return self._column("SELECT at FROM calls ORDER BY at DESC LIMIT 100000")

    def note(self, id: str, public: bool) -> None:
        with self._readable():
            self._db.execute("INSERT OR REPLACE INTO photos VALUES (?, ?)", (id, public))

    def without(self, ids: Sequence[str]) -> list[str]:
        """Those of `ids` that nothing is known of."""
        known = set(self._column("SELECT id FROM photos"))
        return [id for id in ids if id not in known]

    def gone(self) -> set[str]:
        return set(self._column("SELECT id FROM photos WHERE NOT public"))

    def _column(self, query: str) -> list[Any]:
        with self._readable():
            return [row[0] for row in self._db.execute(query)]
