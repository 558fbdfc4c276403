"""Batches of a dataset's rows: their choice, order and tensors."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mvsent.features.vocabulary import UNK
from mvsent.models.batch import Batch, batch_fields

Rows = npt.NDArray[np.int64]

_WIDE_BYTES = 8192
"""Values of a row from which on `gather` copies rows one by one."""


class BatchSource(Protocol):
    """Rows for training and prediction, in memory or streamed.

    Attributes:
        target: `[N]` int64, index into the run's classes.
    """

    @property
    def target(self) -> npt.NDArray[np.int64]: ...

    def order(self, rows: Rows, *, seed: int, fold: int, epoch: int) -> Rows:
        """The order of `rows` in an epoch; only the arguments decide it, so that a resumed run repeats it."""

    def batches(self, steps: Sequence[Rows], *, pin: bool = False) -> Iterator[Batch]:
        """The batch of each step's rows, in the order given."""


class InputColumn(Protocol):
    """An input of every row that gives several tensors of a batch."""

    def tensors(self, rows: Rows) -> dict[str, Tensor | None]:
        """The tensors of `rows`, by field of `Batch`."""


@dataclass(frozen=True)
class Text:
    """The words of `N` texts: numbers of a vocabulary or of a transformer, or a transformer's vectors.

    Attributes:
        lengths: `[N]` int64, words of each text.
        numbers: `[N, S]` int64, 0 after the last word.
        vectors: `[N, S, D]` float16, memory-mapped; then `numbers` is None.
        sentence: `[N, S]` int64, which sentence a word is in.
        tuned: whether the transformer is trained with the model; then `numbers` are its own.
    """

    lengths: Rows
    numbers: npt.NDArray[np.int64] | None = None
    vectors: npt.NDArray[np.float16] | None = None
    sentence: npt.NDArray[np.int64] | None = None
    tuned: bool = False

    def tensors(self, rows: Rows) -> dict[str, Tensor | None]:
        """The words of `rows`; see `InputColumn`."""
        numbers, vectors, mask, sentence = self.cut(rows)
        named = {"tokens" if self.tuned else "words": numbers, "word_vectors": vectors}
        return named | {"word_mask": mask, "sentence": sentence}

    def cut(self, rows: Rows) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor | None]:
        """Numbers, vectors, mask and sentences of `rows`, as long as the longest of them."""
        lengths = self.lengths[rows]
        longest = max(1, int(lengths.max(initial=0)))
        mask = torch.arange(longest) < torch.from_numpy(lengths)[:, None]
        numbers, sentence = (
            None if values is None else torch.from_numpy(values[rows, :longest])
            for values in (self.numbers, self.sentence)
        )
        vectors = None if self.vectors is None else gather(self.vectors[:, :longest], rows).float()
        return numbers, vectors, mask, sentence


@dataclass(frozen=True)
class Examples:
    """The inputs of every row of a dataset, `N` rows, in memory or memory-mapped.

    Attributes:
        target: `[N]` int64, index into the run's classes.
        columns: field of `Batch` → values `[N, …]`; or any name → an `InputColumn` that gives several fields.
    """

    target: npt.NDArray[np.int64]
    columns: Mapping[str, npt.NDArray[Any] | InputColumn]

    def without(self, modality: str) -> Self:
        """The same rows without `image` or `text`."""
        none = np.zeros(len(self.target), np.bool_)
        return replace(self, columns={**self.columns, f"has_{modality}": none})

    def order(self, rows: Rows, *, seed: int, fold: int, epoch: int) -> Rows:
        """`rows` shuffled; see `BatchSource`."""
        return np.random.default_rng([seed, fold, epoch]).permutation(rows)

    def batches(self, steps: Sequence[Rows], *, pin: bool = False) -> Iterator[Batch]:
        """The batch of each step's rows; see `BatchSource`."""
        for rows in steps:
            batch = self.batch(rows)
            yield batch.map(torch.Tensor.pin_memory) if pin else batch

    def batch(self, rows: Rows) -> Batch:
        """The batch of `rows`, with as many words as the longest of their texts."""
        tensors: dict[str, Tensor | None] = {"target": torch.from_numpy(self.target[rows])}
        for name, column in self.columns.items():
            if isinstance(column, np.ndarray):
                values = gather(column, rows)
                # Maps and word vectors are stored in half precision.
                tensors[name] = values.float() if values.dtype == torch.float16 else values
            else:
                tensors |= column.tensors(rows)
        return blanked(Batch(**tensors))


def blanked(batch: Batch) -> Batch:
    """The batch without any trace of its missing modalities, so that no model can use them.

    A missing picture is a map of zeros, without a caption. A missing text is like an empty one: one
    unknown word, or a vector of zeros if words are vectors.
    """
    if batch.has_image is not None:
        batch = _zeroed(batch, _OF_IMAGE, ~batch.has_image)
    if batch.has_text is not None:
        gone = ~batch.has_text
        batch = _zeroed(batch, _OF_TEXT, gone)
        # In place, but on copies: `_zeroed` leaves the stored arrays as they are.
        if batch.word_mask is not None:
            batch.word_mask[gone, 0] = True
        if batch.words is not None:
            batch.words[gone, 0] = UNK
    return batch


_OF_IMAGE, _OF_TEXT = batch_fields("modality", "image"), batch_fields("modality", "text")


def _zeroed(batch: Batch, names: Iterable[str], rows: Tensor) -> Batch:
    """The batch with the fields `names` set to zero in `rows`."""
    there = {name: values for name in names if (values := getattr(batch, name)) is not None}
    return replace(
        batch,
        **{
            name: values.masked_fill(rows.view(-1, *[1] * (values.dim() - 1)), 0)
            for name, values in there.items()
        },
    )


def cut(rows: Rows, batch_size: int) -> list[Rows]:
    """The rows of each step; the last one may have fewer."""
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]


def gather(stored: npt.NDArray[Any], rows: Rows) -> Tensor:
    """`stored[rows]`; a memory map is read in the order of the file."""
    order = np.argsort(rows, kind="stable")
    gathered = np.empty((len(rows), *stored.shape[1:]), dtype=stored.dtype)
    if gathered.nbytes < _WIDE_BYTES * len(rows):
        gathered[order] = stored[rows[order]]
    else:  # row by row, without the copy between: two to ten times as fast for pixels and maps
        plain = np.asarray(stored)
        for place, row in zip(order.tolist(), rows[order].tolist(), strict=True):
            gathered[place] = plain[row]
    return torch.from_numpy(gathered)
