"""Evaluate a run: every metric with its interval, figures, and a page of both."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from mvsent import __version__
from mvsent.datasets.split_files import SplitFiles
from mvsent.errors import UsageError, did_you_mean
from mvsent.learn import curves
from mvsent.learn.answers import confusion_counts
from mvsent.learn.bootstrap import RESAMPLES, confusion_of_pairs, summarise
from mvsent.learn.checkpoint import EpochRecord
from mvsent.learn.loop import best_epoch
from mvsent.learn.metrics import Scores
from mvsent.models import registry
from mvsent.pairs import LABEL_NAMES
from mvsent.report import plots
from mvsent.report.page import render_page
from mvsent.report.results import result_table, result_title, unseen_metrics
from mvsent.runs.history import read_history
from mvsent.runs.run_dataset import is_own
from mvsent.runs.run_folder import METRICS, RunFolder
from mvsent.runs.second_annotation import annotated_twice
from mvsent.runs.trial import Trial, count_seen, fresh_trial, missing_trial, saved_trial
from mvsent.shards.atomic import atomic_write
from mvsent.shards.reader import Dataset
from mvsent.storage import make_folder

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("mvsent")

MODALITIES = ("image", "text")

Document = dict[str, Any]


@dataclass(frozen=True, repr=False)
class Evaluation:
    """The results of an evaluation, and their files.

    Attributes:
        folder: contains `metrics.json`, `report.html` and the figures.
        document: the content of `metrics.json`.
        pictures: the PNG files; each has an SVG beside it.
    """

    folder: Path
    document: Document
    pictures: tuple[Path, ...]

    def to_pandas(self) -> "pd.DataFrame":
        """A row for each metric: mean, std, low, high, majority, and unseen, the mean without seen rows."""
        import pandas as pd

        metrics, majority = self.document["metrics"], self.document["majority"]
        frame = pd.DataFrame.from_dict(metrics, orient="index").astype(float)
        frame["majority"] = [majority[key]["mean"] for key in metrics]
        if unseen := unseen_metrics(self.document):
            frame["unseen"] = [unseen[key]["mean"] for key in metrics]
        return frame.astype(float).rename_axis("metric")

    def __repr__(self) -> str:
        return f"Evaluation({result_title(self.document)})"

    def _repr_html_(self) -> str:
        from mvsent.report.cells import figures, table

        drawn = figures(png.with_suffix(".svg") for png in self.pictures)
        return table(result_title(self.document), *result_table(self.document)) + drawn


def evaluate(
    run_path: Path,
    pictures: Sequence[str] | None = None,
    dataset: Path | None = None,
    *,
    missing: str = "",
    seed: int = 0,
    quiet: bool = False,
) -> Evaluation:
    """Evaluate a run; write `metrics.json`, `report.html` and figures into its folder.

    With `dataset` the networks of the finished folds predict that dataset's rows, and everything goes to
    `RUN/eval-DATASETNAME/`; metrics are also given without the rows that a network has seen in training. If
    it is the run's own dataset, which may have moved, its test rows are evaluated as without `dataset`. With
    `missing` they predict the run's own test rows without one modality, and it goes to
    `RUN/missing-MODALITY/`; with both, to `RUN/eval-DATASETNAME-missing-MODALITY/`. A figure
    of an earlier evaluation is redrawn even if it is not requested, so that the folder never mixes two.

    Args:
        run_path: the run folder.
        pictures: some of `PICTURES`; None: all.
        dataset: another dataset's folder, or the present one of the run's own.
        missing: one of `MODALITIES`, removed from every row.
        seed: of the bootstrap.
        quiet: no progress.

    Raises:
        UsageError: an unknown picture or modality.
        RunError: no fold is finished, or its predictions are damaged.
    """
    if unknown := [name for name in pictures or () if name not in PICTURES]:
        known = f"Known are: {', '.join(PICTURES)}"
        raise UsageError(f"--metrics: unknown {unknown[0]!r}", did_you_mean(unknown[0], PICTURES) + known)
    if missing:
        check_modality(missing)
    run = RunFolder.open(run_path)
    opened = None if dataset is None else Dataset.open(dataset)
    is_other = opened is not None and not is_own(run, opened)
    if (missing or is_other) and "curves" in (pictures or ()):
        raise UsageError("--metrics curves: nothing was trained that way", "Leave curves out")
    trial = choose_trial(run, opened, missing, quiet=quiet)
    document = make_document(trial, seed)
    figures = draw(trial, document, pictures)
    for note in document["notes"]:
        log.warning("%s", note)
    return write(trial.folder, document, figures)


def modalities(given: str) -> list[str]:
    """The modalities of a comma-separated list, each once. Raises: UsageError for one that does not exist.

    >>> modalities("image, text")
    ['image', 'text']
    """
    names = list(dict.fromkeys(name.strip() for name in given.split(",")))
    for name in names:
        check_modality(name)
    return names


def check_modality(name: str) -> None:
    """Raises: UsageError if `name` is not one of `MODALITIES`."""
    if name not in MODALITIES:
        choice = f"Choose from {', '.join(MODALITIES)}"
        raise UsageError(f"--missing: unknown {name!r}", did_you_mean(name, MODALITIES) + choice)


def choose_trial(run: RunFolder, dataset: Dataset | None, missing: str, *, quiet: bool) -> Trial:
    """The rows and answers to evaluate: the saved ones of the run, or new ones."""
    if dataset is not None and not is_own(run, dataset):
        return fresh_trial(run, dataset, missing, quiet=quiet)
    own = None
    if dataset is not None:
        own = dataset.folder
        log.info("%s: holds the rows of %s, whose test rows are evaluated", own, run.path)
    return missing_trial(run, missing, own, quiet=quiet) if missing else saved_trial(run, own)


def make_document(trial: Trial, seed: int) -> Document:
    """The content of `metrics.json`, which does not depend on time or machine."""
    run, card = trial.run, registry.card(trial.run.settings.model)
    files = SplitFiles.of(run.settings)
    answered = trial.answered
    per_fold, metrics = summarise(answered, trial.classes, n=RESAMPLES, seed=seed)
    _, majority = summarise(trial.baseline, trial.classes, n=RESAMPLES, seed=seed)
    printed = registry.published(card.name, run.settings.options)
    # Papers report whole pairs of their own datasets.
    published = None if trial.is_fresh or trial.missing else printed.get(trial.dataset_name)
    folds = [
        {
            "fold": tested.fold,
            "n_test": len(tested.answers.ids),
            "metrics": scores,
            "confusion": confusion_counts(tested.answers.y_true, tested.answers.y_prob).tolist(),
        }
        for tested, scores in zip(trial.tested, per_fold, strict=True)
    ]
    undefined = [
        f"fold {tested.fold} has no {LABEL_NAMES[label]} test row: its metrics of that class and its macro "
        "averages are undefined, the means are over the other folds"
        for tested in trial.tested
        for label in trial.classes
        if label not in tested.answers.y_true
    ]
    twice = annotated_twice(Dataset.open(trial.dataset)) if trial.dataset else None
    again = twice.document(trial.classes, n=RESAMPLES, seed=seed) if twice else None
    return {
        "mvsent_version": __version__,
        "run": run.path.resolve().name,
        "model": card.name,
        "options": run.settings.options,
        "fidelity": card.fidelity,
        "dataset": trial.dataset_name,
        "dataset_sha256": trial.dataset_sha256,
        **({"missing": trial.missing} if trial.missing else {}),
        "trained_on": run.resolved.dataset_name,
        "protocol": files.described if files else run.settings.protocol,
        "split_sha256": run.resolved.split_sha256,
        "seeds": [run.settings.seed],
        "classes": [LABEL_NAMES[label] for label in trial.classes],
        "n_folds": run.resolved.n_folds,
        "n_pairs": answered.n_pairs,
        "bootstrap": {"resamples": RESAMPLES, "seed": seed, "level": 0.95, "unit": "pair"},
        "notes": [*trial.notes, *undefined],
        "published": asdict(published) if published else None,
        **({"seen": seen_part(trial, seed)} if trial.is_fresh else {}),
        "metrics": metrics,
        "majority": majority,
        **({"second_annotation": again} if again else {}),
        "confusion": confusion_of_pairs(answered).tolist(),
        "folds": folds,
    }


def seen_part(trial: Trial, seed: int) -> Document | None:
    """The part `seen` of `metrics.json`: rows that the networks have seen, and the metrics without them.

    None if it is unknown which rows they have seen.
    """
    if any(tested.seen is None for tested in trial.tested):
        return None
    n_seen, by_kind = count_seen(trial.tested)
    unseen, scores, metrics = trial.unseen, dict[int, Scores](), None
    if unseen.tested:
        per_fold, metrics = summarise(unseen.answered, trial.classes, n=RESAMPLES, seed=seed)
        scores = dict(zip((tested.fold for tested in unseen.tested), per_fold, strict=True))
    return {
        "n_rows": len(trial.tested[0].answers.ids),
        "n_seen": n_seen,
        "by": by_kind,
        "folds": [
            {
                "fold": tested.fold,
                "n_seen": int((~tested.is_new).sum()),
                "n_unseen": int(tested.is_new.sum()),
                "metrics": scores.get(tested.fold),
            }
            for tested in trial.tested
        ],
        "metrics": metrics,
    }


def draw(trial: Trial, document: Document, pictures: Sequence[str] | None) -> dict[str, Figure]:
    """The requested figures, and those of an earlier evaluation in the folder."""
    wanted = PICTURES if pictures is None else pictures
    there = [name for name in PICTURES if (trial.folder / f"{name}.png").exists()]
    drawn = {name: _DRAW[name](trial, document) for name in PICTURES if name in wanted or name in there}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def write(folder: Path, document: Document, figures: dict[str, Figure]) -> Evaluation:
    """Write figures, page and, last, `metrics.json` into `folder`."""
    make_folder(folder)
    saved = {name: plots.save_figure(figure, folder, name) for name, figure in figures.items()}
    page = render_page(document, {name: plots.svg_element(svg) for name, (_, svg) in saved.items()})
    with atomic_write(folder / "report.html") as file:
        file.write(page.encode())
    with atomic_write(folder / METRICS) as file:
        # By default json writes NaN, which is not JSON.
        file.write(json.dumps(document, indent=2, allow_nan=False).encode())
    return Evaluation(folder, document, tuple(png for png, _ in saved.values()))


def _draw_roc(trial: Trial, document: Document) -> Figure:
    drawn = curves.roc_curves(trial.answered.folds, trial.classes)
    return plots.roc(drawn, curves.GRID, {of: document["metrics"][f"roc_auc_{of}"] for of in drawn})


def _draw_prc(trial: Trial, document: Document) -> Figure:
    folds = trial.answered.folds
    drawn = curves.prc_curves(folds, trial.classes)
    scores = {of: document["metrics"][f"average_precision_{of}"] for of in drawn}
    return plots.prc(drawn, curves.GRID, scores, curves.prevalence(folds, trial.classes))


def _draw_confusion(trial: Trial, document: Document) -> Figure:
    counts = np.array(document["confusion"])
    known = trial.run.resolved.classes
    names = [LABEL_NAMES[label] for label in known]
    # A network can predict a class that another dataset does not have: [true classes, known classes].
    return plots.confusion(counts[np.ix_(trial.classes, known)], document["classes"], names)


def _draw_curves(trial: Trial, document: Document) -> Figure | None:
    """Training curves; None for another dataset or a missing modality."""
    if trial.is_fresh or trial.missing:
        return None
    histories = [read_history(trial.run.fold(tested.fold) / "history.csv") for tested in trial.tested]
    columns = [
        {
            field.name: np.array([getattr(record, field.name) for record in history])
            for field in fields(EpochRecord)
        }
        for history in histories
    ]
    best = [best_epoch(history, trial.run.settings.best_by) for history in histories]
    return plots.training_curves(columns, best)


_DRAW: dict[str, Callable[[Trial, Document], Figure | None]] = {
    "roc": _draw_roc,
    "prc": _draw_prc,
    "confusion": _draw_confusion,
    "curves": _draw_curves,
}
PICTURES = tuple(_DRAW)
