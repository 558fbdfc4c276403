"""Run the systems of the paper's tables on the same rows and folds: the job behind `mvsent benchmark`."""

import io
import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from mvsent.datasets.split import ensure_split
from mvsent.datasets.split_files import SplitFiles
from mvsent.errors import Interrupted, MvsentError, UsageError
from mvsent.report.benchmark_tables import render_csv, replace_block
from mvsent.runs.benchmark_plan import Asked, Cell, plan
from mvsent.runs.benchmark_results import Document, collect, write_results
from mvsent.runs.evaluate import evaluate
from mvsent.runs.run_folder import CONFIG, METRICS
from mvsent.runs.train import train
from mvsent.shards.reader import Dataset
from mvsent.shards.staging import locked
from mvsent.workers.devices import compute_device
from mvsent.workers.processes import Ended, apart, visible_gpus

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("mvsent")

Outcome = tuple[Cell, str]
"""A cell, and the reason of its failure; empty if it succeeded."""


@dataclass(frozen=True, repr=False)
class Benchmark:
    """The results of a benchmark; `document` is the content of `results.json`."""

    document: Document
    files: list[Path]
    failures: dict[str, str]

    def to_pandas(self) -> "pd.DataFrame":
        """The content of `results.csv`: a row for each system, dataset and protocol."""
        import pandas as pd

        return pd.read_csv(io.StringIO(render_csv(self.document)))

    def __repr__(self) -> str:
        failed = f", {len(self.failures)} cells failed" if self.failures else ""
        return f"Benchmark({len(self.to_pandas())} rows{failed})"

    def _repr_html_(self) -> str:
        from mvsent.report.cells import frame_table

        return frame_table(repr(self), self.to_pandas())


def benchmark(
    asked: Asked,
    *,
    jobs: int = 1,
    overwrite: bool = False,
    into: Path | None = None,
    command: Sequence[str] = (),
    quiet: bool = False,
) -> Benchmark:
    """Run every cell in `asked.out`, and write the tables of all cells beside them.

    Finished cells are not repeated, unfinished ones are continued. A failed cell does not stop the others.

    Args:
        asked: the systems, datasets and protocols to compare.
        jobs: number of concurrent cells; several run in processes of their own.
        overwrite: replace cells with other settings.
        into: a Markdown file in which the block of results is replaced.
        command: the command line, printed above the tables.
        quiet: no progress.

    Raises:
        UsageError: as `plan`; a cell that was made with other settings; `into` without the block's marks.
        Interrupted: Ctrl-C; finished cells are kept.
    """
    if (asked.out / CONFIG).exists():
        raise UsageError(f"{asked.out}: is the folder of a run", "Give another --out")
    cells = plan(asked)
    for folder in asked.datasets:
        Dataset.open(folder).require_labels()
    compute_device(asked.common.device)  # refuses a missing device before the first cell
    refuse_other_settings(cells, overwrite=overwrite)
    check_split_files(asked)
    if into:
        # A file without the marks is refused now, and not after hours of training.
        replace_block(read_text(into), "")
    with locked(asked.out / ".lock"):
        failures = run_cells(cells, jobs, quiet=quiet)
        document = collect(asked, cells, failures, command)
        files = write_results(document, asked.out, into)
    tell_of_others(asked.out, cells)
    return Benchmark(
        document, files, {cell.name: failures[cell.path] for cell in cells if cell.path in failures}
    )


def check_split_files(asked: Asked) -> None:
    """Read the split files, if there are any, and log what leaks.

    Raises: SplitError if they do not fit the dataset; UsageError if one of the folds does not exist.
    """
    if not (files := SplitFiles.of(asked.common)):
        return
    n_folds = ensure_split(Dataset.open(asked.datasets[0]), "", asked.common.seed, files).n_folds
    if beyond := [fold for fold in asked.common.folds if fold >= n_folds]:
        raise UsageError(f"--folds: {files.name} has no fold {beyond[0]}", f"Choose from 0 to {n_folds - 1}")


