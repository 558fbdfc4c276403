"""Commands of the share stage: datasets for other tools, and datasets made of finished ones."""

from pathlib import Path
from typing import Annotated

import typer

from mvsent.cli import complete, options


def register(app: typer.Typer) -> None:
    """Add this stage's commands to `app`."""
    app.command("export")(export)
    app.command("merge")(merge)
    app.command("shard")(shard)


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

    from mvsent.datasets.export import export as run_export
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


def merge(
    folders: Annotated[
        list[Path],
        typer.Argument(
            help="Two dataset folders or more; an earlier one has precedence.", show_default=False
        ),
    ],
    out: options.Out = None,
    name: Annotated[
        str | None, options.flag("--name", "Name of the dataset.", "that of the folder written")
    ] = None,
    near_duplicates: Annotated[
        str,
        typer.Option(
            "--near-duplicates",
            help="drop | keep: pictures that look like one of an earlier dataset.",
            autocompletion=complete.one_of(complete.NEAR_DUPLICATES),
        ),
    ] = "drop",
    distance: Annotated[
        int,
        typer.Option(
            "--distance", help="Of 64, bits in which the hashes of one picture differ at most; 0 to 8."
        ),
    ] = 4,
    conflict: Annotated[
        str,
        typer.Option(
            "--conflict",
            help="first | drop | majority: which label a picture has whose rows have several.",
            autocompletion=complete.one_of(complete.CONFLICT_RULES),
        ),
    ] = "first",
    shard_size: options.ShardSize = None,
    mixed_classes: Annotated[
        bool, typer.Option("--mixed-classes", help="Take datasets that do not have the same classes.")
    ] = False,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Make one dataset out of several finished ones.

    It goes to --out, else to data/NAME or data/merged. Every id is there once, and a picture only from the
    first dataset that has it; the others are in rejected.parquet with their reason, after what the datasets
    had dropped themselves. dataset.json says what each of them was. Splits are not carried over.

    first: the rows of the first dataset stay. drop: rows that contradict each other all go. majority: the
    rows with the commonest label stay, of the first dataset that has it; none if two labels are as common.

    Example: mvsent merge data/flickr data/getty --out data/web
    """
    import json

    from mvsent.datasets.merge import SHARD_SIZE, MergeRules
    from mvsent.datasets.merge import merge as run_merge
    from mvsent.report.datasets import render_merge
    from mvsent.report.funnel import funnel_document, render_funnel

    size = SHARD_SIZE if shard_size is None else shard_size
    rules = MergeRules(near_duplicates, distance, conflict, size, mixed_classes)
    result = run_merge(
        folders,
        out or Path("data", name or "merged"),
        name or "",
        rules,
        overwrite=overwrite,
        quiet=quiet,
    )
    document = funnel_document(result.folder, result.manifest)
    if as_json:
        typer.echo(json.dumps(document, indent=2))
        return
    typer.echo(render_funnel(result.folder, result.manifest))
    typer.echo(f"\n{render_merge(document)}")


def shard(
    folder: Annotated[Path, typer.Argument(help="A dataset folder.", show_default=False)],
    rows_per_shard: Annotated[
        int,
        typer.Option(
            "--rows-per-shard",
            "--shard-size",
            help="Rows in every shard but the last.",
            show_default=False,
        ),
    ],
    out: options.Out = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write the same rows in shards of another size.

    It goes to FOLDER-ROWS beside the dataset, or to --out. Rows keep their order, so that the splits come
    along; name, settings and dropped rows stay too. The dataset itself is left as it is.

    Example: mvsent shard data/flickr --rows-per-shard 5000
    """
    import json

    from mvsent.datasets.reshard import reshard
    from mvsent.report.datasets import render_shards
    from mvsent.report.funnel import funnel_document

    result = reshard(folder, rows_per_shard, out, overwrite=overwrite, quiet=quiet)
    document = funnel_document(result.folder, result.manifest) | {"splits": result.splits}
    typer.echo(json.dumps(document, indent=2) if as_json else render_shards(document))
