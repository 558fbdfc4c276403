"""A trained run in memory: the networks of its finished folds, with their encoders and vocabularies."""

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from mvsent.curate.text import clean_text
from mvsent.errors import InputError, UsageError
from mvsent.features.device import single_precision
from mvsent.features.vocabulary import Vocabulary
from mvsent.learn.batches import Examples, cut
from mvsent.models.batch import Batch, Output
from mvsent.pairs import LABEL_NAMES
from mvsent.runs.inputs.input_reader import InputReader, Inputs
from mvsent.runs.inputs.kind import OfFold
from mvsent.runs.inputs.pair_sources import GivenPairs
from mvsent.runs.inputs.pictures import MAX_PIXELS, NO_PICTURE, ImageLike, Picture, decode_picture
from mvsent.runs.inputs.setup import Setup
from mvsent.runs.network import load_network
from mvsent.runs.run_folder import RunFolder
from mvsent.runs.trial import finished_folds
from mvsent.storage import located
from mvsent.workers.devices import compute_device

if TYPE_CHECKING:
    import pandas as pd

BATCH_SIZE = 64
NOTHING_THERE = "neither a picture nor a text"


@dataclass(frozen=True, repr=False)
class Answers:
    """Predictions for `N` pairs, in their order.

    Attributes:
        classes: names of the `n` classes of the run.
        probabilities: float32 `[N, n]`, rows sum to one; NaN for a row with an error.
        missing: the absent modality of each pair: `""`, `"image"`, `"text"` or `"image,text"`.
        errors: the reason why a pair has no prediction, or `""`.
    """

    classes: tuple[str, ...]
    probabilities: npt.NDArray[np.float32]
    missing: list[str]
    errors: list[str]

    def __len__(self) -> int:
        return len(self.errors)

    @property
    def labels(self) -> list[str]:
        """The most probable class of each pair; `""` for a row with an error."""
        likeliest = np.nan_to_num(self.probabilities).argmax(axis=1).tolist()
        return ["" if error else self.classes[i] for i, error in zip(likeliest, self.errors, strict=True)]

    def to_pandas(self) -> "pd.DataFrame":
        """A row for each pair: label, a probability p_NAME for each class, missing, error.

        The label is a categorical with the names of the classes; missing for a row with an error.
        """
        import pandas as pd

        label = pd.Categorical([name or None for name in self.labels], self.classes, ordered=True)
        shares = {f"p_{name}": self.probabilities[:, i] for i, name in enumerate(self.classes)}
        return pd.DataFrame({"label": label, **shares, "missing": self.missing, "error": self.errors})

    def __repr__(self) -> str:
        counts = ", ".join(f"{self.labels.count(name)} {name}" for name in self.classes)
        errors = sum(map(bool, self.errors))
        return f"Answers({len(self)} pairs: {counts}{f', {errors} errors' if errors else ''})"

    def _repr_html_(self) -> str:
        from mvsent.report.cells import frame_table

        return frame_table(repr(self), self.to_pandas())


