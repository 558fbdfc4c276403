"""Datasets of `torch.utils.data`: decoded pictures and texts, and a model's ready inputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch.utils.data import Dataset as TorchDataset

from mvsent.api.pair_split import PairSplit
from mvsent.api.places import Place, folder_of, settings_of
from mvsent.errors import UsageError
from mvsent.features.cache import cached_pixels
from mvsent.learn.batches import Examples, gather
from mvsent.models import registry
from mvsent.models.batch import Batch
from mvsent.runs.inputs.input_reader import InputReader, Inputs
from mvsent.runs.inputs.kind import OfFold
from mvsent.runs.inputs.pair_sources import DatasetPairs
from mvsent.runs.inputs.setup import Setup
from mvsent.runs.material import Material, fold_words
from mvsent.runs.predictor import DatasetPredictor
from mvsent.runs.run_dataset import is_own, own_split
from mvsent.runs.run_folder import RunFolder
from mvsent.shards.reader import Dataset
from mvsent.splits import ROLES
from mvsent.workers.devices import compute_device

Rows = npt.NDArray[np.int64]
Item = dict[str, Any]


class DecodedPairs(TorchDataset[Item]):
    """Decoded pictures, texts and labels of some rows.

    An item is a dictionary: `image`, uint8 [3, side, side], absent without pictures; `text`; `label`, its
    number, -1 without one; `id`. `torch.utils.data.DataLoader` makes batches of them as they are. Pictures
    are decoded once, and kept in the cache of features, from which rows are read in any order. With
    `collate_fn=rows.collate`, the pictures of a batch are not copied once more.

    Attributes:
        rows: [n], their numbers in the dataset.
    """

    def __init__(self, dataset: Dataset, rows: Rows, pixels: npt.NDArray[np.uint8] | None) -> None:
        self.rows, self.pixels = rows, pixels
        table = dataset.table(["id", "text"]).take(rows)
        self._ids, self._texts = table["id"].combine_chunks(), table["text"].fill_null("").combine_chunks()
        self._labels = dataset.labels[rows].astype(np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: int) -> Item:
        return self.__getitems__([at])[0]

    def __getitems__(self, several: Sequence[int]) -> "DecodedItems":
        """The items of a batch, whose pictures are read in the order of the file."""
        at = np.asarray(several)
        columns = {
            "id": self._ids.take(pa.array(at)).to_pylist(),
            "text": self._texts.take(pa.array(at)).to_pylist(),
            "label": self._labels[at].tolist(),
        }
        if self.pixels is not None:
            columns["image"] = gather(self.pixels, self.rows[at])
        return DecodedItems(columns)

    @staticmethod
    def collate(items: Any) -> Item:
        """The batch of some items: lists of ids and texts, labels [B], pictures [B, 3, side, side]."""
        return {**items.columns, "label": torch.tensor(items.columns["label"])}

    def __repr__(self) -> str:
        shape = "no pictures" if self.pixels is None else f"pictures {tuple(self.pixels.shape[1:])}"
        return f"DecodedPairs({len(self)} pairs, {shape})"


class DecodedItems(Sequence[Item]):
    """The items of a batch, kept by column, as they were read.

    Attributes:
        columns: name → a value for each item.
    """

    def __init__(self, columns: Item) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns["id"])

    @overload
    def __getitem__(self, at: int) -> Item: ...
    @overload
    def __getitem__(self, at: slice) -> list[Item]: ...
    def __getitem__(self, at: int | slice) -> Item | list[Item]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        if not -len(self) <= at < len(self):
            raise IndexError(at)
        return {name: values[at] for name, values in self.columns.items()}


@dataclass(frozen=True)
class ReadyPairs(TorchDataset[Batch]):
    """Inputs of a model for some rows, ready for its network.

    An item is a `Batch` of one pair. For batches, give a loader `collate`:
    `DataLoader(ready, batch_size=64, shuffle=True, collate_fn=ready.collate)`.

    Attributes:
        examples: the inputs of every row of the dataset.
        rows: [n], the numbers of those that are items.
    """

    examples: Examples
    rows: Rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: int) -> Batch:
        return self.examples.batch(self.rows[[at]])

    def __getitems__(self, several: Sequence[int]) -> Batch:
        """The batch of several items."""
        return self.examples.batch(self.rows[np.asarray(several)])

    @staticmethod
    def collate(batch: Any) -> Batch:
        """The batch as it is: it was read as a whole."""
        read: Batch = batch
        return read

    def __repr__(self) -> str:
        one = self[0] if len(self) else Batch()
        shapes = {name: tuple(t.shape[1:]) for name, t in vars(one).items() if isinstance(t, torch.Tensor)}
        return (
            f"ReadyPairs({len(self)} pairs: {', '.join(f'{name} {shape}' for name, shape in shapes.items())})"
        )


def decoded_pairs(dataset: Dataset, rows: Rows, side: int) -> DecodedPairs:
    """Rows of a dataset with their pictures as squares of `side` pixels; 0: without pictures.

    Raises: UsageError for a side out of range; DatasetError if a picture is missing or cannot be decoded.
    """
    if not 0 <= side <= 4096:
        raise UsageError(f"side={side}: out of range", "Choose from 0, for no pictures, to 4096")
    return DecodedPairs(dataset, rows, cached_pixels(dataset, side) if side else None)


def ready_pairs(
    dataset: Dataset,
    split: PairSplit | None,
    fold: int,
    role: str,
    inputs: Place,
    settings: Mapping[str, Any],
) -> ReadyPairs:
    """The inputs of a model called `inputs`, or of the networks of the run at `inputs`.

    Raises: UsageError for settings that do not go together; as the reading of inputs in a training.
    """
    if isinstance(inputs, str) and inputs in registry.names():
        return _of_model(dataset, split, fold, role, inputs, settings)
    if settings:
        raise UsageError(f"{next(iter(settings))}: a run has its own settings", "Leave it out")
    return _of_run(dataset, split, fold, role, RunFolder.open(folder_of(inputs)))


def _of_model(
    dataset: Dataset,
    split: PairSplit | None,
    fold: int,
    role: str,
    model: str,
    settings: Mapping[str, Any],
) -> ReadyPairs:
    if split is None:
        raise UsageError("split: a model's inputs need one", "Its words are numbered by a fold")
    chosen = settings_of({**settings, "model": model, "dataset": str(dataset.folder)})
    if chosen.stream:
        raise UsageError("stream: its rows come in an order of their own", "Leave it out")
    train, rows = split.rows(fold, "train"), split.rows(fold, role)
    reader = InputReader(Setup(chosen, compute_device(chosen.device), dataset))
    read = reader.read(DatasetPairs(reader.setup, reader.columns))
    material = Material(dataset, split.roles, reader, read)
    of_fold = OfFold(*_no_words(), train)
    if reader.numbers_words:
        vocabulary, vectors = fold_words(chosen, material, fold)
        of_fold = OfFold(vocabulary, vectors.matrix, train)
    return ReadyPairs(read.source(of_fold), rows)


def _of_run(dataset: Dataset, split: PairSplit | None, fold: int, role: str, run: RunFolder) -> ReadyPairs:
    own = is_own(run, dataset)
    if split is None and own:
        split = PairSplit(own_split(run, dataset), dataset.labels)
    rows = np.arange(len(dataset)) if split is None else split.rows(fold, role)
    in_memory = RunFolder(run.path, run.settings.model_copy(update={"stream": False}), run.resolved)
    predictor = DatasetPredictor(in_memory, dataset, quiet=False)
    assert isinstance(predictor.inputs, Inputs)
    train = split.rows(fold, ROLES[0]) if own and split is not None else None
    return ReadyPairs(predictor.inputs.source(predictor.of_fold(fold, train)[1]), rows)


def _no_words() -> tuple[Any, npt.NDArray[np.float32]]:
    from mvsent.features.vocabulary import Vocabulary

    return Vocabulary([]), np.zeros((2, 1), np.float32)
