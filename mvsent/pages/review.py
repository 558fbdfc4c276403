"""A short list of the rows that ask for a second look, worst first."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mvsent.curate.quality import WEIGHTS, worst_first
from mvsent.errors import DatasetError, UsageError
from mvsent.pages.page_file import PAGE_MARK, refuse_unless_ours, silent
from mvsent.pages.review_rows import Findings, OutOfFold, Rows, find, out_of_fold
from mvsent.pairs import LABEL_NAMES
from mvsent.report.cards import MAX_PICTURE_BYTES, read_rows
from mvsent.report.gallery import Card
from mvsent.report.review_page import Suspect, card_ids, label_name, render_review, suspect_card
from mvsent.runs.run_folder import RunFolder
from mvsent.shards.atomic import atomic_write
from mvsent.shards.exports.csv_table import cell, csv_line
from mvsent.shards.reader import Dataset
from mvsent.splits import GROUPED
from mvsent.storage import make_folder

ROWS = 100
ROWS_OF_GROUP = 10
"""Of rows that repeat each other so many are listed; each names the others as its twins."""
MAX_CARDS = 2000
"""Cards on a page; the table may hold more rows."""
COLUMNS = ["id", "score", "reasons", "label", "suggested_label", "text", "twins"]
_MAX_TWINS = 50  # named in the table; the reason counts them all

Document = dict[str, Any]


@dataclass(frozen=True)
class Review:
    """What was found, and where the list lies.

    Attributes:
        dataset, run: what was looked at; no run, no label errors.
        name: of the dataset.
        out, page: the table, and the page if one was wanted.
        counts: rows of the dataset; suspicious and listed ones; rows that a run tested, where there is a run.
        kinds: rows of each kind of reason, and listed ones.
        notes: what a reader must know.
    """

    dataset: Path
    run: Path | None
    name: str
    out: Path
    page: Path | None
    counts: dict[str, int]
    kinds: dict[str, dict[str, int]]
    notes: list[str]

    def document(self) -> Document:
        """The review as JSON."""
        return {
            "dataset": str(self.dataset),
            "run": self.run and str(self.run),
            "name": self.name,
            "out": str(self.out),
            "page": self.page and str(self.page),
            **self.counts,
            "kinds": self.kinds,
            "notes": self.notes,
        }

    def words(self, *, quiet: bool = False) -> str:
        """The review as lines for the terminal; without the notes if `quiet`."""
        counts, places = self.counts, [self.out, *([self.page] if self.page else [])]
        width = max(map(len, self.kinds))
        lines = [
            f"{self.dataset} → {', '.join(map(str, places))}",
            f"{counts['listed']} of {counts['suspicious']} rows with a reason are listed, worst first; "
            f"{counts['rows']} rows were looked at",
            *(f"  {kind:<{width}}  {n['rows']:>7}, listed {n['listed']}" for kind, n in self.kinds.items()),
            *(f"{note}." for note in ([] if quiet else self.notes)),
        ]
        return "\n".join(lines)


def review(
    dataset: Path,
    run: Path | None = None,
    out: Path | None = None,
    *,
    n_rows: int = ROWS,
    html: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> Review:
    """A table of the rows that ask for a second look lies at `out`, by default `reports/NAME-review.csv`.

    An earlier review is replaced.

    Args:
        dataset: the folder.
        run: a run on it, whose answers on its test rows tell probable label errors.
        out: the table; a page lies beside it, with the ending .html.
        n_rows: rows listed, at most.
        html: write the page, too.
        overwrite: replace a file that is no review, too.
        quiet: no progress.

    Raises:
        UsageError: `n_rows` is below 1, `out` is no CSV, the run is of another dataset, cleanlab is missing.
        OutputExistsError: a folder or something else is in the way.
        DatasetError: the dataset cannot be read, or has no rows.
        RunError: the run cannot be read, or no fold is finished.
    """
    if n_rows < 1:
        raise UsageError(f"-n {n_rows}: a list of no rows", "Choose 1 or more")
    out = out or Path("reports") / f"{dataset.resolve().name}-review.csv"
    if out.suffix != ".csv":
        raise UsageError(f"{out}: the list is a CSV", "Name a file: --out FILE.csv")
    page = out.with_suffix(".html") if html else None
    for path, mark in ((out, ",".join(COLUMNS).encode()), (page, PAGE_MARK)):
        if path:
            refuse_unless_ours(path, b"" if overwrite else mark, "review", "FILE.csv")
    opened = Dataset.open(dataset)
    if len(opened) == 0:
        raise DatasetError(f"{dataset}: has no rows", "Review a dataset that has some")
    opened.classes  # noqa: B018  raises where a label is none
    answers, notes = _answers(opened, run)
    findings = find(opened, answers)
    rows = worst_first(findings.score, findings.twins.either, n_rows, ROWS_OF_GROUP)
    suspects = _suspects(opened, findings, rows)
    result = Review(
        dataset, run, opened.name, out, page, _counts(findings, answers, rows), _kinds(findings, rows), notes
    )
    make_folder(out.parent)
    with atomic_write(out) as file:
        file.write(_table(suspects))
    if page:
        cards = _cards(opened, suspects[:MAX_CARDS], quiet=quiet)
        with atomic_write(page) as file:
            file.write(render_review(result.document(), cards).encode("utf-8", "replace"))
    return result


def _answers(dataset: Dataset, path: Path | None) -> tuple[OutOfFold | None, list[str]]:
    """What the run at `path` said of rows that it was not trained on, and what to know about it."""
    if path is None:
        return None, [
            "label errors were not looked for: that takes a run whose folds test every row; get one by "
            f"mvsent train {dataset.folder} --protocol grouped-kfold-5, and name it after the dataset"
        ]
    from mvsent.runs.trial import saved_trial

    run = RunFolder.open(path)
    if run.resolved.dataset_sha256 != dataset.sha256:
        raise UsageError(
            f"{path}: was trained on other rows ({run.resolved.dataset_name}) than {dataset.folder} has now",
            "Name a run on this dataset",
        )
    trial = saved_trial(run)
    answers = out_of_fold(trial, dataset.ids)
    notes = list(trial.notes)
    if n_untested := len(dataset) - len(answers.rows):
        notes.append(
            f"{n_untested} of {len(dataset)} rows were tested by no fold of {path}, so their labels were not "
            "checked; a run with --protocol grouped-kfold-5 tests every row"
        )
    if not run.settings.split_file and not run.settings.protocol.startswith(GROUPED):
        notes.append(
            f"{path} is not of a grouped- protocol: what its network says of a row may be the label of a "
            "twin that it was trained on"
        )
    return answers, notes


def _suspects(dataset: Dataset, findings: Findings, rows: Rows) -> list[Suspect]:
    texts = dataset.table(["text"])["text"]
    suspects = []
    for row in rows.tolist():
        twins = np.sort(np.concatenate([rows[:0], *findings.twins.of(row).values()]))
        suspects.append(
            Suspect(
                row=row,
                id=dataset.ids[row],
                text=texts[row].as_py() or "",
                label=LABEL_NAMES[findings.labels[row]],
                score=float(findings.score[row]),
                reasons=findings.reasons(row),
                suggested=label_name(int(findings.suggested[row])),
                twins=[dataset.ids[twin] for twin in twins[:_MAX_TWINS]],
            )
        )
    return suspects


def _counts(findings: Findings, answers: OutOfFold | None, rows: Rows) -> dict[str, int]:
    return {
        "rows": len(findings.score),
        "suspicious": int((findings.score > 0).sum()),
        "listed": len(rows),
        **({} if answers is None else {"tested": len(answers.rows)}),
    }


def _kinds(findings: Findings, rows: Rows) -> dict[str, dict[str, int]]:
    found = {kind: findings.scores[kind] > 0 for kind in WEIGHTS if kind in findings.scores}
    return {kind: {"rows": int(of.sum()), "listed": int(of[rows].sum())} for kind, of in found.items()}


def _table(suspects: Sequence[Suspect]) -> bytes:
    lines = [csv_line(COLUMNS)]
    for one in suspects:
        reasons = "; ".join(f"{kind}: {words}" for kind, words in one.reasons.items())
        values = [one.id, f"{one.score:.3f}", reasons, one.label, one.suggested, one.text, one.twins]
        lines.append(csv_line([cell(value) for value in values]))
    return "".join(lines).encode("utf-8")


def _cards(dataset: Dataset, suspects: Sequence[Suspect], *, quiet: bool) -> list[Card]:
    """Their cards in the same order; the pictures are read in the dataset's."""
    by_row = {one.row: one for one in suspects}
    rows = np.array(sorted(by_row), dtype=np.int64)
    budget, places = MAX_PICTURE_BYTES // max(len(rows), 1), card_ids(suspects)
    progress = tqdm(read_rows(dataset, rows), total=len(rows), unit="pictures", disable=silent(quiet))
    made = {
        number: suspect_card(by_row[number], row, budget, places)
        for number, row in zip(rows.tolist(), progress, strict=True)
    }
    return [made[one.row] for one in suspects]
