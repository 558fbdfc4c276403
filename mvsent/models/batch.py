"""What a model reads: one batch of pairs, and the sizes that are known before the first batch."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor

REGIONS = "regions"
WORDS = "words"
SENTENCES = "sentences"
CAPTION = "caption"
TEXT_VECTOR = "text vector"
LEXICON = "lexicon"
ANP_SCORES = "ANP scores"
SCENE = "scene"
OWNER_LINKS = "owner links"
TAG_LINKS = "tag links"
MODALITY_LABELS = "modality labels"


@dataclass(frozen=True)
class Batch:
    """`B` pairs; a field that no one asked for, or that the dataset lacks, is None.

    Words come as numbers of a vocabulary or, from a frozen transformer, as vectors: exactly one of the two.

    Attributes:
        regions: `[B, C, H, W]` float, a backbone's feature map of each picture.
        pixels: `[B, 3, side, side]` uint8, only where the backbone itself is trained.
        words: `[B, S]` int64, numbers of the vocabulary; 0 is padding.
        word_vectors: `[B, S, D]` float, each word in the light of the others; zero on padding.
        tokens: `[B, S]` int64, a transformer's own numbers, only where the transformer itself is trained.
        word_mask: `[B, S]` bool, True where there is a word.
        sentence: `[B, S]` int64, which sentence of the text a word is in, from 0; 0 on padding.
        caption, caption_vectors, caption_mask: the words of the picture's caption, as those of the text.
        text_vector: `[B, T]` float, the whole text by a sentence encoder.
        lexicon: `[B, L]` float, sentiment strengths of the text by a lexicon.
        anp_scores: `[B, A]` float, how much of each adjective-noun pair is in the picture.
        scene: `[B, C2]` float, the picture by a second backbone.
        links: `[B, K, C + D]` float, pictures and words of linked training rows: the mean of the map, and of
            the words' pretrained vectors.
        link_mask: `[B, K]` bool, True where there is a linked row.
        has_image, has_text: `[B]` bool, False where a modality is missing; None where none ever is. A missing
            picture is a map of zeros, a missing text an empty one.
        target: `[B]` int64, index into the run's classes. A model may compute losses with it, never logits.
        text_target, image_target: `[B]` int64, label number of each modality where there is one, else -1.
    """

    regions: Tensor | None = None
    pixels: Tensor | None = None
    words: Tensor | None = None
    word_vectors: Tensor | None = None
    tokens: Tensor | None = None
    word_mask: Tensor | None = None
    sentence: Tensor | None = None
    caption: Tensor | None = None
    caption_vectors: Tensor | None = None
    caption_mask: Tensor | None = None
    text_vector: Tensor | None = None
    lexicon: Tensor | None = None
    anp_scores: Tensor | None = None
    scene: Tensor | None = None
    links: Tensor | None = None
    link_mask: Tensor | None = None
    has_image: Tensor | None = None
    has_text: Tensor | None = None
    target: Tensor | None = None
    text_target: Tensor | None = None
    image_target: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The batch with `change` applied to every tensor it carries."""
        carried = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: change(v) for k, v in carried.items() if v is not None})

    def to(self, device: torch.device) -> Self:
        """The batch on `device`; asynchronous from pinned memory."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))


Batches = Callable[[], Iterable[Batch]]
"""The batches of some rows, as often as they are asked for."""


@dataclass(frozen=True)
class Sizes:
    """What a model must know to be built.

    Attributes:
        channels: of the region map.
        grid: `(H, W)` of the region map.
        vectors: `[V, D]` float32, a vector for each word of the vocabulary; row 0 (padding) is zero. None
            where words come as vectors.
        word_size: `D`, features of a word, either way.
        n_classes: how many sentiments the dataset has.
        text_size, n_lexicon, n_anps, scene_channels: of `text_vector`, `lexicon`, `anp_scores`, `scene`;
            0 where there is none.
        labels: the label number of each class, in order.
    """

    channels: int
    grid: tuple[int, int]
    vectors: Tensor | None
    n_classes: int
    word_size: int = 0
    text_size: int = 0
    n_lexicon: int = 0
    n_anps: int = 0
    scene_channels: int = 0
    labels: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self) -> None:
        if self.vectors is not None:
            object.__setattr__(self, "word_size", self.vectors.shape[1])


@runtime_checkable
class Solved(Protocol):
    """A model that is fitted as a whole, and not by gradient steps."""

    def solve(self, train: Batches, validation: Batches) -> None:
        """Fit to the training rows; what has to be chosen is chosen on the validation rows."""


@runtime_checkable
class Settled(Protocol):
    """A model that fits something once its weights are chosen."""

    def settle(self, train: Batches, validation: Batches) -> None:
        """Fit it; what has to be chosen is chosen on the validation rows.

        Called in evaluation mode, without gradients.
        """


@dataclass(frozen=True)
class Output:
    """What a model says.

    Attributes:
        logits: `[B, n_classes]`.
        attention: name → weights, for pictures; empty unless asked for. `words` `[B, S]` sums to one over
            real words and is zero on padding; `spatial` `[B, H, W]` and `channel` `[B, C]` are gates;
            `regions` `[B, H, W]` sums to one; `fusion` `[B, 2]` or `[B, 1 + M]` splits between the text
            (first) and the picture or its regions.
        penalty: a scalar that training adds to the cross-entropy of the logits, in training mode only: what
            a paper's loss has besides it.
    """

    logits: Tensor
    attention: dict[str, Tensor] = field(default_factory=dict)
    penalty: Tensor | None = None
