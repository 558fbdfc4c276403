"""The result of a finished fold, read from its files."""

from dataclasses import dataclass

from mvsent.learn.loop import best_epoch
from mvsent.runs.history import read_history
from mvsent.runs.predictions import read_predictions
from mvsent.runs.run_folder import HISTORY, PREDICTIONS, RunFolder


@dataclass(frozen=True)
class FoldResult:
    """The result of one fold; accuracies from 0 to 1. Test rows are predicted once, at the end."""

    fold: int
    epochs: int
    best_epoch: int
    validation_accuracy: float
    test_accuracy: float


def read_result(run: RunFolder, fold: int) -> FoldResult:
    """The result of a finished fold, from its own files."""
    folder = run.fold(fold)
    history = read_history(folder / HISTORY)
    test = read_predictions(folder / PREDICTIONS, run.resolved.classes)["test"]
    accuracy = float((test.y_prob.argmax(axis=1) == test.y_true).mean())
    best = best_epoch(history, run.settings.best_by)
    return FoldResult(fold, len(history), best, history[best].validation_accuracy, accuracy)
