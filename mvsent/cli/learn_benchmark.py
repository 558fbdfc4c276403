"""Commands that compare models and runs."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mvsent.cli import complete, options
from mvsent.cli.command import command
from mvsent.cli.options import flag

if TYPE_CHECKING:
    from mvsent.cli.given import Given
    from mvsent.config import TrainSettings

UNFINISHED = 3


@dataclass(frozen=True)
class Comparison:
    """The models, datasets and protocols that a benchmark compares."""

    protocol: Annotated[
        list[str] | None,
        flag(
            "--protocol",
            "How rows are split, as a,b; repeatable.",
            "paper-5x,grouped-paper-5x",
            section="Data",
            complete=complete.some_of(complete.PROTOCOLS),
        ),
    ] = None
    table: Annotated[
        str, flag("--table", "Tables of the paper: 2, 3, 4, several as 2,4, or all.", "all", section="Model")
    ] = "all"
    models: Annotated[
        str,
        flag(
            "--models",
            "Run only these models, as a,b; with their ablations unless --table is 2 or 3.",
            section="Model",
            complete=complete.some_of(complete.models),
        ),
    ] = ""
    option: Annotated[
        list[str] | None,
        flag("--option", "A model's option; repeatable.", section="Model", metavar="MODEL.KEY=VALUE"),
    ] = None
    against: Annotated[
        str,
        flag(
            "--against",
            "Model that the others are tested against.",
            "dmlanet",
            section="Model",
            complete=complete.one_of(complete.models),
        ),
    ] = "dmlanet"


@command(
    "benchmark",
    "Learn",
    settings="mvsent.config:TrainSettings",
    section="train",
    continues=True,
    only=(
        *("folds", "seed", "epochs", "patience", "batch_size", "backbone", "weights", "words"),
        *("text_vector", "device", "threads", *options.SPLIT_FILES),
    ),
)
def benchmark(
    *,
    datasets: Annotated[list[Path], typer.Argument(help="Dataset folders.", metavar="DATASET...")],
    compared: Comparison,
    given: "Given[TrainSettings]",
    jobs: Annotated[
        int,
        typer.Option("--jobs", min=1, max=1024, help="Cells that run at once.", rich_help_panel="Machine"),
    ] = 1,
    into: Annotated[
        Path | None,
        flag("--into", "Markdown file whose block of results is replaced too.", section="Output"),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", help="Folder of runs and results.", rich_help_panel="Output")
    ] = Path("runs/benchmark"),
    overwrite: Annotated[
        bool, options.switch("--overwrite", "Replace cells that were made with other settings.")
    ] = False,
    dry_run: Annotated[bool, options.switch("--dry-run", "Only list the cells.")] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Run every system of a table on the same rows and folds.

    With --split-file the rows are split as its files say, and not by protocols.

    The same command continues after an interruption, and repeats nothing that is finished. The tables are
    written as Markdown, CSV, LaTeX, JSON and a picture. They show published numbers beside ours, and the
    plain protocol beside the leak-free one.

    Example: mvsent benchmark data/mvsa-single --table 2 --jobs 2
    """
    from mvsent.errors import UsageError
    from mvsent.report.benchmark_tables import render_terminal
    from mvsent.runs.benchmark import benchmark as run_benchmark
    from mvsent.runs.benchmark_plan import Asked, plan

    common = given.resolve()
    if common.split_file and compared.protocol:
        raise UsageError("--protocol and --split-file contradict each other", "Leave one of them out")
    if common.split_file:  # the protocol of [train] is not used here
        common = common.model_copy(update={"protocol": type(common)().protocol})
    asked = Asked(
        datasets=datasets,
        tables=_names([compared.table or "all"]),
        models=_names([compared.models]),
        protocols=_names(compared.protocol or ["paper-5x,grouped-paper-5x"]),
        options=_model_options(compared.option or []),
        common=common,
        out=out,
        against=compared.against or "dmlanet",
    )
    if dry_run:
        cells = plan(asked)
        listed = [
            {"cell": cell.name, "state": cell.state, "changes": cell.changes(), "run": str(cell.path)}
            for cell in cells
        ]
        typer.echo(json.dumps(listed, indent=2) if as_json else _cells_as_text(cells))
        return
    result = run_benchmark(
        asked,
        jobs=jobs,
        overwrite=overwrite,
        into=into,
        command=["mvsent", *sys.argv[1:]],
        quiet=quiet,
    )
    if as_json:
        typer.echo(json.dumps(result.document, indent=2))
    else:
        typer.echo(render_terminal(result.document))
        typer.echo("\n" + "\n".join(map(str, result.files)))
    if result.failures:
        raise typer.Exit(UNFINISHED)


@command("compare", "Learn")
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Two run folders or more, or a folder of runs, such as a benchmark's of one protocol.",
            metavar="RUN...",
        ),
    ],
    permutations: Annotated[
        int,
        typer.Option("--permutations", min=99, max=10**6, help="Random permutations of each test."),
    ] = 9999,
    seed: options.Seed = 0,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Test whether runs differ on their common test rows.

    Prints each run's accuracy and weighted F1, and for every two runs the differences with 95% intervals and
    the p-values of four tests, corrected for the number of comparisons: McNemar's, permutations of accuracy
    and of F1, and the corrected resampled t-test over folds. The runs need the same dataset and split.

    Example: mvsent compare runs/logistic-mvsa-single-paper-5x-s0 runs/dmlanet-mvsa-single-paper-5x-s0
    """
    from mvsent.report.comparison import render_comparison
    from mvsent.runs.compare import compare_runs

    result = compare_runs(runs, permutations=permutations, seed=seed)
    typer.echo(json.dumps(result.document, indent=2) if as_json else render_comparison(result.document))


def _cells_as_text(cells: list[Any]) -> str:
    """A line a cell; of those that would be refused, what differs, and how they are replaced."""
    width = max(len(cell.state) for cell in cells)
    lines = []
    for cell in cells:
        changes = f"  ({', '.join(cell.changes())})" if cell.changes() else ""
        lines.append(f"{cell.state:{width}}  {cell.name}{changes}")
    if any(cell.changes() for cell in cells):
        lines.append(
            "\nThose of other settings are refused: give another --out, or replace them with --overwrite"
        )
    return "\n".join(lines)


def _names(texts: list[str]) -> list[str]:
    """The names in comma separated texts, each once."""
    return list(dict.fromkeys(name.strip() for text in texts for name in text.split(",") if name.strip()))


def _model_options(pairs: list[str]) -> dict[str, dict[str, str]]:
    by_model: dict[str, dict[str, str]] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        model, dot, name = key.partition(".")
        if not (equals and dot):
            raise typer.BadParameter(f"--option takes MODEL.KEY=VALUE, not {pair!r}")
        by_model.setdefault(model, {})[name] = value
    return by_model
