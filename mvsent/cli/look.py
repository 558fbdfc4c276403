"""Commands of the look stage."""

from pathlib import Path
from typing import Annotated

import typer

from mvsent.cli import options


def register(app: typer.Typer) -> None:
    """Add this stage's commands to `app`."""
    app.command("doctor")(doctor)
    app.command("stats")(stats)
    app.command("validate")(validate)
    app.command("report")(report)
    app.command("explain")(explain)
    app.command("review")(review)


def doctor(as_json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Say what this machine has and lacks.

    Versions, extras, device, weights, word vectors, storage, and which API keys are set.
    Downloads nothing and prints no key.

    Example: mvsent doctor
    """
    import json

    from mvsent.doctor import examine

    sections = examine().sections
    if as_json:
        typer.echo(json.dumps(dict(sections), indent=2))
        return
    width = max(len(name) for findings in sections.values() for name in findings)
    for section, findings in sections.items():
        typer.secho(section, bold=True)
        for name, finding in findings.items():
            typer.echo(f"  {name:<{width}}  {finding}")


def stats(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(help="Dataset folders. [default: all in data]", show_default=False),
    ] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Count what datasets hold.

    Labels as in the paper's Table I, text lengths, image sizes, duplicates. A dataset of the paper's gets
    the paper's numbers under its own. Pictures are not read.

    Example: mvsent stats data/mvsa-single data/mvsa-multiple
    """
    import json

    from mvsent.datasets.stats import dataset_folders, dataset_stats
    from mvsent.report.datasets import render_stats

    documents = [dataset_stats(folder).document() for folder in dataset_folders(folders or [])]
    typer.echo(json.dumps(documents, indent=2) if as_json else render_stats(documents))


def validate(
    folder: Annotated[
        Path | None,
        typer.Argument(help="A dataset folder. [default: the newest in data]", show_default=False),
    ] = None,
    workers: options.Workers = None,
    engine: options.Engine = "local",
    ray_address: options.RayAddress = "",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """Check a dataset against its manifest.

    Hashes, schema, counts, ids, splits, and every picture.
    Prints one line for each problem and exits with 1 if there is any.

    Example: mvsent validate data/mvsa-single
    """
    import json

    from mvsent.datasets.validate import validate as check
    from mvsent.report.datasets import render_validation
    from mvsent.shards.reader import newest_dataset
    from mvsent.workers.engine import choose

    chosen = choose(engine, ray_address)
    report = check(folder or newest_dataset(), workers or 0, engine=chosen, quiet=quiet)
    document = report.document()
    typer.echo(json.dumps(document, indent=2) if as_json else render_validation(document))
    return 0 if report.clean else 1


def report(
    path: Annotated[
        Path | None,
        typer.Argument(help="A dataset or run folder. [default: the newest run]", show_default=False),
    ] = None,
    out: Annotated[Path | None, options.flag("--out", "HTML file to write.", "reports/NAME.html")] = None,
    gallery: Annotated[
        int | None, options.flag("--gallery", "Cards with pictures, at most; 2000 is the most.", "300")
    ] = None,
    seed: options.Seed = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write one HTML page about a dataset or a run.

    It opens in any browser and fetches nothing. Of a dataset: what was dropped and why, labels, agreement,
    texts, images, origin, and a gallery to filter. Of a run: the results, curves and confusion, and the
    errors it was surest of. An earlier report is replaced.

    Example: mvsent report data/mvsa-single
    """
    import json

    from mvsent.pages.report import GALLERY
    from mvsent.pages.report import report as write_report
    from mvsent.runs.run_folder import newest_run

    result = write_report(
        path or newest_run(),
        out,
        gallery=GALLERY if gallery is None else gallery,
        seed=seed or 0,
        overwrite=overwrite,
        quiet=quiet,
    )
    typer.echo(json.dumps(result.document(), indent=2) if as_json else result.words())


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
            metavar="RUN", help="A run on it: then label errors are looked for, too.", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None, options.flag("--out", "CSV file to write.", "reports/NAME-review.csv")
    ] = None,
    n_rows: Annotated[int, typer.Option("-n", help="Rows listed, at most.", metavar="ROWS")] = 100,
    html: Annotated[bool, typer.Option("--html", help="Write a page with pictures beside it, too.")] = False,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """List the rows that ask for a second look, worst first.

    Rows that repeat others with another label, labels that a run's networks find wrong, annotators and
    modalities that disagree: each row with its reasons and a score. Only test rows count as a network's
    answer, so a run by grouped-kfold-5 looks at every row. An earlier review is replaced.

    Example: mvsent review data/mvsa-single runs/logistic-mvsa-single-grouped-kfold-5-s0 --html
    """
    import json

    from mvsent.pages.review import review as write_review
    from mvsent.shards.reader import newest_dataset

    result = write_review(
        folder or newest_dataset(), run, out, n_rows=n_rows, html=html, overwrite=overwrite, quiet=quiet
    )
    typer.echo(json.dumps(result.document(), indent=2) if as_json else result.words(quiet=quiet))


def explain(
    run: Annotated[Path | None, typer.Argument(help="Run folder. [default: newest of runs/*]")] = None,
    dataset: Annotated[
        Path | None, options.flag("--dataset", "Choose pairs of this dataset, not the run's test rows.")
    ] = None,
    image: Annotated[Path | None, options.flag("--image", "One picture, with or without --text.")] = None,
    text: Annotated[str | None, options.flag("--text", "One text, with or without --image.")] = None,
    n: Annotated[int, typer.Option("-n", help="Pairs to show.")] = 6,
    fold: options.OneFold = None,
    measured: Annotated[
        int, typer.Option("--measured", min=0, help="Rows by which the weights' faithfulness is measured.")
    ] = 100,
    out: Annotated[Path | None, options.flag("--out", "Folder to write.", "RUN/explain")] = None,
    seed: options.Seed = None,
    device: Annotated[str, typer.Option("--device", help="Device to compute on.")] = "auto",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show what a network looked at, as a page and figures.

    Correct positives, correct negatives and the surest errors of the fold's test rows, each with its picture
    under class activation and spatial attention, its words shaded by semantic attention, and the
    probabilities; as one HTML page, PNG and SVG figures in the paper's layout, and explain.json. Deletion and
    insertion say whether the weights are faithful.

    Example: mvsent explain runs/dmlanet-mvsa-single-paper-5x-s0 -n 6
    """
    import json

    from mvsent.errors import UsageError
    from mvsent.pages.explain import explain_pair, explain_run
    from mvsent.report.explain_page import render_terminal
    from mvsent.runs.run_folder import newest_run

    chosen = run or newest_run()
    if image is None and text is None:
        result = explain_run(
            chosen, n=n, fold=fold, dataset=dataset, measured=measured, seed=seed or 0, out=out, device=device
        )
    elif dataset is not None:
        raise UsageError("--dataset: goes with neither --image nor --text", "Leave one of them out")
    else:
        result = explain_pair(chosen, image, text, fold=fold, out=out, device=device)
    if as_json:
        typer.echo(json.dumps(result.document, indent=2))
        return
    written = [result.folder / "index.html", *result.figures, result.folder / "explain.json"]
    typer.echo(render_terminal(result.document))
    typer.echo("\n" + "\n".join(map(str, written)))