@dataclass(repr=False)
class Model:
    """The networks of a run's folds with vocabularies, backbone and encoders; made by `mvsent.load`.

    Attributes:
        run: the run folder.
        device: the device of the networks.
        folds: the folds whose probabilities are averaged.
        max_pixels: limit of a picture; a larger one is an error of its row.
    """

    run: RunFolder
    device: torch.device
    folds: list[int]
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        self.reader = InputReader(Setup(self.run.settings, self.device, None, self.run))
        self._loaded: dict[int, tuple[nn.Module, Vocabulary]] = {}
        for fold in self.folds:
            network, vocabulary = load_network(self.run, fold, self.reader)
            self._loaded[fold] = network.to(self.device).eval().requires_grad_(False), vocabulary
        self._read([NO_PICTURE], [""])  # so that the first answer finds all networks on the device

    def __repr__(self) -> str:
        folds = ", ".join(map(str, self.folds))
        return f"Model({str(self.run.path)!r}: {self.run.settings.model}, folds {folds}, {self.device})"

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the probabilities' columns."""
        return tuple(LABEL_NAMES[label] for label in self.run.resolved.classes)

    def network(self, fold: int | None = None) -> nn.Module:
        """The network of a fold (None: the first) in evaluation mode; it takes a `Batch`.

        Raises: UsageError for a fold that was not loaded.
        """
        return self._of(fold)[0]

    def vocabulary(self, fold: int | None = None) -> Vocabulary:
        """The vocabulary of a fold's network (None: the first). Raises: as `network`."""
        return self._of(fold)[1]

    def predict(
        self,
        images: Sequence[ImageLike | None] | None = None,
        texts: Sequence[str | None] | None = None,
        *,
        batch_size: int = BATCH_SIZE,
        cleaned: bool = False,
    ) -> Answers:
        """Predict the probabilities of every pair; with several folds, their mean.

        Args:
            images: paths, bytes or PIL pictures, with None for pairs without picture; None: no pictures.
            texts: texts, with None or a blank text for pairs without text; None: no texts.
            batch_size: pairs computed together.
            cleaned: whether the texts are those of a dataset; other texts are cleaned first.

        A picture that cannot be read is an error of its row; the other rows are predicted.

        Raises: UsageError if the lengths differ, or both are None.
        """
        chosen_images, chosen_texts = paired(images, texts, cleaned=cleaned)
        parts = []
        with ThreadPoolExecutor(thread_name_prefix="pictures") as pool:
            for start in range(0, len(chosen_texts), batch_size):
                rows = slice(start, start + batch_size)
                pictures = list(pool.map(self.decode, chosen_images[rows]))
                parts.append(self.answer(pictures, chosen_texts[rows]))
        return joined(self.classes, parts)

    def examples(
        self,
        images: Sequence[ImageLike | None] | None = None,
        texts: Sequence[str | None] | None = None,
        *,
        fold: int | None = None,
        cleaned: bool = False,
    ) -> Examples:
        """The inputs of a fold's network (None: the first) for pairs, in memory; every target is 0.

        Args: as of `predict`.

        Raises: InputError naming the first picture that cannot be read; UsageError as `predict`.
        """
        chosen_images, chosen_texts = paired(images, texts, cleaned=cleaned)
        with ThreadPoolExecutor(thread_name_prefix="pictures") as pool:
            pictures = list(pool.map(self.decode, chosen_images))
        for row, picture in enumerate(pictures):
            if picture.error:
                raise InputError(f"picture {row + 1}: {picture.error}", "Leave it out, or give another")
        return self._numbered(self._read(pictures, chosen_texts), fold)

    def decode(self, image: ImageLike | None) -> Picture:
        """Decode a picture to the squares that the networks read; thread-safe."""
        return decode_picture(image, self.reader.sides, self.max_pixels)

    def answer(self, pictures: Sequence[Picture], texts: Sequence[str]) -> Answers:
        """Predict one batch of decoded pictures and cleaned texts; a text is empty if absent."""
        errors = [
            picture.error or ("" if text or picture.pixels is not None else NOTHING_THERE)
            for picture, text in zip(pictures, texts, strict=True)
        ]
        missing = [_missing(picture, text) for picture, text in zip(pictures, texts, strict=True)]
        good = [row for row, error in enumerate(errors) if not error]
        probabilities = np.full((len(errors), len(self.classes)), np.nan, np.float32)
        if good:
            read = self._read([pictures[row] for row in good], [texts[row] for row in good])
            probabilities[good] = np.mean([self._probabilities(read, fold) for fold in self.folds], axis=0)
        return Answers(self.classes, probabilities, missing, errors)

    def batches(self, examples: Examples, batch_size: int = BATCH_SIZE) -> Iterator[Batch]:
        """The batches of the examples on the model's device, in order."""
        rows = np.arange(len(examples.target))
        return (batch.to(self.device) for batch in examples.batches(cut(rows, batch_size)))

    def _read(self, pictures: Sequence[Picture], texts: Sequence[str]) -> Inputs:
        return self.reader.read(GivenPairs(self.reader.setup, pictures, texts))

    def _numbered(self, inputs: Inputs, fold: int | None) -> Examples:
        """The pairs with words numbered by a fold's vocabulary, and without links."""
        vocabulary = self.vocabulary(fold)
        # Only links read the vectors, and new pairs have none.
        no_vectors = np.zeros((len(vocabulary), self.run.resolved.word_size), np.float32)
        return inputs.source(OfFold(vocabulary, no_vectors, np.zeros(0, np.int64)))

    @torch.inference_mode()
    @single_precision()
    def _probabilities(self, inputs: Inputs, fold: int) -> npt.NDArray[np.float32]:
        network, parts = self.network(fold), []
        for batch in self.batches(self._numbered(inputs, fold)):
            output: Output = network(batch)
            parts.append(torch.softmax(output.logits.float(), dim=1).cpu().numpy())
        return np.concatenate(parts)

    def _of(self, fold: int | None) -> tuple[nn.Module, Vocabulary]:
        chosen = self.folds[0] if fold is None else fold
        if chosen not in self._loaded:
            raise UsageError(f"fold {chosen} is not loaded", f"Loaded are: {', '.join(map(str, self.folds))}")
        return self._loaded[chosen]


