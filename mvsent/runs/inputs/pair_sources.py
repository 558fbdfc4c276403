"""Pairs that inputs are read from: the rows of a dataset, or pictures and texts in memory."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mvsent.errors import DatasetError
from mvsent.features.backbone import Backbone
from mvsent.features.cache import cached_maps, cached_pixels, cached_texts, cached_words, compute_maps
from mvsent.features.sentences import SentenceEncoder
from mvsent.features.transformer import TextEncoder, Tokens, encode_batch
from mvsent.learn.batches import Text
from mvsent.runs.inputs.pictures import Picture
from mvsent.runs.inputs.setup import Setup
from mvsent.shards.reader import Dataset
from mvsent.workers.engine import LOCAL, Engine

_AT_ONCE = 64  # pictures or texts that go through an encoder together

Maps = npt.NDArray[np.float16]
PixelArray = npt.NDArray[np.uint8]


class Pairs(ABC):
    """`N` pairs that inputs are read from.

    Attributes:
        ids: of the pairs; empty if they have none.
        texts: of the pairs, as `Setup.as_read` gives them; empty if no input reads them.
        target: `[N]` int64, index into the run's classes.
        flags: `has_image`, `has_text`: `[N]` bool, False where a modality is missing; absent if none ever is.
    """

    ids: Sequence[str] = ()
    texts: list[str]
    target: npt.NDArray[np.int64]
    flags: Mapping[str, npt.NDArray[np.bool_]] = MappingProxyType({})

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self._words: dict[str, Text] = {}

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def maps(self, backbone: Backbone) -> Maps:
        """`[N, C, H, W]` by a frozen backbone, or `[N, C]` if it gives vectors; zero without a picture."""

    @abstractmethod
    def pixels(self, side: int) -> PixelArray:
        """`[N, 3, side, side]`; zero without a picture."""

    @abstractmethod
    def column(self, name: str) -> list[Any]:
        """`N` values of a dataset's column; None where unknown."""

    @abstractmethod
    def vectors(self, encoder: TextEncoder, tokens: Tokens) -> npt.NDArray[np.float16]:
        """`[N, S, D]` by a frozen transformer, zero after each text's end."""

    @abstractmethod
    def sentences(self, encoder: SentenceEncoder) -> npt.NDArray[np.float32]:
        """`[N, D]`, the whole texts by a frozen encoder."""

    def words(self, encoder: TextEncoder) -> Text:
        """The words of the texts as vectors of a frozen transformer; computed once."""
        if encoder.name not in self._words:
            self._words[encoder.name] = self.encoded(encoder, self.texts)
        return self._words[encoder.name]

    def encoded(self, encoder: TextEncoder, texts: Sequence[str]) -> Text:
        """The words of any `N` texts as vectors of a frozen transformer."""
        tokens = encoder.tokenize(texts, self.setup.max_tokens)
        return Text(tokens.lengths, vectors=self.vectors(encoder, tokens), sentence=tokens.sentence)


class DatasetPairs(Pairs):
    """All rows of the dataset of `setup`; the outputs of frozen networks are cached."""

    def __init__(
        self, setup: Setup, columns: Sequence[str], *, engine: Engine = LOCAL, quiet: bool = False
    ) -> None:
        """Read `columns`, but not the pictures, into memory; `engine` computes maps.

        Raises: DatasetError if a row has no text, and texts are read; RunError as `Setup.target`.
        """
        super().__init__(setup)
        assert setup.dataset is not None
        self.dataset, self.engine, self.quiet = setup.dataset, engine, quiet
        self.ids, self.target = self.dataset.ids, setup.target
        self._table = self.dataset.table([name for name in columns if name != "image"])
        self.texts = []
        if "text" in columns:
            if self._table["text"].null_count:
                raise no_texts(self.dataset)
            self.texts = setup.as_read(self.column("text"))

    def __len__(self) -> int:
        return len(self.dataset)

    def maps(self, backbone: Backbone) -> Maps:
        return cached_maps(
            self.dataset,
            backbone,
            device=self.setup.device,
            workers=self.setup.settings.workers,
            engine=self.engine,
            gpus=self.setup.settings.device != "cpu",
            quiet=self.quiet,
        )

    def pixels(self, side: int) -> PixelArray:
        return cached_pixels(self.dataset, side, workers=self.setup.settings.workers, quiet=self.quiet)

    def column(self, name: str) -> list[Any]:
        values: list[Any] = self._table[name].to_pylist()
        return values

    def vectors(self, encoder: TextEncoder, tokens: Tokens) -> npt.NDArray[np.float16]:
        return cached_words(encoder, tokens, device=self.setup.device, quiet=self.quiet)

    def sentences(self, encoder: SentenceEncoder) -> npt.NDArray[np.float32]:
        tokens = encoder.encoder.tokenize(self.texts, self.setup.max_tokens)
        return cached_texts(encoder, tokens, device=self.setup.device, quiet=self.quiet)


