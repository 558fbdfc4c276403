"""The document of a benchmark as tables: Markdown, CSV, LaTeX, and a short one for the terminal."""

import csv
import io
import re
import shlex
from collections.abc import Mapping
from typing import Any

from mvsent.errors import UsageError
from mvsent.learn.metrics import headlines
from mvsent.report.comparison import p_value, points
from mvsent.report.results import interval, mean_std
from mvsent.report.tables import UNDEFINED, aligned, percent
from mvsent.splits import PROTOCOLS, plain_protocol

Document = Mapping[str, Any]
Row = Mapping[str, Any]

BEGIN, END = "<!-- benchmark:begin -->", "<!-- benchmark:end -->"

_TITLES = {"2": "Table II", "3": "Table III", "4": "Table IV", "all": "All systems"}
_PLAIN = ("dataset", "table", "system", "model", "ablation", "kind", "fidelity", "protocol", "split_sha256")
_OTHERS = ("parameters", "seconds", "p", "p_holm", "leak", "leak_low", "leak_high", "failure")


class Grid:
    """A table with a line for each system and columns for each protocol."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        self.protocols = list(dict.fromkeys(row["protocol"] for row in table["rows"]))
        self.lines: dict[str, dict[str, Row]] = {}
        """System → protocol → row."""
        for row in table["rows"]:
            self.lines.setdefault(row["system"], {})[row["protocol"]] = row
        self.grouped = [  # split files have names of their own
            name
            for name in PROTOCOLS
            if name in self.protocols and plain_protocol(name) in {*self.protocols} - {name}
        ]
        """The grouped protocols whose plain one is in the table, too."""

    @property
    def leaks(self) -> list[str]:
        """The titles of the columns of leaks."""
        return ["leak" if len(self.grouped) == 1 else f"leak, {protocol}" for protocol in self.grouped]

    def header(self) -> list[str]:
        """The titles of the columns."""
        of_protocols = [
            title
            for protocol in self.protocols
            for title in (f"{protocol}: accuracy (95 % interval)", "F1 weighted", "F1 macro", "p (Holm)")
        ]
        return [
            "system",
            "fidelity",
            "published accuracy / F1",
            *of_protocols,
            *self.leaks,
            "parameters",
            "seconds",
        ]

    def cells(self) -> list[list[str]]:
        """The cells of each line as text."""
        return [self._line(by_protocol) for by_protocol in self.lines.values()]

    def _line(self, by_protocol: Mapping[str, Row]) -> list[str]:
        first = next(iter(by_protocol.values()))
        cells = [first["system"], first["fidelity"] or UNDEFINED, _published(first)]
        for protocol in self.protocols:
            cells += _measured(by_protocol.get(protocol))
        cells += [_leak(by_protocol.get(protocol)) for protocol in self.grouped]
        parameters = [row["parameters"] for row in by_protocol.values() if row["parameters"] is not None]
        seconds = [row["seconds"] for row in by_protocol.values() if row["seconds"] is not None]
        return [
            *cells,
            f"{parameters[0]:,}" if parameters else UNDEFINED,
            f"{sum(seconds):.0f}" if seconds else UNDEFINED,
        ]


def _published(row: Row) -> str:
    numbers = [row["published_accuracy"], row["published_f1"]]
    if numbers == [None, None]:
        return UNDEFINED
    return " / ".join(map(percent, numbers))


def _measured(row: Row | None) -> list[str]:
    if row is None:
        return [UNDEFINED] * 4
    if row["failure"]:
        return ["failed", *[UNDEFINED] * 3]
    accuracy = f"{mean_std(row['accuracy'])} ({interval(row['accuracy'])})"
    return [accuracy, mean_std(row["f1_weighted"]), mean_std(row["f1_macro"]), p_value(row["p_holm"])]


def _leak(row: Row | None) -> str:
    if row is None or row["leak"] is None:
        return UNDEFINED
    return points(row["leak"], {"low": row["leak_low"], "high": row["leak_high"]})


def title(table: Mapping[str, Any]) -> str:
    """`mvsa-single, Table II`."""
    return f"{table['dataset']}, {_TITLES[table['table']]}"


def caption(document: Document, table: Mapping[str, Any]) -> str:
    """Protocol, split and seed of the numbers, and the meaning of the columns."""
    grid = Grid(table)
    splits = [_split(table, protocol) for protocol in grid.protocols]
    seeds = sorted({row["seed"] for row in table["rows"]})
    settings = [f"{key}={value}" for key, value in document["settings"].items()]
    sentences = [
        f"Protocol: {'; '.join(splits)}",
        f"Seed: {', '.join(map(str, seeds))}",
        f"Settings other than the defaults: {', '.join(settings)}" if settings else "",
        "In percent, mean ± standard deviation over folds; intervals are from a bootstrap of distinct pairs",
        _of_tests(document, table),
        "leak: accuracy by the plain protocol minus by the grouped one, in points, with 95 % interval"
        if grid.grouped
        else "",
        *_of_people(table),
        "Parameters are those that were trained; seconds are those of all trainings of the line, "
        "without the shared features",
    ]
    return ". ".join(filter(None, sentences)) + "."


def _of_tests(document: Document, table: Mapping[str, Any]) -> str:
    """The sentence on the p-values, without its full stop."""
    n = sum(row["p"] is not None for row in table["rows"])
    if not n:
        return f"No p: it needs {document['against']} among the systems, and three folds"
    family = f"the {n} comparisons of the table" if n > 1 else "the only comparison of the table"
    return (
        f"p: corrected resampled t-test of the accuracy against {document['against']} on the same folds, "
        f"after Holm's correction for {family}; results.csv also has it without that correction"
    )


def _of_people(table: Mapping[str, Any]) -> list[str]:
    """The sentence on the second annotation, without its full stop; none if the table has no such line."""
    n_pairs = next((row["n_pairs"] for row in table["rows"] if row["kind"] == "annotators"), None)
    if n_pairs is None:
        return []
    return [
        f"second annotation: no system, but people: of {n_pairs} pairs that were annotated twice, the share "
        "with the same label again, with Wilson's interval"
    ]


def _split(table: Mapping[str, Any], protocol: str) -> str:
    rows = [row for row in table["rows"] if row["protocol"] == protocol]
    shas = list(dict.fromkeys(row["split_sha256"] for row in rows if row["split_sha256"]))
    n_folds = max(len(row["folds"]) for row in rows)
    if not shas:
        return protocol
    return f"{protocol} (split {', '.join(shas)}, {n_folds} {'fold' if n_folds == 1 else 'folds'})"


def notes(table: Mapping[str, Any]) -> list[str]:
    """The caveats of the evaluations, each with the systems concerned."""
    about: dict[str, list[str]] = {}
    for row in table["rows"]:
        for note in row["notes"]:
            about.setdefault(note, []).append(row["system"])
    everyone = {row["system"] for row in table["rows"] if row["folds"]}
    return [
        note if set(systems) == everyone else f"{note} ({', '.join(dict.fromkeys(systems))})"
        for note, systems in about.items()
    ]


def failures(table: Mapping[str, Any]) -> list[str]:
    """Failed rows with their reasons."""
    return [
        f"{row['system']}, {row['protocol']}: {row['failure']}" for row in table["rows"] if row["failure"]
    ]


def render_markdown(document: Document) -> str:
    """Render the command and each table with title, caption, failures and notes.

    Text is aligned left, numbers right.
    """
    parts = []
    if document["command"]:
        parts.append(f"```bash\n{shlex.join(document['command'])}\n```")
    for table in document["tables"]:
        grid = Grid(table)
        rule = ["---", "---", *["---:"] * (len(grid.header()) - 2)]
        grid_lines = (grid.header(), rule, *grid.cells())
        body = [f"| {' | '.join(map(_markdown, cells))} |" for cells in grid_lines]
        parts += [f"### {_markdown(title(table))}", "\n".join(body), _markdown(caption(document, table))]
        for what, lines in (("Failed", failures(table)), ("Notes", notes(table))):
            if lines:
                parts.append(f"{what}:\n\n" + "\n".join(f"- {_markdown(line)}" for line in lines))
    return "\n\n".join(parts) + "\n"


def _markdown(text: str) -> str:
    r"""Escape `text` for Markdown.

    >>> _markdown("a|b *c* d_e <f>")
    'a\\|b \\*c\\* d\\_e \\<f\\>'
    """
    # On one line, as a line break would end the row of a table.
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", " ".join(text.split()))


def render_csv(document: Document) -> str:
    """Render every row of every table; percentages are shares from 0 to 1, also published ones."""
    measures = [f"{key}_{part}" for key in headlines() for part in ("mean", "std", "low", "high")]
    header = [*_PLAIN, "seed", "n_folds", "published_accuracy", "published_f1", *measures, *_OTHERS]
    text = io.StringIO()
    writer = csv.DictWriter(text, header, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for table in document["tables"]:
        for row in table["rows"]:
            flat = {f"{m}_{part}": value for m in headlines() for part, value in (row[m] or {}).items()}
            writer.writerow({**row, **flat, "table": table["table"], "n_folds": len(row["folds"]) or None})
    return text.getvalue()


def render_latex(document: Document) -> str:
    """Render each table as a `table*` of the width of the page, with the columns of the Markdown."""
    parts = ["% \\usepackage{booktabs,graphicx}"]
    for table in document["tables"]:
        grid = Grid(table)
        header, *lines = [" & ".join(map(latex, cells)) + r" \\" for cells in (grid.header(), *grid.cells())]
        parts_told = [title(table), caption(document, table), *failures(table), *notes(table)]
        told = " ".join(f"{part.rstrip('.')}." for part in parts_told)
        parts.append(
            "\n".join(
                [
                    r"\begin{table*}",
                    r"\centering",
                    rf"\caption{{{latex(told)}}}",
                    r"\resizebox{\textwidth}{!}{%",
                    rf"\begin{{tabular}}{{ll{'r' * (len(grid.header()) - 2)}}}",
                    r"\toprule",
                    header,
                    r"\midrule",
                    *lines,
                    r"\bottomrule",
                    r"\end{tabular}}",
                    r"\end{table*}",
                ]
            )
        )
    return "\n\n".join(parts) + "\n"


_LATEX = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "–": "--",
    "\n": " ",
}


def latex(text: str) -> str:
    r"""Escape `text` for LaTeX.

    >>> latex("50 % of a_b ± 1")
    '50 \\% of a\\_b $\\pm$ 1'
    """
    return "".join(_LATEX.get(sign, sign) for sign in text)


def render_terminal(document: Document) -> str:
    """Render each table with accuracy and weighted F1 only; the files have the rest."""
    parts = []
    for table in document["tables"]:
        grid = Grid(table)
        columns = [title for protocol in grid.protocols for title in (protocol, "F1 weighted")]
        header = ["accuracy, percent", "published", *columns, *grid.leaks]
        lines = []
        for by_protocol in grid.lines.values():
            first = next(iter(by_protocol.values()))
            cells = [first["system"], percent(first["published_accuracy"])]
            for protocol in grid.protocols:
                row = by_protocol.get(protocol)
                if row is None or row["failure"]:
                    cells += ["failed" if row else UNDEFINED, UNDEFINED]
                else:
                    cells += [mean_std(row["accuracy"]), mean_std(row["f1_weighted"])]
            lines.append([*cells, *(_leak(by_protocol.get(protocol)) for protocol in grid.grouped)])
        parts += [f"{title(table)}\n\n{aligned(header, lines)}", *failures(table)]
    return "\n\n".join(parts)


def accuracies(
    table: Mapping[str, Any],
) -> tuple[dict[str, dict[str, Mapping[str, float | None]]], dict[str, float]]:
    """System → protocol → accuracy, without failures; and system → published accuracy, from 0 to 1."""
    found: dict[str, dict[str, Mapping[str, float | None]]] = {}
    published = {}
    for row in table["rows"]:
        if row["accuracy"]:
            found.setdefault(row["system"], {})[row["protocol"]] = row["accuracy"]
            if row["published_accuracy"] is not None:
                published[row["system"]] = row["published_accuracy"]
    return found, published


def replace_block(text: str, block: str) -> str:
    """Replace the block between the two marks in `text`.

    >>> replace_block(f"a\\n{BEGIN}\\nold\\n{END}\\nb", "new\\n").splitlines()[2:-2]
    ['', 'new', '']

    Raises: UsageError if one of the marks is missing.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UsageError(
            f"--into: the file lacks {BEGIN if not begin else END}",
            f"Write {BEGIN} and {END} where to put it",
        )
    return f"{before}{BEGIN}\n\n{block.strip()}\n\n{END}{after}"
