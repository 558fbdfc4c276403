"""A trained run in Python: evaluation, predictions and histories as tables, and attention."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from mvsent.api.pair_dataset import Pair
from mvsent.api.pair_split import named
from mvsent.api.places import Place, folder_of, names_of
from mvsent.errors import UsageError, did_you_mean
from mvsent.pairs import LABEL_NAMES
from mvsent.runs.run_folder import HISTORY, PREDICTIONS, RunFolder

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from mvsent.config import TrainSettings
    from mvsent.inference.attended import Pick
    from mvsent.inference.model import Model
    from mvsent.report.overlays import Explained
    from mvsent.runs.evaluate import Evaluation

_PREDICTED_ROLES = ("test", "validation")


class Run:
    """A run folder, as `mvsent.train` made it; `Run(FOLDER)` opens an earlier one.

    Where a function takes a folder, it takes the run as well.

    Attributes:
        files: the run folder with its configuration.
    """

    def __init__(self, place: Place) -> None:
        """Open the run at a folder. Raises: RunError if it is none."""
        self.files = RunFolder.open(folder_of(place))
        self._models: dict[tuple[int, str], Model] = {}

    @property
    def folder(self) -> Path:
        """Its folder."""
        return self.files.path

    @property
    def settings(self) -> "TrainSettings":
        """All settings of the training."""
        return self.files.settings

    def resume(self, *, quiet: bool = False) -> "Run":
        """Train the folds that are not finished. Raises: as `mvsent.runs.train.train`."""
        from mvsent.runs.train import train

        train(self.settings, out=self.folder, resume=True, quiet=quiet)
        return Run(self.folder)

    def evaluate(
        self,
        metrics: str | Sequence[str] | None = None,
        *,
        dataset: Place | None = None,
        missing: str = "",
        seed: int = 0,
        quiet: bool = False,
    ) -> "Evaluation":
        """Evaluate its test rows, or another dataset, as `mvsent eval` does; files are written into the run.

        Args:
            metrics: figures to draw, of roc, prc, confusion and curves; None: all.
            dataset: another dataset, or the run's own, which may have moved.
            missing: image or text, removed from every row.
            seed: of the intervals.
            quiet: no progress.

        Raises: as `mvsent.runs.evaluate.evaluate`.
        """
        from mvsent.runs.evaluate import evaluate

        figures = None if metrics is None else names_of(metrics)
        other = None if dataset is None else folder_of(dataset)
        return evaluate(self.folder, figures, other, missing=missing, seed=seed, quiet=quiet)

    def predictions(self, role: str = "test") -> "pd.DataFrame":
        """The saved predictions of the finished folds.

        Columns: fold, id, label, predicted, p_negative, p_neutral, p_positive. Labels are categoricals as of
        `PairDataset.to_pandas`.

        Args:
            role: test or validation.

        Raises: UsageError for another role; RunError if no fold is finished, or a file is damaged.
        """
        import pandas as pd

        from mvsent.runs.predictions import read_predictions

        if role not in _PREDICTED_ROLES:
            choice = f"Choose from {', '.join(_PREDICTED_ROLES)}"
            raise UsageError(f"role {role!r}: not predicted", did_you_mean(role, _PREDICTED_ROLES) + choice)
        parts = []
        for fold in self._finished():
            read = read_predictions(self.files.fold(fold) / PREDICTIONS, self.files.resolved.classes)
            if role not in read:
                continue
            answers = read[role]
            labels = {"label": named(answers.y_true), "predicted": named(answers.y_prob.argmax(axis=1))}
            shares = {f"p_{name}": answers.y_prob[:, i] for i, name in enumerate(LABEL_NAMES)}
            parts.append(pd.DataFrame({"fold": fold, "id": answers.ids, **labels, **shares}))
        return pd.concat(parts, ignore_index=True)

    def history(self) -> "pd.DataFrame":
        """Loss and accuracy of every epoch of the finished folds: fold, epoch, train_loss ….

        Raises: RunError if no fold is finished, or a file is damaged.
        """
        import pandas as pd

        from mvsent.runs.history import read_history

        records = [(fold, read_history(self.files.fold(fold) / HISTORY)) for fold in self._finished()]
        return pd.DataFrame([{"fold": fold, **vars(epoch)} for fold, epochs in records for epoch in epochs])

    def load(self, fold: int | None = None, device: str = "auto") -> "Model":
        """Load its networks; see `mvsent.load`."""
        from mvsent.inference.model import load

        return load(self.folder, fold, device)

    def attention(
        self, pairs: "Pair | Sequence[Any]", *, fold: int | None = None, device: str = "auto"
    ) -> "AttendedPairs":
        """The attention of a fold's network on pairs, with its answers.

        Args:
            pairs: `Pair`s of a dataset, or (image, text), where an image is a path, bytes or a PIL picture,
                and either may be None.
            fold: whose network; None: the first finished one.
            device: cpu, cuda, cuda:N or auto.

        Raises: InputError naming a picture that cannot be read; UsageError for a model without attention.
        """
        from mvsent.inference.attended import explain_pairs

        chosen = self._finished()[0] if fold is None else fold
        if (chosen, device) not in self._models:
            self._models[chosen, device] = self.load(chosen, device)
        if isinstance(pairs, str):
            raise UsageError(f"{pairs[:80]!r}: not a pair", "Give a pair of a dataset, such as dataset[ID]")
        several = [pairs] if isinstance(pairs, Pair) else list(pairs)
        picks = [_pick(number, pair) for number, pair in enumerate(several)]
        return AttendedPairs(explain_pairs(self._models[chosen, device], picks) if picks else [])

    def __fspath__(self) -> str:
        return str(self.folder)

    def __repr__(self) -> str:
        resolved, finished = self.files.resolved, len(self.files.finished_folds)
        wanted = len(self.files.wanted_folds)
        return (
            f"Run({str(self.folder)!r}: {self.settings.model} on {resolved.dataset_name}, "
            f"{finished} of {wanted} folds finished)"
        )

    def _repr_html_(self) -> str:
        from mvsent.report.cells import table
        from mvsent.runs.fold_result import read_result

        header = ("fold", "epochs", "best epoch", "validation accuracy", "test accuracy")
        results = [read_result(self.files, k) for k in self.files.finished_folds]
        rows = [
            (r.fold, r.epochs, r.best_epoch, f"{r.validation_accuracy:.4f}", f"{r.test_accuracy:.4f}")
            for r in results
        ]
        return table(repr(self), header, rows)

    def _finished(self) -> list[int]:
        from mvsent.runs.trial import finished_folds

        return finished_folds(self.files)


@dataclass(frozen=True, repr=False)
class AttendedPairs(Sequence["Explained"]):
    """Pairs with a network's answers and attention; each has `maps`, `shades`, `words`, `probabilities`.

    Attributes:
        pairs: in the order in which they were given.
    """

    pairs: Sequence["Explained"]

    def __len__(self) -> int:
        return len(self.pairs)

    @overload
    def __getitem__(self, at: int) -> "Explained": ...
    @overload
    def __getitem__(self, at: slice) -> "AttendedPairs": ...
    def __getitem__(self, at: int | slice) -> "Explained | AttendedPairs":
        return AttendedPairs(self.pairs[at]) if isinstance(at, slice) else self.pairs[at]

    def words(self) -> "pd.DataFrame":
        """The weight of every word: id, position, word, and a column for each kind of attention."""
        import pandas as pd

        rows = [
            {"id": pair.id, "position": number, "word": word}
            | {name: float(weights[number]) for name, weights in pair.shades.items() if number < len(weights)}
            for pair in self.pairs
            for number, word in enumerate(pair.words)
        ]
        return pd.DataFrame(rows, columns=None if rows else ["id", "position", "word"])

    def figure(self) -> "Figure":
        """A figure like the paper's 6 and 7, a row for each pair. Raises: UsageError without pairs."""
        from mvsent.report.overlays import paper_figure

        if not self.pairs:
            raise UsageError("there is no pair to draw", "Give some to Run.attention")
        return paper_figure(self.pairs)

    def __repr__(self) -> str:
        said = ", ".join(f"{pair.id} {pair.predicted}" for pair in self.pairs[:3])
        return f"AttendedPairs({len(self)}: {said}{', …' if len(self) > 3 else ''})"

    def _repr_html_(self) -> str:
        from mvsent.report.cells import attended

        return attended(self.pairs)


def _pick(number: int, given: Any) -> "Pick":
    """A pair to explain. Raises: UsageError for something else."""
    from mvsent.inference.attended import Pick
    from mvsent.inference.model import clean

    if isinstance(given, Pair):
        return Pick(given.id, "given", given.image_bytes, given.text, given.label or "")
    if isinstance(given, Mapping) and {"image", "text"} & set(given):
        given = (given.get("image"), given.get("text"))
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise UsageError(f"pair {number}: not a pair ({type(given).__name__})", "Give (image, text), or rows")
    image, text = given
    is_file = isinstance(image, str | os.PathLike)
    return Pick(Path(image).name if is_file else f"pair {number}", "given", image, clean(text))
