"""Commands of the use stage: what a trained run says of new pairs."""

from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from mvsent.cli import complete, options
from mvsent.storage import located

Run = Annotated[Path, typer.Argument(help="A run folder, as mvsent train wrote it.", show_default=False)]
OutFile = Annotated[Path | None, options.flag("--out", "File to write.", "the terminal, or a pipe")]


def register(app: typer.Typer) -> None:
    """Add this stage's commands to `app`."""
    app.command("predict")(predict)
    app.command("export-model")(export_model)


def predict(
    run: Run,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[INPUT]",
            help="A .csv, .jsonl or .parquet table, a folder of pictures, a dataset, or - for a pipe.",
            show_default=False,
        ),
    ] = None,
    image: Annotated[Path | None, options.flag("--image", "The picture of a single pair.")] = None,
    text: Annotated[str | None, options.flag("--text", "The text of a single pair.")] = None,
    out: OutFile = None,
    fold: options.Fold = None,
    format: Annotated[
        str | None, options.flag("--format", "csv, jsonl or parquet.", "as the input; jsonl for a pipe")
    ] = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, max=4096, help="Pairs judged together.")
    ] = 64,
    device: options.Device = "auto",
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """Say how new pairs feel.

    A table has a column image (paths, relative to the table), a column text, or both; every other column is
    passed through. Each row gets label, p_negative, p_neutral, p_positive, what it was judged without
    (missing), and an error where it cannot be judged. Exits with 3 if any row has one.

    Example: mvsent predict runs/dmlanet-mvsa-single-paper-5x-s0 pairs.csv --out answers.csv
    """
    import json

    from mvsent.errors import UsageError
    from mvsent.inference.predict import pair_words, predict_pair, predict_table

    if source is not None and (image is not None or text is not None):
        raise UsageError("--image and --text are a pair of their own", f"Leave them out, or {source}")
    if source is None:
        answer = predict_pair(run, image, text, fold=fold, device=device)
        typer.echo(json.dumps(answer, indent=2) if as_json else pair_words(answer))
        return 0
    if as_json and out is None:
        raise UsageError("--json: the answers themselves go to stdout", "Give --out, or --format jsonl")
    result = predict_table(
        run,
        _stdin() if source == "-" else located(source),
        out=out,
        kind=format or "",
        fold=fold,
        device=device,
        batch_size=batch_size,
        overwrite=overwrite,
        quiet=quiet,
    )
    if out is not None:
        typer.echo(json.dumps(result.document(), indent=2) if as_json else result.words())
    elif result.failed and not quiet:
        typer.echo(result.words(), err=True)
    return 3 if result.failed else 0


def _stdin() -> BinaryIO:
    """Not sys.stdin: a thread that waits in it would make Python abort when it ends."""
    import io

    from mvsent.errors import InputError

    try:
        return io.BufferedReader(io.FileIO(0, closefd=False))
    except OSError:
        raise InputError("stdin is closed", "Pipe rows into it, or name a file instead of -") from None


def export_model(
    run: Run,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="onnx | torchscript | safetensors.",
            autocompletion=complete.one_of(complete.MODEL_FORMATS),
        ),
    ],
    out: Annotated[Path | None, options.flag("--out", "File to write.", "exports/RUN-foldK.onnx")] = None,
    fold: options.OneFold = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a trained network for another program.

    The graph goes from what the model reads (feature maps, numbers of words …) to probabilities; a JSON
    beside it names inputs, shapes, classes, vocabulary and preprocessing. Before anything is written, its
    answers are compared with PyTorch's. TorchScript is deprecated by PyTorch, but works.

    Example: mvsent export-model runs/dmlanet-mvsa-single-paper-5x-s0 --to onnx --out dmlanet.onnx
    """
    import json

    from mvsent.inference.export_model import export_model as write_model

    done = write_model(run, to, out, fold=fold, overwrite=overwrite)
    typer.echo(json.dumps(done.document(), indent=2) if as_json else done.words())
