"""A run folder: settings, resolved settings, and one folder for each fold."""

import json
import os
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tomli_w
from pydantic import ConfigDict, Field, ValidationError, field_validator

from mvsent import __version__
from mvsent.config import TrainSettings, read_toml
from mvsent.errors import OutputExistsError, RunError, UsageError
from mvsent.pairs import Label
from mvsent.setting import Settings
from mvsent.shards.atomic import atomic_write
from mvsent.storage import entries, is_remote, located, make_folder, reaching, refuse_no_bucket, remove

CONFIG, METRICS = "config.toml", "metrics.json"
ENVIRONMENT = "environment.json"
ROWS = "rows.parquet"  # hashes of the rows that were trained on; see `seen_rows`
_OURS = re.compile(
    r"config\.toml|environment\.json|rows\.parquet|metrics\.json|report\.html|fold-\d+|eval-.+|missing-(image|text)|explain"
    r"|(roc|prc|curves|confusion)\.(png|svg)|\..*\.tmp"
)
HISTORY, PREDICTIONS = (
    "history.csv",
    "predictions.parquet",
)  # of a fold; the second marks it as finished


Width = Annotated[int, Field(ge=0)]


class Resolved(Settings):
    """The resolved settings of a run on its dataset, against which a replay is checked.

    Further keys, fields of `models.batch.Sizes`, are the widths of inputs with one vector for each row.
    """

    dataset_name: str
    dataset_sha256: str
    split_sha256: str
    classes: list[int]  # the labels, in the order of the network's outputs
    n_folds: int = Field(ge=0, le=10_000)
    max_words: int
    backbone_sha256: str  # hash of its weights; empty if the model reads no pictures
    words_sha256: str  # hash of the first fold's word vectors; empty without a vocabulary
    word_size: int = Field(ge=0, le=100_000)  # features of a word vector
    max_tokens: int = 0  # tokens of a text for a transformer; 0: no transformer
    threads: int
    pretrained_sha256: dict[str, str] = Field(default_factory=dict)  # hashes of other pretrained weights
    revisions: dict[str, str] = Field(default_factory=dict)  # id on Hugging Face's hub → commit

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, Width]

    def width(self, name: str) -> int:
        """Features of an input, by field of `models.batch.Sizes`; 0 if the model does not read it."""
        return self.__pydantic_extra__.get(name, 0)

    @field_validator("classes")
    @classmethod
    def _are_labels_in_order(cls, classes: list[int]) -> list[int]:
        """The order of classes determines the meaning of the network's outputs."""
        if not classes or classes != sorted(set(classes)) or not set(classes) <= set(Label):
            raise ValueError("classes are not labels in order")
        return classes


