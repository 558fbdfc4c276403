"""Commands that write datasets and networks for others, make datasets of finished ones, and serve a run."""

import json
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mvsent.cli import complete, options
from mvsent.cli.command import command
from mvsent.cli.options import flag

if TYPE_CHECKING:
    from mvsent.cli.given import Given
    from mvsent.config import MergeRules, TrainSettings

NewName = Annotated[str | None, flag("--name", "Name of the dataset.", "that of the folder written")]


@command("export", "Share")
def export(
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="webdataset | imagefolder | csv | label-studio | croissant.",
            autocompletion=complete.one_of(complete.DATASET_FORMATS),
        ),
    ],
    folder: options.Dataset = None,
    out: options.Out = None,
    shard_size: Annotated[
        int | None, flag("--shard-size", "Pairs in one tar of a webdataset.", "1000")
    ] = None,
    embed_images: Annotated[
        bool, typer.Option("--embed-images", help="Put the pictures into Label Studio's tasks, as data URLs.")
    ] = False,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a dataset in another tool's format.

    It is written to exports/NAME-FORMAT, or to --out. Pictures keep their bytes; ids become file names.

    webdataset: tars of pictures, texts and facts. imagefolder: a folder for each label. csv: one table and a
    folder of pictures. label-studio: tasks to annotate, which reconcile-tasks reads back.
    croissant: the shards as they are, with a description for search engines and loaders.

    Example: mvsent export data/mvsa-single --to imagefolder
    """
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


@command("merge", "Share", settings="mvsent.config:MergeRules")
def merge(
    *,
    folders: Annotated[
        list[Path],
        typer.Argument(
            help="Two dataset folders or more; an earlier one has precedence.", show_default=False
        ),
    ],
    given: "Given[MergeRules]",
    out: options.Out = None,
    name: NewName = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Merge finished datasets into one.

    It is written to --out, else to data/NAME or data/merged. Every id occurs once, and a picture comes only
    from the first dataset that has it; the others are in rejected.parquet with their reason, after what the
    datasets had dropped themselves. dataset.json says what each of them was. Splits are not carried over.

    first: the rows of the first dataset stay. drop: rows that contradict each other all go. majority: the
    rows with the commonest label stay, from the first dataset that has it; none if two labels are as common.

    Example: mvsent merge data/flickr data/getty --out data/web
    """
    from mvsent.datasets.merge import merge as run_merge
    from mvsent.report.datasets import render_merge
    from mvsent.report.funnel import funnel_document, render_funnel

    result = run_merge(
        folders,
        out or Path("data", name or "merged"),
        name or "",
        given.resolve(),
        overwrite=overwrite,
        quiet=quiet,
    )
    document = funnel_document(result.folder, result.manifest)
    if as_json:
        typer.echo(json.dumps(document, indent=2))
        return
    typer.echo(render_funnel(result.folder, result.manifest))
    typer.echo(f"\n{render_merge(document)}")


