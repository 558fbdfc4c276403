"""The statement of a setting: one field with everything that is known about it.

The field has type, default, limits, help, heading, flags, completion, and whether it can change a result.
Options, the file of `mvsent init`, environment variables and the site's reference are made from them.
"""

import re
import reprlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo

from mvsent.errors import UsageError, did_you_mean


def setting(
    default: Any,
    section: str,
    help: str,
    *,
    unset: str = "",
    changes_result: bool = True,
    path: Literal["", "typed", "several", "absolute", "perhaps"] = "",
    flags: tuple[str, ...] = (),
    completion: str = "",
    variable: str = "",
    is_argument: bool = False,
    **limits: Any,
) -> Any:
    """State a setting as a field of a `Settings` class.

    Args:
        default: the value if nothing is given.
        section: the heading under which `--help` lists it.
        help: one sentence, without the default.
        unset: what an empty or zero default means.
        changes_result: False if it says only where, or how fast, a result is computed: a run, a crawl or a
            benchmark that was begun with another value continues. A difference in rounding is no change.
        path: `typed`: a path, recorded as typed. `several`: paths, of an option that is repeatable or takes
            several values. `absolute`: a path, recorded absolute, because a run is
            also read from other folders. `perhaps`: NAME, PATH or NAME=PATH, absolute if the file exists.
        flags: names of the option, if not `--name-of-the-field` alone.
        completion: which names of `mvsent.cli.complete` the shell offers.
        variable: environment variable of several commands, besides the `MVSENT_COMMAND_NAME` of each setting.
        is_argument: whether the command takes it as a positional argument.
        limits: `ge`, `gt`, `le` … of `pydantic.Field`.
    """
    shown: dict[str, Any] = {
        "section": section,
        "unset": unset,
        "changes_result": changes_result,
        "path": path,
    }
    shown |= {"flags": [*flags], "completion": completion, "variable": variable, "is_argument": is_argument}
    # `bounds` repeats the limits, because pydantic keeps them as objects of another package.
    return Field(default, description=help, json_schema_extra={**shown, "bounds": limits}, **limits)


@dataclass(frozen=True)
class Setting:
    """A stated field, as the command line and the site show it; `setting` explains the attributes."""

    name: str
    field: FieldInfo
    section: str
    unset: str
    changes_result: bool
    path: str
    flags: list[str]
    completion: str
    variable: str
    is_argument: bool
    bounds: dict[str, Any]

    @property
    def help(self) -> str:
        """Its effect, in one sentence."""
        return self.field.description or ""

    @property
    def default(self) -> Any:
        """The value if nothing is given, as TOML and JSON can write it: the empty text for None."""
        value = self.field.default
        return "" if value is None else [*value] if isinstance(value, tuple) else value

    @property
    def default_text(self) -> str:
        """The default, or what it means, for a reader; empty for a switch that is off, and for no value."""
        if not self.default and (self.unset or type(self.default) not in (int, float)):
            return self.unset
        if self.default is True:
            return self.name
        return ",".join(map(str, self.default)) if self.takes_several else str(self.default)

    @property
    def flag(self) -> str:
        """The option that sets it, as an error names it."""
        return self.flags[0] if self.flags else "--" + self.name.replace("_", "-")

    @property
    def takes_several(self) -> bool:
        """Whether it is a list, typed as a,b."""
        return get_origin(self.field.annotation) in (list, tuple)

    @property
    def is_repeatable(self) -> bool:
        """Whether its option may be typed several times."""
        return isinstance(self.default, dict) or bool(self.takes_several and self.path)

    @property
    def choices(self) -> tuple[str, ...]:
        """The only values that it, or each of its values, can have; empty if it has no such list."""
        kind = get_args(self.field.annotation)[0] if self.takes_several else self.field.annotation
        return get_args(kind) if get_origin(kind) is Literal else ()

    @property
    def limits(self) -> str:
        """The range of a number: `at least 1`, `0 to 1024`."""
        match self.bounds:
            case {"ge": low, "le": high}:
                return f"{low} to {high}"
            case {"ge": low}:
                return f"at least {low}"
            case {"gt": low}:
                return f"more than {low}"
        return ""


class Settings(BaseModel):
    """Settings of a command or a model; frozen, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _split_text(cls, value: Any, field: ValidationInfo) -> Any:
        """Lists may be given as `a,b`, tables as `a=1,b=2`, or as `["a=1", "b=2"]` if values hold commas."""
        kind = get_origin(cls.model_fields[field.field_name or ""].annotation)
        if isinstance(value, str) and kind in (list, tuple, dict):
            value = [part.strip() for part in value.split(",")]
            if "" in value:  # as of `--folds "$FOLDS"` without that variable, which must not mean all
                raise ValueError("should be values separated by commas, none of them empty")
        if kind is not dict or not isinstance(value, list):
            return value
        if not all(isinstance(pair, str) and "=" in pair for pair in value):
            raise ValueError("should be KEY=VALUE")
        return dict(pair.split("=", 1) for pair in value)

    @classmethod
    def stated(cls) -> dict[str, Setting]:
        """The fields that `setting` made, by name."""
        extras: dict[str, Any] = {name: field.json_schema_extra for name, field in cls.model_fields.items()}
        return {
            name: Setting(name, cls.model_fields[name], **extra) for name, extra in extras.items() if extra
        }

    @classmethod
    def checked(cls, given: Mapping[str, tuple[Any, str]], help: str) -> Self:
        """The settings of `given`: name → value, and how an error names the place where it was set.

        Raises: UsageError for an unknown name or an unusable value; `help` is where to read about them.
        """
        try:
            return cls(**{key: value for key, (value, _) in given.items()})
        except ValidationError as error:
            first = error.errors()[0]
        key, stated = str(first["loc"][0]), cls.stated()
        place = given[key][1]
        if first["type"] == "extra_forbidden":
            known = did_you_mean(key, stated) or f"Known are: {', '.join(stated)}"
            what = f"{place.removesuffix(f': {key}')}: unknown setting {key!r}"
            raise UsageError(what, known.strip())
        message = first["msg"].removeprefix("Value error, ")
        what = f"{place}: {message[0].lower()}{message[1:]} (got {reprlib.repr(first['input'])})"
        near = did_you_mean(reprlib.repr(first["input"]).strip("'"), stated[key].choices)
        raise UsageError(what, f"{near}{help}")

    @classmethod
    def without_effect(cls) -> set[str]:
        """The names of the settings that cannot change a result."""
        return {name for name, stated in cls.stated().items() if not stated.changes_result}


def named_files(text: str) -> list[str]:
    """The paths in `a,b`; a path with commas is one path if it exists.

    >>> named_files("train.csv, test.csv"), named_files("")
    (['train.csv', 'test.csv'], [])
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    return [text] if len(parts) > 1 and Path(text).exists() else parts


def _parse_day(value: object) -> date | None:
    if value in (None, ""):  # TOML has no null
        return None
    if type(value) is date:
        return value
    # pydantic would take a number for seconds, and Python 20201231 for a day.
    if isinstance(value, str) and re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
        with suppress(ValueError):
            return date.fromisoformat(value)
    raise ValueError("should be a day as 2020-12-31")


Day = Annotated[date | None, BeforeValidator(_parse_day)]
"""The type of a setting that is a day, such as 2020-12-31, or empty."""
