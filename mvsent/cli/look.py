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


def doctor(as_json: options.Json = False) -> None:
    """Say what this machine has and lacks.

    Versions, device, weights, word vectors, storage, and which API keys are set.
    Downloads nothing and prints no key.

    Example: mvsent doctor
    """
    import json

    from mvsent.pipelines.doctor import examine

    sections = examine().sections
    if as_json:
        typer.echo(json.dumps(dict(sections), indent=2))
        return
    width = max(len(name) for findings in sections.values() for name in findings)
    for section, findings in sections.items():
        typer.echo(section)
        for name, finding in findings.items():
            typer.echo(f"  {name:<{width}}  {finding}")


def stats(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(help="Dataset folders. [default: all in data]", show_default=False),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Count what datasets hold.

    Labels as in the paper's Table I, text lengths, image sizes, duplicates. A dataset of the paper's gets
    the paper's numbers under its own. Pictures are not read.

    Example: mvsent stats data/mvsa-single data/mvsa-multiple
    """
    import json

    from mvsent.pipelines.stats import dataset_folders, dataset_stats
    from mvsent.report.datasets import render_stats

    documents = [dataset_stats(folder).document() for folder in dataset_folders(folders or [])]
    typer.echo(json.dumps(documents, indent=2) if as_json else render_stats(documents))


def validate(
    folder: Annotated[
        Path | None,
        typer.Argument(help="A dataset folder. [default: the newest in data]", show_default=False),
    ] = None,
    workers: options.Workers = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """Check a dataset against its manifest.

    Hashes, schema, counts, ids, splits, and every picture.
    Prints one line for each problem and exits with 1 if there is any.

    Example: mvsent validate data/mvsa-single
    """
    import json

    from mvsent.pipelines.validate import validate as check
    from mvsent.report.datasets import render_validation
    from mvsent.shards.reader import newest_dataset

    report = check(folder or newest_dataset(), workers or 0, quiet=quiet)
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

    from mvsent.pipelines.report import GALLERY, newest_run
    from mvsent.pipelines.report import report as write_report

    result = write_report(
        path or newest_run(),
        out,
        gallery=GALLERY if gallery is None else gallery,
        seed=seed or 0,
        overwrite=overwrite,
        quiet=quiet,
    )
    typer.echo(json.dumps(result.document(), indent=2) if as_json else result.words())
