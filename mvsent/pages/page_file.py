"""The file of a page: the marker that mvsent puts into it, and when a file may be replaced."""

import sys
from pathlib import Path

from mvsent.errors import OutputExistsError
from mvsent.report.document import GENERATOR

PAGE_MARK = f'content="{GENERATOR}"'.encode()
"""Marker identifying a page that mvsent generated."""

_HEAD_BYTES = 4096  # the marker stands within these


def refuse_unless_ours(out: Path, mark: bytes, what: str, example: str) -> None:
    """Raises: OutputExistsError if `out` is a folder, or a file whose head lacks `mark`."""
    if out.is_dir():
        raise OutputExistsError(f"{out}: is a folder", f"Name a file: --out {example}")
    if not out.exists():
        return
    if not out.is_file():  # reading a pipe would wait for ever
        raise OutputExistsError(f"{out}: not an ordinary file", f"Name another: --out {example}")
    if not has_mark(out, mark):
        raise OutputExistsError(f"{out}: not a {what} by mvsent", "Choose another --out, or --overwrite")


def has_mark(path: Path, mark: bytes) -> bool:
    """Whether `path` is an ordinary file whose head holds `mark`."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return mark in file.read(_HEAD_BYTES)


def silent(quiet: bool) -> bool:
    """Whether to draw no progress bar: on request, or if stderr is not a terminal."""
    return quiet or not sys.stderr.isatty()
