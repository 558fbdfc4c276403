"""A dataset as the rows of a stream: `mvsent train --stream`, for what fits neither memory nor disk.

In memory are the labels of all rows, and of texts and pictures what `Stream` keeps. Nothing is cached: each
epoch reads the shards again, and pictures go through a frozen backbone a batch at a time.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from mvsent.config import TrainSettings
from mvsent.errors import DatasetError, InputError, UsageError
from mvsent.features.pixels import decode_pixels
from mvsent.features.vocabulary import Vocabulary
from mvsent.learn.batches import Examples, Rows
from mvsent.learn.stream import Stream
from mvsent.models import registry
from mvsent.models.batch import ANP_SCORES, CAPTION, MODALITY_LABELS, OWNER_LINKS, TAG_LINKS, Batch
from mvsent.runs import inputs
from mvsent.runs.read_pairs import PairReader, Picture
from mvsent.runs.run_folder import RunFolder
from mvsent.shards.reader import Dataset, RowGroup

_TEXTS_AT_ONCE = 4096
_NO_TEXT = "has no text"
_NO_ROWS: Rows = np.zeros(0, np.int64)


@dataclass(frozen=True)
class StoredPair:
    """A row as it was read: of what the run does not read, None."""

    id: str
    text: str | None
    picture: bytes | None


@dataclass(frozen=True)
class ReadyPair:
    """A row whose picture is decoded; the text is empty where the run reads none."""

    text: str
    picture: Picture


class FirstRow(Dataset):
    """A dataset's first row alone: enough to settle what a run reads, and of which sizes it is."""

    def __len__(self) -> int:
        return 1

    def table(self, columns: Sequence[str]) -> pa.Table:
        return pa.Table.from_batches(self.batches(columns, 1))

    def batches(
        self, columns: Sequence[str], batch_size: int, rows: slice | None = None
    ) -> Iterator[pa.RecordBatch]:
        return super().batches(columns, 1, slice(0, 1))


def first_row(dataset: Dataset, settings: TrainSettings) -> FirstRow:
    """The first row, to be read as a whole dataset is. Raises: UsageError for what a stream cannot give."""
    refuse(settings)
    return FirstRow(dataset.folder, dataset.manifest)


@contextmanager
def own_cache(settings: TrainSettings) -> Iterator[Path | None]:
    """Where the features of what `first_row` gives are kept, within the block; None where nothing streams."""
    if not settings.stream:
        yield None
        return
    with tempfile.TemporaryDirectory() as cache:
        yield Path(cache)


@dataclass
class Streamed:
    """The dataset of a run that is streamed.

    Attributes:
        target: `[N]` int64, index into the run's classes.
        device: where pictures and texts go through what is frozen.
    """

    dataset: Dataset
    target: npt.NDArray[np.int64]
    device: torch.device
    _reader: PairReader | None = field(default=None, init=False)

    def texts(self, rows: Rows) -> Iterator[str]:
        """The texts of `rows`, in row order; a few thousand are in memory at a time.

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
            yield from kept["text"].to_pylist()

    def source(
        self, run: RunFolder, vocabulary: Vocabulary, *, missing: str = ""
    ) -> Stream[StoredPair, ReadyPair]:
        """The rows as `run` reads them, with the words of a fold's `vocabulary`.

        With `missing`, `image` or `text`, that modality is taken away from every row.
        """
        settings = run.settings
        pairs = _Pairs(self, self.reader(run), vocabulary, missing)
        firsts = np.array([group.first for group in self.groups], np.int64)
        return Stream(
            self.target,
            firsts,
            settings.shuffle_buffer,
            pairs.read,
            pairs.decode,
            pairs.collate,
            settings.workers,
        )

    def reader(self, run: RunFolder) -> PairReader:
        """What `run` reads pictures and texts with, loaded once."""
        if self._reader is None or self._reader.run != run:
            # What a fold's network begins with must not depend on whether the reader was there before.
            with torch.random.fork_rng(devices=[]):  # nothing is drawn on a GPU
                self._reader = PairReader(run, self.device)
        return self._reader

    @cached_property
    def groups(self) -> list[RowGroup]:
        return self.dataset.row_groups()

    @cached_property
    def modality_labels(self) -> dict[str, npt.NDArray[np.int8]]:
        """Label numbers of every row's text and image, -1 where there is none."""
        table = self.dataset.table(["text_label", "image_label"])
        return {name: table[name].fill_null(-1).to_numpy().astype(np.int8) for name in table.column_names}


