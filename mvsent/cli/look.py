"""Commands of the look stage."""

import typer


def register(app: typer.Typer) -> None:
    """Add this stage's commands to `app`."""
