"""Commands that turn annotations into labels, and rows into roles."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mvsent.cli import options
from mvsent.cli.build import tell
from mvsent.cli.command import command

if TYPE_CHECKING:
    from mvsent.cli.given import Given
    from mvsent.config import ReconcileSettings, ReconcileTasksSettings, TrainSettings


@command("reconcile-mvsa", "Label", settings="mvsent.config:ReconcileSettings")
def reconcile_mvsa(
    *,
    root: Annotated[
        Path | None,
        typer.Argument(
            help="The MVSA folder or its .zip. [default: ./MVSA_Single, ./MVSA_Multiple, ./MVSA …]",
            show_default=False,
        ),
    ] = None,
    given: "Given[ReconcileSettings]",
    name: Annotated[str | None, options.dataset_name("mvsa-single or mvsa-multiple, and the --pairs")] = None,
    workers: options.Workers = 0,
    engine: options.EngineOptions,
    out: options.OutByName = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Turn MVSA's annotations into a dataset.

    Each pair gets one label by the paper's rules. For the text and for the picture it is the label that most
    annotators chose. Equal labels stay, a positive or negative one beats neutral, and positive against
    negative is dropped. Part of the literature uses other pairs: those whose two labels are equal (--pairs
    consistent), or all with the label of one (--pairs text, --pairs image); their dataset is named after
    that. Every dropped row is listed with its reason in rejected.parquet.

    Example: mvsent reconcile-mvsa MVSA_Single
    """
    from mvsent.build.reconcile import reconcile
    from mvsent.sources.mvsa import find_root

    settings = given.resolve()
    result = reconcile(
        root or find_root(),
        out,
        settings,
        name=name or "",
        overwrite=overwrite,
        workers=workers,
        engine=engine.chosen(),
        quiet=quiet,
    )
    tell(result, as_json=as_json)


@command("reconcile-tasks", "Label", settings="mvsent.config:ReconcileTasksSettings")
def reconcile_tasks(
    *,
    export: Annotated[
        Path,
        typer.Argument(help="Label Studio's export of the project, in its format JSON.", metavar="EXPORT"),
    ],
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="The dataset that was annotated. [default: the newest in data]", show_default=False
        ),
    ] = None,
    given: "Given[ReconcileTasksSettings]",
    out: options.Out = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Turn Label Studio's annotations into a dataset.

    The dataset has the pictures and texts of the one that `mvsent export --to label-studio` wrote out, with
    the labels of any number of annotators, by the rules of reconcile-mvsa. It is written to
    data/NAME-annotated, or to --out. Every dropped pair is listed with its reason in rejected.parquet.

    Example: mvsent reconcile-tasks project-1.json data/mvsa-single
    """
    from mvsent.build.reconcile_tasks import reconcile_tasks as reconcile
    from mvsent.report.funnel import funnel_document, render_annotations, render_funnel
    from mvsent.shards.reader import newest_dataset

    settings = given.resolve()
    result = reconcile(export, folder or newest_dataset(), out, settings, overwrite=overwrite)
    if as_json:
        typer.echo(json.dumps(funnel_document(result.folder, result.manifest), indent=2))
        return
    typer.echo(render_funnel(result.folder, result.manifest))
    typer.echo(f"\n{render_annotations(result.annotations)}")
    if not quiet:
        typer.echo(f"Next: mvsent train {result.folder}")


@command(
    "split",
    "Label",
    settings="mvsent.config:TrainSettings",
    section="",
    only=("protocol", "seed", *options.SPLIT_FILES),
)
def split(
    *,
    folder: options.Dataset = None,
    given: "Given[TrainSettings]",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Divide a dataset into training, validation and test rows.

    The protocols are paper-5x, kfold-5, kfold-10, and each with grouped- or grouped-near- before it. The same
    seed gives the same split every time. The grouped protocols keep duplicates (the same text except for
    links and names, or the same picture) and the rows of one owner on one side, grouped-near- also near
    copies, such as cut retweets. Every split reports how many test rows share a text, a picture or an owner
    with training rows, a grouped one for its plain protocol; and a grouped one what it leaves.

    A split of others is read from --split-file: tables, JSON or lists, whose names or columns tell roles and
    folds (docs/splits.md). Rows that it does not name are left out. What leaks across it is counted.

    Example: mvsent split data/mvsa-single --protocol grouped-kfold-10
    """
    from mvsent.datasets.split import split_dataset
    from mvsent.datasets.split_files import SplitFiles
    from mvsent.report.datasets import render_split
    from mvsent.shards.reader import newest_dataset

    settings = given.resolve()
    options.protocol_beside_files(given.flags, settings)
    files = SplitFiles.of(settings)
    protocol = "" if files else settings.protocol
    document = split_dataset(folder or newest_dataset(), protocol, settings.seed, files).document()
    typer.echo(json.dumps(document, indent=2) if as_json else render_split(document))
