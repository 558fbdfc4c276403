"""The long options that mean the same in every command."""

from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[Path | None, typer.Option("--out", help="Folder to write.", show_default=False)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a finished output.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes, only the result.")]
Seed = Annotated[
    int | None, typer.Option("--seed", help="Seed of everything random. [default: 0]", show_default=False)
]
Workers = Annotated[
    int | None, typer.Option("--workers", help="Parallel workers. [default: one a core]", show_default=False)
]
ShardSize = Annotated[
    int | None, typer.Option("--shard-size", help="Rows in one shard. [default: 1000]", show_default=False)
]
