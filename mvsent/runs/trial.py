"""The rows and answers of an evaluation: a run's networks on test rows, its own or another dataset's."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mvsent.datasets.split import find_split
from mvsent.datasets.split_files import SplitFiles
from mvsent.errors import DatasetError, RunError, UsageError
from mvsent.learn.answers import Fold, prior_prob
from mvsent.models import registry
from mvsent.models.batch import ANP_SCORES
from mvsent.runs.predictions import Predictions, prediction_table, read_predictions, write_predictions
from mvsent.runs.run_folder import PREDICTIONS, RunFolder
from mvsent.shards.manifest import Manifest
from mvsent.shards.reader import Dataset
from mvsent.splits import TRAIN, Split
from mvsent.storage import located


@dataclass(frozen=True)
class JudgedFold:
    """Test rows, with the answers of one fold's network.

    Attributes:
        fold: its number.
        answers: its predictions.
        prior: labels for the majority baseline: those of the fold's validation rows, which
            are saved with the run and have the same shares as its training rows.
    """

    fold: int
    answers: Predictions
    prior: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Trial:
    """A run's finished folds on the rows of one dataset.

    Attributes:
        run: the run.
        folder: the output folder.
        dataset_name, dataset_sha256: the dataset of the rows.
        classes: the labels that are scored.
        tested: the finished folds.
        notes: caveats for the reader.
        missing: the modality that was removed; empty if none.
    """

    run: RunFolder
    folder: Path
    dataset_name: str
    dataset_sha256: str
    classes: list[int]
    tested: list[JudgedFold]
    notes: list[str]
    missing: str = ""

    @property
    def is_fresh(self) -> bool:
        """Whether the rows are not the run's own."""
        return self.dataset_sha256 != self.run.resolved.dataset_sha256

    @property
    def folds(self) -> list[Fold]:
        """`(y_true, y_prob)` of each fold."""
        return [(tested.answers.y_true, tested.answers.y_prob) for tested in self.tested]

    @property
    def baseline_folds(self) -> list[Fold]:
        """The same rows with the answers of the majority baseline."""
        return [(t.answers.y_true, prior_prob(t.prior, len(t.answers.ids))) for t in self.tested]


def saved_trial(run: RunFolder) -> Trial:
    """The run's own test rows with the saved answers of its finished folds; the dataset is not read.

    Raises: RunError if no fold is finished, or if a fold's predictions are damaged.
    """
    resolved, notes, folder = run.resolved, _run_notes(run), located(run.settings.dataset)
    try:
        if Manifest.load(folder).sha256 != resolved.dataset_sha256:
            notes.append(f"{folder}: the dataset has changed since, the saved predictions are evaluated")
    except DatasetError:
        notes.append(f"{folder}: the dataset is gone, the saved predictions are evaluated")
    tested = []
    for fold in run.finished_folds:
        by_role = read_predictions(run.fold(fold) / PREDICTIONS, resolved.classes)
        prior = by_role.get("validation", by_role["test"]).y_true
        tested.append(JudgedFold(fold, by_role["test"], prior))
    return Trial(
        run, run.path, resolved.dataset_name, resolved.dataset_sha256, resolved.classes, tested, notes
    )


def fresh_trial(run: RunFolder, dataset: Dataset, missing: str = "", *, quiet: bool) -> Trial:
    """Predict every row of `dataset` by the networks of the finished folds, and save the answers.

    A `missing` modality is removed from every row.

    Raises:
        UsageError: the run was trained on these rows.
        DatasetError: the dataset has no rows.
        RunError: as `saved_trial`, or a label that the run never saw.
    """
    from mvsent.runs.predictor import DatasetPredictor

    if dataset.sha256 == run.resolved.dataset_sha256:
        asked = f" --missing {missing}" if missing else ""
        raise UsageError(
            f"{dataset.folder}: holds the rows that {run.path} was trained on",
            f"Its test rows are judged by: mvsent eval {run.path}{asked}",
        )
    if len(dataset) == 0:
        raise DatasetError(f"{dataset.folder}: has no rows", "Evaluate on a dataset that has some")
    own = saved_trial(run)
    without = f"-missing-{missing}" if missing else ""
    folder = run.path / f"eval-{re.sub(r'[^A-Za-z0-9_.-]+', '-', dataset.name)}{without}"
    predictor, tested = DatasetPredictor(run, dataset, quiet=quiet), []
    for fold in own.tested:
        y_prob = predictor.predict(fold.fold, missing=missing)
        path = folder / f"fold-{fold.fold}" / PREDICTIONS
        write_predictions(prediction_table(dataset.ids, dataset.labels, y_prob, "test"), path)
        answers = read_predictions(path, run.resolved.classes)["test"]
        tested.append(JudgedFold(fold.fold, answers, fold.prior))
    notes = _run_notes(run)
    known = {row for fold in own.tested for row in fold.answers.ids}
    if shared := known.intersection(dataset.ids):
        notes.append(
            f"{len(shared)} rows of {dataset.name} have an id of {own.dataset_name}: the networks may have "
            "been trained on them, so this is no fair test"
        )
    return Trial(run, folder, dataset.name, dataset.sha256, dataset.classes, tested, notes, missing)