@command("shard", "Share")
def shard(
    folder: Annotated[Path, typer.Argument(help="A dataset folder.", show_default=False)],
    rows_per_shard: Annotated[
        int,
        typer.Option("--rows-per-shard", "--shard-size", help="Rows in every shard but the last."),
    ],
    out: options.Out = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write the same rows in shards of another size.

    They are written to FOLDER-ROWS beside the dataset, or to --out. Rows keep their order, and splits, name,
    settings and dropped rows are kept too. The dataset itself is left as it is.

    Example: mvsent shard data/flickr --rows-per-shard 5000
    """
    from mvsent.datasets.reshard import reshard
    from mvsent.report.datasets import render_shards
    from mvsent.report.funnel import funnel_document

    result = reshard(folder, rows_per_shard, out, overwrite=overwrite, quiet=quiet)
    document = funnel_document(result.folder, result.manifest) | {"splits": result.splits}
    typer.echo(json.dumps(document, indent=2) if as_json else render_shards(document))


@dataclass(frozen=True)
class Chosen:
    """The rows that a subset has."""

    ids: Annotated[
        Path | None,
        flag(
            "--ids", "Rows whose ids are in this file: a list, or a table with a column id.", section="Rows"
        ),
    ] = None
    where: Annotated[
        str, flag("--where", "Rows that fulfil an SQL expression over the columns.", section="Rows")
    ] = ""
    role: Annotated[
        str,
        flag(
            "--role",
            "Rows with this role of the split: train, validation or test.",
            section="Rows",
            complete=complete.one_of(complete.ROLES),
        ),
    ] = ""
    fold: Annotated[
        int | None, flag("--fold", "Fold of the split.", "0 if it is the only one", section="Rows")
    ] = None
    share: Annotated[
        float | None,
        typer.Option(
            "--share",
            help="A random share of the rows of each label, such as 0.2.",
            show_default=False,
            rich_help_panel="Rows",
        ),
    ] = None


@command(
    "subset",
    "Share",
    settings="mvsent.config:TrainSettings",
    section="",
    only=("protocol", "seed", *options.SPLIT_FILES),
)
def subset(
    *,
    folder: Annotated[Path, typer.Argument(help="A dataset folder.", show_default=False)],
    chosen: Chosen,
    given: "Given[TrainSettings]",
    shard_size: Annotated[
        int,
        typer.Option(
            "--shard-size", "--rows-per-shard", min=1, help="Rows in one shard.", rich_help_panel="Output"
        ),
    ] = 1000,
    out: options.Out = None,
    name: NewName = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write some rows of a dataset as a dataset.

    It is written to FOLDER-subset beside the dataset, or to --out. Several criteria must all be fulfilled;
    --share is of the rows that fulfil the others. The other rows are in rejected.parquet with the reason
    not-selected, after what the dataset had dropped itself. Splits are not carried over.

    In --where, labels are 'negative', 'neutral' and 'positive', as in "label = 'positive' and width > 200"
    (extra sql). Pictures are not read to evaluate it.

    Example: mvsent subset data/mvsa-single --where "label = 'positive'" --out data/positive
    """
    from mvsent.datasets.split_files import SplitFiles
    from mvsent.datasets.subset import Selection
    from mvsent.datasets.subset import subset as run_subset
    from mvsent.report.funnel import funnel_document, render_funnel

    settings = given.resolve()
    options.refuse_without_role(given.flags, role=chosen.role, fold=chosen.fold, ids=chosen.ids)
    options.protocol_beside_files(given.flags, settings)
    selection = Selection(
        ids=chosen.ids,
        where=chosen.where,
        role=chosen.role,
        fold=chosen.fold,
        protocol=settings.protocol,
        split_file=SplitFiles.of(settings) if chosen.role else None,
        share=chosen.share,
        seed=settings.seed,
        unknown=settings.split_unknown,
    )
    result = run_subset(
        folder, selection, out, name or "", shard_size=shard_size, overwrite=overwrite, quiet=quiet
    )
    if as_json:
        typer.echo(json.dumps(funnel_document(result.folder, result.manifest), indent=2))
        return
    typer.echo(render_funnel(result.folder, result.manifest))
    for note in result.notes:
        typer.echo(note)


@command("export-model", "Share")
def export_model(
    run: options.OneRun,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="onnx | torchscript | safetensors.",
            autocompletion=complete.one_of(complete.MODEL_FORMATS),
        ),
    ],
    out: Annotated[Path | None, flag("--out", "File to write.", "exports/RUN-foldK.onnx")] = None,
    fold: options.OneFold = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a trained network for another program.

    The graph goes from what the model reads (feature maps, numbers of words …) to probabilities; a JSON file
    beside it names inputs, shapes, classes, vocabulary and preprocessing. Before anything is written, its
    answers are compared with PyTorch's. TorchScript is deprecated by PyTorch, but works.

    Example: mvsent export-model runs/dmlanet-mvsa-single-paper-5x-s0 --to onnx --out dmlanet.onnx
    """
    from mvsent.inference.export_model import export_model as write_model

    done = write_model(run, to, out, fold=fold, overwrite=overwrite)
    typer.echo(json.dumps(done.document(), indent=2) if as_json else done.words())


@command("serve", "Share")
def serve(
    run: options.Run = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; the default is this machine alone.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    fold: options.Fold = None,
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Serve a trained model as a web page.

    Drop a picture, type a text, and see the probabilities, where the network looked and which words it
    weighed; POST /api/predict answers in JSON, as /openapi.json says. Only this machine can open it unless
    --host says otherwise. Ctrl-C or SIGTERM ends it.

    Example: mvsent serve runs/dmlanet-mvsa-single-paper-5x-s0
    """
    from mvsent.runs.run_folder import newest_run
    from mvsent.serve.server import serve as answer

    def ready(address: str) -> None:
        typer.echo(json.dumps({"address": address}) if as_json else f"Open {address} (Ctrl-C ends it)")

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it ends as Ctrl-C does
    answer(run or newest_run(), host=host, port=port, fold=fold, device=device, ready=ready)
