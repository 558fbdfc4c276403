"""The rows and answers of an evaluation: a run's networks on test rows, its own or another dataset's."""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mvsent.errors import DatasetError, RunError
from mvsent.learn.answers import prior_prob
from mvsent.learn.bootstrap import Answered, pair_numbers
from mvsent.models import registry
from mvsent.models.batch import ANP_SCORES
from mvsent.runs.predictions import Predictions, prediction_table, read_predictions, write_predictions
from mvsent.runs.run_dataset import find_own, own_dataset, own_split
from mvsent.runs.run_folder import METRICS, PREDICTIONS, RunFolder
from mvsent.runs.seen_rows import KINDS, row_keys, seen_rows, training_labels
from mvsent.shards.manifest import MANIFEST_FILE
from mvsent.shards.reader import Dataset
from mvsent.splits import TRAIN
from mvsent.storage import located

log = logging.getLogger("mvsent")


@dataclass(frozen=True)
class JudgedFold:
    """Test rows, with the answers of one fold's network.

    Attributes:
        fold: its number.
        answers: its predictions.
        prior: labels for the majority baseline: those of the fold's training rows, or of its validation
            rows if nobody knows the others any more.
        seen: one of `seen_rows.KINDS` → bool [N], whether the network was trained or validated on a row with
            this id, text or picture; None for the run's own test rows, and if it is unknown.
    """

    fold: int
    answers: Predictions
    prior: npt.NDArray[np.int64]
    seen: Mapping[str, npt.NDArray[np.bool_]] | None = None

    @property
    def is_new(self) -> npt.NDArray[np.bool_]:
        """Whether the network has not seen a row [N] in any of these ways."""
        return ~np.any([*self.seen.values()], axis=0) if self.seen else np.ones(len(self.answers.ids), bool)


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
        dataset: folder of the dataset of the rows; None if it is gone.
    """

    run: RunFolder
    folder: Path
    dataset_name: str
    dataset_sha256: str
    classes: list[int]
    tested: list[JudgedFold]
    notes: list[str]
    missing: str = ""
    dataset: Path | None = None

    @property
    def is_fresh(self) -> bool:
        """Whether the rows are not the run's own."""
        return self.dataset_sha256 != self.run.resolved.dataset_sha256

    @property
    def unseen(self) -> "Trial":
        """The same without the rows that a fold's network has seen, and without folds that have no others."""
        tested = [replace(t, answers=t.answers.take(t.is_new), seen=None) for t in self.tested]
        return replace(self, tested=[one for one in tested if one.answers.ids])

    @cached_property
    def pairs(self) -> list[npt.NDArray[np.integer]]:
        """Of each fold the number of the distinct pair in each row."""
        return pair_numbers([tested.answers.ids for tested in self.tested])

    @property
    def answered(self) -> Answered:
        """The test rows with the answers of the networks."""
        return Answered([(t.answers.y_true, t.answers.y_prob) for t in self.tested], self.pairs)

    @property
    def baseline(self) -> Answered:
        """The same rows with the answers of the majority baseline."""
        folds = [(t.answers.y_true, prior_prob(t.prior, len(t.answers.ids))) for t in self.tested]
        return Answered(folds, self.pairs)


def saved_trial(run: RunFolder, named: Path | None = None) -> Trial:
    """The run's own test rows with the saved answers of its finished folds.

    `named` is the folder of the run's dataset, if the user gave it.

    Raises: RunError if no fold is finished, or if a fold's predictions are damaged.
    """
    resolved, notes, folder = run.resolved, _run_notes(run), located(run.settings.dataset)
    own = find_own(run) if named is None else named
    if own is None:
        state = "has changed since" if (folder / MANIFEST_FILE).is_file() else "is gone"
        notes.append(f"{folder}: the dataset {state}, the saved predictions are evaluated")
    if (trained := training_labels(run)) is None:
        notes.append(
            "the majority baseline has the label shares of the validation rows: an earlier version trained "
            "the run without recording its training rows' labels"
        )
    tested = []
    for fold in run.finished_folds:
        by_role = read_predictions(run.fold(fold) / PREDICTIONS, resolved.classes)
        prior = by_role.get("validation", by_role["test"]).y_true if trained is None else trained[fold]
        tested.append(JudgedFold(fold, by_role["test"], prior))
    return Trial(
        run,
        run.path,
        resolved.dataset_name,
        resolved.dataset_sha256,
        resolved.classes,
        tested,
        notes,
        dataset=own,
    )


