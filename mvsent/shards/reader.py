"""A finished dataset, read by columns; the pictures only when asked for."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mvsent.errors import DatasetError
from mvsent.pairs import LABEL_NAMES, PAIR_SCHEMA
from mvsent.shards.manifest import MANIFEST_FILE, Manifest, Shard
from mvsent.storage import is_remote, located, problem, reaching, readable, sizes


@dataclass(frozen=True)
class Dataset:
    """A finished dataset folder whose shards have the sizes that its manifest says."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path) -> "Dataset":
        """The dataset in `folder`; no shard is read yet.

        Raises: DatasetError when it is no finished dataset, or when a shard is missing or of another size.
        """
        folder = located(folder)
        manifest = Manifest.load(folder)
        known = sizes(folder) if is_remote(folder) else None
        for shard in manifest.shards:
            if problem := size_problem(folder, shard, known):
                raise DatasetError(problem, "Build the dataset again, or restore the file")
        return cls(folder, manifest)

    def __len__(self) -> int:
        return sum(shard.rows for shard in self.manifest.shards)

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def sha256(self) -> str:
        """Identifies the rows, see `Manifest.sha256`."""
        return self.manifest.sha256

    @property
    def shard_paths(self) -> list[Path]:
        return [self.folder / shard.path for shard in self.manifest.shards]

    @cached_property
    def ids(self) -> list[str]:
        ids: list[str] = self.table(["id"])["id"].to_pylist()
        return ids

    @cached_property
    def labels(self) -> npt.NDArray[np.int8]:
        """Labels, int8 [N]."""
        labels: npt.NDArray[np.int8] = self.table(["label"])["label"].to_numpy()
        return labels

    @property
    def classes(self) -> list[int]:
        """The labels that occur, sorted; one at least.

        Raises: DatasetError when there are no rows, or not as many of each label as the manifest says.
        """
        counts = [int((self.labels == label).sum()) for label in range(len(LABEL_NAMES))]
        if counts != self.manifest.label_counts or sum(counts) != len(self) or not len(self):
            problem = "its labels are not those of its manifest" if len(self) else "it has no rows"
            raise DatasetError(
                f"{self.folder}: {problem}", f"See what is wrong: mvsent validate {self.folder}"
            )
        return [label for label, n in enumerate(counts) if n]

    def table(self, columns: Sequence[str]) -> pa.Table:
        """All rows of `columns`, in row order. Raises: KeyError for a column that a Pair has not."""
        columns = _known(columns)
        parts = [_read_shard(path, columns) for path in self.shard_paths]
        empty = PAIR_SCHEMA.empty_table().select(columns)
        return pa.concat_tables([empty, *parts]).select(columns).replace_schema_metadata()

    def batches(
        self, columns: Sequence[str], batch_size: int, rows: slice | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Stream `columns` in row order, `batch_size` rows at a time (fewer only at the end).

        No more than one row group and one batch are in memory. `rows` is a slice without a step.
        """
        start, stop, _ = (rows or slice(None)).indices(len(self))
        columns, waiting, n_waiting = _known(columns), list[pa.Table](), 0
        for piece in self._pieces(columns, start, stop):
            waiting.append(piece)
            n_waiting += piece.num_rows
            if n_waiting < batch_size:
                continue
            ready = pa.concat_tables(waiting)
            n_whole = n_waiting - n_waiting % batch_size
            for first in range(0, n_whole, batch_size):
                yield from ready.slice(first, batch_size).combine_chunks().to_batches()
            waiting, n_waiting = [ready.slice(n_whole)], n_waiting - n_whole
        if n_waiting:
            yield from pa.concat_tables(waiting).combine_chunks().to_batches()

    def _pieces(self, columns: list[str], start: int, stop: int) -> Iterator[pa.Table]:
        """The rows start … stop - 1, as slices of row groups."""
        first = 0
        for shard, path in zip(self.manifest.shards, self.shard_paths, strict=True):
            last, position = first + shard.rows, first
            first = last
            if last <= start or position >= stop:
                continue
            with open_shard(path) as file:
                for group in range(file.metadata.num_row_groups):
                    n_rows = file.metadata.row_group(group).num_rows
                    low, high = max(start - position, 0), min(stop - position, n_rows)
                    if low < high:
                        yield file.read_row_group(group, columns).select(columns).slice(low, high - low)
                    position += n_rows


def size_problem(folder: Path, shard: Shard, known: Mapping[str, int] | None = None) -> str:
    """What is wrong with a shard's file at first sight; empty if nothing. `known` are sizes listed before."""
    path = folder / shard.path
    if known is not None and shard.path not in known:
        return f"{path}: cannot be read (no such object)"
    try:
        with reaching(path):
            size = path.stat().st_size if known is None else known[shard.path]
    except OSError as error:
        return f"{path}: cannot be read ({(error.strerror or 'unknown').lower()})"
    if size != shard.bytes:
        return f"{path}: altered: {size} bytes, the manifest says {shard.bytes}"
    return ""


def newest_dataset(parent: Path = Path("data")) -> Path:
    """The dataset folder in `parent` that was finished last. Raises: DatasetError when there is none."""
    manifests = [path for path in parent.glob(f"*/{MANIFEST_FILE}") if not path.parent.name.startswith(".")]
    if not manifests:
        raise DatasetError(
            f"{parent}: no dataset there", "Build one with `mvsent reconcile-mvsa ROOT`, or name its folder"
        )
    return max(manifests, key=lambda path: (path.stat().st_mtime_ns, path)).parent


def _read_shard(path: Path, columns: list[str]) -> pa.Table:
    with open_shard(path) as file:
        return file.read(columns)


@contextmanager
def open_shard(path: Path) -> Iterator[pq.ParquetFile]:
    """The shard, to read from; its pages are checked.

    Raises: DatasetError naming `path` when opening it, or reading it in the block, fails.
    """
    try:
        with readable(path) as source, pq.ParquetFile(source, page_checksum_verification=True) as file:
            yield file
    except (OSError, pa.ArrowInvalid) as error:
        if is_remote(path) and (known := problem(error, str(path))):
            raise known from None
        raise DatasetError(
            f"{path}: not a readable shard ({str(error).splitlines()[0]})", "Build the dataset again"
        ) from None


def _known(columns: Sequence[str]) -> list[str]:
    for column in columns:
        PAIR_SCHEMA.field(column)  # KeyError names it
    return list(columns)
