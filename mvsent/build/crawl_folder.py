"""The folder in which a build works, and the crawl that it may continue there."""

import hashlib
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mvsent.build.assemble import clear
from mvsent.build.match_dump import begin_or_check
from mvsent.config import BuildSettings
from mvsent.errors import DatasetError, OutputExistsError, UsageError
from mvsent.lexicons import Term, format_lexicon
from mvsent.shards.croissant import CROISSANT_FILE
from mvsent.shards.manifest import MANIFEST_FILE, creation_time
from mvsent.shards.rejected import REJECTED_FILE
from mvsent.shards.staging import (
    filled,
    lock_file,
    locked,
    recover,
    refuse_foreign_files,
    refuse_irreplaceable,
    refuse_nowhere,
    swap_in,
)
from mvsent.sources.crawl.frontier import CRAWL_FILE, Beginning, Frontier
from mvsent.sources.dump_files import Dump
from mvsent.sources.registry import S, SearchedSource
from mvsent.storage import is_remote, reaching

log = logging.getLogger("mvsent")

PARTS = "parts"

_DATABASE = {CRAWL_FILE, *(f"{CRAWL_FILE}-{kind}" for kind in ("wal", "shm", "journal"))}
"""SQLite's files: it keeps a journal until the first commit, then a WAL with its index."""

_OURS = {*_DATABASE, PARTS, "data", "README.md", CROISSANT_FILE, REJECTED_FILE}


@contextmanager
def workplace(out: Path, *, overwrite: bool, begun: str = CRAWL_FILE) -> Iterator[Path]:
    """Lock the folder to build in: `out`, or a sibling if `out` holds a finished dataset to replace.

    The crawl of a dataset in object storage is in `data/.NAME-HASH.crawl` here, as SQLite needs a disk.

    Args:
        begun: the first entry that a build of this kind makes.

    Raises: UsageError or OutputExistsError if `out` cannot be written, or holds files that no build wrote.
    """
    refuse_nowhere(out)
    with locked(lock_file(out)):
        recover(out)
        work = out
        if is_remote(out):
            # Addresses in several buckets may end with the same name.
            key = hashlib.sha256(str(out).encode()).hexdigest()[:12]
            work = Path("data", f".{out.name}-{key}.crawl")
            refuse_finished(out, overwrite=overwrite)
            refuse_foreign_files(out)
        elif (out / MANIFEST_FILE).exists() and not (
            out / PARTS
        ).exists():  # with parts, only clearing up is left
            refuse_finished(out, overwrite=overwrite)
            refuse_irreplaceable(out)
            refuse_foreign_files(out)
            # A sibling: the finished dataset can be read until the new one takes its place, days later.
            work = out.with_name(f".{out.name}.crawl")
        if work.exists() and not work.is_dir():
            raise UsageError(f"{work}: is a file, not a folder", "Name another --out")
        present = work.iterdir() if work.exists() else ()
        # A killed process leaves temporary files.
        names = sorted(path.name for path in present if not path.name.endswith(".tmp"))
        ours = _OURS if begun == CRAWL_FILE else _OURS - _DATABASE
        strangers = [name for name in names if name not in ours | {MANIFEST_FILE}]
        # A finished one has lost its parts already if its process was killed before the swap.
        if strangers or (names and not {begun, MANIFEST_FILE} & set(names)):
            raise UsageError(
                f"{work}: holds {(strangers or names)[0]}, which is not part of this kind of build",
                "Name another --out, or move it away",
            )
        work.mkdir(parents=True, exist_ok=True)
        yield work


def write_dataset(work: Path, target: Path, write: Callable[[Path], object], *, overwrite: bool) -> None:
    """Let `write` write the dataset: into the folder of the build, or to its address in object storage."""
    if is_remote(target):
        with filled(target, overwrite=overwrite):
            write(target)
    else:
        clear(work)
        write(work)


def clear_up(work: Path, target: Path) -> None:
    """Remove what a finished build no longer needs, and put its dataset in the place of an earlier one."""
    if is_remote(target):
        shutil.rmtree(work, ignore_errors=True)
        return
    shutil.rmtree(work / PARTS, ignore_errors=True)
    if work != target:
        swap_in(work, target)


def refuse_finished(out: Path, *, overwrite: bool) -> None:
    """Raise OutputExistsError if `out` is a finished dataset, unless it is to be replaced."""
    with reaching(out):
        if not overwrite and (out / MANIFEST_FILE).exists():
            raise OutputExistsError(
                f"{out}: already contains a finished dataset", "Add --overwrite to replace it"
            )


def open_frontier(
    work: Path,
    source: SearchedSource[S],
    words: Sequence[Term],
    settings: S,
    *,
    overwrite: bool,
    dump: Dump | None = None,
) -> Frontier:
    """Open the crawl in `work`, or begin it; `overwrite` discards one that was begun with other settings.

    Args:
        dump: searched instead of the source; a crawl with other files is another one, too.
    """
    now = creation_time()
    start = Beginning(
        settings=identity(settings, words),
        queries=[(word.query, word.word, word.sentiment) for word in words],
        span=source.span(settings, now),
        started_at=int(now.timestamp()),
        defaults=type(settings)().model_dump(mode="json"),
    )
    try:
        return _opened(work, start, dump)
    # StorageError passes: a disk that fails, or another program that holds the file, is no reason to discard
    # days of a crawl.
    except (UsageError, DatasetError):
        if not overwrite:
            raise
    log.warning("%s: the unfinished crawl is discarded and begun anew", work)
    discard(work)
    return _opened(work, start, dump)


def _opened(work: Path, start: Beginning, dump: Dump | None) -> Frontier:
    frontier = Frontier.open(work / CRAWL_FILE, start)
    try:
        begin_or_check(frontier, dump)
    except BaseException:
        frontier.close()
        raise
    return frontier


def discard(work: Path) -> None:
    """Empty the folder `work`, which itself may be where a disk is mounted."""
    for path in work.iterdir():
        if path.is_dir() and not path.is_symlink():  # rmtree refuses a link
            shutil.rmtree(path)
        else:
            path.unlink()


def identity(settings: BuildSettings, terms: Sequence[Term]) -> dict[str, Any]:
    """The settings and the hash of the lexicon, which must stay the same for a crawl to continue."""
    kept = settings.model_dump(mode="json", exclude=settings.without_effect())
    # The words count, not the path: a lexicon may be moved while its crawl is stopped.
    lexicon = hashlib.sha256(format_lexicon(terms).encode()).hexdigest()
    return {"source": type(settings).__name__, "lexicon_sha256": lexicon, **kept}