class GivenPairs(Pairs):
    """Decoded pictures, and texts that are empty if they are missing. Nothing is cached."""

    def __init__(self, setup: Setup, pictures: Sequence[Picture], texts: Sequence[str]) -> None:
        super().__init__(setup)
        self.pictures, self.texts = pictures, setup.as_read(texts)
        self.target = np.zeros(len(texts), np.int64)
        there = {
            "has_image": [picture.pixels is not None for picture in pictures],
            "has_text": [bool(text) for text in texts],
        }
        self.flags = {name: np.array(each, np.bool_) for name, each in there.items() if not all(each)}
        self._maps: dict[int, Maps] = {}  # several inputs may read one backbone's maps

    def __len__(self) -> int:
        return len(self.texts)

    def maps(self, backbone: Backbone) -> Maps:
        if id(backbone) in self._maps:
            return self._maps[id(backbone)]
        # In half precision like the cache of a dataset, so that a pair alone gets the same answer.
        maps = np.zeros((len(self), *backbone.shape), np.float16)
        there = np.flatnonzero([picture.pixels is not None for picture in self.pictures])
        network = self.setup.fused(backbone)
        for start in range(0, len(there), _AT_ONCE):
            rows = there[start : start + _AT_ONCE]
            pixels = torch.from_numpy(_stacked([self.pictures[row] for row in rows], backbone.size))
            maps[rows] = compute_maps(network, pixels)
        self._maps[id(backbone)] = maps
        return maps

    def pixels(self, side: int) -> PixelArray:
        return _stacked(self.pictures, side)

    def column(self, name: str) -> list[Any]:
        return [None] * len(self)

    def vectors(self, encoder: TextEncoder, tokens: Tokens) -> npt.NDArray[np.float16]:
        encoder.to(self.setup.device)
        parts = [
            encode_batch(encoder, tokens.numbers[rows], tokens.lengths[rows]).half()
            for rows in (slice(start, start + _AT_ONCE) for start in range(0, len(self), _AT_ONCE))
        ]
        vectors: npt.NDArray[np.float16] = torch.cat(parts).numpy()
        return vectors

    def sentences(self, encoder: SentenceEncoder) -> npt.NDArray[np.float32]:
        encoder.encoder.to(self.setup.device)
        tokens = encoder.encoder.tokenize(self.texts, self.setup.max_tokens)
        parts = [
            encoder.encode(tokens.numbers[rows], tokens.lengths[rows])
            for rows in (slice(start, start + _AT_ONCE) for start in range(0, len(self), _AT_ONCE))
        ]
        vectors: npt.NDArray[np.float32] = torch.cat(parts).numpy()
        return vectors


class StoredPairs(GivenPairs):
    """Some rows of a dataset: their other columns are known, and an empty text does not count as missing."""

    def __init__(
        self,
        setup: Setup,
        pictures: Sequence[Picture],
        columns: Mapping[str, list[Any]],
        target: npt.NDArray[np.int64],
    ) -> None:
        super().__init__(setup, pictures, columns.get("text", [""] * len(pictures)))
        self.columns, self.target, self.flags = columns, target, {}

    def column(self, name: str) -> list[Any]:
        return self.columns[name]


def no_texts(dataset: Dataset) -> DatasetError:
    """The error for a dataset that was built without its texts."""
    return DatasetError(
        f"{dataset.folder}: has rows without texts", "Build it again without --labels-only to train on it"
    )


def _stacked(pictures: Sequence[Picture], side: int) -> PixelArray:
    """`[N, 3, side, side]` in channels-last memory, zero where there is no picture."""
    pixels = np.zeros((len(pictures), side, side, 3), np.uint8)
    for row, picture in enumerate(pictures):
        if picture.pixels is not None:
            pixels[row] = picture.pixels[side]
    return pixels.transpose(0, 3, 1, 2)
