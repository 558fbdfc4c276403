"""Features computed once from a dataset and then memory-mapped: maps, square pixels, words in context.

A cache folder is named by a hash over everything that its values depend on:

    maps-efficientnet_lite0-3f…/
      values.npy      a plain numpy file, written front to back
      rows.txt        how many of its rows are on the disk for certain; the next run starts there
      finished.json   what the hash was made from; written last: if it exists, all rows do
"""

import fcntl
import hashlib
import io
import json
import logging
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from mvsent.errors import MvsentError
from mvsent.features.backbone import Backbone, fused
from mvsent.features.cache_folder import default_cache_dir
from mvsent.features.device import single_precision
from mvsent.features.pixels import TRANSFORM_VERSION, pixel_batches
from mvsent.features.sentences import SentenceEncoder
from mvsent.features.transformer import TextEncoder, Tokens, encode_batch
from mvsent.shards.atomic import atomic_write
from mvsent.shards.reader import Dataset
from mvsent.shards.staging import absolute
from mvsent.storage import located, unlike_driver
from mvsent.workers.engine import LOCAL, Engine

log = logging.getLogger("mvsent")

VALUES, ROWS, FINISHED = "values.npy", "rows.txt", "finished.json"
TASK_ROWS = 256  # per call in a cluster
_LARGEST = float(np.finfo(np.float16).max)
BATCH_SIZE = 64  # pictures computed together; a kill -9 loses two such batches at most

Array = npt.NDArray[Any]
Mapped = np.memmap[Any, np.dtype[Any]]
Produce = Callable[[int], Iterator[Array]]
"""Maps a row number to the values of that row and all following ones, in batches."""


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

    entry = _Entry(
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

    entry = _Entry(
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

    entry = _Entry(
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

    entry = _Entry(
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


@dataclass(frozen=True)
class _Entry:
    """One array of the cache, which may be finished, unfinished or absent."""

    cache_dir: Path
    kind: str
    shape: tuple[int, ...]  # rows first
    dtype: np.dtype[Any]
    depends_on: dict[str, str | int] = field(hash=False)

    @property
    def folder(self) -> Path:
        key = hashlib.sha256(json.dumps(self.depends_on, sort_keys=True).encode()).hexdigest()
        return self.cache_dir / f"{self.kind}-{key[:24]}"

    @property
    def header(self) -> bytes:
        """The first bytes of the numpy file."""
        file = io.BytesIO()
        form = {"descr": self.dtype.str, "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(file, form)
        return file.getvalue()

    @property
    def row_size(self) -> int:
        """Size of a row in bytes."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def size(self, n_rows: int) -> int:
        """Size of the numpy file with `n_rows` rows, in bytes."""
        return len(self.header) + n_rows * self.row_size

    def values(self, produce: Produce, what: str, *, quiet: bool) -> Mapped:
        """The finished array, memory-mapped read-only; missing rows are computed first."""
        if not self.is_finished():
            self.folder.mkdir(parents=True, exist_ok=True)
            with _only_process(self.folder, what):
                if not self.is_finished():  # another process may have finished it meanwhile
                    self._complete(produce, what, quiet=quiet)
        mapped: Mapped = np.load(self.folder / VALUES, mmap_mode="r")
        return mapped

    def is_finished(self) -> bool:
        path = self.folder / VALUES
        whole = self.size(self.shape[0])
        return (self.folder / FINISHED).exists() and path.exists() and path.stat().st_size == whole

    def _complete(self, produce: Produce, what: str, *, quiet: bool) -> None:
        start = self._rows_done()
        self._check_room(self.shape[0] - start)
        hidden = quiet or not sys.stderr.isatty()
        bar = tqdm(total=self.shape[0], initial=start, desc=what, unit=" rows", disable=hidden)
        try:
            with bar, self._open_at(start) as file, ThreadPoolExecutor(1, "cache") as disk:
                self._write_all(file, produce(start), start, disk, bar)
            with atomic_write(self.folder / FINISHED) as marker:
                marker.write(json.dumps(self.depends_on | {"shape": self.shape}, indent=2).encode())
        except OSError as error:  # the error of a full disk names no file
            error.filename = error.filename or str(self.folder / VALUES)
            raise

    def _write_all(
        self, file: BinaryIO, batches: Iterator[Array], done: int, disk: Executor, bar: "tqdm[NoReturn]"
    ) -> None:
        """Append `batches` after row `done`, writing each while the next one is computed."""
        writing: Future[None] | None = None
        for batch in batches:
            if writing:
                writing.result()
            done += len(batch)
            writing = disk.submit(self._append, file, batch, done)
            bar.update(len(batch))
        if writing:
            writing.result()

    def _rows_done(self) -> int:
        """Number of rows that an earlier run has certainly written."""
        try:
            n_rows = int((self.folder / ROWS).read_text())
            size = (self.folder / VALUES).stat().st_size
        except (FileNotFoundError, ValueError):
            return 0
        return n_rows if 0 < n_rows <= self.shape[0] and size >= self.size(n_rows) else 0

    def _check_room(self, n_rows: int) -> None:
        need, free = n_rows * self.row_size, shutil.disk_usage(self.folder).free
        if need > free:
            raise MvsentError(
                f"{self.folder}: needs {need / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free",
                "Make room, or set MVSENT_CACHE to a folder on a larger disk",
            )

    @contextmanager
    def _open_at(self, start: int) -> Iterator[BinaryIO]:
        """Open the numpy file for appending, truncated after row `start`.

        It is written rather than mapped, so that a full disk raises OSError instead of a bus error.
        """
        path = self.folder / VALUES
        with path.open("r+b" if start else "wb") as file:
            file.write(self.header)
            file.truncate(self.size(start))
            file.seek(0, os.SEEK_END)
            yield file

    def _append(self, file: BinaryIO, batch: Array, done: int) -> None:
        file.write(batch.data)
        file.flush()
        os.fsync(file.fileno())
        with atomic_write(self.folder / ROWS) as rows:
            rows.write(str(done).encode())


@contextmanager
def _only_process(folder: Path, what: str) -> Iterator[None]:
    """Lock the array in `folder` within the block, waiting for another process that computes it."""
    # The system releases this lock even if the process is killed.
    with (folder / "lock").open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning("another process computes the %s; waiting for it", what)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
