"""The parts of a build → shards: the same picture once, no more pairs than wanted, and every reason kept."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mvsent.build.parts import finished_parts, part_path, rejected_path, rejected_table
from mvsent.config import BuildSettings
from mvsent.curate.duplicates import NO_KEY, Keys, look_keys, string_keys
from mvsent.pairs import PAIR_SCHEMA, REJECTED_SCHEMA, Reason
from mvsent.shards.writer import DatasetWriter

Rows = npt.NDArray[np.int64]
_BATCH_ROWS = 256


def n_kept(parts: Sequence[Path], settings: BuildSettings) -> int:
    """Pairs of the parts that are no duplicates."""
    if not parts:
        return 0
    return int((_first_like(parts, settings) == -1).sum())


def wanted_parts(folder: Path, settings: BuildSettings) -> list[Path]:
    """The parts, in order, that the dataset is made of: with `max_pairs`, no more than hold so many pairs.

    Several workers may have fetched some beyond those, or beyond one that is missing yet.
    """
    parts, n_rows = list[Path](), 0
    for part in _without_gap(folder):
        if settings.max_pairs and _hold_enough(parts, n_rows, settings):
            break
        parts.append(part)
        n_rows += _n_rows(part)
    return parts


def is_enough(folder: Path, settings: BuildSettings) -> bool:
    """Whether the parts before the first one that is missing hold `max_pairs`; never where that is 0."""
    if not settings.max_pairs:
        return False
    parts = _without_gap(folder)
    return _hold_enough(parts, sum(map(_n_rows, parts)), settings)


def _n_rows(part: Path) -> int:
    return int(pq.read_metadata(part).num_rows)


def _hold_enough(parts: Sequence[Path], n_rows: int, settings: BuildSettings) -> bool:
    """Whether the parts, of `n_rows`, hold `max_pairs`; their keys are read only where they have as many."""
    return n_rows >= settings.max_pairs and n_kept(parts, settings) >= settings.max_pairs


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
    ids = pa.chunked_array([], pa.string())
    if parts:
        ids = pa.chunked_array(
            [c for part in parts for c in pq.read_table(part, columns=["id"])["id"].chunks]
        )
    first = _first_like(parts, settings)
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


def _first_like(parts: Sequence[Path], settings: BuildSettings) -> Rows:
    """Of each row, the first row with the same picture; -1 where it is the first itself."""
    first = _first_equal(_keys(parts, "sha256", string_keys))
    if settings.near_duplicates == "drop":
        looks = _first_equal(_keys(parts, "phash", look_keys))
        first = np.where(first == -1, looks, first)
    return first


def _keys(parts: Sequence[Path], column: str, keys: Callable[[list[Any]], Keys]) -> Keys:
    """[N]: eight bytes a row instead of its cell, so that as many rows as a crawl may have fit in memory."""
    none = np.zeros(0, np.uint64)
    found = (keys(pq.read_table(part, columns=[column])[column].to_pylist()) for part in parts)
    return np.concatenate([none, *found])


def _first_equal(keys: Keys) -> Rows:
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(keys)])
    first = np.empty(len(keys), np.int64)
    first[order] = np.repeat(order[starts], np.diff(starts, append=len(keys)))
    first[(first == np.arange(len(keys))) | (keys == NO_KEY)] = -1
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
