"""Commands of the build stage."""

from pathlib import Path
from typing import Annotated

import typer

from mvsent.cli import options


def register(app: typer.Typer) -> None:
    """Add this stage's commands to `app`."""
    app.command("demo")(demo)


def demo(
    out: Annotated[Path, typer.Option(help="Folder to write; an earlier demo in it is replaced.")] = Path(
        "demo"
    ),
    rows: Annotated[int, typer.Option(min=60, help="Tweets with a picture to draw.")] = 420,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training rows, at most.")] = 15,
    seed: Annotated[int, typer.Option(min=0, max=options.MAX_SEED, help="Seed of everything random.")] = 0,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Draw a small dataset, train on it and evaluate, offline.

    The dataset is drawn in MVSA's layout and reconciled as MVSA is; DMLANet is trained on it.
    The drawn tweets and pictures have moods that agree or conflict, and annotators who err: the figures are
    computed, and say nothing about real data.

    Example: mvsent demo --out /tmp/mvsent-demo
    """
    from mvsent.pipelines.demo import demo as run_demo

    result = run_demo(out, n_rows=rows, epochs=epochs, seed=seed, quiet=quiet)
    evaluation, dataset = result.evaluation, result.dataset
    if as_json:
        from json import dumps, loads

        document = {
            "folder": str(result.folder),
            "seconds": round(result.seconds, 1),
            "dataset": loads(dataset.manifest.to_json()),
            "metrics": evaluation.document,
            "pictures": [str(picture) for picture in evaluation.pictures],
        }
        typer.echo(dumps(document, indent=2))
        return
    from mvsent.report.funnel import render_funnel
    from mvsent.report.tables import render_results

    typer.echo(render_funnel(dataset.folder, dataset.manifest))
    typer.echo("\n" + render_results(evaluation.document))
    typer.echo(f"\nEverything is in {result.folder}, made in {result.seconds:.0f} s. Look at:")
    for page in (evaluation.folder / "report.html", *evaluation.pictures):
        typer.echo(f"  {page}")
