"""How a command is declared: a function, its heading in `mvsent --help`, and the settings it takes.

Its options are made when it is typed, not when `mvsent` starts: they need the class of its settings, and that
needs pydantic, which takes longer to import than all else that `mvsent --help` imports.
"""

import inspect
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import fields, is_dataclass
from functools import cached_property, partial
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, TypeVar, cast

import typer
from typer.core import TyperCommand, TyperGroup

from mvsent.cli import options
from mvsent.storage import recorded

if TYPE_CHECKING:
    from mvsent.cli.given import Given
    from mvsent.setting import Setting, Settings

PANELS = ("Build", "Label", "Learn", "Look", "Share", "Set up")
"""The headings of `mvsent --help`, in order."""

COMMANDS: "dict[str, Command]" = {}
"""The declared commands, by name."""

MAKERS: "list[Callable[[], Iterable[Command]]]" = []
"""Functions that make a command for each entry of a registry."""

_FEW = 14  # as many options need no headings

F = TypeVar("F", bound=Callable[..., Any])


def command(name: str, panel: str, **declared: Any) -> Callable[[F], F]:
    """Declare the function as a command; `declared` are the keywords of `Command`.

    A parameter `given` of the function stands for an option a setting, a parameter annotated with a dataclass
    for an option a field. Every other parameter is an option or an argument as Typer has it.
    """

    def declare(function: F) -> F:
        COMMANDS[name] = Command(name, panel, function, **declared)
        return function

    return declare


class Command(TyperCommand):
    """A command whose options are made when they are first asked for.

    Args:
        name: as typed after `mvsent`.
        panel: its heading in `mvsent --help`.
        function: what it calls.
        settings: the class of `given`, or where it is, such as `mvsent.config:TrainSettings`.
        section: the table of `mvsent.toml` that `given` reads, if not `name`; empty: none, and no variables.
        only: the settings that are options; empty: all.
        continues: whether the same command continues after an interruption.
        help: the text of `--help`, if not the function's docstring.
    """

    def __init__(
        self,
        name: str,
        panel: str,
        function: Callable[..., Any],
        *,
        settings: "str | type[Settings]" = "",
        section: str | None = None,
        only: Collection[str] = (),
        continues: bool = False,
        help: str = "",
    ) -> None:
        super().__init__(name, help=help or inspect.getdoc(function), rich_markup_mode=None)
        self.panel, self.function, self.settings = panel, function, settings
        self.section = name if section is None else section
        self.only, self.continues = only, continues

    @cached_property
    def kind(self) -> "type[Settings]":
        """The class of its settings."""
        settings = self.settings
        return cast("type[Settings]", resolve_name(settings)) if isinstance(settings, str) else settings

    def given(self, **flags: Any) -> "Given[Any]":
        """Its settings, of which `flags` were typed."""
        from mvsent.cli.given import Given

        return Given(self.name or "", self.section, self.kind, flags, sections())

    @cached_property
    def _made(self) -> TyperCommand:
        """The command that Typer makes of a function with one parameter an option."""
        expanded = [each for parameter in self._own_parameters for each in self._expanded(parameter)]

        def called(**typed: Any) -> Any:
            typed = {name: options.placed(value) for name, value in typed.items()}
            return self.function(**{each.name: self._argument(each, typed) for each in self._own_parameters})

        called.__signature__ = inspect.Signature(expanded)  # type: ignore[attr-defined]
        called.__annotations__ = {each.name: each.annotation for each in expanded}
        app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        app.command(self.name)(called)
        return cast("TyperCommand", typer.main.get_command(app))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse what was typed; a setting of several paths takes all that follow its option."""
        several = (
            [stated.flag for stated in self._stated if stated.path == "several"] if self.settings else []
        )
        return super().parse_args(ctx, options.spread_out(args, several))

    # Click assigns to both when the command is declared.
    params = property(lambda self: self._made.params, lambda self, _: None)
    callback = property(lambda self: self._made.callback, lambda self, _: None)

    @property
    def _own_parameters(self) -> Iterable[inspect.Parameter]:
        return inspect.signature(self.function).parameters.values()

    @property
    def _stated(self) -> "list[Setting]":
        return [stated for name, stated in self.kind.stated().items() if not self.only or name in self.only]

    def _expanded(self, parameter: inspect.Parameter) -> Iterator[inspect.Parameter]:
        option = partial(inspect.Parameter, kind=inspect.Parameter.KEYWORD_ONLY)
        if parameter.name == "given":
            for stated in self._stated:
                yield option(stated.name, default=None, annotation=options.of_setting(stated))
        elif is_dataclass(parameter.annotation):
            for field in fields(parameter.annotation):
                yield option(field.name, default=field.default, annotation=field.type)
        else:
            yield parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)

    def _argument(self, parameter: inspect.Parameter, typed: dict[str, Any]) -> Any:
        """The value that the function gets for one of its parameters."""
        if parameter.name == "given":
            given = [(stated, typed[stated.name]) for stated in self._stated]
            return self.given(**{s.name: recorded(s, value) for s, value in given if value is not None})
        if is_dataclass(kind := parameter.annotation):
            return kind(**{field.name: typed[field.name] for field in fields(kind)})  # type: ignore[operator]
        return typed[parameter.name]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options, under headings if there are many."""
        parameters: list[Any] = self.get_params(ctx)
        rows: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        for each in parameters:
            heading = getattr(each, "rich_help_panel", None) or "Output"  # --help has none
            if each.param_type_name == "argument":
                heading = "Arguments"
            elif len(parameters) <= _FEW:
                heading = "Options"
            term, meaning = each.get_help_record(ctx)
            # Typer writes `folders... <list[Path]>` and `--protocol <list[str]>`.
            term = re.sub(r"<list\[(\w+)\]>", "" if heading == "Arguments" else r"<\1>", term).rstrip()
            rows.setdefault(heading, []).append((term, meaning))
        for heading in ("Pictures", "Machine", "Output"):  # they come last, whatever else there is
            rows[heading] = rows.pop(heading, [])
        write_sections(formatter, rows)


class Commands(TyperGroup):
    """All declared commands, under their headings."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**{**given, "commands": list(commands().values())})

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write each command with the first line of its help."""
        rows: dict[str, list[tuple[str, str]]] = {}
        for name, each in self.commands.items():
            panel = cast("Command", each).panel
            rows.setdefault(panel, []).append((name, each.get_short_help_str(formatter.width)))
        write_sections(formatter, rows)


def write_sections(formatter: Any, sections: dict[str, list[tuple[str, str]]]) -> None:
    """Write rows of a term and its meaning under headings, with the meanings in one column."""
    width = min(30, max(len(term) for rows in sections.values() for term, _ in rows))
    for heading, rows in sections.items():
        if not rows:
            continue
        with formatter.section(heading):
            formatter.write_dl([(term.ljust(width), meaning) for term, meaning in rows])


def commands() -> "dict[str, Command]":
    """All commands by name, in the order of their headings; those made of registries come first."""
    made = [each for make in MAKERS for each in make()]
    in_order = sorted([*made, *COMMANDS.values()], key=lambda each: PANELS.index(each.panel))
    return {each.name or "": each for each in in_order}


def sections() -> "dict[str, Command]":
    """The commands that have a table in `mvsent.toml`, by its name."""
    return {name: each for name, each in commands().items() if each.settings and each.section == name}
