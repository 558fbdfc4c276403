"""Pictures and texts from anywhere as what the networks of a run read."""

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from mvsent.curate.images import opened_image, turn_of
from mvsent.errors import InputError, RunError, WeightsError
from mvsent.features.anps import AnpDetectors
from mvsent.features.backbone import Backbone, fused
from mvsent.features.backbones import load_backbone, load_scene_backbone
from mvsent.features.cache import compute_maps
from mvsent.features.lexicon import lexicon_scores
from mvsent.features.pixels import Pixels, decode_pixels, squashed
from mvsent.features.transformer import MINILM, TextEncoder, encode_batch, is_encoder, load_text_encoder
from mvsent.learn.batches import Examples, Text
from mvsent.models import registry
from mvsent.models.batch import (
    ANP_SCORES,
    CAPTION,
    OWNER_LINKS,
    REGIONS,
    SCENE,
    SENTENCES,
    TAG_LINKS,
    WORDS,
)
from mvsent.pairs import Reason, Rejection
from mvsent.runs.inputs import TWEET_TOKENS, Floats, Inputs, mean_words, pooled_maps
from mvsent.runs.run_folder import RunFolder

log = logging.getLogger("mvsent")

ImageLike = str | os.PathLike[str] | bytes | Image.Image
"""A picture: the path of its file, its bytes, or decoded already."""

MAX_BYTES, MAX_PIXELS = 32 * 2**20, 100_000_000
"""Of one picture; more is refused before anything of it is decoded."""

_ROWS = 64  # pictures or texts that go through an encoder together


@dataclass(frozen=True)
class Picture:
    """A picture that was decoded, or why it could not be.

    Attributes:
        pixels: side of the square → uint8 `[side, side, 3]`; None where there is no picture.
        error: in one line; empty where nothing is wrong.
    """

    pixels: Mapping[int, Pixels] | None = None
    error: str = ""


NO_PICTURE = Picture()


