"""Reading of finished datasets by columns; pictures are read only on request."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mvsent.errors import DatasetError, first_line
from mvsent.pairs import LABEL_NAMES, PAIR_SCHEMA, pair_schema
from mvsent.shards.manifest import MANIFEST_FILE, Manifest, Shard
from mvsent.shards.schema import aligned
from mvsent.storage import is_remote, located, problem, reaching, readable, sizes

log = logging.getLogger("mvsent")

_FOOTERS_AT_ONCE = 8
_IDS_AT_ONCE = 10_000


@dataclass(frozen=True)
class RowGroup:
    """Rows `first` … `first + rows - 1` of a dataset: row group number `group` of shard number `shard`."""

    shard: int
    group: int
    first: int
    rows: int


@dataclass(frozen=True)
class Dataset:
    """A finished dataset folder whose shards have the sizes stated in its manifest."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path) -> "Dataset":
        """Open the dataset in `folder` without reading shards.

        Raises: DatasetError if it is not a finished dataset, or if a shard is missing or has another size.
        """
        folder = located(folder)
        manifest = Manifest.load(folder)
        known = sizes(folder) if is_remote(folder) else None  # one listing, not a request per shard
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
        """Hash of the rows, see `Manifest.sha256`."""
        return self.manifest.sha256

    @property
    def shard_paths(self) -> list[Path]:
        return [self.folder / shard.path for shard in self.manifest.shards]

    @cached_property
    def ids(self) -> "Ids":
        return Ids(self.table(["id"])["id"].combine_chunks())

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns of a pair: `PAIR_SCHEMA`, and those of this dataset alone."""
        return pair_schema(self.manifest.extra_columns)

    @cached_property
    def labels(self) -> npt.NDArray[np.int8]:
        """Labels, int8 [N]; -1 for a pair without one."""
        labels: npt.NDArray[np.int8] = self.table(["label"])["label"].fill_null(-1).to_numpy()
        return labels

    @property
    def classes(self) -> list[int]:
        """The labels that occur, sorted; at least one. Raises: as `require_labels`."""
        self.require_labels()
        return [label for label, n in enumerate(self.manifest.label_counts) if n]

    def require_labels(self) -> None:
        """Raises: DatasetError if a pair has no label, or as `check_labels`."""
        self.check_labels()
        if n := self.manifest.n_unlabelled:
            annotate = "Label them: mvsent export --to label-studio, then mvsent reconcile-tasks"
            leave_out = f"leave them out: mvsent subset {self.folder} --where 'label is not null'"
            raise DatasetError(
                f"{self.folder}: {n} of its {len(self)} pairs have no label",
                annotate if n == len(self) else f"{annotate}; or {leave_out}",
            )

    def check_labels(self) -> None:
        """Raises: DatasetError if there are no rows, or if the label counts are not the manifest's."""
        counts = [int((self.labels == label).sum()) for label in range(len(LABEL_NAMES))]
        n_unlabelled = int((self.labels == -1).sum())
        told = [*self.manifest.label_counts, self.manifest.n_unlabelled]
        if [*counts, n_unlabelled] != told or sum(told) != len(self) or not len(self):
            problem = "its labels are not those of its manifest" if len(self) else "it has no rows"
            raise DatasetError(
                f"{self.folder}: {problem}", f"See what is wrong: mvsent validate {self.folder}"
            )

    def table(self, columns: Sequence[str]) -> pa.Table:
        """All rows of `columns`, in order. Raises: KeyError for an unknown column."""
        parts = [self.schema.empty_table().select(columns)]
        for path in self.shard_paths:
            with open_shard(path) as file:
                parts.append(read_columns(file, columns, schema=self.schema))
        return pa.concat_tables(parts)

    def pairs(self, batch_size: int, wanted: npt.NDArray[np.bool_] | None = None) -> Iterator[pa.Table]:
        """Stream rows with every column of `schema`, as a `DatasetWriter` takes them.

        A warning names the columns of the shards that are left out. With `wanted` [N] only those rows are
        streamed, and row groups without one are not read.
        """
        for path in self.shard_paths[:1]:
            with open_shard(path) as file:
                unknown = ", ".join(name for name in file.schema_arrow.names if name not in self.schema.names)
            if unknown:
                log.warning("%s: columns that mvsent does not know are left out: %s", self.folder, unknown)
        if wanted is None:
            for batch in self.batches(self.schema.names, batch_size):
                yield pa.Table.from_batches([batch])
            return
        for group in self.row_groups():
            of_group = wanted[group.first : group.first + group.rows]
            if of_group.any():
                yield self.read_group(group, self.schema.names).filter(pa.array(of_group))

    def batches(
        self, columns: Sequence[str], batch_size: int, rows: slice | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Stream `columns` in row order, `batch_size` rows at a time (fewer only at the end).

        Only one row group and one batch are in memory. `rows` is a slice without a step.
        """
        start, stop, _ = (rows or slice(None)).indices(len(self))
        waiting, n_waiting = list[pa.Table](), 0
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

    def row_groups(self) -> list[RowGroup]:
        """All row groups, in order; only the footers of the shards are read.

        Raises: DatasetError naming a shard that is unreadable or does not have the manifest's number of rows.
        """
        with ThreadPoolExecutor(_FOOTERS_AT_ONCE, "footers") as pool:
            sizes_of = list(pool.map(_group_sizes, self.shard_paths))
        groups, first = list[RowGroup](), 0
        for shard, (told, group_sizes) in enumerate(zip(self.manifest.shards, sizes_of, strict=True)):
            if sum(group_sizes) != told.rows:
                raise _altered(self.shard_paths[shard], f"{sum(group_sizes)} rows", told.rows)
            for group, n_rows in enumerate(group_sizes):
                groups.append(RowGroup(shard, group, first, n_rows))
                first += n_rows
        return groups

    def read_group(self, group: RowGroup, columns: Sequence[str]) -> pa.Table:
        """Read `columns` of one of the `row_groups`; thread-safe.

        Raises: DatasetError if its shard was removed or changed since the dataset was opened.
        """
        shard = self.manifest.shards[group.shard]
        if problem := size_problem(self.folder, shard):
            raise DatasetError(problem, "Build the dataset again, or restore the file")
        with open_shard(self.folder / shard.path) as file:
            if group.group >= file.num_row_groups:
                raise _altered(self.folder / shard.path, f"{file.num_row_groups} row groups", group.group + 1)
            table = read_columns(file, columns, group.group, schema=self.schema)
        if table.num_rows != group.rows:
            raise _altered(self.folder / shard.path, f"{table.num_rows} rows in a group", group.rows)
        return table

    def _pieces(self, columns: Sequence[str], start: int, stop: int) -> Iterator[pa.Table]:
        """The rows start … stop - 1 as slices of row groups."""
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
                        yield read_columns(file, columns, group, schema=self.schema).slice(low, high - low)
                    position += n_rows


class Ids(Sequence[str]):
    """The ids of a dataset's rows: a sequence of strings in a quarter of a list's memory.

    Attributes:
        array: the same as an Arrow array of strings.
    """

    def __init__(self, array: pa.StringArray) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        found: str | list[str] = (
            self.array[row].to_pylist() if isinstance(row, slice) else self.array[int(row)].as_py()
        )
        return found

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self.array), _IDS_AT_ONCE):
            yield from self.array[start : start + _IDS_AT_ONCE].to_pylist()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(str.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]


def size_problem(folder: Path, shard: Shard, known: Mapping[str, int] | None = None) -> str:
    """The problem of a shard's file: missing, or of another size; empty if none.

    `known` are sizes listed before.
    """
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
    """The most recently finished dataset folder in `parent`. Raises: DatasetError if there is none."""
    manifests = [path for path in parent.glob(f"*/{MANIFEST_FILE}") if not path.parent.name.startswith(".")]
    if not manifests:
        raise DatasetError(
            f"{parent}: no dataset there", "Build one with `mvsent reconcile-mvsa ROOT`, or name its folder"
        )
    return max(manifests, key=lambda path: (path.stat().st_mtime_ns, path)).parent


def _group_sizes(path: Path) -> list[int]:
    with open_shard(path) as file:
        return [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]


def _altered(path: Path, found: str, expected: int) -> DatasetError:
    return DatasetError(
        f"{path}: altered: {found}, where there were {expected}",
        "Build the dataset again, or restore the file",
    )


@contextmanager
def open_shard(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a shard for reading with page checksums.

    Raises: DatasetError naming `path` if opening it, or reading it in the block, fails.
    """
    try:
        with readable(path) as source, pq.ParquetFile(source, page_checksum_verification=True) as file:
            yield file
    except (OSError, pa.ArrowInvalid) as error:
        if is_remote(path) and (known := problem(error, str(path))):
            raise known from None
        raise DatasetError(
            f"{path}: not a readable shard ({first_line(error)})", "Build the dataset again"
        ) from None


def read_columns(
    file: pq.ParquetFile, columns: Sequence[str], group: int | None = None, *, schema: pa.Schema | None = None
) -> pa.Table:
    """Read `columns` of a shard, or of one of its row groups; null where the shard is older than a column.

    Raises: KeyError for a column that is not in `schema` (None: `PAIR_SCHEMA`); pa.ArrowInvalid as `aligned`.
    """
    held = [(schema or PAIR_SCHEMA).field(name).name for name in columns]
    table = file.read(held) if group is None else file.read_row_group(group, held)
    return aligned(table, held, schema)
