"""Assemble the parts of a build into shards: each picture once, and at most `max_pairs` pairs."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mvsent.build.filters import Assembled, picture_keys
from mvsent.build.parts import finished_parts, part_path, rejected_path, rejected_table
from mvsent.curate.duplicates import NO_KEY
from mvsent.errors import AllFailed
from mvsent.pairs import REJECTED_SCHEMA
from mvsent.reasons import Reason
from mvsent.shards.schema import aligned
from mvsent.shards.writer import DatasetWriter

_FAILED = frozenset({Reason.HTTP_ERROR, Reason.TIMEOUT})
_ANSWERED = frozenset(
    {
        Reason.HTTP_404,
        Reason.ROBOTS_NOAI,
        Reason.IMAGE_CORRUPT,
        Reason.IMAGE_TOO_SMALL,
        Reason.IMAGE_TOO_LARGE,
        Reason.IMAGE_NOT_AN_IMAGE,
    }
)
"""Reasons of pictures whose hosts answered in earnest."""

Rows = npt.NDArray[np.int64]
_BATCH_ROWS = 256  # a row group: more pictures at once would only fill the memory


def n_kept(parts: Sequence[Path], settings: Assembled) -> int:
    """Count the pairs of the parts that are no duplicates."""
    return int((_first_like(parts, settings) == -1).sum())


def refuse_failed(folder: Path, rejections: Sequence[tuple[str, str]]) -> None:
    """Raise AllFailed if no host answered for any picture; the parts, without a pair, are then made again.

    Args:
        rejections: reasons and details of every row of the parts in `folder`.
    """
    failed = [detail for reason, detail in rejections if reason in _FAILED]
    if not failed or any(reason in _ANSWERED for reason, _ in rejections):
        return
    for part in finished_parts(folder):
        part.unlink()
        rejected_path(part).unlink()
    raise AllFailed(len(failed), failed[0])


def wanted_parts(folder: Path, settings: Assembled) -> list[Path]:
    """The parts, in order, that make the dataset: with `max_pairs`, only as many as hold that many pairs.

    Workers may have fetched parts beyond those, or beyond one that is still missing.
    """
    parts, n_rows = list[Path](), 0
    for part in _without_gap(folder):
        if settings.max_pairs and _hold_enough(parts, n_rows, settings):
            break
        parts.append(part)
        n_rows += _n_rows(part)
    return parts


def is_enough(folder: Path, settings: Assembled) -> bool:
    """Whether the parts before the first missing one hold `max_pairs`; False if that is 0."""
    if not settings.max_pairs:
        return False
    parts = _without_gap(folder)
    return _hold_enough(parts, sum(map(_n_rows, parts)), settings)


def _n_rows(part: Path) -> int:
    return int(pq.read_metadata(part).num_rows)


def _hold_enough(parts: Sequence[Path], n_rows: int, settings: Assembled) -> bool:
    # Reading the keys takes long, so it comes second.
    return n_rows >= settings.max_pairs and n_kept(parts, settings) >= settings.max_pairs


def _without_gap(folder: Path) -> list[Path]:
    # After a missing part every number is larger than its place in the list, so no later part matches.
    return [part for index, part in enumerate(finished_parts(folder)) if part == part_path(folder, index)]


def assemble(
    parts: Sequence[Path],
    writer: DatasetWriter,
    settings: Assembled,
    *,
    on_part: Callable[[int], object] = lambda n_done: None,
) -> None:
    """Write every row of the parts to `writer`, as a pair or with the reason why it is dropped."""
    # Arrow cannot infer the type of a column without chunks.
    ids = pa.chunked_array([], pa.string())
    if parts:
        ids = pa.chunked_array(
            [c for part in parts for c in pq.read_table(part, columns=["id"])["id"].chunks]
        )
    first = _first_like(parts, settings)
    is_first = first == -1
    # Duplicates do not count towards `max_pairs`, or the dataset would have fewer pairs than wanted.
    is_kept = is_first & (np.cumsum(is_first) <= (settings.max_pairs or len(first)))
    start = 0
    for n_done, part in enumerate(parts, start=1):
        writer.reject(pq.read_table(rejected_path(part), schema=REJECTED_SCHEMA))
        dropped: list[tuple[str, str, str]] = []
        stop = start + _n_rows(part)
        for row in np.flatnonzero(~is_kept[start:stop]) + start:
            id = ids[int(row)].as_py()
            if is_first[row]:
                dropped.append((id, str(Reason.OVER_MAX_PAIRS), ""))
            else:
                other = ids[int(first[row])].as_py()
                dropped.append((id, str(Reason.DUPLICATE_IMAGE), f"the picture of {other}"))
        writer.reject(rejected_table(dropped))
        with pq.ParquetFile(part) as file:
            for batch in file.iter_batches(_BATCH_ROWS):
                kept = is_kept[start : start + batch.num_rows]
                start += batch.num_rows
                # An older version may have fetched the part, before a column was added.
                pairs = aligned(pa.Table.from_batches([batch]), writer.schema.names, writer.schema)
                writer.write(pairs if kept.all() else pairs.filter(pa.array(kept)))
        on_part(n_done)


def _first_like(parts: Sequence[Path], settings: Assembled) -> Rows:
    """[N]: for each row, the first row with the same picture; -1 for that first row itself."""
    first = np.full(sum(map(_n_rows, parts)), -1, np.int64)
    for column, keys_of in picture_keys(settings).items():
        # Eight bytes a row instead of its cell, so that a crawl of any length fits in memory.
        keys = [keys_of(pq.read_table(part, columns=[column])[column].to_pylist()) for part in parts]
        of_row = np.concatenate([np.zeros(0, np.uint64), *keys])
        # Stable, so that the first of several equal rows is the one fetched first, and stays.
        order = np.argsort(of_row, kind="stable")
        ordered = of_row[order]
        starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(of_row)])
        equal = np.empty(len(of_row), np.int64)
        equal[order] = np.repeat(order[starts], np.diff(starts, append=len(of_row)))
        equal[(equal == np.arange(len(of_row))) | (of_row == NO_KEY)] = -1
        first = np.where(first == -1, equal, first)
    return first


def clear(folder: Path) -> None:
    """Remove what an assembly that did not finish has left."""
    shutil.rmtree(folder / "data", ignore_errors=True)
    for leftover in folder.glob(".*.tmp"):  # files that a killed process had not renamed yet
        leftover.unlink(missing_ok=True)
