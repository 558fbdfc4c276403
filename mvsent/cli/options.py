"""The long options that mean the same in every command."""

from pathlib import Path
from typing import Annotated, Any

import typer

# numpy and scikit-learn seed with 32 bits, and a protocol adds up to 5 for its repetitions.
MAX_SEED = 2**32 - 6
MAX_CALLS_PER_HOUR = 10_000_000  # as the settings of the builds have it


def flag(name: str, text: str, default: str = "", envvar: str | None = None) -> Any:
    """An option that is None unless given, because its default is a setting's; the help names that one."""
    help = f"{text} [default: {default}]" if default else text
    return typer.Option(name, help=help, show_default=False, envvar=envvar)


def _folder(text: str) -> Path:
    """The path. An empty one, as of a shell variable that is not set, would be the current folder."""
    if not text.strip():
        raise typer.BadParameter("is empty: name a folder")
    return Path(text)


Out = Annotated[
    Path | None,
    typer.Option("--out", help="Folder to write.", show_default=False, parser=_folder, metavar="PATH"),
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
    int | None, typer.Option("--shard-size", help="Rows in one shard. [default: 1000]", show_default=False)
]
