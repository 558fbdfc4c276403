"""A dataset as the tensors that a model reads."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from mvsent.config import TrainSettings
from mvsent.errors import DatasetError, RunError, UsageError
from mvsent.features.backbones import Backbone, load_backbone
from mvsent.features.cache import cached_maps, cached_pixels, default_cache_dir
from mvsent.features.vocabulary import Vocabulary
from mvsent.learn.batches import Examples
from mvsent.models.batch import REGIONS, WORDS
from mvsent.models.registry import ModelCard
from mvsent.shards.reader import Dataset

TWEET_WORDS = 40
CAPTION_WORDS = 100


@dataclass(frozen=True)
class Pictures:
    """What is known of a dataset's pictures; all None where the model reads none.

    Attributes:
        backbone: that turns pixels to maps.
        regions: its maps `[N, C, H, W]`, or None where it is fine-tuned.
        pixels: `[N, 3, side, side]`, only where it is fine-tuned.
    """

    backbone: Backbone | None = None
    regions: npt.NDArray[np.float16] | None = None
    pixels: npt.NDArray[np.uint8] | None = None


def read_pictures(
    dataset: Dataset, card: ModelCard, settings: TrainSettings, device: torch.device, *, quiet: bool
) -> Pictures:
    """The pictures as (cached) maps of a frozen backbone, or as pixels for one that is fine-tuned."""
    if REGIONS not in card.reads:
        return Pictures()
    backbone = load_backbone(settings.backbone, tap=settings.tap, weights=settings.weights)
    cache, workers = default_cache_dir(), settings.workers or None
    if settings.fine_tune != "none":
        pixels = cached_pixels(dataset, backbone.size, cache_dir=cache, workers=workers, quiet=quiet)
        return Pictures(backbone, pixels=pixels)
    regions = cached_maps(dataset, backbone, cache_dir=cache, device=device, workers=workers, quiet=quiet)
    return Pictures(backbone, regions=regions)


def read_texts(dataset: Dataset) -> list[str]:
    """The text of every row. Raises: DatasetError where the dataset has none (`--labels-only`)."""
    texts = dataset.table(["text"])["text"]
    if texts.null_count:
        raise DatasetError(
            f"{dataset.folder}: {texts.null_count} rows have no text",
            "Build it without --labels-only to train on it",
        )
    return list(texts.to_pylist())


def longest_text(dataset: Dataset, settings: TrainSettings) -> int:
    """How many words of a text are read: as set, else 40 for tweets and 100 for captions."""
    if settings.max_words:
        return settings.max_words
    sources = set(dataset.table(["source"])["source"].unique().to_pylist())
    return TWEET_WORDS if all(str(s).startswith("mvsa") for s in sources) else CAPTION_WORDS


def targets(dataset: Dataset, classes: list[int]) -> npt.NDArray[np.int64]:
    """`[N]` labels as indices into `classes`. Raises: RunError for a label that the run never saw."""
    labels = dataset.labels.astype(np.int64)
    strange = sorted(set(labels.tolist()) - set(classes))
    if strange:
        raise RunError(
            f"{dataset.folder}: has label {strange[0]}, the run knows only {classes}",
            "Evaluate on a dataset with the same sentiments",
        )
    indices: npt.NDArray[np.int64] = np.searchsorted(np.asarray(classes), labels)
    return indices


def examples(
    card: ModelCard,
    pictures: Pictures,
    texts: list[str],
    vocabulary: Vocabulary,
    max_words: int,
    target: npt.NDArray[np.int64],
) -> Examples:
    """Everything that the model of `card` reads of every row, and nothing else."""
    words = vocabulary.encode(texts, max_words) if WORDS in card.reads else None
    return Examples(target=target, words=words, regions=pictures.regions, pixels=pictures.pixels)


def compute_device(name: str) -> torch.device:
    """The device called `name`: cpu, cuda, cuda:N, or `auto`, the first CUDA device, else the CPU.

    Raises: UsageError for one that is not here.
    """
    n_cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    here = ["cuda"] * bool(n_cuda) + [f"cuda:{i}" for i in range(n_cuda)] + ["cpu"]
    if name == "auto":
        return torch.device(here[0])
    if name not in here:
        raise UsageError(f"--device: there is no {name!r} here", f"Choose from: auto, {', '.join(here)}")
    return torch.device(name)
