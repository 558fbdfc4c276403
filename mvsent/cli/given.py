"""The settings of a command: defaults < `mvsent.toml` < environment < flags. An unknown key is an error.

`mvsent.toml` has one table a command (`[train]`, `[reconcile-mvsa]`, …) whose keys are the fields of its
settings; the environment variable of `[train] batch_size` is `MVSENT_TRAIN_BATCH_SIZE`.
"""

import os
import reprlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from mvsent.config import read_toml
from mvsent.errors import UsageError, did_you_mean
from mvsent.setting import Settings

CONFIG_FILE = "mvsent.toml"

S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class Given(Generic[S]):
    """The settings that were typed after a command.

    Attributes:
        command: its name.
        section: its table in `mvsent.toml`; empty if it has none.
        kind: the class of its settings.
        flags: setting → value, of those that were typed.
        sections: the tables that `mvsent.toml` may have.
    """

    command: str
    section: str
    kind: type[S]
    flags: Mapping[str, Any]
    sections: Collection[str]

    def resolve(self, base: Mapping[str, Any] | None = None) -> S:
        """All settings. With `base`, neither the file nor the command's own variables count.

        Raises: UsageError for an unknown key or an unusable value, naming where it was set.
        """
        stated = self.kind.stated()
        # setting → value, and how an error names the place
        given = {key: (value, f"--config: {key}") for key, value in (base or {}).items()}
        if base is None and self.section:
            given |= self._file_section()
            given |= self._environment()
        short = {each.variable: key for key, each in stated.items() if os.environ.get(each.variable)}
        given |= {key: (os.environ[name], name) for name, key in short.items()}
        given |= {key: (value, stated[key].flag) for key, value in self.flags.items()}
        try:
            return self.kind(**{key: value for key, (value, _) in given.items()})
        except ValidationError as error:
            first = error.errors()[0]
        key = str(first["loc"][0])
        place = given[key][1]
        if first["type"] == "extra_forbidden":
            known = did_you_mean(key, stated) or f"Known are: {', '.join(stated)}"
            what = f"{place.removesuffix(f': {key}')}: unknown setting {key!r}"
            raise UsageError(what, known.strip())
        message = first["msg"].removeprefix("Value error, ")
        what = f"{place}: {message[0].lower()}{message[1:]} (got {reprlib.repr(first['input'])})"
        near = did_you_mean(reprlib.repr(first["input"]).strip("'"), stated[key].choices)
        raise UsageError(what, f"{near}See: mvsent {self.command} --help")

    def _file_section(self) -> dict[str, tuple[Any, str]]:
        path = Path(CONFIG_FILE)
        document = read_toml(path) if path.exists() else {}
        for name, table in document.items():
            if name not in self.sections:
                what = f"unknown table [{name}]" if isinstance(table, dict) else f"{name!r} is in no table"
                known = f"Known tables are: {', '.join(f'[{known}]' for known in self.sections)}"
                raise UsageError(f"{CONFIG_FILE}: {what}", did_you_mean(name, self.sections) + known)
            if not isinstance(table, dict):
                step = f"Write [{name}] and its settings below"
                raise UsageError(f"{CONFIG_FILE}: {name!r} should be a table", step)
        place = f"{CONFIG_FILE} [{self.section}]"
        return {key: (value, f"{place}: {key}") for key, value in document.get(self.section, {}).items()}

    def _environment(self) -> dict[str, tuple[Any, str]]:
        """The settings in the environment. Raises: UsageError for a variable that names none."""
        names = {variable(self.section, key): key for key in self.kind.stated()}
        for name in sorted(set(os.environ) - set(names)):
            if name.startswith(variable(self.section, "")):
                known = f"Known are: {', '.join(names)}"
                what = f"{name}: no such setting in the environment"
                raise UsageError(what, did_you_mean(name, names) + known)
        return {key: (os.environ[name], name) for name, key in names.items() if name in os.environ}


def variable(section: str, key: str) -> str:
    """The environment variable of a setting.

    >>> variable("train", "batch_size")
    'MVSENT_TRAIN_BATCH_SIZE'
    """
    return f"MVSENT_{section}_{key}".upper().replace("-", "_")
