"""Commands that show what is in a dataset or a run."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from mvsent.cli import options
from mvsent.cli.command import command
from mvsent.cli.options import flag


@command("stats", "Look")
def stats(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(help="Dataset folders. [default: all in data]", show_default=False),
    ] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Count what datasets hold.

    Labels as in the paper's Table I, text lengths, image sizes, duplicates. A dataset of the paper is shown
    with the paper's numbers. Pictures are not read.

    Example: mvsent stats data/mvsa-single data/mvsa-multiple
    """
    from mvsent.datasets.stats import dataset_folders, dataset_stats
    from mvsent.report.datasets import render_stats

    documents = [dataset_stats(folder).document() for folder in dataset_folders(folders or [])]
    typer.echo(json.dumps(documents, indent=2) if as_json else render_stats(documents))


@command("validate", "Look")
def validate(
    *,
    folder: options.Dataset = None,
    workers: options.Workers = 0,
    engine: options.EngineOptions,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """Check a dataset against its manifest.

    Checks hashes, schema, counts, ids, splits, and every picture.
    Prints one line for each problem and exits with 1 if there is any.

    Example: mvsent validate data/mvsa-single
    """
    from mvsent.datasets.validate import validate as check
    from mvsent.report.datasets import render_validation
    from mvsent.shards.reader import newest_dataset

    result = check(folder or newest_dataset(), workers, engine=engine.chosen(), quiet=quiet)
    document = result.document()
    typer.echo(json.dumps(document, indent=2) if as_json else render_validation(document))
    return 0 if result.clean else 1


@command("report", "Look")
def report(
    path: Annotated[
        Path | None,
        typer.Argument(help="A dataset or run folder. [default: the newest run]", show_default=False),
    ] = None,
    out: Annotated[Path | None, flag("--out", "HTML file to write.", "reports/NAME.html")] = None,
    dataset: Annotated[
        Path | None, flag("--dataset", "Where the run's dataset is now.", "beside the run, or in data")
    ] = None,
    gallery: Annotated[
        int | None, flag("--gallery", "Maximum number of cards with pictures, up to 2000.", "300")
    ] = None,
    seed: options.Seed = 0,
    overwrite: options.OverwritePage = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write one HTML page about a dataset or a run.

    It opens in any browser and fetches nothing. About a dataset: what was dropped and why, labels, agreement,
    texts, images, origin, and a gallery to filter. About a run: results, curves, confusion, and the errors
    it was surest of. An earlier report is replaced.

    Example: mvsent report data/mvsa-single
    """
    from mvsent.pages.report import GALLERY
    from mvsent.pages.report import report as write_report
    from mvsent.runs.run_folder import newest_run

    result = write_report(
        path or newest_run(),
        out,
        dataset=dataset,
        gallery=GALLERY if gallery is None else gallery,
        seed=seed,
        overwrite=overwrite,
        quiet=quiet,
    )
    typer.echo(json.dumps(result.document(), indent=2) if as_json else result.words())


@command("review", "Look")
def review(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="DATASET", help="A dataset folder. [default: the newest in data]", show_default=False
        ),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN", help="A run on it, by which label errors are found too.", show_default=False
        ),
    ] = None,
    out: Annotated[Path | None, flag("--out", "CSV file to write.", "reports/NAME-review.csv")] = None,
    n_rows: Annotated[int, typer.Option("-n", help="Maximum number of rows listed.", metavar="ROWS")] = 100,
    html: Annotated[bool, typer.Option("--html", help="Also write a page with the pictures.")] = False,
    overwrite: options.OverwritePage = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """List the rows that need a second look, worst first.

    Rows that repeat others with another label, labels that a run's networks contradict, annotators and
    modalities that disagree: each row with its reasons and a score. Only test rows count as a network's
    answer, so a run with grouped-kfold-5 covers every row. An earlier review is replaced.

    Example: mvsent review data/mvsa-single runs/logistic-mvsa-single-grouped-kfold-5-s0 --html
    """
    from mvsent.pages.review import review as write_review
    from mvsent.shards.reader import newest_dataset

    result = write_review(
        folder or newest_dataset(), run, out, n_rows=n_rows, html=html, overwrite=overwrite, quiet=quiet
    )
    typer.echo(json.dumps(result.document(), indent=2) if as_json else result.words(quiet=quiet))


@dataclass(frozen=True)
class ExplainedPairs:
    """The pairs that are explained."""

    image: options.Image = None
    text: options.Text = None
    dataset: Annotated[
        Path | None,
        flag("--dataset", "Choose pairs of this dataset, not the run's test rows; or where its own is now."),
    ] = None
    n: Annotated[int, typer.Option("-n", help="Number of pairs to show.")] = 6


@command("explain", "Look")
def explain(
    *,
    run: options.Run = None,
    pairs: ExplainedPairs,
    fold: options.OneFold = None,
    measured: Annotated[
        int, typer.Option("--measured", min=0, help="Rows on which the weights' faithfulness is measured.")
    ] = 100,
    out: Annotated[Path | None, flag("--out", "Folder to write.", "RUN/explain")] = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show what a network looked at, as a page and figures.

    Shows correct positives, correct negatives and the surest errors of the fold's test rows: the picture
    under class activation and spatial attention, the words shaded by semantic attention, and the
    probabilities. Writes an HTML page, PNG and SVG figures in the paper's layout, and explain.json. Deletion
    and insertion tell whether the weights are faithful.

    Example: mvsent explain runs/dmlanet-mvsa-single-paper-5x-s0 -n 6
    """
    from mvsent.errors import UsageError
    from mvsent.pages.explain import explain_pair, explain_run
    from mvsent.report.explain_page import render_terminal
    from mvsent.runs.run_folder import newest_run

    chosen = run or newest_run()
    how: Any = {"fold": fold, "out": out, "device": device}
    if pairs.image is None and pairs.text is None:
        which: Any = {"n": pairs.n, "dataset": pairs.dataset, "seed": seed}
        result = explain_run(chosen, measured=measured, **which, **how)
    elif pairs.dataset is not None:
        raise UsageError("--dataset: goes with neither --image nor --text", "Leave one of them out")
    else:
        result = explain_pair(chosen, pairs.image, pairs.text, **how)
    if as_json:
        typer.echo(json.dumps(result.document, indent=2))
        return
    written = [result.folder / "index.html", *result.figures, result.folder / "explain.json"]
    typer.echo(render_terminal(result.document))
    typer.echo("\n" + "\n".join(map(str, written)))
