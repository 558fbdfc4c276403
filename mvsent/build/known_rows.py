"""Rows that are known beforehand, such as a table's → a dataset: fetch their pictures, then assemble.

A build that was stopped continues by the same command: finished parts and fetched pictures stay.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mvsent.build.assemble import assemble, n_kept, refuse_failed, wanted_parts
from mvsent.build.crawl_folder import PARTS, clear_up, discard, workplace, write_dataset
from mvsent.build.crawl_progress import StageProgress
from mvsent.build.fetch import fetch_parts, fetch_policy
from mvsent.build.parts import Recipe, rejections_of
from mvsent.config import FetchSettings
from mvsent.errors import InputError, UsageError
from mvsent.shards.atomic import atomic_write
from mvsent.shards.manifest import MANIFEST_FILE, Manifest
from mvsent.shards.writer import DatasetWriter
from mvsent.sources.table import TableSettings
from mvsent.workers.engine import Engine
from mvsent.workers.interrupt import interruptible

PART_ROWS = 1000  # what a kill costs at most, of pictures that need not be fetched
BEGUN = "begun.json"  # in the folder of the parts: what they were made of


@dataclass(frozen=True)
class KnownRows:
    """Rows to build a dataset of.

    Attributes:
        title: of the stage that fetches or reads the pictures.
        n_rows, load: how many there are, and the rows with given numbers.
        identity: what must stay the same for a build to continue.
        recorded: the settings of the dataset.
        writer: opens the writer of the dataset in a folder.
        finish: ends the writer, after the rows of the parts; given the partitions without a part.
        nothing: the error if no row can be kept, given its reasons with counts and the first one's detail.
    """

    title: str
    n_rows: int
    load: Callable[[range], Sequence[Any]]
    recipe: Recipe
    settings: TableSettings | FetchSettings
    identity: Mapping[str, Any]
    recorded: Mapping[str, Any]
    writer: Callable[[Path], DatasetWriter]
    finish: Callable[[DatasetWriter, Sequence[range]], object]
    nothing: Callable[[Counter[str], str], InputError]

    def partitions(self) -> list[range]:
        """The numbers of the rows that are fetched together."""
        size = min(self.settings.shard_size, self.settings.max_pairs or PART_ROWS, PART_ROWS)
        return [range(start, min(start + size, self.n_rows)) for start in range(0, self.n_rows, size)]


def build_known_rows(
    rows: KnownRows, target: Path, *, overwrite: bool, workers: int, engine: Engine, quiet: bool
) -> None:
    """Build the dataset of `rows` in the absolute folder `target`.

    Raises: UsageError, InputError or OutputExistsError, which leave nothing. Interrupted, Unreachable or
        OSError: the same call then continues.
    """
    settings = rows.settings
    policy = fetch_policy(settings, settings.places, engine.threads(workers))
    with workplace(target, overwrite=overwrite, begun=PARTS) as work, engine, interruptible() as stop:
        # With a manifest, an earlier process was killed while it cleared up.
        finished = (work / MANIFEST_FILE).exists()
        is_other = finished and Manifest.load(work).settings != _as_read(rows.recorded)
        if not finished:
            parts = work / PARTS
            _begin(parts, _as_read(rows.identity), overwrite=overwrite)
            with _without_parts(work):
                with StageProgress(rows.title, rows.n_rows, 0, "rows", quiet=quiet) as stage:
                    fetch_parts(
                        rows.recipe,
                        rows.partitions(),
                        rows.load,
                        parts,
                        settings,
                        policy,
                        engine,
                        stage,
                        stop=stop,
                    )
                _refuse_nothing(rows, wanted_parts(parts, settings))
            write_dataset(work, target, partial(_assemble, rows, parts, quiet=quiet), overwrite=overwrite)
        if is_other and work != target:
            shutil.rmtree(work, ignore_errors=True)
        else:
            clear_up(work, target)
    if is_other:  # what was finished then was made of other rows
        build_known_rows(rows, target, overwrite=overwrite, workers=workers, engine=engine, quiet=quiet)


def _as_read(described: Mapping[str, Any]) -> dict[str, Any]:
    """The description as it is read back from JSON."""
    read: dict[str, Any] = json.loads(json.dumps(described))
    return read


def _begin(parts: Path, described: dict[str, Any], *, overwrite: bool) -> None:
    """Begin the build in `parts`, or continue the one that was begun there.

    Raises: UsageError if it was begun with other rows or settings, unless it is to be discarded.
    """
    begun = parts / BEGUN
    if begun.exists():
        before = json.loads(begun.read_text(encoding="utf-8"))
        if before == described:
            return
        key = next(key for key in {**before, **described} if before.get(key) != described.get(key))
        if not overwrite:
            other = key if key in ("tables", "dataset") else f"settings ({key})"
            raise UsageError(
                f"{parts}: this build was begun with other {other}",
                "Give the same ones to continue it, name another --out, or begin anew with --overwrite",
            )
        shutil.rmtree(parts)
    parts.mkdir(exist_ok=True)
    with atomic_write(begun) as file:
        file.write(json.dumps(described).encode())


@contextmanager
def _without_parts(work: Path) -> Iterator[None]:
    """Leave nothing in `work` if the block refuses the rows: their parts are of no use to corrected ones."""
    try:
        yield
    except InputError:
        discard(work)
        with suppress(OSError):  # a disk may be mounted there
            work.rmdir()
        raise


def _refuse_nothing(rows: KnownRows, parts: Sequence[Path]) -> None:
    """Raise InputError if no row can be kept, AllFailed if only hosts are to blame."""
    if n_kept(parts, rows.settings):
        return
    rejections = [each for part in parts for each in rejections_of(part)]
    refuse_failed(parts[0].parent, rejections)
    raise rows.nothing(Counter(reason for reason, _ in rejections), rejections[0][1])


def _assemble(rows: KnownRows, folder: Path, out: Path, *, quiet: bool) -> None:
    """Write the dataset to `out`, of the parts in `folder`."""
    parts = wanted_parts(folder, rows.settings)
    with rows.writer(out) as writer, StageProgress("assemble", len(parts), 0, "parts", quiet=quiet) as stage:
        assemble(parts, writer, rows.settings, on_part=lambda n_done: stage.to(n_done, ""))
        rows.finish(writer, rows.partitions()[len(parts) :])
