"""A table of pairs → a dataset, by `mvsent build-table`.

    read      the table, but for its pictures → a plan (`table_plan.py`)
    fetch     the pictures, a partition at a time, from paths, from the table or over the network → parts/
    assemble  parts → shards, rejected.parquet, card, dataset.json last

A build that was stopped continues by the same command: finished parts and fetched pictures stay.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mvsent.build.known_rows import KnownRows, build_known_rows
from mvsent.build.parts import rejected_table
from mvsent.build.search import BuildResult
from mvsent.build.table_plan import Plan
from mvsent.build.tabulated import Tabulated
from mvsent.errors import InputError
from mvsent.reasons import Reason
from mvsent.shards.manifest import Manifest
from mvsent.shards.staging import absolute
from mvsent.shards.writer import DatasetWriter
from mvsent.workers.engine import LOCAL, Engine


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
    files = [replace(file, path=absolute(file.path)) for file in plan.files]
    rows = KnownRows(
        title="read",
        n_rows=len(plan),
        load=plan.rows,
        recipe=Tabulated(plan.name, files, plan.embedded, plan.columns.image, plan.settings, plan.extra),
        settings=plan.settings,
        identity=identity(plan),
        recorded=recorded(plan),
        writer=partial(_writer, plan),
        finish=partial(_finish, plan),
        nothing=partial(_nothing, plan),
    )
    build_known_rows(rows, absolute(out), overwrite=overwrite, workers=workers, engine=engine, quiet=quiet)
    return BuildResult(out, Manifest.load(out))


def identity(plan: Plan) -> dict[str, Any]:
    """The settings and tables that must stay the same for a build to continue."""
    settings = plan.settings
    kept = settings.model_dump(mode="json", exclude=settings.without_effect())
    return {"name": plan.name, "tables": {file.name: file.sha256 for file in plan.files}, **kept}


def _nothing(plan: Plan, counts: Counter[str], first: str) -> InputError:
    """The error that no row can be kept."""
    why = ", ".join(f"{n} {reason}" for reason, n in counts.most_common(3))
    return InputError(
        f"{plan.files[0].path}: none of the {len(plan)} rows can be kept: {why}. The first: {first}",
        "Name a host of your own with --allow-host HOST:PORT, a bucket with s3://NAME, or correct the table"
        if counts[Reason.BLOCKED_HOST]
        else "Correct the table, or name its columns",
    )


def _writer(plan: Plan, out: Path) -> DatasetWriter:
    return DatasetWriter(
        out,
        plan.name,
        settings=recorded(plan),
        shard_size=plan.settings.shard_size,
        labelled=plan.labelled,
        text_kind=plan.text_kind,
        extra_columns=plan.extra,
    )


def _finish(plan: Plan, writer: DatasetWriter, left: Sequence[range]) -> None:
    """End the dataset; `left` are the rows beyond --max-pairs."""
    for numbers in left:
        dropped = [(row.id, str(Reason.OVER_MAX_PAIRS), row.where) for row in plan.rows(numbers)]
        writer.reject(rejected_table(dropped))
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
