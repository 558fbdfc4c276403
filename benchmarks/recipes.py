"""Recipes: each model trained by a few, of which the validation rows choose one. Test rows do not count.

    python -m benchmarks.recipes DATASET OUT [MODEL…]

Trains folds 0 and 1 of grouped-paper-5x, prints a line for each model and recipe, and skips what OUT has.
The chosen ones are `tuned_recipe` of the models' cards.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from mvsent.config import TrainSettings
from mvsent.learn.loop import best_epoch
from mvsent.models import registry
from mvsent.models.registry import TrainingRecipe
from mvsent.runs.history import read_history
from mvsent.runs.run_folder import HISTORY, RunFolder
from mvsent.runs.train import train

_WORDS = {"train_words": True, "dropout": 0.5}
CANDIDATES = {
    "shared": TrainingRecipe("", {"patience": 4}),
    "small batches": TrainingRecipe("", {"batch_size": 32, "patience": 4}, {"dropout": 0.5}),
    "trained words": TrainingRecipe("", {"batch_size": 32, "patience": 4}, _WORDS),
    "slow": TrainingRecipe(
        "",
        {"batch_size": 32, "patience": 4, "learning_rate": 3e-4, "clip_norm": 1.0},
        _WORDS,
    ),
}
FOLDS = [0, 1]


def main(dataset: Path, out: Path, models: list[str]) -> None:
    """Train what is missing, and print validation accuracy and loss of each model by each recipe."""
    for model in models or [name for name in registry.names() if not registry.is_solved(name)]:
        for name, recipe in CANDIDATES.items():
            options = {key: value for key, value in recipe.options.items() if _has(model, key)}
            run = out / f"{model}-{name.replace(' ', '-')}"
            settings = TrainSettings(
                dataset=str(dataset),
                model=model,
                recipe="shared",
                protocol="grouped-paper-5x",
                folds=FOLDS,
                options=options,
                **recipe.settings,
            )
            if not (run / "config.toml").exists() or not RunFolder.open(run).is_finished:
                train(settings, out=run, overwrite=True, quiet=True)
            accuracy, loss = quality(run)
            print(f"{model:18} {name:14} {100 * accuracy:6.2f} {loss:.4f}", flush=True)


def _has(model: str, option: str) -> bool:
    return option in registry.card(model).options.model_fields


def quality(run: Path) -> tuple[float, float]:
    """Validation accuracy, and validation loss, of the kept epochs, as means over the folds."""
    best: list[Any] = []
    for fold in FOLDS:
        history = read_history(RunFolder.open(run).fold(fold) / HISTORY)
        best.append(history[best_epoch(history)])
    return (
        float(np.mean([record.validation_accuracy for record in best])),
        float(np.mean([record.validation_loss for record in best])),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
