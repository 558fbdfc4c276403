"""Commands of the share stage."""

from pathlib import Path
from typing import Annotated

import typer

from mvsent.cli import complete, options


def register(app: typer.Typer) -> None:
    """Add this stage's commands to `app`."""
    app.command("export")(export)


def export(
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="webdataset | imagefolder | csv | label-studio | croissant.",
            autocompletion=complete.one_of(complete.DATASET_FORMATS),
        ),
    ],
    folder: Annotated[
        Path | None,
        typer.Argument(help="A dataset folder. [default: the newest in data]", show_default=False),
    ] = None,
    out: options.Out = None,
    shard_size: Annotated[
        int | None, options.flag("--shard-size", "Pairs in one tar of a webdataset.", "1000")
    ] = None,
    embed_images: Annotated[
        bool,
        typer.Option("--embed-images", help="Put the pictures into Label Studio's tasks, as data URLs."),
    ] = False,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a dataset in another tool's format.

    It goes to exports/NAME-FORMAT, or to --out. Pictures keep their bytes, file names come from the ids.

    webdataset: tars of pictures, texts and facts. imagefolder: a folder for each label. csv: one table and a
    folder of pictures. label-studio: tasks to annotate, which come back by reconcile-tasks.
    croissant: the shards as they are, with a description for search engines and loaders.

    Example: mvsent export data/mvsa-single --to imagefolder
    """
    import json

    from mvsent.pipelines.export import export as run_export
    from mvsent.report.datasets import render_export
    from mvsent.shards.reader import newest_dataset

    document = run_export(
        folder or newest_dataset(),
        to,
        out,
        shard_rows=shard_size or 0,
        embed_images=embed_images,
        overwrite=overwrite,
        quiet=quiet,
    ).document()
    typer.echo(json.dumps(document, indent=2) if as_json else render_export(document))
