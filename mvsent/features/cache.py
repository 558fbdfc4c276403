"""Features computed once from a dataset and then memory-mapped: maps, square pixels, words in context."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mvsent.features.backbone import Backbone, fused
from mvsent.features.cache_entry import Array, CacheEntry, Mapped
from mvsent.features.cache_folder import default_cache_dir
from mvsent.features.device import single_precision
from mvsent.features.pixels import TRANSFORM_VERSION, pixel_batches
from mvsent.features.sentences import SentenceEncoder
from mvsent.features.transformer import TextEncoder, Tokens, encode_batch
from mvsent.shards.reader import Dataset
from mvsent.shards.staging import absolute
from mvsent.storage import located, unlike_driver
from mvsent.workers.engine import LOCAL, Engine

TASK_ROWS = 256  # per call in a cluster
BATCH_SIZE = 64  # pictures computed together; a kill -9 loses two such batches at most
_LARGEST = float(np.finfo(np.float16).max)


def cached_maps(
    dataset: Dataset,
    backbone: Backbone,
    *,
    cache_dir: Path | None = None,
    device: torch.device | str = "cpu",
    workers: int = 0,
    batch_size: int = BATCH_SIZE,
    engine: Engine = LOCAL,
    gpus: bool = False,
    quiet: bool = False,
) -> Mapped:
    """The backbone's maps of every picture, float16 [N, C, H, W], computed unless they are cached.

    A network whose output is one vector gives [N, C].

    An interrupted computation is continued; of two concurrent processes, one computes and one waits.

    Args:
        device: where this process computes.
        workers: threads of this process that decode pictures; 0 is one per core.
        engine: what computes maps; this process writes them.
        gpus: whether workers of a cluster compute on GPUs, if it has any.

    Raises:
        DatasetError: a picture is missing or cannot be decoded.
        MvsentError: the disk is too small for the maps.
    """

    def produce(start: int) -> Iterator[Array]:
        maps_of = MapsOf(dataset, backbone, device, batch_size, engine.threads(workers))
        return engine.map(maps_of, range(start, len(dataset)), chunk=TASK_ROWS, gpus=gpus)

    entry = CacheEntry(
        cache_dir or default_cache_dir(),
        kind=f"{'maps' if len(backbone.shape) > 1 else 'vectors'}-{backbone.name}",
        shape=(len(dataset), *backbone.shape),
        dtype=np.dtype(np.float16),
        depends_on={
            "dataset": dataset.sha256,
            "backbone": backbone.name,
            "tap": backbone.tap,
            "weights": backbone.weights_sha256,
            "size": backbone.size,
            "transform": TRANSFORM_VERSION,
        },
    )
    return entry.values(produce, f"features of {dataset.name}", quiet=quiet)


@dataclass
class MapsOf:
    """Computes the maps of consecutive rows, a batch at a time.

    Pickled, it names the dataset, which a worker has to find under the same path, and computes on the
    worker's GPU if it was given one.
    """

    dataset: Dataset
    backbone: Backbone
    device: torch.device | str
    batch_size: int
    threads: int

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"dataset": (str(absolute(self.dataset.folder)), self.dataset.sha256)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        place, sha256 = state["dataset"]
        dataset = Dataset.open(located(place))
        if dataset.sha256 != sha256:
            raise unlike_driver(place, "another dataset")
        vars(self).update(state, dataset=dataset, device="cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def network(self) -> Backbone:
        return fused(self.backbone).to(self.device)

    def __call__(self, rows: Sequence[int]) -> Iterator[Array]:
        where = slice(rows[0], rows[-1] + 1)
        for pixels in pixel_batches(self.dataset, self.backbone.size, self.batch_size, self.threads, where):
            yield compute_maps(self.network, pixels)


def cached_pixels(
    dataset: Dataset,
    size: int,
    *,
    cache_dir: Path | None = None,
    workers: int | None = None,
    batch_size: int = BATCH_SIZE,
    quiet: bool = False,
) -> Mapped:
    """Every picture as `decode_pixels` gives it, uint8 [N, 3, size, size]; see `cached_maps`."""

    def produce(start: int) -> Iterator[Array]:
        for pixels in pixel_batches(dataset, size, batch_size, workers, slice(start, None)):
            yield pixels.contiguous().numpy()

    entry = CacheEntry(
        cache_dir or default_cache_dir(),
        kind=f"pixels-{size}",
        shape=(len(dataset), 3, size, size),
        dtype=np.dtype(np.uint8),
        depends_on={"dataset": dataset.sha256, "size": size, "transform": TRANSFORM_VERSION},
    )
    return entry.values(produce, f"pixels of {dataset.name}", quiet=quiet)


def cached_words(
    encoder: TextEncoder,
    tokens: Tokens,
    *,
    cache_dir: Path | None = None,
    device: torch.device | str = "cpu",
    batch_size: int = BATCH_SIZE,
    quiet: bool = False,
) -> Mapped:
    """The vector of every token, float16 [N, S, size], zero after the end of a text; see `cached_maps`."""
    n_texts, longest = tokens.numbers.shape

    def produce(start: int) -> Iterator[Array]:
        encoder.to(device)
        for first in range(start, n_texts, batch_size):
            rows = slice(first, first + batch_size)
            vectors = encode_batch(encoder, tokens.numbers[rows], tokens.lengths[rows])
            yield vectors.half().numpy()

    entry = CacheEntry(
        cache_dir or default_cache_dir(),
        kind=f"words-{Path(encoder.name).name}",
        shape=(n_texts, longest, encoder.size),
        dtype=np.dtype(np.float16),
        depends_on={
            "tokens": _tokens_sha256(tokens),
            "weights": encoder.weights_sha256,
        },
    )
    return entry.values(produce, f"words through {encoder.name}", quiet=quiet)


def cached_texts(
    encoder: SentenceEncoder,
    tokens: Tokens,
    *,
    cache_dir: Path | None = None,
    device: torch.device | str = "cpu",
    batch_size: int = BATCH_SIZE,
    quiet: bool = False,
) -> Array:
    """The vector of every text, float32 [N, D]; see `cached_maps`."""
    # By length, so that short texts are not computed with the padding of long ones.
    order = np.argsort(tokens.lengths, kind="stable")
    size = encoder.encode(tokens.numbers[:1], tokens.lengths[:1]).shape[1]

    def produce(start: int) -> Iterator[Array]:
        encoder.encoder.to(device)
        for first in range(start, len(order), batch_size):
            rows = order[first : first + batch_size]
            yield encoder.encode(tokens.numbers[rows], tokens.lengths[rows]).numpy()

    entry = CacheEntry(
        cache_dir or default_cache_dir(),
        kind=f"texts-{Path(encoder.name).name}",
        shape=(len(order), size),
        dtype=np.dtype(np.float32),
        depends_on={"tokens": _tokens_sha256(tokens), "weights": encoder.sha256},
    )
    by_length = entry.values(produce, f"texts through {encoder.name}", quiet=quiet)
    vectors = np.empty_like(by_length)
    vectors[order] = by_length
    return vectors


def _tokens_sha256(tokens: Tokens) -> str:
    return hashlib.sha256(tokens.numbers.tobytes() + tokens.lengths.tobytes()).hexdigest()


@torch.inference_mode()
@single_precision()  # so that the maps do not depend on where they were computed
def compute_maps(network: Backbone, pixels: torch.Tensor) -> Array:
    """Compute the maps `[B, C, H, W]`, float16, of `pixels` `[B, 3, size, size]` on the network's device."""
    maps = network(pixels.to(next(network.parameters()).device))
    # In half precision: a map of 1280 × 7 × 7 takes 125 kB, and a dataset has many. The few values beyond its
    # range would become infinite.
    values: Array = maps.clamp(-_LARGEST, _LARGEST).half().contiguous().cpu().numpy()
    return values
