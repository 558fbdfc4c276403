"""The results of a benchmark's cells as one document, and its files."""

import json
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mvsent import __version__
from mvsent.config import TrainSettings
from mvsent.errors import MvsentError
from mvsent.learn.bootstrap import Answered, interval, pair_numbers, resampled_means
from mvsent.learn.metrics import headlines
from mvsent.learn.significance import corrected_t_test, holm
from mvsent.report import benchmark_tables as report
from mvsent.report import plots
from mvsent.runs.benchmark_plan import Asked, Cell, slug
from mvsent.runs.history import read_history
from mvsent.runs.network import MODEL, trained_parameters
from mvsent.runs.recipes import recipe_of
from mvsent.runs.run_folder import HISTORY, RunFolder
from mvsent.runs.seen_rows import training_labels
from mvsent.runs.trial import saved_trial
from mvsent.shards.atomic import atomic_write
from mvsent.splits import PROTOCOLS, plain_protocol

Document = dict[str, Any]
Row = dict[str, Any]

PRINTED = ("accuracy", "f1_weighted", "f1_macro")
"""The metrics of the printed tables; the files have all headline metrics."""

_LEAK = ("leak", "leak_low", "leak_high")


def collect(
    asked: Asked, cells: Sequence[Cell], failures: Mapping[Path, str], command: Sequence[str] = ()
) -> Document:
    """The content of `results.json`: for each dataset and table, a row for each system and protocol.

    Percentages are shares from 0 to 1, also those of the papers; `leak` is the difference of two shares.
    `p_holm` is `p`, corrected for all comparisons of the table. Apart from the seconds, it does not depend on
    the time or order of the cells.
    """
    rows = {cell.path: row_or_failure(cell, failures.get(cell.path, "")) for cell in cells}
    compare(cells, rows, asked.against)
    worth_of_leak(cells, rows)
    tables = []
    for name in dict.fromkeys(cell.dataset.name for cell in cells):
        own = [cell for cell in cells if cell.dataset.name == name]
        for table in asked.tables:
            systems = [system.name for system in asked.systems(table)]
            shown = [cell for cell in own if cell.system.name in systems]
            found = [dict(rows[cell.path]) for cell in shown]  # as the correction is that of this table
            for row, corrected in zip(found, holm([row["p"] for row in found]), strict=True):
                row["p_holm"] = corrected
            listed = [*majority_rows(shown, rows), *found, *second_annotation_rows(shown, rows)]
            tables.append({"dataset": name, "table": table, "rows": listed})
    return {
        "mvsent_version": __version__,
        "command": list(command),
        "against": asked.against,
        "settings": changed_settings(asked.common),
        "tables": tables,
    }


def changed_settings(settings: TrainSettings) -> dict[str, Any]:
    """The common settings that differ from the defaults and are not shown elsewhere."""
    told = {"model", "options", "protocol", "split_file", "seed"} | TrainSettings.without_effect()
    default = TrainSettings().model_dump()
    return {k: v for k, v in settings.model_dump().items() if k not in told and v != default[k]}


def row_or_failure(cell: Cell, failure: str) -> Row:
    """The row of a cell; if its files are damaged, a row that says so."""
    try:
        return make_row(cell, failure)
    except (MvsentError, OSError, ValueError, KeyError) as error:
        return make_row(cell, f"{error}; train it again with --overwrite")


def make_row(cell: Cell, failure: str) -> Row:
    """The row of a cell without numbers; that of a failed one has the reason."""
    card, system = cell.system.card, cell.system
    published = system.published.get(cell.dataset.name)
    implied = {**recipe_of(card.name, cell.settings.recipe).options, **system.options}
    given = {k: v for k, v in cell.settings.options.items() if implied.get(k) != v}
    row: Row = {
        "dataset": cell.dataset.name,
        "system": system.name + "".join(f", {key}={value}" for key, value in given.items()),
        "model": card.name,
        "ablation": system.ablation,
        "kind": card.kind,
        "fidelity": card.fidelity,
        "options": dict(cell.settings.options),
        "protocol": cell.protocol,
        "split_sha256": "",
        "seed": cell.settings.seed,
        "published_accuracy": _share(published.accuracy if published else None),
        "published_f1": _share(published.f1 if published else None),
        **dict.fromkeys((*headlines(), "parameters", "seconds", "p", "p_holm", *_LEAK)),
        "folds": [],
        "notes": [],
        "run": str(cell.path),
        "failure": failure,
    }
    return row if failure else row | measured(cell)


