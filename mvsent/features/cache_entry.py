"""One array of the cache: written row by row, continued after an interruption, then memory-mapped.

Its folder is named by a hash over everything that its values depend on:

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
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from mvsent.errors import MvsentError
from mvsent.shards.atomic import atomic_write

log = logging.getLogger("mvsent")

VALUES, ROWS, FINISHED = "values.npy", "rows.txt", "finished.json"

Array = npt.NDArray[Any]
Mapped = np.memmap[Any, np.dtype[Any]]
Produce = Callable[[int], Iterator[Array]]
"""Maps a row number to the values of that row and all following ones, in batches."""


@dataclass(frozen=True)
class CacheEntry:
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
