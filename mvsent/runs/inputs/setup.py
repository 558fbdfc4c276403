"""Setup of a model's inputs: settings, a dataset, a run, and the networks that several inputs share."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from mvsent.config import TrainSettings
from mvsent.errors import RunError
from mvsent.features.backbone import Backbone, fused
from mvsent.features.backbones import load_backbone, load_named
from mvsent.features.transformer import TextEncoder, load_text_encoder
from mvsent.features.tweet_words import as_read
from mvsent.models import registry
from mvsent.models.batch import ANP_SCORES, CAPTION, IMAGE_VECTOR, LEXICON, SCENE, TEXT_VECTOR
from mvsent.runs.run_folder import RunFolder
from mvsent.shards.reader import Dataset

TWEET_WORDS, CAPTION_WORDS = 40, 100
TWEET_TOKENS, CAPTION_TOKENS = 64, 128
"""More than words, as a transformer splits rare words and adds special tokens."""

_INPUT_OF = {
    "text_vector": TEXT_VECTOR,
    "image_vector": IMAGE_VECTOR,
    "lexicon": LEXICON,
    "captions": CAPTION,
    "anps": ANP_SCORES,
    "scene_backbone": SCENE,
}
"""Setting → the only input that it is about."""


@dataclass
class Setup:
    """Settings, dataset and shared networks of a model's inputs.

    Attributes:
        settings: of the training.
        device: where frozen networks compute.
        dataset: the dataset to read; None for pairs in memory, which have no other columns.
        run: the trained run; None in a training.
        revisions: id on Hugging Face's hub → commit, of what was loaded.
    """

    settings: TrainSettings
    device: torch.device
    dataset: Dataset | None
    run: RunFolder | None = None
    revisions: dict[str, str] = field(default_factory=dict)
    _encoders: dict[str, TextEncoder] = field(default_factory=dict)
    _fused: dict[int, Backbone] = field(default_factory=dict)

    @cached_property
    def needed(self) -> frozenset[str]:
        """The inputs that the model needs, as named in `models.batch`."""
        return registry.reads(self.settings.model, self.settings.options)

    @property
    def optional(self) -> frozenset[str]:
        """The inputs that the model uses if there are any."""
        return registry.card(self.settings.model).may_read

    @property
    def without_effect(self) -> list[str]:
        """The options that were given and are about inputs that the model does not read."""
        given = {name: each for name, each in TrainSettings.stated().items() if name in _INPUT_OF}
        return [
            each.flag
            for name, each in given.items()
            if getattr(self.settings, name) not in (each.field.default, "none")
            and _INPUT_OF[name] not in self.needed | self.optional
        ]

    @property
    def linked(self) -> bool:
        """Whether rows can be linked to training rows, which are of the same dataset."""
        own = self.run is None or (self.dataset and self.dataset.sha256 == self.run.resolved.dataset_sha256)
        return bool(own)

    @cached_property
    def target(self) -> npt.NDArray[np.int64]:
        """`[N]` int64, the dataset's labels as indices into the run's classes.

        Raises: DatasetError if it has none; RunError for a label that the run never saw.
        """
        assert self.dataset is not None
        return targets(self.dataset, self.run.resolved.classes if self.run else self.dataset.classes)

    def as_read(self, texts: Iterable[str]) -> list[str]:
        """The texts as `--tokens` has them read; every input that reads texts gets these."""
        return as_read(texts, self.settings.tokens)

    @cached_property
    def max_words(self) -> int:
        """Maximum number of words read of a text."""
        return (self.run and self.run.resolved.max_words) or self._longest(TWEET_WORDS, CAPTION_WORDS)

    @cached_property
    def max_tokens(self) -> int:
        """Maximum number of tokens that a transformer reads of a text."""
        return (self.run and self.run.resolved.max_tokens) or self._longest(TWEET_TOKENS, CAPTION_TOKENS)

    def _longest(self, tweet: int, caption: int) -> int:
        if self.settings.max_words:
            return self.settings.max_words
        return caption if self.dataset and text_kind(self.dataset) == "captions" else tweet

    @cached_property
    def backbone(self) -> Backbone:
        """The network of `--backbone`, on the CPU. Raises: as `load_backbone`."""
        settings, name = self.settings, self.settings.backbone
        loaded = load_backbone(name, tap=settings.tap, weights=settings.weights, revision=self.revision(name))
        self.note_revision(name, loaded.revision)
        return loaded

    def other_backbone(self, given: str, option: str, *, whole: bool = False) -> Backbone:
        """The network that `option` names beside `--backbone`, on the CPU; see `load_named`."""
        loaded = load_named(given, option, revision=self.revision(given), whole=whole)
        self.note_revision(given, loaded.revision)
        return loaded

    def encoder(self, name: str) -> TextEncoder:
        """The transformer called `name`, loaded once. Raises: WeightsError."""
        if name not in self._encoders:
            encoder = self._encoders[name] = load_text_encoder(name, self.revision(name))
            self.note_revision(name, encoder.revision)
        return self._encoders[name]

    def revision(self, name: str) -> str:
        """The commit of the hub's repository `name` that the run was begun with; empty if there is none."""
        return (self.run.resolved.revisions if self.run else self.revisions).get(name, "")

    def note_revision(self, name: str, commit: str) -> None:
        """Remember the commit that was loaded; it is empty for what is not from the hub."""
        if commit:
            self.revisions[name] = commit

    def fused(self, backbone: Backbone) -> Backbone:
        """A copy of `backbone` for inference on the device, made once."""
        if id(backbone) not in self._fused:
            self._fused[id(backbone)] = fused(backbone).to(self.device)
        return self._fused[id(backbone)]


def text_kind(dataset: Dataset) -> str:
    """Tweets or captions, as the manifest states; in schema version 1 the sources tell."""
    if dataset.manifest.text_kind:
        return dataset.manifest.text_kind
    sources = dataset.table(["source"])["source"].unique().to_pylist()
    return "tweets" if all(str(source).startswith("mvsa") for source in sources) else "captions"


def targets(dataset: Dataset, classes: Iterable[int]) -> npt.NDArray[np.int64]:
    """`[N]` labels as indices into `classes`. Raises: RunError for a label that the run never saw."""
    dataset.require_labels()
    known = list(classes)
    labels = dataset.labels.astype(np.int64)
    strange = sorted(set(labels.tolist()) - set(known))
    if strange:
        raise RunError(
            f"{dataset.folder}: has label {strange[0]}, the run knows only {known}",
            "Evaluate on a dataset with the same sentiments",
        )
    indices: npt.NDArray[np.int64] = np.searchsorted(np.asarray(known), labels)  # a run's classes are sorted
    return indices
