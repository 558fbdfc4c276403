"""The parts of a build → shards: the same picture once, no more pairs than wanted, and every reason kept."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mvsent.config import BuildSettings
from mvsent.curate.duplicates import is_telling
from mvsent.pairs import PAIR_SCHEMA, REJECTED_SCHEMA, Reason
from mvsent.pipelines.build_fetch import finished_parts, part_path, rejected_path, rejected_table
from mvsent.shards.writer import DatasetWriter

Rows = npt.NDArray[np.int64]
_BATCH_ROWS = 256


def n_kept(parts: Sequence[Path], settings: BuildSettings) -> int:
    """Pairs of the parts that are no duplicates."""
    if not parts:
        return 0
    return int((_first_like(_keys(parts), settings) == -1).sum())


def wanted_parts(folder: Path, settings: BuildSettings) -> list[Path]:
    """The parts, in order, that the dataset is made of: with `max_pairs`, no more than hold so many pairs.

    Several workers may have fetched some beyond those, or beyond one that is missing yet.
    """
    parts: list[Path] = []
    for part in _without_gap(folder):
        if settings.max_pairs and n_kept(parts, settings) >= settings.max_pairs:
            break
        parts.append(part)
    return parts


def is_enough(folder: Path, settings: BuildSettings) -> bool:
    """Whether the parts before the first one that is missing hold `max_pairs`; never where that is 0."""
    return settings.max_pairs > 0 and n_kept(_without_gap(folder), settings) >= settings.max_pairs


def _without_gap(folder: Path) -> list[Path]:
    return [part for index, part in enumerate(finished_parts(folder)) if part == part_path(folder, index)]


def assemble(
    parts: Sequence[Path],
    writer: DatasetWriter,
    settings: BuildSettings,
    *,
    on_part: Callable[[int], object] = lambda n_done: None,
) -> None:
    """Everything in the parts has gone to `writer`, as a pair or with its reason."""
    keys = _keys(parts)
    ids = keys["id"]
    first = _first_like(keys, settings)
    room = np.cumsum(first == -1) <= (settings.max_pairs or len(first))
    position = 0
    for n_done, part in enumerate(parts, start=1):
        with pq.ParquetFile(part) as file:
            rows = slice(position, position + file.metadata.num_rows)
            position = rows.stop
            writer.reject(pq.read_table(rejected_path(part), schema=REJECTED_SCHEMA))
            writer.reject(_dropped(ids, rows, first, room))
            _copy(file, writer, (first[rows] == -1) & room[rows])
        on_part(n_done)


def _keys(parts: Sequence[Path]) -> pa.Table:
    columns = ["id", "sha256", "phash"]
    empty = PAIR_SCHEMA.empty_table().select(columns)
    return pa.concat_tables([empty, *(pq.read_table(part, columns=columns) for part in parts)])


def _first_like(keys: pa.Table, settings: BuildSettings) -> Rows:
    """Of each row, the first row with the same picture; -1 where it is the first itself."""
    first = _first_equal(keys["sha256"])
    if settings.near_duplicates == "drop":
        looks = _first_equal(keys["phash"])
        telling = np.array([is_telling(bits) for bits in keys["phash"].to_pylist()], dtype=bool)
        looks[~telling] = -1
        first = np.where(first == -1, looks, first)
    return first


def _first_equal(column: pa.ChunkedArray) -> Rows:
    if len(column) == 0:
        return np.zeros(0, dtype=np.int64)
    codes = pc.fill_null(column.combine_chunks().dictionary_encode().indices, -1).to_numpy(
        zero_copy_only=False
    )
    _, starts, inverse = np.unique(codes, return_index=True, return_inverse=True)
    first = starts[inverse].astype(np.int64)
    first[(first == np.arange(len(first))) | (codes == -1)] = -1
    return first


def _dropped(ids: pa.ChunkedArray, rows: slice, first: Rows, room: npt.NDArray[np.bool_]) -> pa.Table:
    found = []
    for row in range(rows.start, rows.stop):
        if first[row] != -1:
            other = ids[int(first[row])].as_py()
            found.append((ids[row].as_py(), str(Reason.DUPLICATE_IMAGE), f"the picture of {other}"))
        elif not room[row]:
            found.append((ids[row].as_py(), str(Reason.OVER_MAX_PAIRS), ""))
    return rejected_table(found)


def _copy(file: Any, writer: DatasetWriter, kept: npt.NDArray[np.bool_]) -> None:
    position = 0
    for batch in file.iter_batches(_BATCH_ROWS):
        mask = pa.array(kept[position : position + batch.num_rows])
        position += batch.num_rows
        table = pa.Table.from_batches([batch]).filter(mask)
        writer.write(table.cast(PAIR_SCHEMA))


def clear(folder: Path) -> None:
    """Nothing is left of an assembly that did not finish."""
    shutil.rmtree(folder / "data", ignore_errors=True)
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)