def missing_trial(run: RunFolder, modality: str, *, quiet: bool) -> Trial:
    """Predict the run's own test rows by the networks of its finished folds, without one modality.

    Raises:
        RunError: the dataset or its split has changed since the run; or as `saved_trial`.
    """
    from mvsent.runs.predictor import DatasetPredictor

    own, dataset = saved_trial(run), own_dataset(run)
    split = own_split(run, dataset)
    row_of = {row: i for i, row in enumerate(dataset.ids)}
    folder = run.path / f"missing-{modality}"
    predictor, tested = DatasetPredictor(run, dataset, quiet=quiet), []
    for fold in own.tested:
        rows = np.array([row_of[row] for row in fold.answers.ids])
        y_prob = predictor.predict(fold.fold, rows, train=split.rows(fold.fold, TRAIN), missing=modality)
        path = folder / f"fold-{fold.fold}" / PREDICTIONS
        write_predictions(prediction_table(fold.answers.ids, dataset.labels[rows], y_prob, "test"), path)
        tested.append(replace(fold, answers=read_predictions(path, run.resolved.classes)["test"]))
    return replace(own, folder=folder, tested=tested, missing=modality)


def own_dataset(run: RunFolder) -> Dataset:
    """The dataset that the run was trained on.

    Raises: RunError if it has changed; DatasetError if it cannot be read.
    """
    dataset = Dataset.open(located(run.settings.dataset))
    if dataset.sha256 != run.resolved.dataset_sha256:
        raise RunError(
            f"{dataset.folder}: the dataset has changed since {run.path} was trained on it",
            "Restore its rows, or train again",
        )
    return dataset


def own_split(run: RunFolder, dataset: Dataset) -> Split:
    """The split of its dataset by which the run was trained.

    Raises: RunError if it has changed; SplitError if it cannot be read.
    """
    split = find_split(dataset, run.settings.protocol, run.settings.seed, SplitFiles.of(run.settings))
    if split.sha256 != run.resolved.split_sha256:
        raise RunError(
            f"{run.path}: its split has changed since training", "Restore the file, or train again"
        )
    return split


def _run_notes(run: RunFolder) -> list[str]:
    """Caveats of a run: unfinished folds, random weights, substitutes for absent inputs.

    Raises: RunError if no fold is finished.
    """
    finished, wanted = run.finished_folds, run.wanted_folds
    resume = f"mvsent train --resume --out {run.path}"
    if not finished:
        raise RunError(f"{run.path}: no fold is finished", f"Finish it: {resume}")
    notes = []
    if missing := [str(fold) for fold in wanted if fold not in finished]:
        notes.append(
            f"ONLY {len(finished)} OF {len(wanted)} FOLDS are finished, these are their numbers; "
            f"missing: {', '.join(missing)}. Finish them: {resume}"
        )
    random = {
        "backbone's weights": run.settings.weights == "random" and run.resolved.backbone_sha256,
        "word vectors": run.settings.words == "random" and run.resolved.words_sha256,
    }
    notes += [f"the {part} are RANDOM, nothing was pretrained there" for part, used in random.items() if used]
    if ANP_SCORES in registry.card(run.settings.model).reads and not run.settings.anps:
        notes.append(
            "there were no detectors of adjective-noun pairs: the map's mean stands for their scores"
        )
    return notes
