"""The report of a run: its evaluation, and its most confident errors."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from mvsent.errors import DatasetError, RunError
from mvsent.pages.page_file import silent
from mvsent.report.cards import MAX_PICTURE_BYTES, error_card, read_rows
from mvsent.report.gallery import Gallery, facets
from mvsent.report.plots import svg_element
from mvsent.report.run_page import render_run
from mvsent.runs.evaluate import PICTURES, evaluate
from mvsent.runs.predictions import read_predictions
from mvsent.runs.run_dataset import own_dataset
from mvsent.runs.run_folder import METRICS, PREDICTIONS, RunFolder
from mvsent.shards.terms import joint_terms

Document = dict[str, Any]


class Mistake(NamedTuple):
    """A test row that a fold's network misclassified."""

    id: str
    predicted: int
    y_prob: list[float]
    fold: int


def run_report(
    path: Path, n_cards: int, dataset: Path | None = None, *, quiet: bool
) -> tuple[str, dict[str, int]]:
    """Render the page of a run; return it with the numbers of errors and of those shown.

    A run that was not evaluated since its last fold finished is evaluated first. `dataset` is the present
    folder of its dataset; None: it is looked for.

    Raises: RunError if the run cannot be read; UsageError if `dataset` holds other rows.
    """
    run = RunFolder.open(path)
    mistakes = confident_mistakes(run)
    gallery = _error_gallery(run, mistakes, n_cards, dataset, quiet=quiet)
    counts = {"errors": len(mistakes), "shown": len(gallery.cards)}
    try:
        document = json.loads((run.path / METRICS).read_text(encoding="utf-8"))
        figures = {name: svg_element(run.path / f"{name}.svg") for name in PICTURES}
        # With a dataset it is made again, as it may note that the dataset is gone.
        if dataset is None and [fold["fold"] for fold in document["folds"]] == run.finished_folds:
            return render_run(document, figures, gallery), counts
    except Exception:  # noqa: S110  the evaluation is missing or was edited, and is made again
        pass
    evaluation = evaluate(run.path, dataset=dataset, quiet=quiet)
    figures = {png.stem: svg_element(png.with_suffix(".svg")) for png in evaluation.pictures}
    return render_run(evaluation.document, figures, gallery), counts


def confident_mistakes(run: RunFolder) -> list[Mistake]:
    """The test rows that a finished fold misclassified, each once, the most confident first."""
    surest: dict[str, Mistake] = {}
    for fold in run.finished_folds:
        answers = read_predictions(run.fold(fold) / PREDICTIONS, run.resolved.classes)["test"]
        predicted = answers.y_prob.argmax(axis=1)
        for row in np.flatnonzero(predicted != answers.y_true):
            one = Mistake(answers.ids[row], int(predicted[row]), answers.y_prob[row].tolist(), fold)
            if one.id not in surest or max(surest[one.id].y_prob) < max(one.y_prob):
                surest[one.id] = one
    return sorted(surest.values(), key=lambda mistake: -max(mistake.y_prob))


def _error_gallery(
    run: RunFolder, mistakes: list[Mistake], n_cards: int, named: Path | None, *, quiet: bool
) -> Gallery:
    """Cards of the most confident mistakes, if the run's dataset is found.

    Raises: UsageError or DatasetError if `named` is not the run's dataset.
    """
    try:
        dataset = own_dataset(run, named)
    except (DatasetError, RunError, OSError):
        if named is not None:
            raise
        place = run.settings.dataset or "The dataset of the run"
        lost = f"{place} is missing or has changed; name a copy with --dataset."
        return Gallery([], [], f"{len(mistakes):,} test rows were misclassified. {lost}")
    chosen = {mistake.id: mistake for mistake in mistakes[:n_cards]}
    rows = np.array([row for row, name in enumerate(dataset.ids) if name in chosen], dtype=np.int64)
    budget = MAX_PICTURE_BYTES // max(len(rows), 1)
    progress = tqdm(read_rows(dataset, rows), total=len(rows), unit="pictures", disable=silent(quiet))
    by_id = {row["id"]: error_card(row, *chosen[row["id"]][1:], budget) for row in progress}
    cards = [by_id[id] for id in chosen if id in by_id]
    words = (
        f"{len(cards):,} of {len(mistakes):,} misclassified test rows, the most confident first. A row that "
        "several folds tested is shown once, with the most confident answer."
    )
    terms = joint_terms(dataset.manifest.sources).text
    return Gallery(cards, facets(cards, {"label": "Labelled", "predicted": "Predicted"}), words, terms)
