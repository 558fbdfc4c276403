"""Compare runs on the test rows that they have in common: the job behind `mvsent compare`.

read the runs → check that they were tested on the same rows → match rows by id → test every two of them
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mvsent import __version__
from mvsent.datasets.split_files import SplitFiles
from mvsent.errors import RunError, UsageError
from mvsent.learn.answers import Floats
from mvsent.learn.bootstrap import RESAMPLES, Answered, Summary, interval, pair_numbers, resampled_means
from mvsent.learn.metrics import score
from mvsent.learn.significance import corrected_t_test, discordant_pairs, holm, mcnemar, permutation_test
from mvsent.report.comparison import COMPARED, comparison_table, comparison_title, system_table
from mvsent.runs.predictions import Predictions, read_predictions
from mvsent.runs.run_folder import CONFIG, PREDICTIONS, RunFolder
from mvsent.runs.seen_rows import training_labels
from mvsent.runs.trial import finished_folds
from mvsent.storage import located

if TYPE_CHECKING:
    import pandas as pd

Document = dict[str, Any]

PERMUTATIONS = 9999
_METRICS = ("accuracy", "f1")


@dataclass(frozen=True, repr=False)
class RunComparison:
    """The comparison of every two of some runs; `document` is what `mvsent compare --json` prints."""

    document: Document

    def to_pandas(self) -> "pd.DataFrame":
        """A row for each two runs: differences with intervals, and p-values without and with correction."""
        import pandas as pd

        rows = []
        for each in self.document["comparisons"]:
            row = {name: each[name] for name in ("first", "second", "only_first_right", "only_second_right")}
            row |= {f"{key}_{part}": value for key in COMPARED for part, value in each[key].items()}
            row |= {f"p_{test}": p for test, p in each["p"].items()}
            rows.append(row | {f"p_{test}_holm": p for test, p in each["p_holm"].items()})
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        return f"RunComparison({comparison_title(self.document)})"

    def _repr_html_(self) -> str:
        from mvsent.report.cells import table

        systems = table(comparison_title(self.document), *system_table(self.document))
        return systems + table("every two of them", *comparison_table(self.document))


@dataclass(frozen=True)
class Compared:
    """A run with its answers to the common test rows.

    Attributes:
        name: the end of its path that no other run has.
        run: the run folder.
        tested: its answers.
    """

    name: str
    run: RunFolder
    tested: Answered

    def scores(self, key: str) -> list[float]:
        """A metric of each fold."""
        classes = self.run.resolved.classes
        return [score(*fold, classes)[key] or 0.0 for fold in self.tested.folds]


def compare_runs(paths: Sequence[Path], *, permutations: int = PERMUTATIONS, seed: int = 0) -> RunComparison:
    """Compare every two of some runs on their common test rows, by four tests.

    Args:
        paths: run folders, or folders that hold some, such as a benchmark's of one protocol.
        permutations: random permutations of each permutation test.
        seed: of permutations and intervals.

    Raises:
        UsageError: fewer than two runs, or runs that were not tested on the same rows.
        RunError: not a run, no finished fold, or damaged predictions.
    """
    folders = list({each.resolve(): each for path in paths for each in _runs_in(located(path))}.values())
    if len(folders) < 2:
        given = f"{folders[0]} is a single run" if folders else "no run is named"
        raise UsageError(given, "Name two or more to compare")
    runs = [RunFolder.open(folder) for folder in folders]
    _refuse_other_rows(runs)
    folds, notes = _common_folds(runs)
    answers = [
        [read_predictions(run.fold(fold) / PREDICTIONS, run.resolved.classes)["test"] for fold in folds]
        for run in runs
    ]
    answers, left_out = _common_rows(runs, folds, answers)
    pairs = pair_numbers([rows.ids for rows in answers[0]])
    compared = [
        Compared(name, run, Answered([(rows.y_true, rows.y_prob) for rows in of_run], pairs))
        for name, run, of_run in zip(_short_names(folders), runs, answers, strict=True)
    ]
    trained = next((labels for run in runs if (labels := training_labels(run)) is not None), None)
    n_test = sum(map(len, pairs))
    share = n_test / sum(len(trained[fold]) for fold in folds) if trained else None
    classes = runs[0].resolved.classes
    resampled = resampled_means([each.tested for each in compared], classes, RESAMPLES, seed, _METRICS)
    means = dict(zip((each.name for each in compared), resampled, strict=True))
    comparisons = [
        _comparison(first, second, means, share, permutations, seed)
        for first, second in combinations(compared, 2)
    ]
    _correct(comparisons)
    files, first = SplitFiles.of(runs[0].settings), runs[0]
    return RunComparison(
        {
            "mvsent_version": __version__,
            "dataset": first.resolved.dataset_name,
            "dataset_sha256": first.resolved.dataset_sha256,
            "protocol": files.described if files else first.settings.protocol,
            "split_sha256": first.resolved.split_sha256,
            "folds": folds,
            "n_rows": n_test,
            "n_pairs": compared[0].tested.n_pairs,
            "bootstrap": {"resamples": RESAMPLES, "seed": seed, "level": 0.95, "unit": "pair"},
            "permutations": permutations,
            "notes": [*notes, *left_out],
            "runs": [
                {
                    "name": each.name,
                    "run": str(each.run.path),
                    "model": each.run.settings.model,
                    "options": each.run.settings.options,
                    "seed": each.run.settings.seed,
                    "metrics": {key: _summary(each.scores(key), means[each.name][key]) for key in COMPARED},
                }
                for each in compared
            ],
            "comparisons": comparisons,
        }
    )


def _comparison(
    first: Compared,
    second: Compared,
    means: Mapping[str, Mapping[str, Floats]],
    share: float | None,
    permutations: int,
    seed: int,
) -> Document:
    """Differences of the first run and the second one, and p-values; `share` is `n_test / n_train`."""
    only_first, only_second = discordant_pairs(first.tested, second.tested)
    gaps = {
        key: [a - b for a, b in zip(first.scores(key), second.scores(key), strict=True)] for key in COMPARED
    }
    swapped = {
        f"permutation_{key}": permutation_test(
            first.tested, second.tested, first.run.resolved.classes, key, n=permutations, seed=seed
        )
        for key in COMPARED
    }
    of_folds = None if share is None else corrected_t_test(gaps["accuracy"], share)
    return {
        "first": first.name,
        "second": second.name,
        **{key: _summary(gaps[key], means[first.name][key] - means[second.name][key]) for key in COMPARED},
        "only_first_right": only_first,
        "only_second_right": only_second,
        "p": {"mcnemar": mcnemar(only_first, only_second), **swapped, "t_test": of_folds},
    }


def _correct(comparisons: Sequence[Document]) -> None:
    """Set `p_holm` of each comparison: of each test the p-value, corrected for all comparisons."""
    of_test = {test: holm([each["p"][test] for each in comparisons]) for test in comparisons[0]["p"]}
    for place, each in enumerate(comparisons):
        each["p_holm"] = {test: corrected[place] for test, corrected in of_test.items()}


def _summary(of_folds: Sequence[float], resampled: Floats) -> Summary:
    std = float(np.std(of_folds, ddof=1)) if len(of_folds) > 1 else None
    low, high = interval(resampled)
    return Summary(mean=float(np.mean(of_folds)), std=std, low=low, high=high)


def _runs_in(folder: Path) -> Iterator[Path]:
    """The folder itself if it is a run or nothing else, or the runs in it by name."""
    inside = [] if (folder / CONFIG).is_file() else sorted(path.parent for path in folder.glob(f"*/{CONFIG}"))
    yield from [path for path in inside if not path.name.startswith(".")] or [folder]


def _refuse_other_rows(runs: Sequence[RunFolder]) -> None:
    """Raises: UsageError naming what differs, if a run has another dataset or split than the first one."""
    first = runs[0]
    for run in runs[1:]:
        differs = []
        for what, name, of in (
            ("dataset", "dataset_name", "dataset_sha256"),
            ("split", "", "split_sha256"),
        ):
            ours, theirs = (getattr(each.resolved, of)[:8] for each in (first, run))
            if ours != theirs:
                told = [
                    getattr(each.resolved, name) if name else each.settings.protocol for each in (first, run)
                ]
                differs.append(f"{what} {told[0]} ({ours}) and {told[1]} ({theirs})")
        if differs:
            raise UsageError(
                f"{first.path} and {run.path} were not tested on the same rows: {'; '.join(differs)}",
                "Compare runs of one dataset and one split",
            )


def _common_folds(runs: Sequence[RunFolder]) -> tuple[list[int], list[str]]:
    """The folds that every run has finished, and notes on others. Raises: UsageError if there are none."""
    finished = [finished_folds(run) for run in runs]
    folds = [fold for fold in finished[0] if all(fold in each for each in finished)]
    if not folds:
        told = "; ".join(f"{run.path} has {each}" for run, each in zip(runs, finished, strict=True))
        raise UsageError(f"the runs have no finished fold in common: {told}", "Train the same folds of each")
    notes = [
        f"{run.path}: fold {', '.join(map(str, others))} is left out, as another run has not finished it"
        for run, each in zip(runs, finished, strict=True)
        if (others := [fold for fold in each if fold not in folds])
    ]
    return folds, notes


def _common_rows(
    runs: Sequence[RunFolder], folds: Sequence[int], answers: Sequence[Sequence[Predictions]]
) -> tuple[list[list[Predictions]], list[str]]:
    """Of each run and fold the rows that all runs have, in the order of the first run; and a note on others.

    Raises: RunError if two runs give a row different labels, or have no row in common.
    """
    matched: list[list[Predictions]] = [[] for _ in runs]
    n_left_out = 0
    for fold, of_runs in zip(folds, zip(*answers, strict=True), strict=True):
        places = [{id: row for row, id in enumerate(each.ids)} for each in of_runs]
        ids = [id for id in of_runs[0].ids if all(id in place for place in places)]
        n_left_out += len(set().union(*places)) - len(ids)
        for run, each, place, taken in zip(runs, of_runs, places, matched, strict=True):
            rows = np.array([place[id] for id in ids], np.int64)
            found = Predictions(ids, each.y_true[rows], each.y_prob[rows])
            taken.append(found)
            if not ids or (found.y_true != matched[0][-1].y_true).any():
                problem = "labels" if ids else "rows"
                raise RunError(
                    f"{run.path}: fold {fold} has other {problem} than {runs[0].path}, though the same split",
                    "Delete its predictions.parquet and train that fold again: "
                    f"mvsent train --resume --out {run.path}",
                )
    one = "1 test row is left out, as not every run has it"
    note = one if n_left_out == 1 else f"{n_left_out} test rows are left out, as not every run has them"
    return matched, [note] if n_left_out else []


def _short_names(folders: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as distinguish them.

    >>> _short_names([Path("a/x"), Path("a/y")]), _short_names([Path("a/x"), Path("b/x")])
    (['x', 'y'], ['a/x', 'b/x'])
    """
    parts = [folder.resolve().parts for folder in folders]
    longest = max(map(len, parts))
    n = next(n for n in range(1, longest + 1) if len({each[-n:] for each in parts}) == len(parts))
    return ["/".join(each[-n:]) for each in parts]
