"""Options: those made of settings, and those that mean the same in every command."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mvsent.cli import complete
from mvsent.cli.complete import Complete
from mvsent.errors import UsageError
from mvsent.storage import is_remote, located

if TYPE_CHECKING:
    import mvsent.workers.engine as workers
    from mvsent.config import TrainSettings
    from mvsent.setting import Setting

# numpy and scikit-learn seed with 32 bits, and a protocol adds up to 5 for its repetitions.
MAX_SEED = 2**32 - 6

SPLIT_FILES = ("split_file", "split_ids", "split_first_line", "split_unknown", "validation_share")
"""The settings of a split that files give."""


def of_setting(stated: "Setting") -> Any:
    """The option or argument that sets a setting. It is None unless given: the default is the setting's."""
    kind = stated.field.annotation
    facts = [f"default: {stated.default_text}"] if stated.default_text else []
    facts += [stated.limits] if "le" in stated.bounds else []
    shown: dict[str, Any] = {
        "help": " ".join([stated.help, *([f"[{'; '.join(facts)}]"] if facts else [])]),
        "show_default": False,
        "rich_help_panel": stated.section,
        "metavar": f"<{(',' if stated.takes_several else '|').join(stated.choices)}>"
        if stated.choices
        else "<path>"
        if stated.takes_several and stated.path
        else "KEY=VALUE"
        if isinstance(stated.default, dict)
        else None,
        "autocompletion": complete.of_setting(stated),
    }
    if stated.is_argument:
        return Annotated[str | None, typer.Argument(**shown)]
    flags = stated.flags or [stated.flag]
    if kind is bool and stated.default:
        flags = [f"{stated.flag}/--no-{stated.flag.removeprefix('--')}"]
    if kind in (bool, int, float):
        return Annotated[kind | None, typer.Option(*flags, **shown)]
    return Annotated[(list[str] if stated.is_repeatable else str) | None, typer.Option(*flags, **shown)]


def protocol_beside_files(
    flags: Mapping[str, Any], settings: "TrainSettings", *, replayed: bool = False
) -> str:
    """The protocol of a command that also takes split files: typed files replace one that was not typed.

    A `replayed` configuration may state both, of which the files counted.

    Raises: UsageError if both are typed, or if a typed protocol would hide split files.
    """
    if settings.split_file and "protocol" in flags:
        where = "" if "split_file" in flags else " (of mvsent.toml, the environment or --config)"
        raise UsageError(f"--protocol and --split-file{where} contradict each other", "Leave one of them out")
    default: str = type(settings).stated()["protocol"].default
    files_count = settings.split_file and (replayed or "split_file" in flags)
    return default if files_count else settings.protocol


def refuse_without_role(flags: Mapping[str, Any], *, role: str, fold: int | None, ids: Path | None) -> None:
    """Raises: UsageError for an option of `subset` that only counts with another one."""
    if role:
        return
    alone = [name for name in ("protocol", *SPLIT_FILES) if name in flags]
    if ids:  # unknown ids may be dropped there, too
        alone = [name for name in alone if name != "split_unknown"]
    if alone or fold is not None:
        flag = f"--{alone[0].replace('_', '-')}" if alone else "--fold"
        raise UsageError(f"{flag}: only for the rows of a role", "Add --role, or leave it out")


def spread_out(words: list[str], flags: Collection[str]) -> list[str]:
    """Repeat each of the `flags` before its further values, as a shell writes them for a pattern.

    >>> spread_out(["--from", "a.bz2", "b.bz2", "--out", "c"], ["--from"])
    ['--from', 'a.bz2', '--from', 'b.bz2', '--out', 'c']
    """
    spread: list[str] = []
    flag, is_first = "", False
    for word in words:
        if word.startswith("-"):
            name, equals, _ = word.partition("=")
            flag, is_first = (name, not equals) if name in flags else ("", False)
        elif flag:
            if not is_first:
                spread.append(flag)
            is_first = False
        spread.append(word)
    return spread


def placed(value: Any) -> Any:
    """The value; a path, or each of several, may also be an address: s3://…, gs://…, file://…"""
    if isinstance(value, list):
        return [placed(each) for each in value]
    return located(value) if isinstance(value, Path) else value


def flag(
    name: str,
    text: str,
    default: str = "",
    section: str = "",
    complete: Complete | None = None,
    metavar: str | None = None,
) -> Any:
    """An option that is None unless given; its help names what then happens."""
    return typer.Option(
        name,
        help=f"{text} [default: {default}]" if default else text,
        show_default=False,
        rich_help_panel=section or None,
        autocompletion=complete,
        metavar=metavar,
    )


