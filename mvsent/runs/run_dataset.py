"""The dataset and split that a run was trained on, which may have moved since."""

import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from mvsent.datasets.split import find_split, splits_folder
from mvsent.datasets.split_files import SplitFiles
from mvsent.errors import DatasetError, MvsentError, RunError, SplitError, UsageError
from mvsent.runs.run_folder import RunFolder
from mvsent.shards.manifest import MANIFEST_FILE, Manifest
from mvsent.shards.reader import Dataset
from mvsent.splits import Split, read_split
from mvsent.storage import is_remote, located

log = logging.getLogger("mvsent")

_MOST = 200
"""Maximum number of folders beside a run, or in data/, whose manifests are read."""


def own_dataset(run: RunFolder, named: Path | None = None) -> Dataset:
    """The dataset that the run was trained on, found by its hash.

    Without `named` it is looked for at the place that the run recorded, beside the run, in `data/` of the
    run's project and in `data/` of the current folder. A dataset at another place than the recorded one is
    named in a message.

    Args:
        named: the folder that the user gives for it.

    Raises: RunError if it is not found, or if `named` holds other rows; DatasetError if it cannot be read.
    """
    if named is not None:
        return _checked(run, named)
    recorded, found = located(run.settings.dataset), find_own(run)
    if found is not None:
        if found != recorded:
            log.info("%s: its dataset is no longer at %s, and is read from %s", run.path, recorded, found)
        return Dataset.open(found)
    changed = (recorded / MANIFEST_FILE).is_file()
    raise RunError(
        f"{recorded}: the dataset has changed since {run.path} was trained on it"
        if changed
        else f"{recorded}: the dataset of {run.path} is gone, and neither beside the run nor in data",
        "Restore its rows, or name a copy of it with --dataset",
    )


def find_own(run: RunFolder) -> Path | None:
    """The folder of the run's dataset; None if none of its `places` has one with its hash."""
    return next((at for at in places(run) if _sha256(at) == run.resolved.dataset_sha256), None)


def places(run: RunFolder) -> Iterator[Path]:
    """The folders in which the run's dataset may be, the most probable first."""
    recorded = located(run.settings.dataset)
    yield recorded
    here = run.path.resolve()
    # A project that moved as a whole has its datasets in data/, beside runs/.
    near = [here.parent, here.parents[1] / "data"] if len(here.parents) > 1 else [here.parent]
    for parent in dict.fromkeys([*near, Path("data")]):
        yield parent / recorded.name
        with suppress(OSError):  # a folder that may not be listed
            if not is_remote(parent):  # a bucket may have millions of objects
                yield from sorted(path.parent for path in parent.glob(f"*/{MANIFEST_FILE}"))[:_MOST]


def own_split(run: RunFolder, dataset: Dataset) -> Split:
    """The split of its dataset by which the run was trained.

    Raises: RunError if it has changed; SplitError if it cannot be read.
    """
    files, problem = SplitFiles.of(run.settings), None
    try:
        split = find_split(dataset, run.settings.protocol, run.settings.seed, files)
        if split.sha256 == run.resolved.split_sha256:
            return split
    except (MvsentError, OSError) as error:
        problem = error
    # The file that was given may be gone; training keeps a copy in the dataset's folder.
    for path in sorted(splits_folder(dataset).glob("*.parquet")):
        try:
            kept = read_split(path, dataset.ids)
        except SplitError:
            continue
        if kept.sha256 == run.resolved.split_sha256:
            return kept
    if problem is not None:
        raise problem
    raise RunError(f"{run.path}: its split has changed since training", "Restore the file, or train again")


def is_own(run: RunFolder, dataset: Dataset) -> bool:
    """Whether the dataset holds the rows that the run was trained on."""
    return dataset.sha256 == run.resolved.dataset_sha256


def _checked(run: RunFolder, folder: Path) -> Dataset:
    dataset = Dataset.open(folder)
    if not is_own(run, dataset):
        raise UsageError(
            f"--dataset {folder}: holds other rows ({dataset.name}) than {run.path} was trained on "
            f"({run.resolved.dataset_name})",
            "Name the dataset of the run",
        )
    return dataset


def _sha256(folder: Path) -> str:
    """The hash of the dataset in `folder`; empty if there is none that can be read."""
    try:
        return Manifest.load(folder).sha256
    except (DatasetError, OSError):
        return ""
