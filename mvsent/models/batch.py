"""The inputs of a model: a batch of pairs, and the sizes that are known before the first batch."""

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
IMAGE_VECTOR = "image vector"
LEXICON = "lexicon"
ANP_SCORES = "ANP scores"
SCENE = "scene"
OWNER_LINKS = "owner links"
TAG_LINKS = "tag links"
MODALITY_LABELS = "modality labels"

# The modality of a field of `Batch`: a missing picture or text removes all fields of its modality.
OF_IMAGE, OF_TEXT = {"modality": "image"}, {"modality": "text"}
OF_WORDS = OF_TEXT | {"per word": True}
LABEL = {"label": True}


@dataclass(frozen=True)
class Batch:
    """`B` pairs; fields that the model does not read, or that the dataset lacks, are None.

    Words come as numbers of a vocabulary or, from a frozen transformer, as vectors: exactly one of the two.

    Attributes:
        regions: `[B, C, H, W]` float, a backbone's feature map of each picture.
        pixels: `[B, 3, side, side]` uint8, only if the backbone is trained.
        words: `[B, S]` int64, numbers of the vocabulary; 0 is padding.
        word_vectors: `[B, S, D]` float, contextual vectors of words; zero on padding.
        tokens: `[B, S]` int64, a transformer's token numbers, only if the transformer is trained.
        word_mask: `[B, S]` bool, True for words, False for padding.
        sentence: `[B, S]` int64, number of the word's sentence, from 0; 0 on padding.
        caption, caption_vectors, caption_mask: the same for the picture's caption.
        text_vector: `[B, T]` float, vector of the whole text by a sentence encoder.
        image_vector: `[B, V]` float, vector of the whole picture by an encoder.
        lexicon: `[B, L]` float, sentiment strengths of the text by a lexicon.
        anp_scores: `[B, A]` float, score of each adjective-noun pair in the picture.
        scene: `[B, C2]` float, vector of the picture by a second backbone.
        links: `[B, K, C + D]` float, pictures and words of linked training rows: the mean of the map, and of
            the words' pretrained vectors.
        link_mask: `[B, K]` bool, True for linked rows, False for padding.
        has_image, has_text: `[B]` bool, False if a modality is missing; None if none ever is. A missing
            picture is a map of zeros, a missing text an empty one.
        target: `[B]` int64, index into the run's classes. A model may compute losses with it, never logits.
        text_target, image_target: `[B]` int64, label number of each modality; -1 if unknown.
    """

    regions: Tensor | None = field(default=None, metadata=OF_IMAGE)
    pixels: Tensor | None = field(default=None, metadata=OF_IMAGE)
    words: Tensor | None = field(default=None, metadata=OF_WORDS)
    word_vectors: Tensor | None = field(default=None, metadata=OF_WORDS)
    tokens: Tensor | None = field(default=None, metadata=OF_WORDS)
    word_mask: Tensor | None = field(default=None, metadata=OF_WORDS)
    sentence: Tensor | None = field(default=None, metadata=OF_WORDS)
    caption: Tensor | None = field(default=None, metadata=OF_IMAGE)
    caption_vectors: Tensor | None = field(default=None, metadata=OF_IMAGE)
    caption_mask: Tensor | None = field(default=None, metadata=OF_IMAGE)
    text_vector: Tensor | None = field(default=None, metadata=OF_TEXT)
    image_vector: Tensor | None = field(default=None, metadata=OF_IMAGE)
    lexicon: Tensor | None = field(default=None, metadata=OF_TEXT)
    anp_scores: Tensor | None = field(default=None, metadata=OF_IMAGE)
    scene: Tensor | None = field(default=None, metadata=OF_IMAGE)
    links: Tensor | None = None
    link_mask: Tensor | None = None
    has_image: Tensor | None = None
    has_text: Tensor | None = None
    target: Tensor | None = field(default=None, metadata=LABEL)
    text_target: Tensor | None = field(default=None, metadata=LABEL)
    image_target: Tensor | None = field(default=None, metadata=LABEL)

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The batch with `change` applied to every tensor."""
        carried = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: change(v) for k, v in carried.items() if v is not None})

    def to(self, device: torch.device) -> Self:
        """The batch on `device`; asynchronous from pinned memory."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))


def batch_fields(key: str, value: object = True) -> tuple[str, ...]:
    """Names of the fields of `Batch` that are marked with `key` as `value`.

    >>> batch_fields("label")
    ('target', 'text_target', 'image_target')
    """
    return tuple(each.name for each in fields(Batch) if each.metadata.get(key) == value)


Batches = Callable[[], Iterable[Batch]]
"""The batches of some rows; can be iterated repeatedly."""


@dataclass(frozen=True)
class Sizes:
    """The sizes needed to build a model.

    Attributes:
        channels: channels of the region map.
        grid: height and width of the region map.
        vectors: `[V, D]` float32, a vector for each word of the vocabulary; row 0 (padding) is zero. None
            where words come as vectors.
        word_size: `D`, features of a word.
        n_classes: number of classes in the dataset.
        text_size, image_vector_size, n_lexicon, n_anps, scene_channels: features of `text_vector`,
            `image_vector`, `lexicon`, `anp_scores`, `scene`; 0 if not read. A run keeps these widths.
        labels: the label number of each class, in order.
    """

    channels: int
    grid: tuple[int, int]
    vectors: Tensor | None
    n_classes: int
    word_size: int = 0
    text_size: int = field(default=0, metadata={"width of": "text_vector"})
    image_vector_size: int = field(default=0, metadata={"width of": "image_vector"})
    n_lexicon: int = field(default=0, metadata={"width of": "lexicon"})
    n_anps: int = field(default=0, metadata={"width of": "anp_scores"})
    scene_channels: int = field(default=0, metadata={"width of": "scene"})
    labels: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self) -> None:
        if self.vectors is not None:
            # The class is frozen.
            object.__setattr__(self, "word_size", self.vectors.shape[1])


WIDTHS = {each.name: each.metadata["width of"] for each in fields(Sizes) if "width of" in each.metadata}
"""Field of `Sizes` → field of `Batch` `[B, width]` whose width it is."""


@runtime_checkable
class Solved(Protocol):
    """A model that is fitted as a whole instead of by gradient steps."""

    def solve(self, train: Batches, validation: Batches) -> None:
        """Fit to the training rows; choose hyper-parameters on the validation rows."""


@runtime_checkable
class Refitted(Protocol):
    """A model that takes in the validation rows, too, once everything is chosen by them."""

    def refit(self, train: Batches, validation: Batches) -> None:
        """Fit what is fitted in closed form anew, on the rows of both."""


@runtime_checkable
class Settled(Protocol):
    """A model with a part that is fitted after its weights are chosen."""

    def settle(self, train: Batches, validation: Batches) -> None:
        """Fit the part on the training rows; choose hyper-parameters on the validation rows.

        Called in evaluation mode, without gradients.
        """


@dataclass(frozen=True)
class Output:
    """The output of a model.

    Attributes:
        logits: `[B, n_classes]`.
        attention: name → weights, for pictures; empty unless asked for. `words` `[B, S]` sums to one over
            real words and is zero on padding; `spatial` `[B, H, W]` and `channel` `[B, C]` are gates;
            `regions` `[B, H, W]` sums to one; `fusion` `[B, 2]` or `[B, 1 + M]` splits between the text
            (first) and the picture or its regions.
        penalty: a scalar that training adds to the cross-entropy of the logits, in training mode only: the
            further terms of a paper's loss.
    """

    logits: Tensor
    attention: dict[str, Tensor] = field(default_factory=dict)
    penalty: Tensor | None = None
