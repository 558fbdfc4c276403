"""Rows of a dataset to batches: which rows, in which order, as which tensors."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mvsent.features.vocabulary import UNK
from mvsent.models.batch import Batch

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating[Any]]


class BatchSource(Protocol):
    """Rows that a network is trained on and asked about, wherever they lie.

    Attributes:
        target: `[N]` int64, index into the run's classes.
    """

    @property
    def target(self) -> npt.NDArray[np.int64]: ...

    def order(self, rows: Rows, *, seed: int, fold: int, epoch: int) -> Rows:
        """`rows` as an epoch takes them, by the arguments alone: a resumed run repeats it."""

    def batches(self, steps: Sequence[Rows], *, pin: bool = False) -> Iterator[Batch]:
        """The batch of each step's rows, in the order given."""


@dataclass(frozen=True)
class Text:
    """The words of `N` texts: numbers of a vocabulary or of a transformer, or a transformer's vectors.

    Attributes:
        lengths: `[N]` int64, words of each text.
        numbers: `[N, S]` int64, 0 after the last word.
        vectors: `[N, S, D]` float16, memory-mapped; then `numbers` is None.
        sentence: `[N, S]` int64, which sentence a word is in.
    """

    lengths: Rows
    numbers: npt.NDArray[np.int64] | None = None
    vectors: npt.NDArray[np.float16] | None = None
    sentence: npt.NDArray[np.int64] | None = None

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
class Links:
    """Rows that are linked, and what is known of them.

    Attributes:
        rows: `[N, K]` int64, linked rows, negative after the last.
        features: `[N, F]` float32, of every row.
    """

    rows: npt.NDArray[np.int64]
    features: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Examples:
    """The inputs of every row of a dataset, `N` rows; a field that the model does not read is None.

    Attributes:
        target: `[N]` int64, index into the run's classes.
        words, caption: the words of text and caption.
        tuned: True where the transformer is trained with the model: then `words` are its own numbers.
        regions: `[N, C, H, W]` float16, memory-mapped.
        pixels: `[N, 3, side, side]` uint8, memory-mapped.
        text_vector, lexicon, anp_scores, scene: `[N, …]` float32.
        text_target, image_target: `[N]` int64, -1 where a modality has no label.
        has_image, has_text: `[N]` bool, False where a modality is missing; None where none is.
    """

    target: npt.NDArray[np.int64]
    words: Text | None = None
    caption: Text | None = None
    tuned: bool = False
    regions: npt.NDArray[np.float16] | None = None
    pixels: npt.NDArray[np.uint8] | None = None
    text_vector: Floats | None = None
    lexicon: Floats | None = None
    anp_scores: Floats | None = None
    scene: Floats | None = None
    links: Links | None = None
    text_target: npt.NDArray[np.int64] | None = None
    image_target: npt.NDArray[np.int64] | None = None
    has_image: npt.NDArray[np.bool_] | None = None
    has_text: npt.NDArray[np.bool_] | None = None

    def without(self, modality: str) -> Self:
        """The same rows, every one without its `image` or its `text`."""
        none = np.zeros(len(self.target), np.bool_)
        return replace(self, has_image=none) if modality == "image" else replace(self, has_text=none)

    def order(self, rows: Rows, *, seed: int, fold: int, epoch: int) -> Rows:
        """`rows` shuffled; see `BatchSource`."""
        return np.random.default_rng([seed, fold, epoch]).permutation(rows)

    def batches(self, steps: Sequence[Rows], *, pin: bool = False) -> Iterator[Batch]:
        """The batch of each step's rows; see `BatchSource`."""
        for rows in steps:
            batch = self.batch(rows)
            yield batch.map(torch.Tensor.pin_memory) if pin else batch

    def batch(self, rows: Rows) -> Batch:
        """The batch of `rows`, its words as many as its longest text has."""
        found: dict[str, Tensor | None] = {"target": torch.from_numpy(self.target[rows])}
        if self.words is not None:
            numbers, vectors, mask, sentence = self.words.cut(rows)
            found |= {"tokens" if self.tuned else "words": numbers, "word_vectors": vectors}
            found |= {"word_mask": mask, "sentence": sentence}
        if self.caption is not None:
            numbers, vectors, mask, _ = self.caption.cut(rows)
            found |= {"caption": numbers, "caption_vectors": vectors, "caption_mask": mask}
        if self.links is not None:
            linked = self.links.rows[rows]
            mask = torch.from_numpy(linked >= 0)
            features = torch.from_numpy(self.links.features[linked])
            found |= {"links": features * mask.unsqueeze(-1), "link_mask": mask}
        if self.regions is not None:
            found["regions"] = gather(self.regions, rows).float()
        for name in (
            "pixels",
            "text_vector",
            "lexicon",
            "anp_scores",
            "scene",
            "text_target",
            "image_target",
        ):
            values = getattr(self, name)
            found[name] = None if values is None else gather(values, rows)
        for name in ("has_image", "has_text"):
            values = getattr(self, name)
            found[name] = None if values is None else torch.from_numpy(values[rows])
        return blanked(Batch(**found))


def blanked(batch: Batch) -> Batch:
    """The batch with nothing left of what it says is missing: no model can peep.

    A missing picture is a map of zeros, without a caption. A missing text is what an empty one is: one
    unknown word, with a vector of zeros where words come as vectors.
    """
    if batch.has_image is not None:
        batch = _zeroed(batch, _OF_IMAGE, ~batch.has_image)
    if batch.has_text is not None:
        gone = ~batch.has_text
        batch = _zeroed(batch, _OF_TEXT, gone)
        if batch.word_mask is not None:
            batch.word_mask[gone, 0] = True
        if batch.words is not None:
            batch.words[gone, 0] = UNK
    return batch


_OF_IMAGE = ("regions", "pixels", "anp_scores", "scene", "caption", "caption_vectors", "caption_mask")
_OF_TEXT = ("words", "word_vectors", "tokens", "word_mask", "sentence", "text_vector", "lexicon")


def _zeroed(batch: Batch, names: Iterable[str], rows: Tensor) -> Batch:
    """The batch with copies of the fields called `names` that are zero in `rows`."""
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
    """`stored[rows]`; a memory map is read once from front to back, in the order of the file."""
    order = np.argsort(rows, kind="stable")
    gathered = np.empty((len(rows), *stored.shape[1:]), dtype=stored.dtype)
    gathered[order] = stored[rows[order]]
    return torch.from_numpy(gathered)
