"""Commands of the look stage."""

import typer

from mvsent.cli import options


def register(app: typer.Typer) -> None:
    """Add this stage's commands to `app`."""
    app.command("doctor")(doctor)


def doctor(as_json: options.Json = False) -> None:
    """Say what this machine has: versions, device, weights, word vectors, storage, which API keys are set.

    Downloads nothing and prints no key.

    Example: mvsent doctor
    """
    import json

    from mvsent.pipelines.doctor import examine

    sections = examine().sections
    if as_json:
        typer.echo(json.dumps(dict(sections), indent=2))
        return
    width = max(len(name) for findings in sections.values() for name in findings)
    for section, findings in sections.items():
        typer.echo(section)
        for name, finding in findings.items():
            typer.echo(f"  {name:<{width}}  {finding}")
