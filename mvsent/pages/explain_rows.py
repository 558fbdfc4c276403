"""Rows of a dataset to explain: correct ones, errors, and a sample to measure faithfulness on."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from mvsent.errors import DatasetError, RunError
from mvsent.inference.attended import Pick
from mvsent.inference.model import Model
from mvsent.pairs import LABEL_NAMES, Label
from mvsent.report.cards import read_rows
from mvsent.runs.inputs.setup import targets
from mvsent.runs.predictions import read_predictions
from mvsent.runs.run_dataset import is_own, own_dataset
from mvsent.runs.run_folder import PREDICTIONS
from mvsent.shards.reader import Dataset

KINDS = ("correct positive", "correct negative", "error")
_MAX_ANSWERED = 500  # rows of another dataset that are answered to choose from


def chosen(
    model: Model, dataset: Path | None, n: int, measured: int, seed: int
) -> tuple[list[Pick], list[Pick]]:
    """Choose rows to measure faithfulness on, and rows to show.

    Args:
        dataset: the folder of another dataset; None, or the run's own: the test rows of the run's first fold.
        n: rows to show.
        measured: rows to measure on.

    Raises: RunError if the run's dataset has changed; DatasetError if the other dataset has no usable rows.
    """
    opened = own_dataset(model.run) if dataset is None else Dataset.open(dataset)
    if not is_own(model.run, opened):
        opened, rows, y_true, y_prob = _answered(model, opened, seed)
    else:
        path = model.run.fold(model.folds[0]) / PREDICTIONS
        saved = read_predictions(path, model.run.resolved.classes)["test"]
        row_of = {name: i for i, name in enumerate(opened.ids)}
        if not set(saved.ids) <= row_of.keys():
            raise RunError(
                f"{path}: its test rows are not those of the dataset", "Restore it, or train again"
            )
        rows, y_true, y_prob = np.array([row_of[name] for name in saved.ids]), saved.y_true, saved.y_prob
    random = np.random.default_rng(seed)
    sample = np.sort(random.permutation(len(rows))[:measured])
    shown = pick_rows(y_true, y_prob, n, random)
    wanted = {int(rows[i]): "" for i in sample} | {int(rows[i]): kind for i, kind in shown}
    picks = {}
    for number, row in zip(
        sorted(wanted), read_rows(opened, np.array(sorted(wanted), np.int64)), strict=True
    ):
        image = row["image"]["bytes"] if row["image"] else None
        picks[number] = Pick(row["id"], wanted[number], image, row["text"] or "", LABEL_NAMES[row["label"]])
    return [picks[int(rows[i])] for i in sample], [picks[int(rows[i])] for i, _ in shown]


def _answered(
    model: Model, dataset: Dataset, seed: int
) -> tuple[Dataset, npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Predict at most `_MAX_ANSWERED` rows: dataset, row numbers `[n]`, labels `[n]`, probabilities `[n, 3]`.

    Raises: DatasetError if no row can be answered; RunError for a label that the run never saw.
    """
    if len(dataset) == 0:
        raise DatasetError(f"{dataset.folder}: has no rows", "Name a dataset with rows")
    targets(dataset, model.run.resolved.classes)  # raises for a label that the run never saw
    # Sorted, because rows are read in the order of the shards.
    rows = np.sort(np.random.default_rng(seed).permutation(len(dataset))[:_MAX_ANSWERED])
    read = list(read_rows(dataset, rows))
    answers = model.predict(
        [r["image"]["bytes"] if r["image"] else None for r in read],
        [r["text"] for r in read],
        cleaned=True,
    )
    good = [i for i, error in enumerate(answers.errors) if not error]
    if not good:
        raise DatasetError(f"{dataset.folder}: no row can be answered: {answers.errors[0]}", "Name another")
    y_prob = np.zeros((len(good), len(Label)))
    y_prob[:, model.run.resolved.classes] = answers.probabilities[good]
    return dataset, rows[good], dataset.labels[rows[good]].astype(np.int64), y_prob


def pick_rows(
    y_true: npt.NDArray[np.int64], y_prob: npt.NDArray[np.float64], n: int, random: np.random.Generator
) -> list[tuple[int, str]]:
    """Choose rows to show, with their kinds: a third of each kind, as far as there are enough.

    Correct rows are chosen at random, as in the paper; errors are the most confident ones.
    """
    y_pred = y_prob.argmax(axis=1)
    of_kind = {
        "correct positive": random.permutation(
            np.flatnonzero((y_pred == y_true) & (y_true == Label.POSITIVE))
        ),
        "correct negative": random.permutation(
            np.flatnonzero((y_pred == y_true) & (y_true == Label.NEGATIVE))
        ),
    }
    wrong = np.flatnonzero(y_pred != y_true)
    of_kind["error"] = wrong[np.argsort(-y_prob[wrong].max(axis=1), kind="stable")]
    queues = [[(int(row), kind) for row in of_kind[kind]] for kind in KINDS]
    picks: list[tuple[int, str]] = []
    while len(picks) < n and any(queues):
        for queue in queues:
            if queue and len(picks) < n:
                picks.append(queue.pop(0))
    return sorted(picks, key=lambda pick: KINDS.index(pick[1]))
