"""The command of the serve stage: a trained run as a web page."""

import json
import signal
from pathlib import Path
from typing import Annotated

import typer

from mvsent.cli import options


def register(app: typer.Typer) -> None:
    """Add this stage's command to `app`."""
    app.command("serve")(serve)


def serve(
    run: Annotated[Path | None, typer.Argument(help="Run folder. [default: newest of runs/*]")] = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to answer on; others need a reason.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 is any free one.")] = 8000,
    fold: options.Fold = None,
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Answer on a web page.

    Drop a picture, type a text, and see the probabilities, where the network looked and which words it
    weighed; POST /api/predict answers in JSON, as /openapi.json says. Only this machine can open it unless
    --host says otherwise. Ctrl-C or SIGTERM ends it.

    Example: mvsent serve runs/dmlanet-mvsa-single-paper-5x-s0
    """
    from mvsent.runs.run_folder import newest_run
    from mvsent.serve.server import serve as answer

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it ends as Ctrl-C does
    say = _say_as_json if as_json else _say
    answer(run or newest_run(), host=host, port=port, fold=fold, device=device, ready=say)


def _say(address: str) -> None:
    typer.echo(f"Open {address} (Ctrl-C ends it)")


def _say_as_json(address: str) -> None:
    typer.echo(json.dumps({"address": address}))
