"""Writing of a dataset folder: shards, rejected rows and card, and the manifest last."""

import hashlib
import io
import os
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mvsent.pairs import LABEL_NAMES, PAIR_SCHEMA, SCHEMA_VERSION, WATERMARKED, ExtraType, pair_schema
from mvsent.shards.atomic import PartialFile, atomic_write, sync_folder
from mvsent.shards.card import card
from mvsent.shards.croissant import CROISSANT_FILE, croissant_text
from mvsent.shards.manifest import MANIFEST_FILE, Funnel, Manifest, Shard, TextKind, creation_time
from mvsent.shards.rejected import RejectedFile
from mvsent.shards.schema import (
    PICTURELESS_ROW_GROUP_ROWS,
    ROW_GROUP_ROWS,
    parquet_options,
    shard_name,
    stored_schema,
)
from mvsent.storage import make_folder

_BUFFER_BYTES = 1 << 20
_THREADS = min(4, os.cpu_count() or 1)


class DatasetWriter:
    """Writes a dataset into an empty `folder`, which is not a dataset before `finish` returns.

    The bytes depend only on the rows, not on their distribution over calls of `write`.

    Args:
        folder: the output folder, usually that of `staged`.
        name: name of the dataset and title of its card.
        settings: settings that determine the rows; stored in the manifest.
        shard_size: rows in every shard but the last.
        labelled: False if pairs may lack a label.
        text_kind: see `Manifest`.
        extra_columns: columns after those of `PAIR_SCHEMA`, with their types (`EXTRA_TYPES`).

    Raises: UsageError if SOURCE_DATE_EPOCH is not a time.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        settings: Mapping[str, Any],
        shard_size: int,
        labelled: bool = True,
        text_kind: TextKind = "",
        extra_columns: Mapping[str, ExtraType] | None = None,
    ) -> None:
        creation_time()  # refused before the work rather than in `finish`
        make_folder(folder / "data")
        self.folder = folder
        self._name = name
        self._settings = dict(settings)
        self._shard_size = shard_size
        self._text_kind, self._extra = text_kind, dict(extra_columns or {})
        self._layout = Layout(pair_schema(self._extra), labelled)
        self._open: ShardFile | None = None
        self._shards: list[Shard] = []
        self._rejected = RejectedFile(folder)
        self._label_counts = np.zeros(len(LABEL_NAMES), dtype=np.int64)
        self._licenses: Counter[str] = Counter()
        self._n_watermarked = 0

    def __enter__(self) -> "DatasetWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open is not None:
            self._open.abandon()
        self._rejected.abandon()

    @property
    def schema(self) -> pa.Schema:
        """The columns of the pairs."""
        return self._layout.schema

    def write(self, table: pa.Table) -> None:
        """Append pairs: any number of rows with the columns of `PAIR_SCHEMA` and the extra columns.

        Complete shards in one table are written in parallel.

        Raises: ValueError for other columns or a missing label; OSError naming an unwritable shard.
        """
        if not table.schema.equals(self._layout.schema):
            raise ValueError(f"not the columns of this dataset: {table.schema}")
        if self._layout.labelled and table["label"].null_count:
            raise ValueError("a pair has no label")
        self._count(table)
        while table.num_rows:
            room = self._shard_size - (self._open.rows if self._open else 0)
            if self._open is None and table.num_rows >= self._shard_size:
                n_written = self._write_whole_shards(table)
            else:
                n_written = min(room, table.num_rows)
                self._append(table.slice(0, n_written))
            table = table.slice(n_written)

    def reject(self, table: pa.Table) -> None:
        """Append dropped input rows, with the columns of `REJECTED_SCHEMA`."""
        self._rejected.append(table)

    def finish(self, n_input: int, extra: Mapping[str, Any] | None = None) -> Manifest:
        """Write the remaining rows and the manifest, whose `agreement` and `notes` are in `extra`.

        Raises: AssertionError if rows were lost: `n_input` is not kept + dropped.
        """
        self._close_shard()
        kept = sum(shard.rows for shard in self._shards)
        funnel = Funnel(input=n_input, kept=kept, dropped=self._rejected.counts)
        if not funnel.adds_up:
            raise AssertionError(f"rows were lost: {n_input} in, {kept} kept, dropped {funnel.dropped}")
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            name=self._name,
            created_at=creation_time(),
            settings=self._settings,
            funnel=funnel,
            labels=dict(zip(LABEL_NAMES, self._label_counts.tolist(), strict=True)),
            shards=self._shards,
            text_kind=self._text_kind,
            extra_columns=self._extra,
            **(extra or {}),
        )
        sync_folder(self.folder / "data")  # the names of shards, before the manifest states them
        self._rejected.close()
        _write_text(self.folder / "README.md", card(manifest, self._licenses, self._n_watermarked))
        _write_text(self.folder / CROISSANT_FILE, croissant_text(manifest, self._licenses))
        _write_text(self.folder / MANIFEST_FILE, manifest.to_json())  # last: it makes the folder a dataset
        return manifest

    def _count(self, table: pa.Table) -> None:
        labels = table["label"].drop_null().to_numpy()
        self._label_counts += np.bincount(labels, minlength=len(LABEL_NAMES))
        if table["license"].null_count < table.num_rows:
            for entry in pc.value_counts(table["license"]).to_pylist():
                self._licenses[entry["values"] or "not stated"] += entry["counts"]
        if WATERMARKED in table.column_names and self._extra.get(WATERMARKED) == "bool":
            self._n_watermarked += pc.sum(table[WATERMARKED]).as_py() or 0

    def _append(self, table: pa.Table) -> None:
        if self._open is None:
            self._open = ShardFile(self.folder, len(self._shards), self._layout)
        self._open.append(table)
        if self._open.rows == self._shard_size:
            self._close_shard()

    def _close_shard(self) -> None:
        if self._open is not None:
            self._shards.append(self._open.close())
            self._open = None

    def _write_whole_shards(self, table: pa.Table) -> int:
        first, size = len(self._shards), self._shard_size
        n_shards: int = table.num_rows // size
        with ThreadPoolExecutor(_THREADS) as pool:
            self._shards += pool.map(
                lambda i: write_shard(self.folder, first + i, table.slice(i * size, size), self._layout),
                range(n_shards),
            )
        return n_shards * size


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of a dataset's shards, and whether every pair has a label."""

    schema: pa.Schema = PAIR_SCHEMA
    labelled: bool = True