def refuse_other_settings(cells: Sequence[Cell], *, overwrite: bool) -> None:
    """Raises: UsageError for an existing cell with other settings or rows."""
    for cell in cells:
        if not overwrite and (changed := cell.changes()):
            raise UsageError(
                f"{cell.path}: was made with other settings ({', '.join(changed)})",
                "Give another --out, or replace it with --overwrite",
            )


def tell_of_others(out: Path, cells: Sequence[Cell]) -> None:
    """Warn of finished cells in `out` that the tables leave out, because they were not requested."""
    finished = {path.parent for path in out.glob(f"*/*/*/{METRICS}") if not path.parent.name.startswith(".")}
    others = sorted(str(path.relative_to(out)) for path in finished - {cell.path for cell in cells})
    if others:
        log.warning(
            "%s also holds %d finished cells that these tables, not being asked for them, do not show: %s. "
            "Ask for them too, and they are there without training",
            out,
            len(others),
            ", ".join(others),
        )


def read_text(path: Path) -> str:
    """Read the text of `path`. Raises: UsageError if it does not exist, or is not text."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--into {path}: cannot be read ({error})", "Name a Markdown file") from None


def run_cells(cells: Sequence[Cell], jobs: int, *, quiet: bool) -> dict[Path, str]:
    """Run every unfinished cell; return folder → reason of each failed one.

    Raises: Interrupted on Ctrl-C.
    """
    todo = [cell for cell in cells if cell.state != "finished"]
    log.info("%d cells, %d of them to run", len(cells), len(todo))
    outcomes = (
        in_processes(todo, jobs) if jobs > 1 else ((cell, run_cell(cell, quiet=quiet)) for cell in todo)
    )
    failures, started = {}, time.monotonic()
    try:
        for done, (cell, failure) in enumerate(outcomes, 1):
            if failure:
                failures[cell.path] = failure
            minutes = (time.monotonic() - started) / 60
            told = f"FAILED: {failure}" if failure else "done"
            log.info("[%d of %d, %.0f min] %s: %s", done, len(todo), minutes, cell.name, told)
    except KeyboardInterrupt:
        finished = sum(cell.state == "finished" for cell in cells)
        raise Interrupted(f"interrupted: {finished} of {len(cells)} cells are finished") from None
    return failures


def run_cell(cell: Cell, *, quiet: bool) -> str:
    """Train and evaluate the cell; return the reason in one line if it fails, or ""."""
    state = cell.state
    resume, overwrite = state == "begun", state == "other settings"
    try:
        train(cell.settings, out=cell.path, resume=resume, overwrite=overwrite, quiet=quiet)
        evaluate(cell.path, [], quiet=quiet)  # no figures: a benchmark has its own
    except MvsentError as error:
        return str(error)
    except Exception as error:  # a failing model must not stop the others
        log.exception("%s", cell.name)
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


def in_processes(cells: Sequence[Cell], jobs: int) -> Iterator[Outcome]:
    """Run `jobs` cells at once, each in a process of its own, on a GPU of its own if there are several.

    Yield outcomes as they arrive. A killed process affects only its cell. Closing the iterator early ends
    those that still run.
    """
    threads = max(1, (os.cpu_count() or 1) // jobs)
    # A device such as cuda:1 is meant for all cells.
    one_for_all = any(cell.settings.device not in ("auto", "cuda") for cell in cells)
    gpus = () if one_for_all else visible_gpus()
    shares = [  # of the processors, unless the settings say
        replace(cell, settings=cell.settings.model_copy(update={"threads": cell.settings.threads or threads}))
        for cell in cells
    ]
    for cell, answer in apart(shares, jobs, _child, gpus=gpus):
        ended = isinstance(answer, Ended)
        yield cell, f"its process {answer}; the same command continues it" if ended else answer


def _child(sender: Connection, cell: Cell) -> None:
    """Run one cell in a process of its own, without progress."""
    logging.basicConfig(format=f"{cell.name}: %(message)s", level=logging.WARNING)
    sender.send(run_cell(cell, quiet=True))