def _folder_of(run: RunFolder, dataset: Dataset, without: str) -> Path:
    """The folder of the answers on a dataset; its hash is part of the name if another one has the name."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", dataset.name)
    folder = run.path / f"eval-{name}{without}"
    try:
        before = json.loads((folder / METRICS).read_text(encoding="utf-8"))["dataset_sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return folder
    is_other = before != dataset.sha256
    return run.path / f"eval-{name}-{dataset.sha256[:8]}{without}" if is_other else folder


def fresh_trial(run: RunFolder, dataset: Dataset, missing: str = "", *, quiet: bool) -> Trial:
    """Predict every row of `dataset` by the networks of the finished folds, and save the answers.

    A `missing` modality is removed from every row. Rows that a network has seen in training are marked.

    Raises:
        DatasetError: the dataset has no rows.
        RunError: as `saved_trial`, or a label that the run never saw.
    """
    from mvsent.runs.predictor import DatasetPredictor

    if len(dataset) == 0:
        raise DatasetError(f"{dataset.folder}: has no rows", "Evaluate on a dataset that has some")
    own = saved_trial(run)
    without = f"-missing-{missing}" if missing else ""
    folder = _folder_of(run, dataset, without)
    known = seen_rows(run)
    keys = row_keys(dataset) if known else {}
    predictor, tested = DatasetPredictor(run, dataset, quiet=quiet), []
    for fold in own.tested:
        y_prob = predictor.predict(fold.fold, missing=missing)
        seen = known.among(fold.fold, keys) if known else None
        path = folder / f"fold-{fold.fold}" / PREDICTIONS
        write_predictions(prediction_table(dataset.ids, dataset.labels, y_prob, "test"), path)
        answers = read_predictions(path, run.resolved.classes)["test"]
        tested.append(JudgedFold(fold.fold, answers, fold.prior, seen))
    notes = [*_run_notes(run), *_seen_notes(run, dataset, tested)]
    return Trial(
        run, folder, dataset.name, dataset.sha256, dataset.classes, tested, notes, missing, dataset.folder
    )


def missing_trial(run: RunFolder, modality: str, named: Path | None = None, *, quiet: bool) -> Trial:
    """Predict the run's own test rows by the networks of its finished folds, without one modality.

    `named` is the folder of the run's dataset; None: it is looked for, see `own_dataset`.

    Raises:
        RunError: the dataset or its split has changed since the run; or as `saved_trial`.
    """
    from mvsent.runs.predictor import DatasetPredictor

    own, dataset = saved_trial(run, named), own_dataset(run, named)
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


def _seen_notes(run: RunFolder, dataset: Dataset, tested: Sequence[JudgedFold]) -> list[str]:
    """A caveat if the networks have seen rows that they are tested on, or if nobody knows."""
    if any(fold.seen is None for fold in tested):
        return [
            f"it is unknown whether {run.path} was trained on rows of {dataset.name}: an earlier version "
            f"trained it without recording its rows, and {run.settings.dataset} is gone or has changed"
        ]
    n_seen, by_kind = count_seen(tested)
    if not n_seen:
        return []
    ways = ", ".join(f"{n} by {kind}" for kind, n in by_kind.items() if n)
    rest = (
        "no row is left without them"
        if not any(fold.is_new.any() for fold in tested)
        else ("quote the figures without them")
    )
    counted = f"{n_seen} of {len(dataset)} rows of {dataset.name}"
    return [f"{counted} were seen in training or validation ({ways}): {rest}"]


def count_seen(tested: Sequence[JudgedFold]) -> tuple[int, dict[str, int]]:
    """Number of rows that the network of any fold has seen, and of those that it has seen by each kind."""
    masks = {kind: np.any([fold.seen[kind] for fold in tested if fold.seen], axis=0) for kind in KINDS}
    return int(np.any([*masks.values()], axis=0).sum()), {kind: int(m.sum()) for kind, m in masks.items()}


def finished_folds(run: RunFolder) -> list[int]:
    """The finished folds of a run. Raises: RunError if there is none."""
    if not run.finished_folds:
        resume = f"mvsent train --resume --out {run.path}"
        raise RunError(f"{run.path}: no fold is finished", f"Finish it: {resume}")
    return run.finished_folds


def _run_notes(run: RunFolder) -> list[str]:
    """Caveats of a run: unfinished folds, test rows that chose, random weights, substitutes for inputs.

    Raises: RunError if no fold is finished.
    """
    finished, wanted, notes = finished_folds(run), run.wanted_folds, []
    resume = f"mvsent train --resume --out {run.path}"
    if missing := [str(fold) for fold in wanted if fold not in finished]:
        notes.append(
            f"ONLY {len(finished)} OF {len(wanted)} FOLDS are finished, these are their numbers; "
            f"missing: {', '.join(missing)}. Finish them: {resume}"
        )
    if run.settings.choose_on == "test":
        notes.append("the TEST ROWS chose the best epochs: these figures are too high")
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