def write_shard(folder: Path, index: int, table: pa.Table, layout: Layout) -> Shard:
    """Write `table` as shard number `index` of the dataset in `folder`."""
    shard = ShardFile(folder, index, layout)
    try:
        shard.append(table)
        return shard.close()
    finally:
        shard.abandon()


class ShardFile:
    """A shard being written, a row group at a time; it gets its name when it is closed."""

    def __init__(self, folder: Path, index: int, layout: Layout) -> None:
        self.rows = 0
        self._layout = layout
        self._stored = stored_schema(layout.schema, labelled=layout.labelled)
        self._path = shard_name(index)
        self._sink = _HashingSink(PartialFile(folder / self._path))
        # Buffered, because Arrow writes in small pieces, and each would be a call of Python.
        self._stream = pa.BufferedOutputStream(pa.PythonFile(self._sink, mode="w"), _BUFFER_BYTES)
        self._parquet: pq.ParquetWriter | None = None
        self._group_rows = 0
        self._pending = layout.schema.empty_table()

    def append(self, table: pa.Table) -> None:
        """Append rows; full row groups are written."""
        if self._parquet is None and table.num_rows:
            # By the first row, so that the chunking of rows has no influence.
            self._start(with_images=table["image"][0].is_valid)
        self.rows += table.num_rows
        pending = pa.concat_tables([self._pending, table])
        n_whole = pending.num_rows - pending.num_rows % max(1, self._group_rows)
        self._write(pending.slice(0, n_whole))
        self._pending = pending.slice(n_whole)

    def close(self) -> Shard:
        """Close the shard; return its name, size and hash."""
        self._write(self._pending)
        if self._parquet is not None:
            self._parquet.close()
        self._stream.close()
        self._sink.partial.commit()
        return Shard(path=self._path, rows=self.rows, bytes=self._sink.size, sha256=self._sink.sha256)

    def abandon(self) -> None:
        """Remove the shard, unless it was closed."""
        self._sink.muted = True  # pyarrow always writes a footer on closing
        if self._parquet is not None:
            self._parquet.close()
        self._stream.close()
        self._sink.partial.discard()

    def _start(self, *, with_images: bool) -> None:
        self._group_rows = ROW_GROUP_ROWS if with_images else PICTURELESS_ROW_GROUP_ROWS
        extra = self._layout.schema.names[len(PAIR_SCHEMA) :]
        options = parquet_options(with_images=with_images, extra=extra)
        self._parquet = pq.ParquetWriter(self._stream, self._stored, **options)

    def _write(self, table: pa.Table) -> None:
        """Write row groups from contiguous columns, so that the bytes do not depend on earlier chunking."""
        if self._parquet is None:
            return
        step = self._group_rows
        if step == ROW_GROUP_ROWS and all(column.num_chunks <= 1 for column in table.columns):
            step = max(1, table.num_rows)  # one call writes all groups
        for start in range(0, table.num_rows, step):
            rows = table.slice(start, step).combine_chunks()
            with_images = rows["image"].null_count < rows.num_rows  # even if it began without pictures
            n_rows = ROW_GROUP_ROWS if with_images else self._group_rows
            typed = pa.Table.from_arrays(rows.columns, schema=self._stored)  # the label's nullability differs
            self._parquet.write_table(typed, row_group_size=n_rows)


class _HashingSink(io.RawIOBase):
    """A file that counts and hashes the bytes written to it."""

    def __init__(self, partial: PartialFile) -> None:
        self.partial = partial
        self.size = 0
        self.muted = False
        self._hash = hashlib.sha256()

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        n_bytes = len(memoryview(data).cast("B"))
        if not self.muted:
            with self.partial.naming_path():
                self.partial.file.write(data)
            self._hash.update(data)
            self.size += n_bytes
        return n_bytes


def _write_text(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode())
