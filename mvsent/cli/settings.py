"""The command that writes a `mvsent.toml` to fill in."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from mvsent.cli import options

HEAD = """\
# Settings of mvsent for the commands that run in this folder; `mvsent init` wrote it.
# A line counts once the # before it is taken away: all of them are defaults, and change nothing as they are.
# What is given on the command line counts more, and so does the environment: MVSENT_TRAIN_BATCH_SIZE is
# batch_size of [train]. Lists and tables may be written as their options take them: folds = "0,2",
# options = "without=self".
"""
# The settings that are not called as the parameter of the command that sets them.
_PARAMETER = {"options": "option"}


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("init")(init)


def init(
    context: typer.Context,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a mvsent.toml to fill in.

    It lies in the current folder, where the commands look for it: a table for each command that reads
    settings, and in it every setting with its meaning and its default. All of them are commented out, so
    that nothing changes before you take a # away.

    Example: mvsent init
    """
    from mvsent.config import CONFIG_FILE, SECTIONS
    from mvsent.errors import OutputExistsError
    from mvsent.shards.atomic import atomic_write

    path = Path(CONFIG_FILE)
    if path.exists() and not overwrite:
        raise OutputExistsError(f"{path} exists", "Give --overwrite to replace it")
    defaults = {section: kind().model_dump(mode="json") for section, kind in SECTIONS.items()}
    root: Any = context.find_root().command
    text = template(defaults, {section: _meanings(root.commands[section]) for section in defaults})
    with atomic_write(path) as file:
        file.write(text.encode())
    if as_json:
        typer.echo(json.dumps({"file": str(path), "settings": defaults}, indent=2))
        return
    n_settings = sum(map(len, defaults.values()))
    typer.echo(f"{path}: {n_settings} settings of {len(defaults)} commands, each at its default")
    if not quiet:
        typer.echo(f"Next: take the # from a line of [train] in {path}, then mvsent train")


def template(defaults: Mapping[str, Mapping[str, Any]], meanings: Mapping[str, Mapping[str, str]]) -> str:
    """The text of a `mvsent.toml`: a table a command, and a comment and a commented-out default a setting.

    Args:
        defaults: command → setting → its default.
        meanings: command → setting or parameter → what the command's help says of it.
    """
    tables = [HEAD]
    for section, settings in defaults.items():
        told = meanings[section]
        lines = [
            f"# {_comment(told[_PARAMETER.get(key, key)], default)}\n#{key} = {_value(default)}\n"
            for key, default in settings.items()
        ]
        tables.append(f"[{section}]\n\n" + "\n".join(lines))
    return "\n".join(tables)


def _meanings(command: Any) -> dict[str, str]:
    return {parameter.name: parameter.help for parameter in command.params}


def _comment(meaning: str, default: Any) -> str:
    """The help of an option; of the default that it names, only what the value itself does not say.

    >>> _comment("Epochs at most. [default: 50]", 50), _comment("Words read. [default: 40 or 100]", 0)
    ('Epochs at most.', 'Words read. 0: 40 or 100.')
    """
    text, _, named = meaning.removesuffix("]").partition(" [default: ")
    if default or not named or named == str(default):
        return text
    return f"{text} {'0' if default == 0 else 'Empty'}: {named}."


def _value(default: Any) -> str:
    """`default` in TOML, in which its JSON is the same; the empty text for None."""
    return json.dumps("" if default is None else default)