@dataclass(frozen=True)
class RunFolder:
    """A run folder, local or in object storage; docs/dataset-format.md describes it."""

    path: Path
    settings: TrainSettings
    resolved: Resolved

    @classmethod
    def create(
        cls, path: Path, settings: TrainSettings, resolved: Resolved, *, overwrite: bool
    ) -> "RunFolder":
        """Create a run at `path`; an existing run is replaced only with `overwrite`.

        Raises: OutputExistsError if a run or something else exists there.
        """
        refuse_unless_free(path, overwrite=overwrite)
        if path.exists() and any(path.iterdir()):
            # Object storage has no renaming, so a remote run is removed first.
            if is_remote(path) or former(path).exists():  # a failed attempt to replace it
                remove(path)
            else:
                path.rename(former(path))
        make_folder(path)
        run = cls(path, settings, resolved)
        document = {"train": settings.model_dump(), "resolved": resolved.model_dump()}
        with atomic_write(path / CONFIG) as file:
            file.write(tomli_w.dumps(document).encode())
        with atomic_write(path / ENVIRONMENT) as file:
            file.write(json.dumps(environment(settings.device), indent=2).encode())
        return run

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open the run at `path`. Raises: RunError if `path` is not a run."""
        path = located(path)
        with reaching(path):
            is_there = (path / CONFIG).is_file()
        if not is_there:
            refuse_no_bucket(path)
            raise RunError(f"{path}: not a run folder, it has no {CONFIG}", "Make one with: mvsent train")
        document = read_toml(path / CONFIG)
        try:
            return cls(path, TrainSettings(**document["train"]), Resolved(**document["resolved"]))
        except (KeyError, TypeError, ValidationError) as error:
            problem = error.errors()[0]["msg"] if isinstance(error, ValidationError) else f"lacks {error}"
            raise RunError(
                f"{path / CONFIG}: not the configuration of a run ({problem})", "Restore it, or train again"
            ) from None

    def fold(self, number: int) -> Path:
        """The folder of one fold."""
        return self.path / f"fold-{number}"

    @property
    def wanted_folds(self) -> list[int]:
        """The folds that this run trains, in order."""
        return self.settings.folds or list(range(self.resolved.n_folds))

    @property
    def finished_folds(self) -> list[int]:
        """The folds with saved predictions."""
        return [k for k in self.wanted_folds if (self.fold(k) / PREDICTIONS).is_file()]

    @property
    def is_finished(self) -> bool:
        """Whether every wanted fold is finished."""
        return self.finished_folds == self.wanted_folds


def free_name(runs: Path, stem: str) -> Path:
    """`runs/STEM`, or the first of `STEM-2`, `STEM-3` … that does not exist."""
    path, number = runs / stem, 2
    while path.exists():
        path, number = runs / f"{stem}-{number}", number + 1
    return path


def newest_run(runs: Path = Path("runs")) -> Path:
    """The most recently begun run folder in `runs`. Raises: RunError if `runs` has no run."""
    found = runs_by_age(runs)
    if not found:
        raise RunError(f"{runs}: holds no run", "Make one with: mvsent train")
    return found[0]


def newest_unfinished(runs: Path) -> Path:
    """The most recently begun unfinished run. Raises: RunError if all runs are finished."""
    for path in runs_by_age(runs):
        try:
            if not RunFolder.open(path).is_finished:
                return path
        except (RunError, UsageError):  # skips damaged runs
            continue
    raise RunError(
        f"{runs}: holds no unfinished run", "Start one with: mvsent train; or name a run elsewhere with --out"
    )


def runs_by_age(runs: Path) -> list[Path]:
    """The run folders in `runs`, the most recently begun first."""
    configs = [path for path in runs.glob(f"*/{CONFIG}") if not path.parent.name.startswith(".")]
    newest_first = sorted(configs, key=lambda path: (path.stat().st_mtime_ns, path), reverse=True)
    return [path.parent for path in newest_first]


def refuse_unless_free(path: Path, *, overwrite: bool) -> None:
    """Raises: OutputExistsError if `path` is a run (unless `overwrite`), or contains foreign files."""
    names = entries(path)
    if foreign := sorted(name for name in names if not _OURS.fullmatch(name)):
        raise OutputExistsError(
            f"{path}: holds {foreign[0]}, which is not a run's file", "Choose another --out, or move it away"
        )
    if CONFIG in names:
        RunFolder.open(path)
        if not overwrite:
            raise OutputExistsError(
                f"{path}: already holds a run", "Continue it with --resume, or replace it with --overwrite"
            )


def former(path: Path) -> Path:
    """The place of an overwritten run until the new one is finished."""
    return path.with_name(f".{path.name}.old")


def environment(device: str) -> dict[str, Any]:
    """Versions, the device `device`, and the command line, for reproducing a number."""
    # Imported here, because reading a run needs none of them.
    import pyarrow as pa
    import sklearn
    import torch
    import torchvision

    from mvsent.workers.devices import compute_device
    from mvsent.workers.ranks import under_launcher

    used = compute_device(device)
    return {
        "command": ["mvsent", *sys.argv[1:]],
        "mvsent": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
        "pyarrow": pa.__version__,
        "scikit-learn": sklearn.__version__,
        **({"ranks": int(os.environ["WORLD_SIZE"])} if under_launcher() else {}),
        "device": torch.cuda.get_device_name(used)
        if used.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads",
    }