def _folder(text: str) -> Path:
    """The path. An empty one, as of a shell variable that is not set, would be the current folder.

    Raises: UsageError for a bucket as a whole, which others write into as well.
    """
    if not text.strip():
        raise typer.BadParameter("is empty: name a folder")
    path = located(text)
    if is_remote(path) and not path.name:
        raise UsageError(f"--out {path}: is a bucket", f"Name a place in it: --out {path}NAME")
    return path


def _known_engine(text: str) -> str:
    if text not in ("local", "ray"):
        raise typer.BadParameter(f"{text!r} is neither local nor ray")
    return text


def _name(text: str) -> str:
    """A name that can begin an id and name a folder."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", text):
        raise typer.BadParameter(f"{text!r} should be lower-case letters, digits and hyphens")
    return text


def dataset_name(default: str) -> Any:
    """The option --name of a dataset."""
    return typer.Option(
        "--name",
        help=f"Name of the dataset and prefix of its ids. [default: {default}]",
        show_default=False,
        parser=_name,
        metavar="STR",
        rich_help_panel="Output",
    )


def switch(name: str, text: str, section: str = "Output") -> Any:
    """An option without a value."""
    return typer.Option(*name.split(", "), help=text, rich_help_panel=section)


OutByName = Annotated[Path | None, flag("--out", "Folder to write.", "data/NAME", section="Output")]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="Folder to write, here or at s3://…, gs://….",
        show_default=False,
        parser=_folder,
        metavar="PATH",
        rich_help_panel="Output",
    ),
]
Overwrite = Annotated[bool, switch("--overwrite", "Replace a finished output.")]
OverwritePage = Annotated[bool, switch("--overwrite", "Also replace a file that mvsent did not write.")]
Json = Annotated[bool, switch("--json", "Print the result as one JSON document.")]
Quiet = Annotated[bool, switch("--quiet, -q", "No progress and no notes, only the result.")]
Seed = Annotated[int, typer.Option("--seed", min=0, max=MAX_SEED, help="Seed of all random choices.")]
Workers = Annotated[
    int,
    typer.Option(
        "--workers",
        min=0,
        max=1024,
        help="Parallel workers. [default: one a core]",
        show_default=False,
        rich_help_panel="Machine",
    ),
]


def _engine(help: str) -> Any:
    return typer.Option(
        "--engine", parser=_known_engine, metavar="ENGINE", help=help, rich_help_panel="Machine"
    )


@dataclass(frozen=True)
class EngineOptions:
    """Where work runs."""

    engine: Annotated[
        str, _engine("Where the work is done. local: this process. ray: the workers of a Ray cluster.")
    ] = "local"
    ray_address: Annotated[
        str,
        typer.Option(
            "--ray-address",
            metavar="HOST:PORT",
            help="The cluster's head, or auto. [default: RAY_ADDRESS, else a Ray of its own on this machine]",
            show_default=False,
            rich_help_panel="Machine",
        ),
    ] = ""

    def chosen(self) -> "workers.Engine":
        """The engine. Raises: UsageError if Ray is not installed, or the address goes without it."""
        from mvsent.workers.engine import choose

        return choose(self.engine, self.ray_address)


@dataclass(frozen=True)
class FeatureEngine(EngineOptions):
    """Where features are computed."""

    engine: Annotated[
        str,
        _engine(
            "Where missing features are computed. local: this process. ray: the workers of a Ray cluster."
        ),
    ] = "local"


Image = Annotated[Path | None, flag("--image", "The picture of a single pair, with or without --text.")]
Text = Annotated[str | None, flag("--text", "The text of a single pair, with or without --image.")]
Dataset = Annotated[
    Path | None, typer.Argument(help="A dataset folder. [default: the newest in data]", show_default=False)
]
Run = Annotated[
    Path | None, typer.Argument(help="A run folder. [default: the newest in runs]", show_default=False)
]
OneRun = Annotated[Path, typer.Argument(help="A run folder, as mvsent train wrote it.", show_default=False)]
Fold = Annotated[int | None, flag("--fold", "Fold whose network answers.", "the mean of all finished folds")]
OneFold = Annotated[int | None, flag("--fold", "Fold whose network is used.", "the first finished one")]
Device = Annotated[
    str, typer.Option("--device", help="cpu, cuda, cuda:N or auto.", rich_help_panel="Machine")
]