@dataclass
class PairReader:
    """Everything pretrained that a run reads pictures and texts with, loaded once.

    Captions and links are not known of a pair that comes alone: there are none, which the log says once where
    the run was trained with them.

    Attributes:
        max_pixels: of a picture; a larger one is refused before anything of it is decoded.
    """

    run: RunFolder
    device: torch.device
    max_pixels: int = MAX_PIXELS
    hashes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises: WeightsError where something is not here; RunError where the run reads scores by id."""
        settings = self.run.settings
        self.card = registry.card(settings.model)
        self.reads = registry.reads(settings.model, settings.options)
        self.detectors = self._detectors()
        self.backbone = self._backbone()
        self.scene = self._scene()
        self.encoder = self._encoder()
        self.text_encoders = self._text_encoders()
        if CAPTION in self.card.may_read and settings.captions:
            log.warning("the run was trained with captions; these pictures have none")
        if self.reads & {OWNER_LINKS, TAG_LINKS}:
            log.warning("the run was trained with links between rows; nothing is linked to these pairs")

    @property
    def reads_words(self) -> bool:
        return bool(self.reads & {WORDS, SENTENCES})

    @property
    def reads_pictures(self) -> bool:
        return bool(self.sides)

    @cached_property
    def sides(self) -> list[int]:
        """The sides, in pixels, of the squares that backbones read."""
        return sorted({backbone.size for backbone in (self.backbone, self.scene) if backbone})

    def decode(self, image: ImageLike | None) -> Picture:
        """The picture as squares; where it cannot be had, why. Safe to call from many threads.

        A picture that no network of the run reads is not opened.
        """
        if image is None or not self.sides:
            return NO_PICTURE if image is None else Picture({})
        try:
            if isinstance(image, Image.Image):
                return Picture({side: squashed(image, side) for side in self.sides})
            return self._decode_bytes(image if isinstance(image, bytes) else read_picture(Path(image)))
        except InputError as error:
            return Picture(error=error.what)
        except Exception as error:  # a decoded picture may be one whose file is gone, or of any mode
            return Picture(error=f"{Reason.IMAGE_CORRUPT}: {type(error).__name__}: {error}")

    def _decode_bytes(self, data: bytes) -> Picture:
        image = opened_image(data, max_pixels=self.max_pixels, max_bytes=MAX_BYTES)
        if isinstance(image, Rejection):
            return Picture(error=_why(image))
        with turn_of(image.width * image.height):
            try:
                return Picture({side: decode_pixels(data, side) for side in self.sides})
            except InputError as error:
                return Picture(error=f"{Reason.IMAGE_CORRUPT}: {error.what}")

    def inputs(self, pictures: Sequence[Picture], texts: Sequence[str]) -> Inputs:
        """What is known of the pairs before any fold; an empty text is a missing one.

        `has_image` and `has_text` are None where no pair lacks one.
        """
        given = Examples(
            target=np.zeros(len(texts), np.int64),
            has_image=_flags([picture.pixels is not None for picture in pictures]),
            has_text=_flags([bool(text) for text in texts]),
        )
        given = self._pictures(pictures, given)
        given = self._words(texts, given)
        given = replace(
            given,
            text_vector=self._text_vector(texts, given),
            lexicon=lexicon_scores(texts, self._lexicon) if self.run.resolved.n_lexicon else None,
            scene=pooled_maps(self._maps(self.scene, pictures)) if self.scene else None,
        )
        if REGIONS not in self.reads:
            given = replace(given, regions=None)
        keys: list[list[str]] | None = None
        if self.reads & {OWNER_LINKS, TAG_LINKS}:
            keys = [[] for _ in texts]
        words = list(texts) if self.reads_words else []
        return Inputs(
            self.backbone, self.encoder, words, None, SENTENCES in self.reads, given, keys, self.hashes
        )

    def _pictures(self, pictures: Sequence[Picture], given: Examples) -> Examples:
        if self.backbone is None:
            return given
        if self.run.settings.fine_tune != "none" and self.run.resolved.backbone_sha256:
            given = replace(given, pixels=_stacked(pictures, self.backbone.size))
            maps = self._maps(self.backbone, pictures) if self.detectors else None
        else:
            maps = self._maps(self.backbone, pictures)
            given = replace(given, regions=maps)
        if ANP_SCORES not in self.reads:
            return given
        features = pooled_maps(maps)
        return replace(given, anp_scores=self.detectors.scores(features) if self.detectors else features)

    def _maps(self, backbone: Backbone, pictures: Sequence[Picture]) -> npt.NDArray[np.float16]:
        """`[N, C, H, W]` as the cache of a dataset holds them; zero where there is no picture."""
        maps = np.zeros((len(pictures), backbone.channels, *backbone.grid), np.float16)
        there = np.flatnonzero([picture.pixels is not None for picture in pictures])
        network = self._fused[id(backbone)]
        for start in range(0, len(there), _ROWS):
            rows = there[start : start + _ROWS]
            pixels = torch.from_numpy(_stacked([pictures[row] for row in rows], backbone.size))
            maps[rows] = compute_maps(network, pixels)
        return maps

    @cached_property
    def _fused(self) -> dict[int, Backbone]:
        loaded = [backbone for backbone in (self.backbone, self.scene) if backbone]
        return {id(backbone): fused(backbone).to(self.device) for backbone in loaded}

    def _words(self, texts: Sequence[str], given: Examples) -> Examples:
        """The words through a transformer, if the run has one; else a vocabulary numbers them later."""
        if self.encoder is None:
            return given
        tuned = self.run.settings.fine_tune_words != "none"
        return replace(given, words=self._encoded(self.encoder, texts, tuned=tuned), tuned=tuned)

    def _encoded(self, encoder: TextEncoder, texts: Sequence[str], *, tuned: bool) -> Text:
        longest = self.run.resolved.max_tokens or self.run.settings.max_words or TWEET_TOKENS
        tokens = encoder.tokenize(texts, longest)
        if tuned:
            return Text(tokens.lengths, numbers=tokens.numbers, sentence=tokens.sentence)
        parts = [
            encode_batch(
                encoder, tokens.numbers[start : start + _ROWS], tokens.lengths[start : start + _ROWS]
            )
            for start in range(0, len(texts), _ROWS)
        ]
        vectors = torch.cat(parts).half().numpy()  # as the cache of a dataset holds them
        return Text(tokens.lengths, vectors=vectors, sentence=tokens.sentence)

    def _text_vector(self, texts: Sequence[str], given: Examples) -> Floats | None:
        if not self.text_encoders:
            return None
        vectors = []
        for encoder in self.text_encoders:
            words = given.words if encoder is self.encoder else None
            if words is None or words.vectors is None:
                words = self._encoded(encoder, texts, tuned=False)
            vectors.append(mean_words(words))
        return np.concatenate(vectors, axis=1)

    @property
    def _lexicon(self) -> str:
        name = self.run.settings.lexicon
        return "vader" if name == "none" else name

    def _backbone(self) -> Backbone | None:
        known = self.run.resolved.backbone_sha256
        if not known and self.detectors is None:
            return None
        settings = self.run.settings
        backbone = load_backbone(settings.backbone, tap=settings.tap, weights=settings.weights)
        if known:
            self.hashes["backbone"] = backbone.weights_sha256
        elif self.detectors and self.detectors.backbone_sha256 != backbone.weights_sha256:
            raise RunError(
                f"{settings.anps}: these ANP detectors read another backbone than {settings.backbone}",
                "Restore what they were trained with, or train again",
            )
        return backbone

    def _scene(self) -> Backbone | None:
        name = self.run.settings.scene_backbone
        if SCENE not in self.card.may_read or not name:
            return None
        backbone = load_scene_backbone(name)
        self.hashes["scene"] = backbone.weights_sha256
        return backbone

    def _detectors(self) -> AnpDetectors | None:
        path = Path(self.run.settings.anps)
        if ANP_SCORES not in self.reads or not self.run.settings.anps:
            return None
        if path.suffix == ".parquet":
            raise RunError(
                f"{self.run.path}: reads ANP scores from {path}, which has none for new pictures",
                "Train it with detectors instead: mvsent train-anps, then train --anps anps.safetensors",
            )
        detectors = AnpDetectors.load(path)
        self.hashes["anps"] = hashlib.sha256(path.read_bytes()).hexdigest()
        return detectors

    def _encoder(self) -> TextEncoder | None:
        words = self.run.settings.words
        if not self.reads_words or self.run.resolved.words_sha256:
            return None
        if not is_encoder(words):
            raise WeightsError(
                f"{words}: the run read its words through this transformer, and it is not here", "Restore it"
            )
        encoder = load_text_encoder(words).to(self.device)
        self.hashes["encoder"] = encoder.weights_sha256
        return encoder

    def _text_encoders(self) -> list[TextEncoder]:
        if not self.run.resolved.text_size:
            return []
        name = self.run.settings.text_vector
        names = (MINILM if name == "auto" else name).split(",")
        own = self.encoder
        found = [own if own and own.name == each else load_text_encoder(each) for each in names]
        self.hashes["text_vector"] = ",".join(encoder.weights_sha256 for encoder in found)
        return [encoder.to(self.device) for encoder in found]


def _why(rejection: Rejection) -> str:
    """Without the first bytes of what is no picture: a stranger's table may name any file, a key's too."""
    if rejection.reason is Reason.IMAGE_NOT_AN_IMAGE:
        return f"{rejection.reason}: does not begin as a picture does"
    return f"{rejection.reason}: {rejection.detail}"


def read_picture(path: Path) -> bytes:
    """The first bytes of the file, one more than a picture may have at most.

    Raises: InputError for what is no readable file; it does not wait for a pipe.
    """
    try:
        if not path.is_file():
            problem = "not a file" if path.exists() else "no such file"
            raise InputError(f"{Reason.IMAGE_MISSING}: {path}: {problem}")
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        said = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{Reason.IMAGE_MISSING}: {path}: {said}") from None


def _stacked(pictures: Sequence[Picture], side: int) -> npt.NDArray[np.uint8]:
    """`[N, 3, side, side]` in channels-last memory, zero where there is no picture."""
    pixels = np.zeros((len(pictures), side, side, 3), np.uint8)
    for row, picture in enumerate(pictures):
        if picture.pixels is not None:
            pixels[row] = picture.pixels[side]
    return pixels.transpose(0, 3, 1, 2)


def _flags(there: Sequence[bool]) -> npt.NDArray[np.bool_] | None:
    return None if all(there) else np.array(there, np.bool_)
