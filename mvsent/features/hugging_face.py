"""Models in Hugging Face's folder layout, read from disk; nothing is downloaded, unpickled or executed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from mvsent.errors import WeightsError, first_line

_LAYOUT = "It should hold config.json, model.safetensors and, for texts, the tokenizer's files"


def load_model(folder: Path) -> nn.Module:
    """Load the model in `folder` in single precision.

    Raises: WeightsError if transformers is missing, or the folder does not hold a complete model.
    """
    transformers = _transformers(folder)
    with _refusal(folder):
        model, report = transformers.AutoModel.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    missing = sorted(name for name in report["missing_keys"] if "pooler" not in name)
    if missing:  # transformers initialises them at random
        raise WeightsError(f"{folder}: its weights lack {missing[0]} and {len(missing) - 1} more", _LAYOUT)
    loaded: nn.Module = model.float()
    return loaded


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer in `folder`. Raises: WeightsError if its files are missing."""
    transformers = _transformers(folder)
    with _refusal(folder):
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # transformers invents one without any word
        raise WeightsError(f"{folder}: has no tokenizer files", _LAYOUT)
    return tokenizer


def half_of(model: nn.Module, name: str) -> nn.Module:
    """The half of a CLIP-style model called `name`, or the model itself; without its pooling layer.

    Not every file contains that layer, which is not used: a randomly initialised one would change the hash.
    """
    half: nn.Module = getattr(model, name, model)
    if hasattr(half, "pooler"):
        half.register_module("pooler", None)
    return half


def layers_of(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The name, within `model`, and the stack of a transformer's layers."""
    return next((name, m) for name, m in model.named_modules() if isinstance(m, nn.ModuleList))


def _transformers(folder: Path) -> Any:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before the import, which reads it
    try:
        import transformers
    except ImportError:
        raise WeightsError(
            f"{folder}: reading it needs the package transformers", 'pip install "mvsent[transformers]"'
        ) from None
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    return transformers


@contextmanager
def _refusal(folder: Path) -> Iterator[None]:
    """Turn any exception of the block into a WeightsError that names the folder."""
    try:
        yield
    except Exception as error:  # every kind of broken file raises its own exception
        raise WeightsError(
            f"{folder}: not the folder of a transformer ({first_line(error)})", _LAYOUT
        ) from None
