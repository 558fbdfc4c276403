"""API keys: from the environment or a file, never from the command line, and shown nowhere."""

import logging
import os
import stat
from pathlib import Path

from pydantic import SecretStr

from mvsent.errors import UsageError

log = logging.getLogger("mvsent")

KEYS_AT = {
    "FLICKR_API_KEY": "https://www.flickr.com/services/apps/create/",
    "GETTY_API_KEY": "https://developer.gettyimages.com/",
}


def api_key(name: str, file: Path | None = None) -> SecretStr:
    """The key called `name`: from the file if there is one, else from the environment.

    Raises: UsageError when it is in neither.
    """
    found = _from_file(file).get(name) if file else os.environ.get(name)
    if not found:
        where = f"{file}: holds no {name}" if file else f"No {name} is set"
        advice = f"Get one at {KEYS_AT[name]}, then: export {name}=… or --key-file FILE with {name}=… in it"
        raise UsageError(where, advice)
    return SecretStr(found)


def optional_key(name: str, file: Path | None = None) -> SecretStr | None:
    """The same, or None where there is none."""
    found = _from_file(file).get(name) if file else os.environ.get(name)
    return SecretStr(found) if found else None


def _from_file(file: Path) -> dict[str, str]:
    """Lines NAME=VALUE; a bare first line is an API key of any name, a bare second one the secret."""
    if file.is_fifo() or file.is_char_device():  # it would be waited for, without a word
        raise UsageError(f"{file}: not a regular file", "Name a file that holds the key")
    try:
        text = file.read_text(encoding="utf-8")
        mode = file.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        problem = getattr(error, "strerror", None) or "not UTF-8"
        raise UsageError(f"{file}: {problem}", "Name a file that holds the key") from None
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        log.warning("%s: others can read this key. Run: chmod 600 %s", file, file)
    lines = [line.strip().removeprefix("export ") for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    keys = {
        name.strip(): value.strip().strip("'\"")
        for name, mark, value in (line.partition("=") for line in lines)
        if mark and name.strip() in (*KEYS_AT, "GETTY_API_SECRET")
    }
    if not keys and lines:
        keys = dict.fromkeys(KEYS_AT, lines[0]) | ({"GETTY_API_SECRET": lines[1]} if lines[1:] else {})
    return keys
