"""Streaming of a dataset's rows: `mvsent train --stream`, for data that fits neither memory nor disk.

The labels of all rows are in memory, and the texts and pictures that `Stream` keeps. Nothing is cached: each
epoch reads the shards again, and a frozen backbone computes the maps of each batch.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from mvsent.errors import DatasetError, InputError, UsageError
from mvsent.features.pixels import decode_pixels, no_pictures
from mvsent.learn.batches import Rows
from mvsent.learn.stream import Stream
from mvsent.models.batch import Batch
from mvsent.runs.inputs.input_reader import InputReader, Inputs
from mvsent.runs.inputs.kind import OfFold
from mvsent.runs.inputs.pair_sources import StoredPairs, no_texts
from mvsent.runs.inputs.pictures import Picture
from mvsent.shards.reader import Dataset, RowGroup

_TEXTS_AT_ONCE = 4096
_NO_TEXT = "has no text"

StoredRow = dict[str, Any]
"""A row as read from a shard: column → value."""


@dataclass(frozen=True)
class ReadyRow:
    """A row with its decoded picture."""

    columns: StoredRow
    picture: Picture


class Streamed:
    """The dataset of a run that is streamed.

    Attributes:
        target: `[N]` int64, index into the run's classes.
        widths: as of `Inputs`.
    """

    def __init__(self, reader: InputReader, dataset: Dataset) -> None:
        """Read the first row, which determines the widths of all inputs.

        Raises: UsageError naming an option for which all rows must be known at once; DatasetError if the
            first row has no picture or no text.
        """
        for option in [each.needs_all_rows for each in reader.inputs]:
            if option:
                raise UsageError(
                    f"{option}: not with --stream, which knows of a row only what its shard holds",
                    "Leave one of the two out",
                )
        self.reader, self.dataset, self.target = reader, dataset, reader.setup.target
        self.columns = ["id", *reader.columns]
        (first,) = next(dataset.batches(self.columns, 1)).to_pylist()
        if "image" in first and not _bytes_of(first):
            raise no_pictures(dataset)
        if "text" in first and first["text"] is None:
            raise no_texts(dataset)
        self.widths = self._inputs(np.arange(1), [self._decode(first)]).widths

    @cached_property
    def groups(self) -> list[RowGroup]:
        """The row groups of the dataset."""
        return self.dataset.row_groups()

    def texts(self, rows: Rows) -> Iterator[str]:
        """The texts of `rows` as they are read, in row order; a few thousand are in memory at a time.

        Raises: DatasetError naming one of them that has no text.
        """
        wanted, first = np.zeros(len(self.dataset), np.bool_), 0
        wanted[rows] = True
        for batch in self.dataset.batches(["id", "text"], _TEXTS_AT_ONCE):
            kept = batch.filter(pa.array(wanted[first : first + len(batch)]))
            first += len(batch)
            if kept["text"].null_count:
                without = kept["id"].filter(kept["text"].is_null())[0].as_py()
                raise unreadable(self.dataset, without, _NO_TEXT)
            yield from self.reader.setup.as_read(kept["text"].to_pylist())

    def source(self, fold: OfFold, missing: str = "") -> Stream[StoredRow, ReadyRow]:
        """The rows as a fold's network reads them, without the modality that is `missing`."""
        settings = self.reader.setup.settings

        def collate(rows: Rows, ready: Sequence[ReadyRow]) -> Batch:
            """The batch of decoded rows, as `Examples` of the whole dataset would give it."""
            return self._inputs(rows, ready).source(fold, missing).batch(np.arange(len(rows)))

        firsts = np.array([group.first for group in self.groups], np.int64)
        buffer, workers = settings.shuffle_buffer, settings.workers
        return Stream(self.target, firsts, buffer, self._read, self._decode, collate, workers)

    def _read(self, number: int, rows: Rows) -> Mapping[int, StoredRow]:
        """Read `rows` of group `number`; the other rows are not kept."""
        group = self.groups[number]
        table = self.dataset.read_group(group, self.columns)
        # Copies of single values: a slice of the table would keep all of it in memory.
        return {
            row: {name: table[name][row - group.first].as_py() for name in self.columns}
            for row in rows.tolist()
        }

    def _decode(self, row: StoredRow) -> ReadyRow:
        """The picture as squares. Raises: DatasetError naming a row that lacks something, or is damaged."""
        if "text" in row and row["text"] is None:
            raise unreadable(self.dataset, row["id"], _NO_TEXT)
        if "image" not in row:
            return ReadyRow(row, Picture({}))
        data = _bytes_of(row)
        if data is None:
            raise unreadable(self.dataset, row["id"], "has no picture")
        try:
            picture = Picture({side: decode_pixels(data, side) for side in self.reader.sides})
        except InputError as error:
            raise unreadable(self.dataset, row["id"], error.what) from None
        # The encoded picture is no longer needed.
        return ReadyRow({name: value for name, value in row.items() if name != "image"}, picture)

    def _inputs(self, rows: Rows, ready: Sequence[ReadyRow]) -> Inputs:
        columns = {name: [each.columns[name] for each in ready] for name in ready[0].columns}
        pictures = [each.picture for each in ready]
        return self.reader.read(StoredPairs(self.reader.setup, pictures, columns, self.target[rows]))


def _bytes_of(row: StoredRow) -> bytes | None:
    return row["image"]["bytes"] if row["image"] else None


def unreadable(dataset: Dataset, id: str, why: str) -> DatasetError:
    """The error for a row that the model cannot read."""
    return DatasetError(
        f"{dataset.folder}: {id}: {why}",
        f"See what else is wrong with `mvsent validate {dataset.folder}`, or build it again",
    )
