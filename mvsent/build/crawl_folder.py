"""Where a build works, and whether what is there may go on."""

import hashlib
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from datetime import time as day_time
from pathlib import Path
from typing import Any

from mvsent.config import BuildSettings, FlickrSettings
from mvsent.errors import DatasetError, OutputExistsError, UsageError
from mvsent.lexicons import Term, format_lexicon
from mvsent.shards.croissant import CROISSANT_FILE
from mvsent.shards.manifest import MANIFEST_FILE, creation_time
from mvsent.shards.rejected import REJECTED_FILE
from mvsent.shards.staging import (
    lock_file,
    locked,
    recover,
    refuse_foreign_files,
    refuse_irreplaceable,
    refuse_nowhere,
)
from mvsent.sources.frontier import CRAWL_FILE, Beginning, Frontier
from mvsent.storage import is_remote, reaching

log = logging.getLogger("mvsent")

PARTS = "parts"
FLICKR_BEGAN = date(2004, 2, 10)

_DATABASE = {CRAWL_FILE, *(f"{CRAWL_FILE}-{kind}" for kind in ("wal", "shm", "journal"))}
"""SQLite's files: until the first commit it keeps a journal, from there on a WAL with its index."""

_OURS = {*_DATABASE, PARTS, "data", "README.md", CROISSANT_FILE, REJECTED_FILE}


@contextmanager
def workplace(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """The folder to build in, which nobody else writes: `out`, or a sibling while a finished one is there.

    The crawl of a dataset in object storage is in `data/.NAME-HASH.crawl` here: SQLite needs a disk.

    Raises: UsageError or OutputExistsError where the work would be in vain, or cost what no build wrote.
    """
    refuse_nowhere(out)
    with locked(lock_file(out)):
        recover(out)
        work = _crawl_of(out) if is_remote(out) else out
        if is_remote(out):
            refuse_finished(out, overwrite=overwrite)
            refuse_foreign_files(out)
        elif (out / MANIFEST_FILE).exists() and not (out / PARTS).exists():  # else only tidying up is left
            refuse_finished(out, overwrite=overwrite)
            refuse_irreplaceable(out)
            refuse_foreign_files(out)
            work = out.with_name(f".{out.name}.crawl")
        _refuse_strangers(work)
        work.mkdir(parents=True, exist_ok=True)
        yield work


def _crawl_of(out: Path) -> Path:
    return Path("data", f".{out.name}-{hashlib.sha256(str(out).encode()).hexdigest()[:12]}.crawl")


def refuse_finished(out: Path, *, overwrite: bool) -> None:
    """Raise OutputExistsError where `out` is a finished dataset, unless it is to be replaced."""
    with reaching(out):
        if not overwrite and (out / MANIFEST_FILE).exists():
            raise OutputExistsError(
                f"{out}: already holds a finished dataset", "Add --overwrite to replace it"
            )


def _refuse_strangers(work: Path) -> None:
    """Raise UsageError if there is something in `work` that no build wrote."""
    if not work.exists():
        return
    if not work.is_dir():
        raise UsageError(f"{work}: is a file, not a folder", "Name another --out")
    names = sorted(path.name for path in work.iterdir() if not path.name.endswith(".tmp"))
    strangers = [name for name in names if name not in _OURS | {MANIFEST_FILE}]
    if strangers or (names and CRAWL_FILE not in names):
        raise UsageError(
            f"{work}: holds {(strangers or names)[0]}, which is not part of a crawl",
            "Name another --out, or move it away",
        )


def open_frontier(work: Path, terms: Sequence[Term], settings: BuildSettings, *, overwrite: bool) -> Frontier:
    """The crawl in `work`, begun if there is none; one that was begun otherwise goes if `overwrite`."""
    now = creation_time()
    start = Beginning(
        settings=identity(settings, terms),
        queries=[(term.query, term.word, term.sentiment) for term in terms],
        span=upload_span(settings, now),
        started_at=int(now.timestamp()),
    )
    try:
        return Frontier.open(work / CRAWL_FILE, start)
    except (UsageError, DatasetError):
        if not overwrite:
            raise
    log.warning("%s: the unfinished crawl is thrown away and begun anew", work)
    for path in work.iterdir():  # `work` itself may be where a disk is mounted
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    return Frontier.open(work / CRAWL_FILE, start)


def identity(settings: BuildSettings, terms: Sequence[Term]) -> dict[str, Any]:
    """What has to be the same for a crawl to go on: the settings that decide its rows, and the lexicon."""
    kept = settings.model_dump(mode="json", exclude=settings.without_effect())
    lexicon = hashlib.sha256(format_lexicon(terms).encode()).hexdigest()
    return {"source": type(settings).__name__, "lexicon_sha256": lexicon, **kept}


def upload_span(settings: BuildSettings, now: datetime) -> tuple[int, int]:
    """The first and the last second of upload to search for. Raises: UsageError if there is none between."""
    if not isinstance(settings, FlickrSettings):
        return 0, 0
    first = settings.since or FLICKR_BEGAN
    since = _second(first, day_time.min)
    until = _second(settings.until, day_time(23, 59, 59)) if settings.until else int(now.timestamp())
    if since > until:
        raise UsageError(f"--since {first} is after --until {settings.until or 'now'}", "Swap them")
    return since, until


def _second(day: date, time: day_time) -> int:
    return int(datetime.combine(day, time, UTC).timestamp())
