"""The long options that mean the same in every command."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from mvsent.cli.complete import Complete
from mvsent.errors import UsageError
from mvsent.storage import is_remote, located

# numpy and scikit-learn seed with 32 bits, and a protocol adds up to 5 for its repetitions.
MAX_SEED = 2**32 - 6
MAX_CALLS_PER_HOUR = 10_000_000  # as the settings of the builds have it


def flag(
    name: str, text: str, default: str = "", envvar: str | None = None, complete: Complete | None = None
) -> Any:
    """An option that is None unless given, because its default is a setting's; the help names that one."""
    help = f"{text} [default: {default}]" if default else text
    return typer.Option(name, help=help, show_default=False, envvar=envvar, autocompletion=complete)


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


def _engine(text: str) -> str:
    if text not in ("local", "ray"):
        raise typer.BadParameter(f"{text!r} is neither local nor ray")
    return text


def at_their_places(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command, whose paths may also be addresses: s3://…, gs://…, file://…"""

    @wraps(command)
    def called(**given: Any) -> Any:
        return command(**{name: _placed(value) for name, value in given.items()})

    return called


def _placed(value: Any) -> Any:
    if isinstance(value, list):
        return [_placed(each) for each in value]
    return located(value) if isinstance(value, Path) else value


Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="Folder to write, here or at s3://…, gs://….",
        show_default=False,
        parser=_folder,
        metavar="PATH",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a finished output.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes, only the result.")]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed", min=0, max=MAX_SEED, help="Seed of everything random. [default: 0]", show_default=False
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=0,
        max=1024,
        help="Parallel workers; 0 is one a core. [default: 0]",
        show_default=False,
    ),
]
ShardSize = Annotated[
    int | None,
    typer.Option(
        "--shard-size", "--rows-per-shard", help="Rows in one shard. [default: 1000]", show_default=False
    ),
]

Engine = Annotated[
    str,
    typer.Option(
        "--engine",
        parser=_engine,
        metavar="ENGINE",
        help="local: this process. ray: the workers of a Ray cluster, see docs/ray.md.",
    ),
]
FeatureEngine = Annotated[
    str,
    typer.Option(
        "--engine",
        parser=_engine,
        metavar="ENGINE",
        help="Computes the features that are not cached: local, or the workers of a Ray cluster, ray.",
    ),
]
RayAddress = Annotated[
    str,
    typer.Option(
        "--ray-address",
        metavar="HOST:PORT",
        help="The cluster's head, or auto. [default: RAY_ADDRESS, else a Ray of its own on this machine]",
        show_default=False,
    ),
]

Fold = Annotated[int | None, flag("--fold", "Whose network.", "the mean of all finished folds")]
OneFold = Annotated[int | None, flag("--fold", "Whose network.", "the first finished one")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:N or auto.")]  # to ask a run on
Folds = Annotated[str | None, flag("--folds", "Folds to train, as 0,2.", "all")]
Epochs = Annotated[int | None, flag("--epochs", "Epochs at most.", "50")]
Patience = Annotated[
    int | None, flag("--patience", "Epochs without a better validation accuracy before a fold stops.", "10")
]
BatchSize = Annotated[int | None, flag("--batch-size", "Pairs in a step.", "256")]
Weights = Annotated[
    str | None, flag("--weights", "Backbone weights: pretrained, a path, or random.", "pretrained")
]


def key_values(pairs: list[str] | None) -> dict[str, str] | None:
    """The KEY=VALUE texts of a repeatable --option, as a table; None where none was given."""
    if not pairs:
        return None
    for pair in pairs:
        if "=" not in pair:
            raise typer.BadParameter(f"--option takes KEY=VALUE, not {pair!r}")
    return dict(pair.split("=", 1) for pair in pairs)


def numbers(text: str | None) -> list[int] | None:
    """The numbers of --folds; None where it was not given."""
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"--folds takes numbers as 0,2, not {text!r}") from None
