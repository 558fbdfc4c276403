"""Whole texts as one vector each, by a text encoder and a rule that pools its tokens."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from mvsent.features.backbone import state_sha256
from mvsent.features.transformer import Ints, TextEncoder, pooled

Pooling = Literal["mean", "cls", "max", "projected"]
"""How the vectors of a text's tokens become one: by their mean, the first one, or each feature's maximum; or
as a CLIP-style model's own vector beside those of pictures."""

_POOLING_FILE = Path("1_Pooling", "config.json")
_SENTENCE_TRANSFORMERS: dict[str, Pooling] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
}


@dataclass(frozen=True)
class SentenceEncoder:
    """A text encoder with the pooling of its vectors."""

    encoder: TextEncoder
    pooling: Pooling

    @property
    def name(self) -> str:
        """The encoder's name."""
        return self.encoder.name

    @property
    def sha256(self) -> str:
        """Hash of the weights that are used; with the mean, that of the encoder alone, as in older runs."""
        parts = [self.encoder.weights_sha256]
        if self.pooling != "mean":
            parts.append(self.pooling)
        if self.pooling == "projected":
            parts += [state_sha256(layer.state_dict()) for layer in self.encoder.projection]
        return "-".join(parts)

    @torch.inference_mode()
    def encode(self, numbers: Ints, lengths: Ints) -> Tensor:
        """Vectors `[n, D]`, float32 of length 1, of the tokens `[n, S]` with `lengths` `[n]`."""
        longest = int(lengths.max())
        device = next(self.encoder.parameters()).device
        mask = (torch.arange(longest) < torch.from_numpy(lengths)[:, None]).to(device)
        tokens = torch.from_numpy(numbers[:, :longest]).to(device)
        if self.pooling == "projected":
            return nn.functional.normalize(self.encoder.projected(tokens, mask).float(), dim=1).cpu()
        # In half precision as the cache of words has them, so that both give the same mean.
        states = self.encoder(tokens, mask).half().float()
        if self.pooling == "mean":
            return pooled(states, mask).cpu()
        if self.pooling == "cls":
            return nn.functional.normalize(states[:, 0], dim=1).cpu()
        largest = states.masked_fill(~mask.unsqueeze(-1), -torch.inf).amax(dim=1)
        return nn.functional.normalize(largest, dim=1).cpu()


def own_pooling(folder: Path, encoder: TextEncoder) -> Pooling:
    """The pooling that the encoder in `folder` was trained with, as far as its files say; else the mean."""
    if encoder.projection:
        return "projected"
    try:
        stated = json.loads((folder / _POOLING_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "mean"
    if not isinstance(stated, dict):
        return "mean"
    named = stated.get("pooling_mode")  # as Sentence Transformers 6 writes it
    for mode in get_args(Pooling):
        if named == mode:
            return mode  # type: ignore[no-any-return]
    return next((mode for key, mode in _SENTENCE_TRANSFORMERS.items() if stated.get(key) is True), "mean")