@dataclass(frozen=True)
class _Pairs:
    """How rows of the dataset are read, decoded, and made a batch of."""

    streamed: Streamed
    reader: PairReader
    vocabulary: Vocabulary
    missing: str

    @cached_property
    def reads_texts(self) -> bool:
        card = self.reader.card
        return bool((self.reader.reads | card.may_read) & inputs.OF_TEXT)

    @cached_property
    def columns(self) -> list[str]:
        return ["id", *["text"] * self.reads_texts, *["image"] * self.reader.reads_pictures]

    def read(self, number: int, rows: Rows) -> Mapping[int, StoredPair]:
        """The rows of group `number`; of the others nothing is kept."""
        group = self.streamed.groups[number]
        table = self.streamed.dataset.read_group(group, self.columns)
        ids, nothing = table["id"], pa.nulls(group.rows)
        texts = table["text"] if self.reads_texts else nothing
        pictures = pc.struct_field(table["image"], "bytes") if self.reader.reads_pictures else nothing
        # Copies of single values: a slice of the table would keep all of it in memory.
        return {
            row: StoredPair(*(column[row - group.first].as_py() for column in (ids, texts, pictures)))
            for row in rows.tolist()
        }

    def decode(self, pair: StoredPair) -> ReadyPair:
        """The picture as squares. Raises: DatasetError naming a row that lacks something, or is damaged."""
        dataset = self.streamed.dataset
        if self.reads_texts and pair.text is None:
            raise unreadable(dataset, pair.id, _NO_TEXT)
        if not self.reader.reads_pictures:
            return ReadyPair(pair.text or "", Picture({}))
        if pair.picture is None:
            raise unreadable(dataset, pair.id, "has no picture")
        try:
            squares = {side: decode_pixels(pair.picture, side) for side in self.reader.sides}
        except InputError as error:
            raise unreadable(dataset, pair.id, error.what) from None
        return ReadyPair(pair.text or "", Picture(squares))

    def collate(self, rows: Rows, pairs: Sequence[ReadyPair]) -> Batch:
        """The batch of decoded rows, as `Examples` of the whole dataset would give it."""
        found = self.reader.inputs([pair.picture for pair in pairs], [pair.text for pair in pairs])
        resolved = self.reader.run.resolved
        no_vectors = np.zeros((len(self.vocabulary), resolved.word_size), np.float32)
        given = inputs.examples(found, self.vocabulary, no_vectors, resolved.max_words, _NO_ROWS)
        # An empty text of a dataset is an empty text, and none that is missing.
        given = replace(
            given,
            target=self.streamed.target[rows],
            text_target=self._modality_labels("text_label", rows),
            image_target=self._modality_labels("image_label", rows),
            has_image=None,
            has_text=None,
        )
        return _taken_away(given, self.missing).batch(np.arange(len(rows)))

    def _modality_labels(self, column: str, rows: Rows) -> Rows | None:
        if MODALITY_LABELS not in self.reader.card.may_read:
            return None
        return self.streamed.modality_labels[column][rows].astype(np.int64)


def refuse(settings: TrainSettings) -> None:
    """Raises: UsageError naming the option for which all rows would have to be known at once."""
    card = registry.card(settings.model)
    reads = registry.reads(settings.model, settings.options)
    linked = [
        f"--option {key}={value}"
        for (key, value), what in card.reads_with.items()
        if what in reads & {OWNER_LINKS, TAG_LINKS}
    ]
    problems = {
        "--captions": CAPTION in card.may_read and bool(settings.captions),
        **dict.fromkeys(linked, True),
        f"--anps {settings.anps}": ANP_SCORES in reads and settings.anps.endswith(".parquet"),
    }
    for option, is_given in problems.items():
        if is_given:
            raise UsageError(
                f"{option}: not with --stream, which knows of a row only what its shard holds",
                "Leave one of the two out",
            )


def unreadable(dataset: Dataset, id: str, why: str) -> DatasetError:
    """The error for a row that a run cannot read."""
    return DatasetError(
        f"{dataset.folder}: {id}: {why}",
        f"See what else is wrong with `mvsent validate {dataset.folder}`, or build it again",
    )


def _taken_away(given: Examples, modality: str) -> Examples:
    return given.without(modality) if modality else given
