"""Commands that train, judge and use models."""

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from mvsent.cli import complete, options
from mvsent.cli.command import command
from mvsent.cli.options import flag
from mvsent.storage import located

if TYPE_CHECKING:
    from mvsent.cli.given import Given
    from mvsent.config import TrainSettings


@command("train", "Learn", settings="mvsent.config:TrainSettings")
def train(
    *,
    given: "Given[TrainSettings]",
    engine: options.FeatureEngine,
    config: Annotated[
        Path | None, flag("--config", "Replay the settings of a run's config.toml.", section="Output")
    ] = None,
    resume: Annotated[
        bool, options.switch("--resume", "Continue the run at --out, or the newest unfinished one.")
    ] = False,
    out: options.Out = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a model on every fold of a protocol.

    The run folder then holds the networks, the learning curves and the predictions.

    Example: mvsent train data/mvsa-single --protocol grouped-kfold-10 --option without=self
    """
    from mvsent.config import read_toml
    from mvsent.errors import Interrupted, UsageError
    from mvsent.runs.train import train as run_training
    from mvsent.shards.reader import newest_dataset
    from mvsent.workers.ranks import under_launcher

    if resume and (config or overwrite):
        both = f"{'--config' if config else '--overwrite'}: not with --resume"
        raise UsageError(f"{both}, which continues a run as it is", "Leave one of them out")
    base = read_toml(config).get("train") if config else None
    if config and not isinstance(base, dict):
        raise UsageError(f"{config}: not a run's config.toml", "Give the config.toml of a run folder")
    settings = given.resolve(base)
    if not resume:
        protocol = options.protocol_beside_files(given.flags, settings, replayed=config is not None)
        settings = settings.model_copy(update={"protocol": protocol})
    if not settings.dataset and not resume:
        settings = settings.model_copy(update={"dataset": str(newest_dataset().resolve())})
    speaks = not under_launcher() or os.environ["RANK"] == "0"
    if under_launcher() and given.flags.get("devices"):
        raise UsageError("--devices: torchrun has started the ranks already", "Leave it out")
    if "shuffle_buffer" in given.flags and not (settings.stream or resume):
        raise UsageError("--shuffle-buffer: only --stream has one", "Add --stream, or leave it out")
    changes = {name: getattr(settings, name) for name in given.flags}
    begun: list[Path] = []
    chosen = engine.chosen()
    try:
        result = run_training(
            settings,
            out=out,
            resume=resume,
            changes=changes,
            overwrite=overwrite,
            engine=chosen,
            quiet=quiet,
            ready=begun.append,
        )
    except KeyboardInterrupt:
        if not begun:
            raise
        if not speaks:
            sys.exit(Interrupted.exit_code)
        continued = f"mvsent train --resume --out {quote(str(begun[0]))}"
        raise Interrupted("interrupted", f"It goes on where it was with: {continued}") from None
    if not speaks:
        return
    if as_json:
        typer.echo(json.dumps(asdict(result), indent=2, default=str))
        return
    from mvsent.report.tables import aligned

    rows = [
        [
            *map(str, (f.fold, f.epochs, f.best_epoch)),
            f"{f.validation_accuracy:.4f}",
            f"{f.test_accuracy:.4f}",
        ]
        for f in result.folds
    ]
    typer.echo(aligned(["fold", "epochs", "best", "validation accuracy", "test accuracy"], rows))
    typer.echo(f"\n{result.run}\nNext: mvsent eval {result.run}")


@command(
    "train-anps",
    "Learn",
    settings="mvsent.config:TrainSettings",
    section="",
    only=("dataset", "backbone", "tap", "weights", "protocol", "seed", "device", "workers"),
)
def train_anps(
    *,
    given: "Given[TrainSettings]",
    engine: options.FeatureEngine,
    out: Annotated[Path, typer.Option("--out", help="File to write.", rich_help_panel="Output")] = Path(
        "anps.safetensors"
    ),
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train detectors of adjective-noun pairs.

    The pairs are the queries that found a Flickr dataset's pictures; `mvsent train --model sentibank --anps
    FILE` reads the detectors. How often they are right is measured on rows that they have not seen.

    Example: mvsent train-anps data/flickr --out anps.safetensors
    """
    from mvsent.runs.train_anps import train_anps as run_training
    from mvsent.shards.reader import newest_dataset

    settings = given.resolve()
    if not settings.dataset:
        settings = settings.model_copy(update={"dataset": str(newest_dataset())})
    result = run_training(settings, out, engine=engine.chosen(), overwrite=overwrite, quiet=quiet)
    if as_json:
        typer.echo(json.dumps(asdict(result), indent=2, default=str))
        return
    typer.echo(f"{result.n_anps} ANPs from {result.n_train} pictures → {result.path}")
    typer.echo(f"on {result.n_test} others: top-1 {result.top_1:.1%}, top-5 {result.top_5:.1%} right")
    typer.echo(f"Next: mvsent train --model sentibank --anps {result.path}")


@command("eval", "Learn")
def evaluate(
    run: options.Run = None,
    metrics: Annotated[
        str | None,
        flag(
            "--metrics",
            "Pictures to draw, such as roc,prc; of roc, prc, confusion and curves.",
            "all",
            complete=complete.some_of(complete.PICTURES),
        ),
    ] = None,
    dataset: Annotated[
        Path | None,
        flag(
            "--dataset",
            "Evaluate on another dataset; the result is written to RUN/eval-NAME/. If it is the run's own, "
            "moved, its test rows are evaluated.",
        ),
    ] = None,
    missing: Annotated[
        str | None,
        flag(
            "--missing",
            "Evaluate without image, text, or each in turn (image,text); written to RUN/missing-NAME/.",
        ),
    ] = None,
    seed: options.Seed = 0,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Evaluate a run on its test rows.

    Prints every metric with its 95% interval beside the paper's numbers. Writes metrics.json, report.html
    and the pictures (PNG and SVG) into the run folder. With --missing image,text the same rows are evaluated
    twice more, first without their pictures, then without their texts. With --dataset, rows that the run saw
    in training, by id, text or picture, are counted, and a column shows the metrics without them.

    Example: mvsent eval runs/dmlanet-mvsa-single-paper-5x-s0 --metrics roc,prc
    """
    from mvsent.runs.evaluate import evaluate as run_evaluation
    from mvsent.runs.evaluate import modalities
    from mvsent.runs.run_folder import newest_run

    pictures = None if metrics is None else [name.strip() for name in metrics.split(",")]
    judged = run or newest_run()
    results = [
        run_evaluation(judged, pictures, dataset, missing=name, seed=seed, quiet=quiet)
        for name in ([""] if missing is None else modalities(missing))
    ]
    if as_json:
        documents = [result.document for result in results]
        typer.echo(json.dumps(documents if len(documents) > 1 else documents[0], indent=2))
        return
    from mvsent.report.results import render_results

    for number, result in enumerate(results):
        written = [*result.pictures, result.folder / "report.html", result.folder / "metrics.json"]
        typer.echo(("\n" if number else "") + render_results(result.document))
        typer.echo("\n" + "\n".join(map(str, written)))


@dataclass(frozen=True)
class PredictedPairs:
    """The pairs to predict: a source of many, or a single one."""

    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[INPUT]",
            help="A .csv, .jsonl or .parquet table, a folder of pictures, a dataset, or - for a pipe.",
            show_default=False,
        ),
    ] = None
    image: options.Image = None
    text: options.Text = None


@command("predict", "Learn")
def predict(
    *,
    run: options.OneRun,
    pairs: PredictedPairs,
    out: Annotated[Path | None, flag("--out", "File to write.", "the terminal, or a pipe")] = None,
    fold: options.Fold = None,
    format: Annotated[
        str | None, flag("--format", "csv, jsonl or parquet.", "as the input; jsonl for a pipe")
    ] = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, max=4096, help="Pairs predicted together.")
    ] = 64,
    device: options.Device = "auto",
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """Predict the sentiment of new pairs.

    A table has a column image (paths, relative to the table), a column text, or both; every other column is
    passed through. Each row gets label, p_negative, p_neutral, p_positive, the modality it lacks (missing),
    and an error if it cannot be predicted. Exits with 3 if any row has one.

    Example: mvsent predict runs/dmlanet-mvsa-single-paper-5x-s0 pairs.csv --out answers.csv
    """
    from mvsent.errors import UsageError
    from mvsent.inference.predict import pair_words, predict_pair, predict_table

    if pairs.source is not None and (pairs.image is not None or pairs.text is not None):
        raise UsageError("--image and --text are a pair of their own", f"Leave them out, or {pairs.source}")
    if pairs.source is None:
        answer = predict_pair(run, pairs.image, pairs.text, fold=fold, device=device)
        typer.echo(json.dumps(answer, indent=2) if as_json else pair_words(answer))
        return 0
    if as_json and out is None:
        raise UsageError("--json: the answers themselves go to stdout", "Give --out, or --format jsonl")
    result = predict_table(
        run,
        _stdin() if pairs.source == "-" else located(pairs.source),
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


@command("models", "Learn")
def models(as_json: options.Json = False, quiet: options.Quiet = False) -> None:
    """List the models and their options.

    Also what each reads, needs and merely uses, in which tables of the paper it stands, its published
    numbers in percent, and how faithful it is to its own paper.

    Example: mvsent models
    """
    from mvsent.models import registry
    from mvsent.report.model_cards import card_document, render_card

    cards = [registry.card(name) for name in registry.names()]
    if as_json:
        typer.echo(json.dumps([card_document(card) for card in cards], indent=2))
        return
    typer.echo("\n\n".join(map(render_card, cards)))
