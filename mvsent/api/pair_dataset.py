"""A dataset in Python: rows by number or id, tables for pandas, splits, and datasets for torch."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mvsent.api.pair_split import PairSplit, named
from mvsent.api.places import Place, folder_of
from mvsent.curate.images import opened_image, to_rgb
from mvsent.datasets.split_ids import NO_ROW, RowFinder
from mvsent.errors import InputError, UsageError, did_you_mean
from mvsent.pairs import LABEL_COLUMNS, LABEL_NAMES, label_name
from mvsent.reasons import Rejection
from mvsent.shards.reader import Dataset, RowGroup

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

    from mvsent.api.torch_pairs import DecodedPairs, ReadyPairs

_SHOWN = 5  # rows of a dataset in a notebook
_GROUPS_KEPT = 2  # row groups in memory, of 256 rows each, so that neighbours are not read again
_AT_ONCE = 256
_MAX_PIXELS, _MAX_BYTES = 100_000_000, 32 * 2**20

Row = Mapping[str, Any]


@dataclass(frozen=True, repr=False)
class Pair:
    """A picture and its text, one row of a dataset.

    Attributes:
        columns: every column, by name, as docs/dataset-format.md describes them.
    """

    columns: Row

    @property
    def id(self) -> str:
        """Its id, such as mvsa-single:1."""
        return str(self.columns["id"])

    @property
    def text(self) -> str:
        """The cleaned text; empty without one."""
        return self.columns["text"] or ""

    @property
    def label(self) -> str | None:
        """The name of its label; None without one."""
        number = self.columns["label"]
        return None if number is None else LABEL_NAMES[number]

    @property
    def image_bytes(self) -> bytes | None:
        """The encoded picture, as fetched; None without one."""
        return (self.columns["image"] or {}).get("bytes")

    @property
    def image(self) -> "Image.Image | None":
        """The decoded picture in RGB; None without one. Raises: InputError if it cannot be decoded."""
        data = self.image_bytes
        if data is None:
            return None
        opened = opened_image(data, max_pixels=_MAX_PIXELS, max_bytes=_MAX_BYTES)
        if isinstance(opened, Rejection):
            raise InputError(f"{self.id}: {opened.reason}: {opened.detail}", "Leave this pair out")
        try:
            return to_rgb(opened)
        except Exception as error:  # hostile data after a valid header
            raise InputError(
                f"{self.id}: its picture cannot be decoded ({type(error).__name__})", "Leave this pair out"
            ) from None

    def __repr__(self) -> str:
        text = self.text if len(self.text) <= 40 else self.text[:39] + "…"
        return f"Pair({self.id!r}, {text!r}, {label_name(self.columns['label'])})"

    def _repr_html_(self) -> str:
        from mvsent.report.cells import pair_rows

        return pair_rows("", [self.columns])


class PairDataset(Sequence[Pair]):
    """A finished dataset; made by `mvsent.open`.

    A number or an id gives a `Pair`, a slice a list of them, and iteration streams all in order. Where a
    function takes a folder, it takes the dataset as well.

    Attributes:
        files: the dataset as its shards have it; `files.table(columns)` reads columns as Arrow.
    """

    def __init__(self, files: Dataset) -> None:
        self.files = files
        self._group = lru_cache(_GROUPS_KEPT)(self._read_group)

    @property
    def folder(self) -> Path:
        """Its folder."""
        return self.files.folder

    @property
    def name(self) -> str:
        """Its name."""
        return self.files.name

    @property
    def columns(self) -> list[str]:
        """The names of its columns."""
        return list(self.files.schema.names)

    @property
    def labels(self) -> dict[str, int]:
        """Number of pairs of each label, and of those without one if there are any."""
        manifest = self.files.manifest
        counts = dict(zip(LABEL_NAMES, manifest.label_counts, strict=True))
        return counts | ({label_name(None): manifest.n_unlabelled} if manifest.n_unlabelled else {})

    def __len__(self) -> int:
        return len(self.files)

    @overload
    def __getitem__(self, at: int | str) -> Pair: ...
    @overload
    def __getitem__(self, at: slice) -> list[Pair]: ...
    def __getitem__(self, at: int | str | slice) -> Pair | list[Pair]:
        """The pair with this number or id, or those of a slice; an id may lack its prefix.

        Raises: IndexError or KeyError if there is none; TypeError for anything else.
        """
        if isinstance(at, slice):
            return [self[row] for row in range(*at.indices(len(self)))]
        if isinstance(at, str):
            row = self._finder.row(at)
            if row == NO_ROW:
                raise KeyError(f"{at!r} is no id of {self.folder}")
            at = row
        if isinstance(at, bool):
            raise TypeError("a row is asked for by its number, its id or a slice, not by a bool")
        number = index(at)
        number += len(self) if number < 0 else 0
        if not 0 <= number < len(self):
            raise IndexError(f"row {at} of {len(self)}")
        group = int(np.searchsorted(self._firsts, number, side="right")) - 1
        (row,) = self._group(group).slice(number - self._groups[group].first, 1).to_pylist()
        return Pair(row)

    def __iter__(self) -> Iterator[Pair]:
        for batch in self.files.batches(self.columns, _AT_ONCE):
            for row in range(len(batch)):  # one by one, as a whole batch of pictures would be copied
                yield Pair(batch.slice(row, 1).to_pylist()[0])

    def to_pandas(self, columns: Sequence[str] | None = None) -> "pd.DataFrame":
        """All rows as a table.

        Labels are a categorical: names in order, whose codes are the label numbers; missing without a label.

        Args:
            columns: their names; None: all but the pictures.

        Raises: UsageError for an unknown column.
        """
        names = [name for name in self.columns if name != "image"] if columns is None else list(columns)
        if unknown := [name for name in names if name not in self.columns]:
            near = did_you_mean(unknown[0], self.columns)
            known = f"Known are: {', '.join(self.columns)}"
            raise UsageError(f"{self.folder}: no column {unknown[0]!r}", near + known)
        return as_frame(self.files.table(names))

    def split(self, protocol: str = "", *, seed: int = 0, file: Place | Sequence[Place] = ()) -> PairSplit:
        """Its rows split by a protocol, or as files of ids say; nothing is written.

        Args:
            protocol: one of those of `mvsent split`; empty: paper-5x.
            seed: of the protocol.
            file: a split file, several, or a folder of them, instead of a protocol.

        Raises: UsageError for an unknown protocol, or both; SplitError if it cannot be made or read.
        """
        from mvsent.datasets.split import DEFAULT_PROTOCOL, find_split
        from mvsent.datasets.split_files import SplitFiles

        self.files.require_labels()
        several = [file] if isinstance(file, str | os.PathLike) else file
        if protocol and several:
            raise UsageError("protocol and file contradict each other", "Leave one of them out")
        files = SplitFiles(tuple(map(folder_of, several))) if several else None
        found = find_split(self.files, protocol or DEFAULT_PROTOCOL, seed, files)
        return PairSplit(found, self.files.labels)

    def to_torch(
        self,
        split: str | PairSplit | None = None,
        fold: int = 0,
        role: str = "train",
        *,
        side: int = 224,
        inputs: "Place | None" = None,
        **settings: Any,
    ) -> "DecodedPairs | ReadyPairs":
        """The rows of a role as a `torch.utils.data.Dataset`.

        Without `inputs`, an item has the decoded picture, squashed to a square, the text and the label; see
        `DecodedPairs`. With `inputs`, an item is a model's ready input; see `ReadyPairs`.

        Args:
            split: a protocol or a split; None: all rows, or the split of the run given as `inputs`.
            fold: its number.
            role: of the rows: train, validation or test.
            side: of the squares in pixels; 0: no pictures.
            inputs: the name of a model, or a run whose networks are to read the rows.
            settings: of `mvsent train`, for a model given by name.

        Raises: UsageError for an unknown fold, role or setting; DatasetError without pictures.
        """
        from mvsent.api.torch_pairs import decoded_pairs, ready_pairs

        chosen = self.split(split) if isinstance(split, str) else split
        if chosen is not None and not chosen.is_of(self.files.ids):
            raise UsageError("the split is of another dataset", "Make one of this: dataset.split(PROTOCOL)")
        if inputs is not None:
            return ready_pairs(self.files, chosen, fold, role, inputs, settings)
        if settings:
            raise UsageError(f"{next(iter(settings))}: goes only with inputs", "Name a model, too")
        rows = np.arange(len(self)) if chosen is None else chosen.rows(fold, role)
        return decoded_pairs(self.files, rows, side)

    def __fspath__(self) -> str:
        return str(self.folder)

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {name}" for name, n in self.labels.items() if n)
        return f"PairDataset({str(self.folder)!r}: {len(self)} pairs; {counts})"

    def _repr_html_(self) -> str:
        from mvsent.report.cells import pair_rows

        more = f"; the first {_SHOWN}" if len(self) > _SHOWN else ""
        return pair_rows(f"{self!r}{more}", [pair.columns for pair in self[:_SHOWN]])

    @cached_property
    def _groups(self) -> list[RowGroup]:
        return self.files.row_groups()

    @cached_property
    def _firsts(self) -> npt.NDArray[np.int64]:
        return np.array([group.first for group in self._groups], np.int64)

    @cached_property
    def _finder(self) -> RowFinder:
        return RowFinder(self.files.ids)

    def _read_group(self, number: int) -> pa.Table:
        return self.files.read_group(self._groups[number], self.columns)


def as_frame(found: pa.Table) -> "pd.DataFrame":
    """A table for pandas: labels by name, and whole numbers that stay whole where some are missing."""
    import pandas as pd

    whole = {pa.int8(): pd.Int8Dtype(), pa.int32(): pd.Int32Dtype(), pa.uint64(): pd.UInt64Dtype()}
    frame: pd.DataFrame = found.to_pandas(types_mapper=whole.get)
    for name in LABEL_COLUMNS:
        if name in found.column_names:
            frame[name] = named(found[name].fill_null(-1).to_numpy())
    return frame
