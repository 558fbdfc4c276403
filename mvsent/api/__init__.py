"""The Python API: the functions and classes that `import mvsent` offers, over the code of the commands.

open a dataset → split it, look at it, give it to torch or pandas → train → evaluate, predict, explain
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mvsent.api.pair_dataset import Pair, PairDataset
from mvsent.api.pair_split import PairSplit
from mvsent.api.places import Place, folder_of, names_of, settings_of
from mvsent.api.trained_run import AttendedPairs, Run
from mvsent.errors import UsageError
from mvsent.pairs import LABEL_NAMES, Label
from mvsent.shards.manifest import MANIFEST_FILE
from mvsent.shards.reader import Dataset

if TYPE_CHECKING:
    import pandas as pd

    from mvsent.inference.model import Model
    from mvsent.runs.benchmark import Benchmark
    from mvsent.runs.compare import RunComparison

__all__ = [
    "AttendedPairs",
    "Pair",
    "PairDataset",
    "PairSplit",
    "Run",
    "benchmark",
    "compare",
    "draw",
    "load",
    "open",
    "score",
    "train",
]


def open(path: Place) -> PairDataset:
    """Open a finished dataset; pictures are read only when they are asked for.

    Args:
        path: its folder, here or at s3://…, gs://….

    Raises: DatasetError if it is not a finished dataset, or if a shard is missing.
    """
    return PairDataset(Dataset.open(folder_of(path)))


def draw(folder: Place, *, rows: int = 120, seed: int = 0) -> PairDataset:
    """Draw pictures and tweets with labels, so that everything can be tried without anybody's data.

    The drawn annotations are reconciled as those of MVSA are; some rows are dropped on purpose, as there.

    Args:
        folder: the dataset's folder; one that was drawn alike before is opened.
        rows: annotated rows to draw, before the doubtful ones are dropped.
        seed: of the drawing.

    Raises: OutputExistsError if the folder holds something else.
    """
    from tempfile import TemporaryDirectory

    from mvsent.build.reconcile import reconcile
    from mvsent.config import ReconcileSettings
    from mvsent.standin.drawn_mvsa import draw_dataset

    place = folder_of(folder)
    name = f"drawn-{rows}-{seed}"
    if (place / MANIFEST_FILE).is_file() and (found := open(place)).name == name:
        return found
    with TemporaryDirectory() as drawn:
        draw_dataset(Path(drawn), n_rows=rows, seed=seed)
        reconcile(Path(drawn), place, ReconcileSettings(), name=name, quiet=True)
    return open(place)


def train(
    dataset: Place,
    model: str = "dmlanet",
    protocol: str = "",
    *,
    out: Place | None = None,
    overwrite: bool = False,
    quiet: bool = False,
    **settings: Any,
) -> Run:
    """Train a model on every fold of a protocol, as `mvsent train` does, and return the run.

    Neither `mvsent.toml` nor the environment is read: the arguments are the whole configuration.

    Args:
        dataset: a dataset, or its folder.
        model: one of those that `mvsent models` lists.
        protocol: how rows are split; empty: paper-5x, or as `split_file` says.
        out: the run's folder; None: a new one in runs.
        overwrite: replace a run at `out`.
        quiet: no progress.
        settings: further settings of `mvsent train`, such as `epochs=5`, `folds=[0]` or
            `options={"without": "self"}`.

    Raises: as `mvsent.runs.train.train`; UsageError for an unknown setting.
    """
    from mvsent.runs.train import train as run_training

    if protocol and settings.get("split_file"):
        raise UsageError("protocol and split_file contradict each other", "Leave one of them out")
    of_protocol = {"protocol": protocol} if protocol else {}
    given = {"dataset": str(folder_of(dataset)), "model": model, **of_protocol, **settings}
    place = None if out is None else folder_of(out)
    return Run(run_training(settings_of(given), out=place, overwrite=overwrite, quiet=quiet).run)


def load(run: Place, fold: int | None = None, device: str = "auto") -> "Model":
    """Load the model of a run, ready to answer: `load(RUN).predict(images, texts)`.

    Args:
        run: a run, or its folder.
        fold: whose network; None: those of all finished folds, whose probabilities are averaged.
        device: cpu, cuda, cuda:N, or auto, the first CUDA device, else the CPU.

    Raises:
        RunError: no run, no finished fold, or something pretrained is not what it was in training.
        UsageError: no such fold or device. WeightsError: something pretrained is not here.
    """
    from mvsent.inference.model import load as load_model

    return load_model(folder_of(run), fold, device)


def score(
    y_true: "Sequence[int | str] | npt.NDArray[Any] | pd.Series",
    y_prob: "npt.ArrayLike | pd.DataFrame",
    classes: Sequence[int | str] | None = None,
) -> dict[str, float | None]:
    """Compute every metric of `metrics.json`; None for one that is undefined.

    Args:
        y_true: [N], labels as names or numbers.
        y_prob: [N, 3], probabilities of negative, neutral and positive, or a table with the columns
            p_negative, p_neutral and p_positive.
        classes: the labels that count; None: those that occur in `y_true` or have a probability above 0.

    Raises: UsageError for a label that is none, or for probabilities that do not fit.

    >>> scores = score(["negative", "positive"], [[0.9, 0.0, 0.1], [0.2, 0.0, 0.8]])
    >>> scores["accuracy"], scores["f1_macro"], scores["recall_positive"]
    (1.0, 1.0, 1.0)
    """
    from mvsent.learn.metrics import score as scored

    true, prob = _labels(y_true), _probabilities(y_prob)
    if prob.shape != (len(true), len(LABEL_NAMES)) or not len(true):
        raise UsageError(
            f"y_prob: has shape {prob.shape}, for {len(true)} labels",
            "Give one row a label, and three columns",
        )
    if not np.isfinite(prob).all() or (prob < 0).any() or np.abs(prob.sum(axis=1) - 1).max() > 1e-3:
        raise UsageError("y_prob: a row is not one of probabilities that sum to 1", "Give those of a network")
    occurring = set(true.tolist()) | set(np.flatnonzero(prob.any(axis=0)).tolist())
    chosen = sorted(occurring if classes is None else set(_labels(classes).tolist()))
    if strange := sorted(set(true.tolist()) - set(chosen)):
        raise UsageError(
            f"y_true: has {LABEL_NAMES[strange[0]]}, which is not in classes", "Add it to classes"
        )
    return scored(true, prob, chosen)


def benchmark(
    datasets: Place | Sequence[Place],
    *,
    table: str | Sequence[str] = "all",
    models: str | Sequence[str] = (),
    protocols: str | Sequence[str] = (),
    options: Mapping[str, Mapping[str, str]] | None = None,
    out: Place = "runs/benchmark",
    jobs: int = 1,
    overwrite: bool = False,
    quiet: bool = False,
    **settings: Any,
) -> "Benchmark":
    """Run the systems of the paper's tables on the same rows and folds, as `mvsent benchmark` does.

    Finished cells in `out` are not repeated.

    Args:
        datasets: one dataset or several, or their folders.
        table: 2, 3 or 4, several, or all.
        models: only these; none: those of the tables.
        protocols: how rows are split; none: paper-5x and grouped-paper-5x, or as `split_file` says.
        options: model → its options.
        out: folder of runs and results.
        jobs: cells that run at once.
        overwrite: replace cells that were made with other settings.
        quiet: no progress.
        settings: further settings of `mvsent benchmark`, such as `epochs=5`.

    Raises: as `mvsent.runs.benchmark.benchmark`; UsageError for an unknown setting.
    """
    from mvsent.runs.benchmark import benchmark as run_benchmark
    from mvsent.runs.benchmark_plan import Asked

    if not isinstance(models, str | tuple) and not len(models):
        raise UsageError("models: is empty", "Name some, or leave it out for those of the tables")
    if protocols and settings.get("split_file"):
        raise UsageError("protocols and split_file contradict each other", "Leave one of them out")
    several = [datasets] if isinstance(datasets, str | os.PathLike) else datasets
    asked = Asked(
        datasets=[folder_of(each) for each in several],
        tables=names_of(table),
        models=names_of(models),
        protocols=names_of(protocols or ("paper-5x", "grouped-paper-5x")),
        options=options or {},
        common=settings_of(settings),
        out=folder_of(out),
        against="dmlanet",
    )
    return run_benchmark(asked, jobs=jobs, overwrite=overwrite, quiet=quiet)


def compare(runs: Sequence[Place], *, permutations: int = 9999, seed: int = 0) -> "RunComparison":
    """Test whether runs differ on their common test rows, every two of them, as `mvsent compare` does.

    The result has `to_pandas()`, with differences, intervals and p-values.

    Args:
        runs: runs, their folders, or folders of runs, such as a benchmark's of one protocol.
        permutations: random permutations of each permutation test.
        seed: of permutations and intervals.

    Raises: as `mvsent.runs.compare.compare_runs`.
    """
    from mvsent.runs.compare import compare_runs

    return compare_runs([folder_of(run) for run in runs], permutations=permutations, seed=seed)


def _probabilities(given: Any) -> npt.NDArray[np.float64]:
    """Probabilities as an array. Raises: UsageError for a table without their columns, or no numbers."""
    if hasattr(given, "columns"):
        columns = [f"p_{name}" for name in LABEL_NAMES]
        if absent := [name for name in columns if name not in given.columns]:
            raise UsageError(f"y_prob: has no column {absent[0]}", f"Its columns are {', '.join(columns)}")
        given = given[columns]
    try:
        return np.asarray(given, np.float64)
    except (ValueError, TypeError):
        raise UsageError("y_prob: is not a table of numbers", "Give a row for each label") from None


def _labels(given: Any) -> npt.NDArray[np.int64]:
    """Label numbers [N]. Raises: UsageError naming the first one that is no label."""
    numbers = []
    for row, label in enumerate(given):
        try:
            known = Label.parse(label) if isinstance(label, str) else Label(label)
        except (KeyError, ValueError, TypeError):
            raise UsageError(
                f"label {row}: {label!r} is none", f"Labels are {', '.join(LABEL_NAMES)}, or 0, 1 and 2"
            ) from None
        numbers.append(int(known))
    return np.array(numbers, np.int64)
