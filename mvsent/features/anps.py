"""Adjective-noun pairs in a picture: linear detectors on a backbone's features, or a file of scores."""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mvsent.errors import InputError, WeightsError, first_line
from mvsent.shards.atomic import atomic_write

log = logging.getLogger("mvsent")

MAX_STEPS = 200
"""Steps of the optimiser that fits the detectors."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class AnpDetectors:
    """One linear detector for each adjective-noun pair.

    Attributes:
        names: the `A` adjective-noun pairs.
        weight, bias: `[A, C]`, `[A]`, for features standardised by `mean` and `std`, both `[C]`.
        backbone_sha256: hash of the backbone weights that compute the features.
    """

    names: list[str]
    weight: Floats
    bias: Floats
    mean: Floats
    std: Floats
    backbone_sha256: str

    def scores(self, features: Floats) -> Floats:
        """Probabilities `[N, A]` that each pair is the query of a picture, from pooled features `[N, C]`."""
        logits = (features - self.mean) / self.std @ self.weight.T + self.bias
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))  # else exp overflows
        scores: Floats = (raised / raised.sum(axis=1, keepdims=True)).astype(np.float32)
        return scores

    def save(self, path: Path) -> None:
        """Write the detectors to a safetensors file."""
        arrays = {"weight": self.weight, "bias": self.bias, "mean": self.mean, "std": self.std}
        # safetensors writes memory as it is, and scikit-learn's weights are stored column by column.
        tensors = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        metadata = {"names": "\n".join(self.names), "backbone_sha256": self.backbone_sha256}
        with atomic_write(path) as file:
            file.write(save(tensors, metadata))

    @classmethod
    def load(cls, path: Path) -> "AnpDetectors":
        """Load the detectors that `save` wrote. Raises: WeightsError for any other file."""
        again = "Train detectors on a Flickr dataset: mvsent train-anps data/flickr"
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in ("weight", "bias", "mean", "std")}
            return cls(metadata["names"].split("\n"), **tensors, backbone_sha256=metadata["backbone_sha256"])
        except FileNotFoundError:
            raise WeightsError(f"{path}: no such file of ANP detectors", again) from None
        except (SafetensorError, KeyError, OSError) as error:
            raise WeightsError(f"{path}: holds no ANP detectors ({error})", again) from None


def train_detectors(
    features: Floats, queries: Sequence[str], train: npt.NDArray[np.int64], backbone_sha256: str
) -> AnpDetectors:
    """Fit detectors of the training rows' queries by multinomial regression on `features` `[N, C]`."""
    names = sorted({queries[row] for row in train.tolist()})
    number = {name: i for i, name in enumerate(names)}
    target = np.array([number[queries[row]] for row in train.tolist()])
    mean = features[train].mean(axis=0)
    std = features[train].std(axis=0) + 1e-6
    weight, bias = _fit((features[train] - mean) / std, target)
    if len(names) == 2:  # scikit-learn fits a single row for two classes
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return AnpDetectors(
        names,
        weight.astype(np.float32),
        bias.astype(np.float32),
        mean.astype(np.float32),
        std.astype(np.float32),
        backbone_sha256,
    )


def _fit(
    features: Floats, target: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Fit weights and biases of a multinomial regression; warn if they are likely to be poor."""
    from sklearn.linear_model import LogisticRegression

    n_pairs = int(target.max()) + 1
    if len(target) < 2 * n_pairs:
        log.warning(
            "%d adjective-noun pairs have %d training pictures, fewer than two each: expect poor detectors",
            n_pairs,
            len(target),
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # scikit-learn's own words for the two warnings here
        fitted = LogisticRegression(C=0.01, max_iter=MAX_STEPS).fit(features, target)
    if fitted.n_iter_.max() >= MAX_STEPS:
        log.warning("the ANP detectors had not converged after %d steps", MAX_STEPS)
    return fitted.coef_, fitted.intercept_


def read_scores(path: Path, ids: Sequence[str]) -> Floats:
    """Read scores `[N, A]` from a Parquet file with columns `id` and `anp_scores` (lists of equal length).

    Raises: InputError for another kind of file, or one that lacks a row.
    """
    wanted = "Give a Parquet file with the columns id and anp_scores (a list of numbers), a row for each pair"
    try:
        table = pq.read_table(path).select(["id", "anp_scores"])
        lists: dict[str, list[float]] = dict(zip(*table.to_pydict().values(), strict=True))
    except (OSError, pa.ArrowException, KeyError) as error:
        raise InputError(f"{path}: not readable ({first_line(error)})", wanted) from None
    missing = [id for id in ids if id not in lists]
    if missing:
        raise InputError(
            f"{path}: has no row for {len(missing)} of {len(ids)} pairs, such as {missing[0]}",
            "Add them to the file of --anps, which may hold the rows of several datasets",
        )
    try:
        scores = np.array([lists[id] for id in ids], dtype=np.float32)
    except (ValueError, TypeError):
        raise InputError(f"{path}: its lists differ in length, or do not hold numbers", wanted) from None
    if scores.ndim != 2 or not np.isfinite(scores).all():
        raise InputError(f"{path}: anp_scores must be lists of finite numbers", wanted)
    return scores
