"""Commands of the label stage."""

import re
from pathlib import Path
from typing import Annotated

import typer

from mvsent.cli import complete, options

Ties = Annotated[
    str | None, typer.Option(help="When annotators tie: drop | neutral. [default: drop]", show_default=False)
]
Aggregate = Annotated[
    str | None,
    typer.Option(
        help="From votes to labels: majority | dawid-skene. [default: majority]", show_default=False
    ),
]


def register(app: typer.Typer) -> None:
    """Add this stage's commands to `app`."""
    app.command("reconcile-mvsa")(reconcile_mvsa)
    app.command("reconcile-tasks")(reconcile_tasks)
    app.command("split")(split)


def _name(text: str) -> str:
    """A name that can begin an id and name a folder."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", text):
        raise typer.BadParameter(f"{text!r} should be lower-case letters, digits and hyphens")
    return text


def reconcile_mvsa(
    root: Annotated[
        Path | None,
        typer.Argument(
            help="The MVSA folder or its .zip. [default: ./MVSA_Single, ./MVSA_Multiple, ./MVSA …]",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write. [default: data/NAME]", show_default=False),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="Name of the dataset, with which its ids begin. [default: mvsa-single or mvsa-multiple]",
            show_default=False,
            parser=_name,
            metavar="STR",
        ),
    ] = None,
    ties: Ties = None,
    aggregate: Aggregate = None,
    labels_only: Annotated[
        bool | None, typer.Option("--labels-only", help="Read no texts and no pictures.", show_default=False)
    ] = None,
    max_pixels: Annotated[
        int | None,
        typer.Option(help="Drop larger pictures. [default: 100000000]", show_default=False),
    ] = None,
    max_bytes: Annotated[
        int | None, typer.Option(help="Drop larger picture files. [default: 67108864]", show_default=False)
    ] = None,
    shard_size: Annotated[
        int | None,
        typer.Option(
            help="Rows in one shard. [default: 1000, or 100000 with --labels-only]", show_default=False
        ),
    ] = None,
    workers: options.Workers = None,
    engine: options.Engine = "local",
    ray_address: options.RayAddress = "",
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Turn MVSA's annotations into a dataset.

    Each pair gets one label by the paper's rules. Per modality the label is the one that most annotators
    chose. Then equal labels stay, a positive or negative one beats neutral, and positive against negative is
    dropped. Every dropped row is listed with its reason in rejected.parquet.

    Example: mvsent reconcile-mvsa MVSA_Single
    """
    import json

    from mvsent.build.reconcile import reconcile
    from mvsent.config import ReconcileSettings, resolve
    from mvsent.report.funnel import funnel_document, render_funnel
    from mvsent.sources.mvsa import find_root
    from mvsent.workers.engine import choose

    flags = {
        "ties": ties,
        "aggregate": aggregate,
        "labels_only": labels_only,
        "shard_size": shard_size,
        "max_pixels": max_pixels,
        "max_bytes": max_bytes,
    }
    settings = resolve("reconcile-mvsa", ReconcileSettings, flags)
    result = reconcile(
        root or find_root(),
        out,
        settings,
        name=name or "",
        overwrite=overwrite,
        workers=workers or 0,
        engine=choose(engine, ray_address),
        quiet=quiet,
    )
    if as_json:
        typer.echo(json.dumps(funnel_document(result.folder, result.manifest), indent=2))
    else:
        typer.echo(render_funnel(result.folder, result.manifest))
        typer.echo(f"\nDropped rows, each with its reason: {result.folder / 'rejected.parquet'}")
        typer.echo(f"Next: mvsent train {result.folder}")


def reconcile_tasks(
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
    out: options.Out = None,
    ties: Ties = None,
    aggregate: Aggregate = None,
    shard_size: options.ShardSize = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Turn Label Studio's annotations into a dataset.

    Same pictures and texts as in the dataset that `mvsent export --to label-studio` wrote out, with the
    labels of any number of annotators, by the rules of reconcile-mvsa. It goes to data/NAME-annotated, or to
    --out. Every dropped pair is listed with its reason in rejected.parquet.

    Example: mvsent reconcile-tasks project-1.json data/mvsa-single
    """
    import json

    from mvsent.build.reconcile_tasks import reconcile_tasks as reconcile
    from mvsent.config import ReconcileTasksSettings, resolve
    from mvsent.report.funnel import funnel_document, render_annotations, render_funnel
    from mvsent.shards.reader import newest_dataset

    flags = {"ties": ties, "aggregate": aggregate, "shard_size": shard_size}
    settings = resolve("reconcile-tasks", ReconcileTasksSettings, flags)
    result = reconcile(export, folder or newest_dataset(), out, settings, overwrite=overwrite)
    if as_json:
        typer.echo(json.dumps(funnel_document(result.folder, result.manifest), indent=2))
        return
    typer.echo(render_funnel(result.folder, result.manifest))
    typer.echo(f"\n{render_annotations(result.annotations)}")
    if not quiet:
        typer.echo(f"Dropped rows, each with its reason: {result.folder / 'rejected.parquet'}")
        typer.echo(f"Next: mvsent train {result.folder}")


def split(
    folder: Annotated[
        Path | None,
        typer.Argument(help="A dataset folder. [default: the newest in data]", show_default=False),
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(
            help="paper-5x, kfold-5, kfold-10, or one of these with grouped- before it.",
            autocompletion=complete.one_of(complete.PROTOCOLS),
        ),
    ] = "paper-5x",
    split_file: Annotated[
        Path | None,
        typer.Option(
            help="Take this split (.parquet, .csv or .tsv with id, role and perhaps fold) instead.",
            show_default=False,
        ),
    ] = None,
    seed: options.Seed = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Divide a dataset into training, validation and test rows.

    The same seed divides it in the same way every time.

    The grouped protocols keep duplicates (the same text but for links and names, or the same picture) on one
    side, and say how many test rows of the plain protocol have a twin in training.

    Example: mvsent split data/mvsa-single --protocol grouped-kfold-10
    """
    import json

    from mvsent.datasets.split import split_dataset
    from mvsent.report.datasets import render_split
    from mvsent.shards.reader import newest_dataset

    document = split_dataset(folder or newest_dataset(), protocol, seed or 0, split_file).document()
    typer.echo(json.dumps(document, indent=2) if as_json else render_split(document))
