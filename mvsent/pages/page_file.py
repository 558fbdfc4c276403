"""The file of a page: the marker that mvsent puts into it, and when a file may be replaced."""

import sys
from pathlib import Path

from mvsent.errors import OutputExistsError
from mvsent.report.document import GENERATOR

PAGE_MARK = f'content="{GENERATOR}"'.encode()
"""Marker identifying a page that mvsent generated."""

_HEAD_BYTES = 4096  # the marker stands within these


def refuse_unless_ours(out: Path, mark: bytes, what: str, example: str) -> None:
    """Raises: OutputExistsError where `out` is a folder, or a file whose head lacks the mark of `what`."""
    if out.is_dir():
        raise OutputExistsError(f"{out}: is a folder", f"Name a file: --out {example}")
    if not out.exists():
        return
    if not out.is_file():  # a pipe would be waited for
        raise OutputExistsError(f"{out}: is no ordinary file", f"Name another: --out {example}")
    if not has_mark(out, mark):
        raise OutputExistsError(f"{out}: is no {what} of mvsent's", "Choose another --out, or --overwrite")


def has_mark(path: Path, mark: bytes) -> bool:
    """Whether `path` is an ordinary file whose head holds `mark`."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return mark in file.read(_HEAD_BYTES)


def silent(quiet: bool) -> bool:
    """Whether no bar is drawn: on demand, and where nobody would see it move."""
    return quiet or not sys.stderr.isatty()