def load(
    path: str | os.PathLike[str],
    fold: int | None = None,
    device: str = "auto",
    *,
    max_pixels: int = MAX_PIXELS,
) -> Model:
    """Load the model of the run folder at `path`.

    Args:
        fold: the fold of the network; None: all finished folds, whose probabilities are averaged.
        device: cpu, cuda, cuda:N, or auto.
        max_pixels: limit of a picture; a larger one is an error of its row.

    Raises:
        RunError: no run, no finished fold, or pretrained weights differ from those in training.
        UsageError: no such fold or device. WeightsError: pretrained weights are unavailable.
    """
    run = RunFolder.open(located(str(path)))
    finished = finished_folds(run)
    if fold is not None and fold not in finished:
        raise UsageError(
            f"--fold: fold {fold} of {run.path} is not finished",
            f"Finished are: {', '.join(map(str, finished))}",
        )
    return Model(run, compute_device(device), finished if fold is None else [fold], max_pixels)


def paired(
    images: Sequence[ImageLike | None] | None, texts: Sequence[str | None] | None, *, cleaned: bool = False
) -> tuple[Sequence[ImageLike | None], list[str]]:
    """Images and texts as lists of equal length; texts are cleaned unless `cleaned`, and empty if absent.

    Raises: UsageError if both are None, their lengths differ, or an image is neither path, bytes nor picture.
    """
    images, texts = (_as_list(given) for given in (images, texts))
    for given in (images, texts):
        if isinstance(given, str | bytes):
            raise UsageError("images and texts are lists, one entry a pair", "Write [image] and [text]")
    for image in images if images is not None else ():
        if not (image is None or isinstance(image, str | bytes | os.PathLike) or hasattr(image, "convert")):
            raise UsageError(
                f"images: a {type(image).__name__} is not a picture",
                "Give paths, bytes or PIL images, such as [pair.image for pair in pairs]",
            )
    n = len(images if images is not None else texts if texts is not None else ())
    if (images is None and texts is None) or (images is not None and texts is not None and len(texts) != n):
        raise UsageError(
            "images and texts must have equal length; at least one is required",
            "Give None in place of an absent picture or text",
        )
    every_text = [_text(text) for text in texts] if texts is not None else [None] * n
    return (
        [None] * n if images is None else images,
        [text or "" for text in every_text] if cleaned else [clean(text) for text in every_text],
    )


def _as_list(given: Any) -> Any:
    """A column of pandas, an array or an iterator as a list; whatever else as it is."""
    if given is None or isinstance(given, str | bytes | list | tuple):
        return given
    if isinstance(given, os.PathLike) or hasattr(given, "convert"):
        raise UsageError("images and texts are lists, one entry a pair", "Write [image] and [text]")
    try:
        return list(given)
    except TypeError:
        raise UsageError(
            f"images and texts are lists, not {type(given).__name__}", "Write [image] and [text]"
        ) from None


def _text(given: Any) -> str | None:
    """A text; None for none, such as pandas' NaN. Raises: UsageError for anything else."""
    if given is None or isinstance(given, str):
        return given
    if isinstance(given, float) and math.isnan(given):
        return None
    raise UsageError(f"texts: a {type(given).__name__} is no text", "Give texts, or None for a pair without")


def clean(text: str | None) -> str:
    r"""Clean a user's text as the texts of every dataset were cleaned; empty if absent or invisible.

    Not idempotent: `&amp;lt;` becomes `&lt;`, which becomes `<`.

    >>> clean(None), clean(" "), clean("Tom &amp; Ana,\n so \ud83d good")
    ('', '', 'Tom & Ana, so good')
    """
    return clean_text(text) if text else ""


def joined(classes: tuple[str, ...], parts: Sequence[Answers]) -> Answers:
    """Concatenate the answers of several batches."""
    probabilities = [part.probabilities for part in parts] or [np.zeros((0, len(classes)), np.float32)]
    return Answers(
        classes,
        np.concatenate(probabilities),
        [missing for part in parts for missing in part.missing],
        [error for part in parts for error in part.errors],
    )


def _missing(picture: Picture, text: str) -> str:
    lacks_image = picture.pixels is None and not picture.error
    return ",".join(name for name, lacks in (("image", lacks_image), ("text", not text)) if lacks)
