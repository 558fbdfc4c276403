"""Commands of the learn stage beyond one model: `benchmark`, and `train-anps`, which a model needs."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mvsent.cli import complete, options
from mvsent.cli.options import flag


def benchmark(
    datasets: Annotated[list[Path], typer.Argument(help="Dataset folders.", metavar="DATASET...")],
    table: Annotated[
        str | None, flag("--table", "Tables of the paper: 2, 3, 4 or all; or 2,4.", "all")
    ] = None,
    models: Annotated[
        str | None,
        flag(
            "--models",
            "Only these, as a,b, with ablations unless --table is 2 or 3.",
            complete=complete.some_of(complete.MODELS),
        ),
    ] = None,
    protocol: Annotated[
        list[str] | None,
        flag(
            "--protocol",
            "How rows are split, as a,b; repeatable.",
            "paper-5x,grouped-paper-5x",
            complete=complete.some_of(complete.PROTOCOLS),
        ),
    ] = None,
    option: Annotated[
        list[str] | None, flag("--option", "A model's option, as MODEL.KEY=VALUE; repeatable.")
    ] = None,
    against: Annotated[
        str | None,
        flag(
            "--against",
            "Model that the others are tested against.",
            "dmlanet",
            complete=complete.one_of(complete.MODELS),
        ),
    ] = None,
    folds: options.Folds = None,
    seed: options.Seed = None,
    epochs: options.Epochs = None,
    patience: options.Patience = None,
    batch_size: options.BatchSize = None,
    backbone: Annotated[
        str | None,
        flag(
            "--backbone", "Image network.", "efficientnet_lite0", complete=complete.one_of(complete.BACKBONES)
        ),
    ] = None,
    weights: options.Weights = None,
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
    from mvsent.report.benchmark_tables import render_terminal
    from mvsent.runs.benchmark import benchmark as run_benchmark
    from mvsent.runs.benchmark_plan import Asked, plan

    flags: dict[str, Any] = {
        "folds": options.numbers(folds),
        "seed": seed,
        "epochs": epochs,
        "patience": patience,
    }
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
        cells = plan(asked)
        typer.echo(
            dumps([_cell_as_json(cell) for cell in cells], indent=2) if as_json else _cells_as_text(cells)
        )
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


def _cell_as_json(cell: Any) -> dict[str, Any]:
    return {"cell": cell.name, "state": cell.state, "changes": cell.changes(), "run": str(cell.path)}


def _cells_as_text(cells: list[Any]) -> str:
    """A line a cell; of those that would be refused, what differs, and how they are replaced."""
    width = max(len(cell.state) for cell in cells)
    lines = []
    for cell in cells:
        changes = f"  ({', '.join(cell.changes())})" if cell.changes() else ""
        lines.append(f"{cell.state:{width}}  {cell.name}{changes}")
    if any(cell.changes() for cell in cells):
        lines.append(
            "\nThose of other settings are refused: give another --out, or replace them with --overwrite"
        )
    return "\n".join(lines)


def _names(texts: list[str]) -> list[str]:
    """The names in comma separated texts, each once."""
    return list(dict.fromkeys(name.strip() for text in texts for name in text.split(",") if name.strip()))


def _model_options(pairs: list[str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for key, value in (options.key_values(pairs) or {}).items():
        model, dot, name = key.partition(".")
        if not dot:
            raise typer.BadParameter(f"--option takes MODEL.KEY=VALUE, not {key}={value}")
        found.setdefault(model, {})[name] = value
    return found


def train_anps(
    dataset: Annotated[
        Path | None, typer.Argument(help="Dataset folder. [default: newest of data/*]", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="File to write.")] = Path("anps.safetensors"),
    backbone: Annotated[
        str,
        typer.Option(
            "--backbone",
            help="Image network whose features are read.",
            autocompletion=complete.one_of(complete.BACKBONES),
        ),
    ] = "efficientnet_lite0",
    tap: Annotated[str, typer.Option("--tap", help="Map to take from inside it.", show_default=False)] = "",
    weights: Annotated[
        str, typer.Option("--weights", help="Its weights: pretrained, a path, or random.")
    ] = "pretrained",
    protocol: Annotated[
        str,
        typer.Option(
            "--protocol",
            help="How rows are split; its first fold is taken.",
            autocompletion=complete.one_of(complete.PROTOCOLS),
        ),
    ] = "paper-5x",
    seed: options.Seed = None,
    device: Annotated[str, typer.Option("--device", help="Device to compute features on.")] = "auto",
    workers: options.Workers = None,
    engine: options.FeatureEngine = "local",
    ray_address: options.RayAddress = "",
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
    from mvsent.workers.engine import choose

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
        engine=choose(engine, ray_address),
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