def _share(percent: float | None) -> float | None:
    """A published number as a share from 0 to 1."""
    return None if percent is None else round(percent / 100, 6)


def measured(cell: Cell) -> Row:
    """The numbers of a finished cell, from its own files."""
    run = RunFolder.open(cell.path)
    folders = [run.fold(k) for k in run.wanted_folds]
    epochs = [record for folder in folders for record in read_history(folder / HISTORY)]
    parameters = [n for folder in folders if (n := trained_parameters(folder / MODEL)) is not None]
    return {
        "split_sha256": run.resolved.split_sha256[:8],
        **summaries(cell.metrics["metrics"]),
        # The number of trained word vectors depends on the words of the fold's training rows.
        "parameters": round(float(np.mean(parameters))) if parameters else None,
        "seconds": sum(record.seconds for record in epochs),
        "folds": [
            {"fold": fold["fold"], "n_test": fold["n_test"], "accuracy": fold["metrics"]["accuracy"]}
            for fold in cell.metrics["folds"]
        ],
        "notes": cell.metrics["notes"],
    }


def summaries(metrics: Mapping[str, Any]) -> Row:
    """The headline metrics of a `metrics.json`; None for a metric that is newer than the file."""
    return {key: metrics[key] if key in PRINTED else metrics.get(key) for key in headlines()}


def majority_rows(cells: Sequence[Cell], rows: Mapping[Path, Row]) -> list[Row]:
    """Rows of the majority baseline: one for each protocol, from any finished cell."""
    of_protocol = any_cells(cells, rows)
    told = {"system": "majority", "model": "majority", "kind": "baseline", "fidelity": "exact"}
    found = {
        protocol: without_model(rows[cell.path])
        | told
        | {"parameters": 0, "seconds": 0.0}
        | summaries(cell.metrics["majority"])
        for protocol, cell in of_protocol.items()
    }
    _set_leaks(of_protocol, found, majority=True)
    return list(found.values())


def second_annotation_rows(cells: Sequence[Cell], rows: Mapping[Path, Row]) -> list[Row]:
    """Rows of the agreement of people, one for each protocol, if pairs of the dataset were annotated twice.

    They do not depend on the protocol: those pairs are all in the dataset, tested or not.
    """
    found = []
    for cell in any_cells(cells, rows).values():
        if again := cell.metrics.get("second_annotation"):  # none in a file of an older version
            row = without_model(rows[cell.path]) | {"system": "second annotation", "kind": "annotators"}
            found.append(row | summaries(again["metrics"]) | {"n_pairs": again["n_pairs"]})
    return found


def any_cells(cells: Sequence[Cell], rows: Mapping[Path, Row]) -> dict[str, Cell]:
    """Protocol → its first finished cell; any of them would do, as all have the same test rows."""
    found: dict[str, Cell] = {}
    for cell in cells:
        if not rows[cell.path]["failure"]:
            found.setdefault(cell.protocol, cell)
    return found


def without_model(row: Row) -> Row:
    """The row of a cell without everything that belongs to its model."""
    empty = (
        "published_accuracy",
        "published_f1",
        "p",
        "p_holm",
        *_LEAK,
        *headlines(),
        "parameters",
        "seconds",
    )
    names = dict.fromkeys(("model", "ablation", "fidelity", "run"), "")
    return row | names | {"options": {}, "folds": [], "notes": []} | dict.fromkeys(empty)


def compare(cells: Sequence[Cell], rows: Mapping[Path, Row], against: str) -> None:
    """Set `p` of every row except the reference, if both have at least three common folds."""
    references = {(cell.dataset.name, cell.protocol): cell for cell in cells if cell.system.name == against}
    shares: dict[tuple[str, str], float | None] = {}
    for cell in cells:
        key = (cell.dataset.name, cell.protocol)
        reference = references.get(key)
        if reference is None or reference is cell:
            continue
        row, other = rows[cell.path], rows[reference.path]
        differences = paired_differences(row, other)
        if differences:
            # Once for each dataset and protocol, as it reads files.
            if key not in shares:
                shares[key] = test_share(cell, [fold["n_test"] for fold in row["folds"]])
            if (share := shares[key]) is not None:
                row["p"] = corrected_t_test(differences, share)


