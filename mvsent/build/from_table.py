"""A table of pairs → a dataset, by `mvsent build-table`.

    read      the table, but for its pictures → a plan (`table_plan.py`)
    fetch     the pictures, a partition at a time, from paths, from the table or over the network → parts/
    assemble  parts → shards, rejected.parquet, card, dataset.json last

A build that was stopped continues by the same command: finished parts and fetched pictures stay.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mvsent.build.assemble import assemble, n_kept, wanted_parts
from mvsent.build.crawl_folder import PARTS, clear_up, discard, workplace, write_dataset
from mvsent.build.crawl_progress import StageProgress
from mvsent.build.fetch import fetch_parts, fetch_policy
from mvsent.build.parts import rejected_path, rejected_table
from mvsent.build.search import BuildResult
from mvsent.build.table_plan import Plan
from mvsent.build.tabulated import Tabulated
from mvsent.errors import InputError, UsageError
from mvsent.reasons import Reason
from mvsent.shards.atomic import atomic_write
from mvsent.shards.manifest import MANIFEST_FILE, Manifest
from mvsent.shards.staging import absolute
from mvsent.shards.writer import DatasetWriter
from mvsent.workers.engine import LOCAL, Engine
from mvsent.workers.interrupt import interruptible

PART_ROWS = 1000  # what a kill costs at most, of pictures that need not be fetched
BEGUN = "table.json"  # in the folder of the parts: the settings and tables that they were made of


def build_table(
    plan: Plan,
    out: Path,
    *,
    overwrite: bool = False,
    workers: int = 0,
    engine: Engine = LOCAL,
    quiet: bool = False,
) -> BuildResult:
    """Build the dataset of a table that was read.

    Args:
        out: folder of the dataset.
        workers: threads that read and check pictures in this process; 0: one a core.
        engine: fetches, reads and checks the pictures; workers elsewhere need the table under the same path.

    Raises: UsageError, InputError or OutputExistsError, which leave nothing. Interrupted, Unreachable or
        OSError: the same call then continues.
    """
    settings = plan.settings
    files = [replace(file, path=absolute(file.path)) for file in plan.files]
    recipe = Tabulated(plan.name, files, plan.embedded, plan.columns.image, settings, plan.extra)
    policy = fetch_policy(settings, settings.places, engine.threads(workers))
    size = min(settings.shard_size, settings.max_pairs or PART_ROWS, PART_ROWS)
    partitions = [range(start, min(start + size, len(plan))) for start in range(0, len(plan), size)]
    target = absolute(out)
    with workplace(target, overwrite=overwrite, begun=PARTS) as work, engine, interruptible() as stop:
        # With a manifest, an earlier process was killed while it cleared up.
        finished = (work / MANIFEST_FILE).exists()
        is_other = finished and Manifest.load(work).settings != json.loads(json.dumps(recorded(plan)))
        if not finished:
            parts = work / PARTS
            _begin(parts, identity(plan), overwrite=overwrite)
            with _without_parts(work), StageProgress("read", len(plan), 0, "rows", quiet=quiet) as stage:
                fetch_parts(
                    recipe,
                    partitions,
                    plan.rows,
                    parts,
                    settings,
                    policy,
                    engine,
                    stop=stop,
                    on_progress=lambda n, n_pictures: stage.add(n, pictures=n_pictures),
                    on_pace=stage.tell_pace,
                )
            with _without_parts(work):
                _refuse_nothing(plan, work)
            write = partial(_assemble, plan, partitions, parts, quiet=quiet)
            write_dataset(work, target, write, overwrite=overwrite)
        if is_other and work != target:
            shutil.rmtree(work, ignore_errors=True)
        else:
            clear_up(work, target)
    if is_other:  # what was finished then was another table
        return build_table(plan, out, overwrite=overwrite, workers=workers, engine=engine, quiet=quiet)
    return BuildResult(out, Manifest.load(out))


def identity(plan: Plan) -> dict[str, Any]:
    """The settings and tables that must stay the same for a build to continue."""
    settings = plan.settings
    kept = settings.model_dump(mode="json", exclude=settings.without_effect())
    return {"name": plan.name, "tables": {file.name: file.sha256 for file in plan.files}, **kept}


def _begin(parts: Path, described: dict[str, Any], *, overwrite: bool) -> None:
    """Begin the build in `parts`, or continue the one that was begun there.

    Raises: UsageError if it was begun with other tables or settings, unless it is to be discarded.
    """
    begun = parts / BEGUN
    described = json.loads(json.dumps(described))
    if begun.exists():
        before = json.loads(begun.read_text(encoding="utf-8"))
        if before == described:
            return
        key = next(key for key in {**before, **described} if before.get(key) != described.get(key))
        if not overwrite:
            other = "tables" if key == "tables" else f"settings ({key})"
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
    """Leave nothing in `work` if the block refuses the table: its parts are of no use to a corrected one."""
    try:
        yield
    except InputError:
        discard(work)
        with suppress(OSError):  # a disk may be mounted there
            work.rmdir()
        raise


def _refuse_nothing(plan: Plan, work: Path) -> None:
    """Raise InputError if no row can be kept."""
    paths = wanted_parts(work / PARTS, plan.settings)
    if n_kept(paths, plan.settings):
        return
    counts = Counter(
        reason for part in paths for reason in pq.read_table(rejected_path(part))["reason"].to_pylist()
    )
    why = ", ".join(f"{n} {reason}" for reason, n in counts.most_common(3))
    first = pq.read_table(rejected_path(paths[0]))["detail"][0].as_py()
    raise InputError(
        f"{plan.files[0].path}: none of the {len(plan)} rows can be kept: {why}. The first: {first}",
        "Name a host of your own with --allow-host HOST:PORT, a bucket with s3://NAME, or correct the table"
        if counts[Reason.BLOCKED_HOST]
        else "Correct the table, or name its columns",
    )


def _assemble(plan: Plan, partitions: Sequence[range], folder: Path, out: Path, *, quiet: bool) -> None:
    """Write the dataset to `out`, of the parts in `folder`."""
    parts = wanted_parts(folder, plan.settings)
    writer = DatasetWriter(
        out,
        plan.name,
        settings=recorded(plan),
        shard_size=plan.settings.shard_size,
        labelled=plan.labelled,
        text_kind=plan.text_kind,
        extra_columns=plan.extra,
    )
    with writer, StageProgress("assemble", len(parts), 0, "parts", quiet=quiet) as stage:
        assemble(parts, writer, plan.settings, on_part=lambda n_done: stage.to(n_done, ""))
        for numbers in partitions[len(parts) :]:
            writer.reject(
                rejected_table(
                    [(row.id, str(Reason.OVER_MAX_PAIRS), row.where) for row in plan.rows(numbers)]
                )
            )
        known = any(alpha is not None for alpha in plan.agreement.values())
        extra: dict[str, Any] = {"agreement": plan.agreement} if known else {}
        if plan.n_annotations:
            extra["notes"] = {"annotations": plan.n_annotations}
        writer.finish(len(plan), extra=extra)


def recorded(plan: Plan) -> dict[str, Any]:
    """The settings of the dataset: those given, the tables, and which column was taken for which."""
    columns = plan.columns
    taken = {
        "image": columns.image,
        "text": columns.text,
        "id": columns.id,
        "label": list(columns.label),
        "text_label": list(columns.text_label),
        "image_label": list(columns.image_label),
        "annotator": columns.annotator,
        "text_kind": plan.text_kind,
    }
    hashes = {file.name: file.sha256 for file in plan.files}
    return plan.settings.model_dump(mode="json") | taken | {"tables": hashes}
