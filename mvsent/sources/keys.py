"""API keys: from the environment or a file, never from the command line, and shown nowhere."""

import logging
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from pydantic import SecretStr

from mvsent.errors import UsageError
from mvsent.sources.registry import Key, all_keys

log = logging.getLogger("mvsent")


def read_keys(keys: Sequence[Key], file: Path | None = None) -> dict[str, SecretStr]:
    """The keys by name, from the file if there is one, else from the environment.

    A file holds lines NAME=VALUE, or the values alone in the order of `keys`.

    Raises: UsageError for a key that is missing and not optional, or a file that cannot be read.
    """
    values = _from_file(file, keys) if file else os.environ
    for key in keys:
        if not values.get(key.name) and not key.is_optional:
            where = f"{file}: holds no {key.name}" if file else f"No {key.name} is set"
            ways = f"export {key.name}=… or --key-file FILE with {key.name}=… in it"
            note = f". {key.note}" if key.note else ""
            raise UsageError(where, f"Get one at {key.url}, then: {ways}{note}")
    return {key.name: SecretStr(values[key.name]) for key in keys if values.get(key.name)}


def _from_file(file: Path, keys: Sequence[Key]) -> dict[str, str]:
    if file.is_fifo() or file.is_char_device():  # reading it would block
        raise UsageError(f"{file}: not a regular file", "Name a file that holds the key")
    try:
        text = file.read_text(encoding="utf-8")
        mode = file.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        problem = getattr(error, "strerror", None) or "not UTF-8"
        raise UsageError(f"{file}: {problem}", "Name a file that holds the key") from None
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        log.warning("%s: others can read this key. Run: chmod 600 %s", file, file)
    # A file that a shell sources will do.
    lines = [line.strip().removeprefix("export ") for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    known = all_keys()
    named = {
        name.strip(): value.strip().strip("'\"")
        for name, mark, value in (line.partition("=") for line in lines)
        if mark and name.strip() in known
    }
    return named or dict(zip((key.name for key in keys), lines, strict=False))