def paired_differences(row: Row, other: Row) -> list[float]:
    """The difference in accuracy on each fold; empty if the folds differ."""
    ours, theirs = row["folds"], other["folds"]
    same = [fold["fold"] for fold in ours] == [fold["fold"] for fold in theirs]
    if not same or row["split_sha256"] != other["split_sha256"]:
        return []
    return [a["accuracy"] - b["accuracy"] for a, b in zip(ours, theirs, strict=True)]


def test_share(cell: Cell, n_test: Sequence[int]) -> float | None:
    """Mean ratio of test rows to training rows of a fold; None if the training rows are unknown."""
    run = RunFolder.open(cell.path)
    labels = training_labels(run)
    if labels is None:
        return None
    return float(np.mean(n_test) / np.mean([len(labels[fold]) for fold in run.wanted_folds]))


def worth_of_leak(cells: Sequence[Cell], rows: Mapping[Path, Row]) -> None:
    """Set `leak` and its interval in every row whose protocol and its plain or grouped one are present."""
    systems: dict[tuple[str, str], dict[str, Cell]] = {}
    for cell in cells:
        systems.setdefault((cell.dataset.name, cell.system.name), {})[cell.protocol] = cell
    for by_protocol in systems.values():
        _set_leaks(by_protocol, {name: rows[cell.path] for name, cell in by_protocol.items()})


def _set_leaks(cells: Mapping[str, Cell], rows: Mapping[str, Row], *, majority: bool = False) -> None:
    """Accuracy by the plain protocol minus that by a grouped one, as shares, with its 95% interval.

    A pair is resampled with its test rows in both protocols. If there are two grouped protocols, the row of
    the plain one has the leak of exact duplicates.
    """
    for name in PROTOCOLS:  # `grouped-` comes before `grouped-near-`
        plain, grouped = rows.get(plain_protocol(name)), rows.get(name)
        if name == plain_protocol(name) or not (plain and grouped):
            continue
        if not (plain["accuracy"] and grouped["accuracy"]):
            continue
        trials = [saved_trial(RunFolder.open(cells[each].path)) for each in (plain_protocol(name), name)]
        numbers = iter(pair_numbers([fold.answers.ids for trial in trials for fold in trial.tested]))
        folds = [trial.baseline.folds if majority else trial.answered.folds for trial in trials]
        both = [Answered(of_trial, list(islice(numbers, len(of_trial)))) for of_trial in folds]
        resampled = resampled_means(both, trials[0].classes, only=["accuracy"])
        low, high = interval(resampled[0]["accuracy"] - resampled[1]["accuracy"])
        leak = plain["accuracy"]["mean"] - grouped["accuracy"]["mean"]
        for row in (plain, grouped) if plain["leak"] is None else (grouped,):
            row.update(zip(_LEAK, (leak, low, high), strict=True))


def write_results(document: Document, out: Path, into: Path | None = None) -> list[Path]:
    """Write `results.json`, `.csv`, `.md`, `.tex` and the figures to `out`, and the Markdown into `into`."""
    markdown = report.render_markdown(document)
    texts = {
        out / "results.json": json.dumps(document, indent=2, allow_nan=False) + "\n",
        out / "results.csv": report.render_csv(document),
        out / "results.md": markdown,
        out / "results.tex": report.render_latex(document),
    }
    if into:
        texts[into] = report.replace_block(into.read_text(encoding="utf-8"), markdown)
    for path, text in texts.items():
        with atomic_write(path) as file:
            file.write(text.encode())
    return [*texts, *draw(document, out)]


def draw(document: Document, out: Path) -> list[Path]:
    """Draw a figure of every table with numbers: `results.png`, or one for each of several tables."""
    tables = document["tables"]
    written: list[Path] = []
    for table in tables:
        accuracies, published = report.accuracies(table)
        if accuracies:
            stem = "results" if len(tables) == 1 else f"results-{slug(table['dataset'])}-{table['table']}"
            written += plots.save_figure(plots.accuracy_bars(accuracies, published), out, stem)
    return written
