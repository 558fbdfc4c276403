"""A short list of suspicious rows, worst first: the job behind `mvsent review`."""

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
from mvsent.shards.terms import joint_terms
from mvsent.splits import GROUPED
from mvsent.storage import make_folder

ROWS = 100
ROWS_OF_GROUP = 10
"""Maximum number of rows listed of a group that repeat each other; each names the others as its twins."""
MAX_CARDS = 2000
"""Maximum number of cards on a page; the table may have more rows."""
COLUMNS = ["id", "score", "reasons", "label", "suggested_label", "text", "twins"]
_MAX_TWINS = 50  # named in the table; the reason gives their total number

Document = dict[str, Any]


@dataclass(frozen=True)
class Review:
    """A written review.

    Attributes:
        dataset, run: the folders reviewed; label errors are found only with a run.
        name: name of the dataset.
        out, page: the table, and the page if requested.
        counts: numbers of rows in the dataset, suspicious, listed and, with a run, tested.
        kinds: kind of reason → numbers of rows and of listed rows.
        notes: caveats for the reader.
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
            f"{counts['listed']} of {counts['suspicious']} suspicious rows are listed, worst first; "
            f"{counts['rows']} rows were checked",
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
    """Write a table of suspicious rows to `out`, by default `reports/NAME-review.csv`.

    An earlier review is replaced.

    Args:
        dataset: the dataset folder.
        run: a run on it, whose test answers reveal probable label errors.
        out: the table; the page has the same name with the suffix .html.
        n_rows: maximum number of rows to list.
        html: also write the page.
        overwrite: also replace a file that is not a review.
        quiet: no progress bar.

    Raises:
        UsageError: `n_rows` is below 1, `out` is not a CSV, the run is of another dataset, or cleanlab is
            missing.
        OutputExistsError: `out` is a folder or another kind of file.
        DatasetError: the dataset cannot be read, or has no rows.
        RunError: the run cannot be read, or has no finished fold.
    """
    if n_rows < 1:
        raise UsageError(f"-n {n_rows}: must be at least 1", "Choose 1 or more")
    out = out or Path("reports") / f"{dataset.resolve().name}-review.csv"
    if out.suffix != ".csv":
        raise UsageError(f"{out}: the table is written as CSV", "Name a file: --out FILE.csv")
    page = out.with_suffix(".html") if html else None
    for path, mark in ((out, ",".join(COLUMNS).encode()), (page, PAGE_MARK)):
        if path:
            refuse_unless_ours(path, b"" if overwrite else mark, "review", "FILE.csv")
    opened = Dataset.open(dataset)
    if len(opened) == 0:
        raise DatasetError(f"{dataset}: has no rows", "Review a dataset with rows")
    opened.require_labels()
    answers, notes = _answers(opened, run)
    findings = find(opened, answers)
    rows = worst_first(findings.score, findings.twins.either, n_rows, ROWS_OF_GROUP)
    counts = {
        "rows": len(findings.score),
        "suspicious": int((findings.score > 0).sum()),
        "listed": len(rows),
        **({} if answers is None else {"tested": len(answers.rows)}),
    }
    suspicious = {kind: findings.scores[kind] > 0 for kind in WEIGHTS if kind in findings.scores}
    kinds = {
        kind: {"rows": int(of_kind.sum()), "listed": int(of_kind[rows].sum())}
        for kind, of_kind in suspicious.items()
    }
    result = Review(dataset, run, opened.name, out, page, counts, kinds, notes)
    suspects = _suspects(opened, findings, rows)
    lines = [csv_line(COLUMNS)]
    for one in suspects:
        reasons = "; ".join(f"{kind}: {words}" for kind, words in one.reasons.items())
        values = [one.id, f"{one.score:.3f}", reasons, one.label, one.suggested, one.text, one.twins]
        # Texts come from strangers: a spreadsheet must not run them as formulas.
        lines.append(csv_line([cell(value) for value in values]))
    make_folder(out.parent)
    with atomic_write(out) as file:
        file.write("".join(lines).encode("utf-8"))
    if page:
        cards = _cards(opened, suspects[:MAX_CARDS], quiet=quiet)
        terms = joint_terms(opened.manifest.sources).text
        with atomic_write(page) as file:
            file.write(render_review(result.document(), cards, terms).encode("utf-8", "replace"))
    return result


def _answers(dataset: Dataset, path: Path | None) -> tuple[OutOfFold | None, list[str]]:
    """The answers of the run at `path` for rows that it was not trained on, and caveats."""
    if path is None:
        return None, [
            "label errors were not looked for: this needs a run whose folds test every row. Train one with "
            f"mvsent train {dataset.folder} --protocol grouped-kfold-5, and name it after the dataset"
        ]
    from mvsent.runs.trial import saved_trial

    run = RunFolder.open(path)
    if run.resolved.dataset_sha256 != dataset.sha256:
        raise UsageError(
            f"{path}: was trained on other rows ({run.resolved.dataset_name}) than those of {dataset.folder}",
            "Name a run on this dataset",
        )
    trial = saved_trial(run, dataset.folder)
    answers = out_of_fold(trial, dataset.ids)
    notes = list(trial.notes)
    if n_untested := len(dataset) - len(answers.rows):
        notes.append(
            f"{n_untested} of {len(dataset)} rows were tested by no fold of {path}, so their labels were not "
            "checked. A run with --protocol grouped-kfold-5 tests every row"
        )
    if not run.settings.split_file and not run.settings.protocol.startswith(GROUPED):
        notes.append(
            f"{path} does not use a grouped- protocol: its answer for a row may be the label of a duplicate "
            "in the training rows"
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


def _cards(dataset: Dataset, suspects: Sequence[Suspect], *, quiet: bool) -> list[Card]:
    """Cards of the suspects, in their order; pictures are read in the order of the dataset."""
    by_row = {one.row: one for one in suspects}
    rows = np.array(sorted(by_row), dtype=np.int64)
    budget, places = MAX_PICTURE_BYTES // max(len(rows), 1), card_ids(suspects)
    progress = tqdm(read_rows(dataset, rows), total=len(rows), unit="pictures", disable=silent(quiet))
    cards = {
        number: suspect_card(by_row[number], row, budget, places)
        for number, row in zip(rows.tolist(), progress, strict=True)
    }
    return [cards[one.row] for one in suspects]
