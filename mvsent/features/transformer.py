"""Texts through a transformer: a contextual vector for each token, and one vector for the whole text.

Weights come from a folder in Hugging Face's layout, from its hub, or from installed packages.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mvsent.errors import WeightsError, did_you_mean
from mvsent.features.backbone import state_sha256
from mvsent.features.encoder_packages import MINILM, PACKAGES
from mvsent.features.hugging_face import (
    half_of,
    hub_folder,
    is_hub_id,
    layers_of,
    load_model,
    load_tokenizer,
    revision_of,
)
from mvsent.features.vectors import VECTOR_NAMES

SENTENCE_ENDS = frozenset(".!?…")
SHORTEST = 3
"""Minimum number of tokens to read: the two special tokens and one between them."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Tokens:
    """`N` texts as token numbers of a transformer.

    Attributes:
        numbers: `[N, S]`; 0 after the last token.
        lengths: `[N]`, at least 2: the first and last tokens are special.
        sentence: `[N, S]`, the number of a token's sentence, from 0; 0 after the last token.
    """

    numbers: Ints
    lengths: Ints
    sentence: Ints


class TextEncoder(nn.Module):
    """A transformer over texts. Attributes: name, size (features of a word), weights_sha256."""

    def __init__(self, name: str, transformer: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        self.name, self.transformer, self._tokenizer = name, transformer, tokenizer
        self.size = int(transformer.config.hidden_size)  # type: ignore[union-attr, arg-type]
        self.weights_sha256 = state_sha256(transformer.state_dict())
        self._most = min(_positions(transformer), tokenizer.model_max_length)
        self.folder, self.revision = Path(), ""
        """Where it was loaded from, and the commit if that is a snapshot of the hub."""
        self.projection: list[nn.Module] = []
        """The layer that projects a CLIP's text beside its pictures, if there is one.

        Not a submodule, so that it is not among the weights of a fine-tuned encoder.
        """
        self.eval()

    def tokenize(self, texts: Sequence[str], max_tokens: int) -> Tokens:
        """The first tokens of each text, at most `max_tokens` and at most the transformer's own limit."""
        longest = max(SHORTEST, min(max_tokens, self._most))
        rows = self._tokenizer(list(texts), truncation=True, max_length=longest)["input_ids"]
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        numbers = np.zeros((len(rows), int(lengths.max(initial=1))), dtype=np.int64)
        for i, row in enumerate(rows):
            numbers[i, : len(row)] = row
        return Tokens(numbers, lengths, self._sentences(numbers, lengths))

    def pieces(self, text: str, max_tokens: int) -> list[str]:
        """The tokens of `tokenize` as readable text, special tokens included."""
        return [
            self._tokenizer.decode([number]).strip()
            for number in self.tokenize([text], max_tokens).numbers[0]
        ]

    def _sentences(self, numbers: Ints, lengths: Ints) -> Ints:
        known, where = np.unique(numbers, return_inverse=True)
        is_end = np.array([self._ends_sentence(number) for number in known.tolist()], dtype=bool)
        ends = is_end[where].reshape(numbers.shape)
        begins = np.zeros_like(ends)
        begins[:, 1:] = ends[:, :-1] & ~ends[:, 1:]  # "?!" and "..." end one sentence
        begins[np.arange(numbers.shape[1]) >= lengths[:, None] - 1] = False  # the closing token begins none
        sentence: Ints = np.cumsum(begins, axis=1, dtype=np.int64)
        sentence[np.arange(numbers.shape[1]) >= lengths[:, None]] = 0
        return sentence

    def _ends_sentence(self, number: int) -> bool:
        # Decoded, because tokenizers write a sign in different ways: ".", ".</w>", "▁.".
        return frozenset(self._tokenizer.decode([number]).strip() or "-") <= SENTENCE_ENDS

    def forward(self, numbers: Tensor, mask: Tensor) -> Tensor:
        """`[B, S]`, `[B, S]` → `[B, S, size]`, zero on padding."""
        states: Tensor = self.transformer(input_ids=numbers, attention_mask=mask.long()).last_hidden_state
        return states * mask.unsqueeze(-1)

    def projected(self, numbers: Tensor, mask: Tensor) -> Tensor:
        """The text beside the pictures of a CLIP-style model: `[B, S]`, `[B, S]` → `[B, D]`."""
        pooled: Tensor = self.transformer(input_ids=numbers, attention_mask=mask.long()).pooler_output
        for layer in self.projection:
            pooled = layer.to(pooled.device)(pooled)
        return pooled

    def last_block_parameters(self) -> list[nn.Parameter]:
        """The parameters that `--fine-tune-words last` trains: those of the last layer."""
        _, layers = layers_of(self.transformer)
        return list(layers[-1].parameters())


def _positions(transformer: nn.Module) -> int:
    """Maximum number of tokens that a transformer can tell apart; RoBERTa's reserve the first positions."""
    for name, module in transformer.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            reserved = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - reserved
    config: Any = transformer.config
    stated = getattr(config, "max_position_embeddings", None) or 0
    return stated if stated > 0 else sys.maxsize  # relative positions have no end


def load_text_encoder(name: str, revision: str = "") -> TextEncoder:
    """Load the encoder `name` in eval mode on the CPU; for a CLIP-style model, its text half.

    Args:
        name: a key of `PACKAGES`, a folder, or an id of Hugging Face's hub.
        revision: the commit of the hub's repository; empty: the one that the id states, or the newest.

    Raises: WeightsError if the package, the library, the folder or the repository is missing, or is not a
        transformer, or its tokenizer is another model's.
    """
    folder = encoder_folder(name, revision)
    tokenizer, model = load_tokenizer(folder), load_model(folder)
    half = half_of(model, "text_model")
    if getattr(half.config, "is_encoder_decoder", False):
        half = half.get_encoder()  # type: ignore[operator]
    known = half.get_input_embeddings().num_embeddings  # type: ignore[operator]
    if len(tokenizer) > known:
        raise WeightsError(
            f"{name}: its tokenizer has {len(tokenizer)} tokens and the model only {known}",
            "Give a folder whose tokenizer was made for its model",
        )
    encoder = TextEncoder(name, half, tokenizer)
    encoder.folder, encoder.revision = folder, revision_of(folder)
    if half is not model and isinstance(head := getattr(model, "text_projection", None), nn.Module):
        encoder.projection.append(head)
    return encoder


def encoder_folder(name: str, revision: str = "") -> Path:
    """The folder of the encoder `name`. Raises: WeightsError if it is not here and cannot be fetched."""
    if name in PACKAGES:
        return PACKAGES[name].folder()
    if is_hub_id(name):
        return hub_folder(name, revision)
    folder = Path(name)
    if not folder.is_dir():
        raise WeightsError(
            f"{name}: no such folder of a transformer",
            f"{did_you_mean(name, PACKAGES)}Give one, or {', '.join(PACKAGES)}, or an id such as "
            "cardiffnlp/twitter-roberta-base",
        )
    return folder


def encoder_status(name: str = MINILM) -> str:
    """Describe whether the encoder of a package is installed."""
    return PACKAGES[name].status()


def is_encoder(words: str) -> bool:
    """Whether `--words` names a transformer rather than a table of word vectors."""
    return words in PACKAGES or (words not in VECTOR_NAMES and (Path(words).is_dir() or is_hub_id(words)))


def pooled(vectors: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens of each text, scaled to length 1: `[B, S, D]`, mask `[B, S]` → `[B, D]`.

    Reference: Reimers & Gurevych 2019 (Sentence-BERT), mean pooling.
    """
    total = (vectors * mask.unsqueeze(-1)).sum(dim=1)  # a mean has the same direction
    return nn.functional.normalize(total, dim=1)


@torch.inference_mode()
def encode_batch(encoder: TextEncoder, numbers: Ints, lengths: Ints) -> Tensor:
    """Vectors `[n, S, size]` of the tokens `[n, S]`; zero after the end of each text."""
    longest = int(lengths.max())  # of the batch, so that less padding is computed
    mask = torch.arange(longest) < torch.from_numpy(lengths)[:, None]
    vectors = torch.zeros(*numbers.shape, encoder.size)
    device = next(encoder.parameters()).device
    states = encoder(torch.from_numpy(numbers[:, :longest]).to(device), mask.to(device))
    vectors[:, :longest] = states.float().cpu()
    return vectors
