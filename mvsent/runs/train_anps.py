"""Training of adjective-noun pair detectors on pictures found by such pairs: `mvsent train-anps`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mvsent.config import TrainSettings
from mvsent.datasets.split import ensure_split
from mvsent.errors import DatasetError, OutputExistsError
from mvsent.features.anps import AnpDetectors, train_detectors
from mvsent.features.backbones import load_backbone
from mvsent.features.cache import cached_maps
from mvsent.features.cache_folder import default_cache_dir
from mvsent.runs.inputs.regions import pooled_maps
from mvsent.shards.reader import Dataset
from mvsent.splits import TEST, TRAIN
from mvsent.storage import located
from mvsent.workers.devices import compute_device
from mvsent.workers.engine import LOCAL, Engine

TOP = 5

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class AnpResult:
    """Trained detectors, and their accuracy on test rows.

    Attributes:
        path: the file of the detectors.
        n_anps: number of adjective-noun pairs.
        n_train, n_test: numbers of training and test rows.
        top_1, top_5: share (0..1) of the test rows whose pair is the likeliest, or among the five likeliest.
    """

    path: Path
    n_anps: int
    n_train: int
    n_test: int
    top_1: float
    top_5: float


def train_anps(
    settings: TrainSettings,
    out: Path,
    *,
    engine: Engine = LOCAL,
    overwrite: bool = False,
    quiet: bool = False,
) -> AnpResult:
    """Train a detector for each query of the training rows of the split's first fold and write them to `out`.

    Args:
        settings: only dataset, backbone, split, device and workers are used.
        engine: what computes the features.

    Raises: OutputExistsError; DatasetError for a dataset without queries; WeightsError or UsageError if
        the backbone is unavailable.
    """
    if out.exists() and not overwrite:
        raise OutputExistsError(f"{out}: already exists", "Replace it with --overwrite")
    dataset = Dataset.open(located(settings.dataset))
    queries = read_queries(dataset)
    split = ensure_split(dataset, settings.protocol, settings.seed)
    queried = np.array([bool(query) for query in queries])
    train, test = (rows[queried[rows]] for rows in (split.rows(0, TRAIN), split.rows(0, TEST)))
    if len({queries[row] for row in train.tolist()}) < 2:
        raise DatasetError(f"{dataset.folder}: its training rows have fewer than two queries", _NEEDED)
    network = load_backbone(settings.backbone, tap=settings.tap, weights=settings.weights)
    maps = cached_maps(
        dataset,
        network,
        cache_dir=default_cache_dir(),
        device=compute_device(settings.device),
        workers=settings.workers,
        engine=engine,
        gpus=settings.device != "cpu",
        quiet=quiet,
    )
    features = pooled_maps(maps)
    detectors = train_detectors(features, queries, train, network.weights_sha256)
    detectors.save(out)
    top_1, top_5 = (top_accuracy(detectors, features, queries, test, k) for k in (1, TOP))
    return AnpResult(out, len(detectors.names), len(train), len(test), top_1, top_5)


_NEEDED = "Take one that mvsent build-flickr made: its queries are adjective-noun pairs"


def read_queries(dataset: Dataset) -> list[str]:
    """The query of each row, empty if it has no query. Raises: DatasetError if all are empty."""
    queries = [query or "" for query in dataset.table(["query"])["query"].to_pylist()]
    if not any(queries):
        raise DatasetError(f"{dataset.folder}: no query found its rows", _NEEDED)
    return queries


def top_accuracy(
    detectors: AnpDetectors, features: npt.NDArray[np.float32], queries: list[str], rows: Rows, k: int
) -> float:
    """The share of `rows` whose query is among the `k` likeliest; one without a detector is wrong."""
    if len(rows) == 0:
        return float("nan")
    likeliest = np.argsort(-detectors.scores(features[rows]), axis=1)[:, :k]
    right = [
        queries[row] in {detectors.names[i] for i in best}
        for row, best in zip(rows.tolist(), likeliest.tolist(), strict=True)
    ]
    return float(np.mean(right))
