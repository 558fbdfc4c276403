"""The pages of the site that are made: of the code, and of the notebook.

mkdocs calls `on_files` (mkdocs.yml, `hooks`). A page here can be wrong only where the code is.
"""

import ast
import html
import json
import re
from collections import defaultdict
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from mvsent import errors
from mvsent.cli.command import Command, commands, sections
from mvsent.cli.given import variable
from mvsent.learn.metrics import METRICS, PERCENT
from mvsent.pairs import COLUMNS
from mvsent.reasons import Reason

ROOT = Path(__file__).parents[1]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """`files` with the generated pages."""
    for path, make in PAGES.items():
        files.append(File.generated(config, path, content=make()))
    return files


def commands_page() -> str:
    """Every command with what its `--help` says."""
    every = list(commands().values())
    contents = ["# Commands"]
    for panel, listed in groupby(every, key=lambda command: command.panel):
        lines = [f"- [`mvsent {c.name}`](#mvsent-{c.name}): {_first_line(c.help)}" for c in listed]
        contents.append(f"{panel}:\n\n" + "\n".join(lines))
    return "\n\n".join([*contents, *map(_command, every)]) + "\n"


def settings_page() -> str:
    """Every setting of every command that reads `mvsent.toml`."""
    parts = [
        "# Settings\n\nOptions override the environment, and the environment overrides `mvsent.toml`. "
        "`batch_size` of `[train]` in the file is `MVSENT_TRAIN_BATCH_SIZE` in the environment. A setting "
        "marked ○ says only where, or how fast, a result is computed: what was begun with another continues."
    ]
    for name, command in sections().items():
        rows = []
        for key, stated in command.kind.stated().items():
            values = ", ".join(map("`{}`".format, stated.choices)) or stated.limits
            meaning = _text(stated.help) + (f" Also `{stated.variable}`." if stated.variable else "")
            no_change = "" if stated.changes_result else " ○"
            rows.append((f"`{key}`{no_change}", meaning, values, _text(stated.default_text)))
        head = ("setting", "meaning", "values", "default")
        parts.append(f"## {name}\n\nVariables: `{variable(name, '')}…`\n\n{_table(head, rows).rstrip()}")
    return "\n\n".join(parts) + "\n"


def metrics_page() -> str:
    """Every metric of `metrics.json`."""
    rows = [
        (
            f"`{metric.name}`" + (", by class" if metric.rows else ""),
            _text(metric.title),
            _first_line(score.__doc__),
            "percent" if metric.unit == PERCENT else _text(metric.unit),
            "lower" if metric.lower_is_better else "higher",
        )
        for metric, score in METRICS.items()
    ]
    head = (
        "# Metrics\n\nOf `metrics.json`, in order. A metric by class has the keys `NAME_weighted`, "
        "`NAME_macro`, `NAME_micro`, `NAME_negative`, `NAME_neutral` and `NAME_positive`. In percent: "
        "a share from 0 to 1 in the file, times 100 in tables.\n\n"
    )
    return head + _table(("key", "title", "meaning", "unit", "better"), rows)


def columns_page() -> str:
    """The columns of a shard."""
    rows = [
        (f"`{column.name}`", _text(column.meaning), "yes" if column.nullable else "no", f"`{column.type}`")
        for column in COLUMNS
    ]
    head = ("column", "meaning", "may be null", "type")
    return "# Columns\n\nOf a dataset's shards, in order.\n\n" + _table(head, rows)


def reasons_page() -> str:
    """Every reason for which a row is dropped."""
    head = "# Reasons\n\nA row of `rejected.parquet` has one of these, and so has every line of a funnel.\n\n"
    return head + _table(("reason", "the row"), [(f"`{reason}`", _text(reason.meaning)) for reason in Reason])


def errors_page() -> str:
    """Every kind of failure, its exit code, and what it can say."""
    said = _messages()
    parts = [
        "# Errors\n\nWhat went wrong is one line on stderr, `mvsent: WHAT. WHAT TO DO NEXT`, and the exit "
        "code: "
        "0 done, 1 failed, 2 bad usage or configuration, 3 finished with some work left (the same command "
        "continues), 130 interrupted. `…` stands for a path, a name or a number."
    ]
    for kind in _kinds():
        parts.append(f"## {kind.__name__}\n\n{_first_line(kind.__doc__)} Exit code {kind.exit_code}.")
        if rows := sorted(said[kind.__name__]):
            parts.append(_table(("what", "what to do next"), rows).rstrip())
    return "\n\n".join(parts) + "\n"


def changes_page() -> str:
    """The changelog."""
    return (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").replace("(docs/", "(../")


def notebook_page() -> str:
    """The tutorial notebook: its texts, and its code without outputs."""
    cells = json.loads((ROOT / "docs" / "tutorial.ipynb").read_text(encoding="utf-8"))["cells"]
    parts = [
        "".join(cell["source"]) if cell["cell_type"] == "markdown" else _fenced("".join(cell["source"]))
        for cell in cells
    ]
    note = "This page is [a notebook](tutorial.ipynb). Run it to see its tables and pictures."
    return "\n\n".join([parts[0], note, *parts[1:]]) + "\n"


PAGES: dict[str, Callable[[], str]] = {
    "notebook.md": notebook_page,
    "reference/commands.md": commands_page,
    "reference/settings.md": settings_page,
    "reference/metrics.md": metrics_page,
    "reference/columns.md": columns_page,
    "reference/reasons.md": reasons_page,
    "reference/errors.md": errors_page,
    "reference/changes.md": changes_page,
}


def _command(command: Command) -> str:
    about, _, example = (command.help or "").partition("Example:")
    parts = [f"## mvsent {command.name}", _text(about.strip())]
    if example:
        parts.append(f"    {' '.join(example.split())}")
    context = typer.Context(command)
    records = [parameter.get_help_record(context) for parameter in command.params]
    rows = [(f"`{option}`", _text(meaning)) for option, meaning in filter(None, records)]
    return "\n\n".join([*parts, _table(("option", "meaning"), rows).rstrip()])


def _kinds() -> list[type[errors.MvsentError]]:
    found = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    return [kind for kind in found if issubclass(kind, errors.MvsentError) and kind is not errors.MvsentError]


def _messages() -> defaultdict[str, set[tuple[str, str]]]:
    """What each kind of failure says, by its name: the literals in the source, `…` for what is filled in."""
    names = {kind.__name__ for kind in _kinds()}
    said: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
    for path in sorted((ROOT / "mvsent").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
                what, *step = [_literal(argument) for argument in node.args] or [""]
                if re.search("[a-z]", what):
                    said[node.func.id].add((_text(what), _text(step[0]) if step else ""))
    return said


def _literal(node: ast.expr) -> str:
    """The text of a string expression, `…` for each part that is known only when it happens."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_literal(part) for part in parts)
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            return _literal(left) + _literal(right)
    return "…"


def _fenced(code: str) -> str:
    return f"```python\n{code}\n```"


def _first_line(text: str | None) -> str:
    return _text((text or "").strip().partition("\n")[0])


def _text(text: str) -> str:
    """`text` as Markdown that shows it as it is, but for its code spans, in a table too."""
    parts = re.split("(`[^`]+`)", text)  # every second one is a code span, which Markdown escapes itself
    parts[::2] = [re.sub(r"([*_\[\]|])", r"\\\1", html.escape(part, quote=False)) for part in parts[::2]]
    return "".join(parts)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(' '.join(cell.split()) for cell in row)} |\n" for row in lines)
