"""Models in Hugging Face's layout: folders, and repositories of the hub, which are downloaded once.

Downloads lie in Hugging Face's own cache, pinned to a revision. No code of a repository is executed, and
pickled files are read as plain tensors alone.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from mvsent.errors import WeightsError, first_line

_LAYOUT = "It should hold config.json, model.safetensors and, for texts, the tokenizer's files"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")
_NEVER = ("onnx/*", "openvino/*", "*.h5", "*.msgpack", "*.ot", "*.onnx", "*/*.bin", "*/*.safetensors")
_CONFIG = ("*.json", "*.txt", "*.model")
_PICKLED = "pytorch_model*.bin"
_TIMEOUT_S = 10.0


def is_hub_id(name: str) -> bool:
    """Whether `name` names a repository of the hub, as ID or ID@REVISION, and no path of this machine.

    >>> is_hub_id("openai/clip-vit-base-patch32"), is_hub_id("a/b@main"), is_hub_id("minilm")
    (True, True, False)
    """
    return bool(_HUB_ID.fullmatch(name)) and not Path(name).exists()


def hub_folder(name: str, revision: str = "") -> Path:
    """The folder of a repository's snapshot in the cache, downloaded if it is not there.

    Args:
        name: ID or ID@REVISION.
        revision: the commit that a run was trained with; empty: that of `name`, or the newest.

    Raises: WeightsError naming what to do if it does not exist, is gated, or there is no network.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
            OfflineModeIsEnabled,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ImportError:
        raise _no_transformers(name) from None
    id, _, named = name.partition("@")
    wanted: dict[str, Any] = {"repo_id": id, "revision": revision or named or None}
    wanted |= {"etag_timeout": _TIMEOUT_S, "ignore_patterns": [*_NEVER]}
    address = f"https://huggingface.co/{id}"
    try:
        folder = Path(snapshot_download(**wanted, allow_patterns=[*_CONFIG, "*.safetensors"]))
        if not [*folder.glob("*.safetensors")]:
            folder = Path(snapshot_download(**wanted, allow_patterns=[*_CONFIG, _PICKLED]))
    except GatedRepoError:
        step = f"Accept its terms at {address}, then log in with: hf auth login"
        raise WeightsError(f"{name}: is gated", step) from None
    except RevisionNotFoundError:
        raise WeightsError(f"{name}: has no such revision", f"See {address}/commits") from None
    except (RepositoryNotFoundError, HFValidationError):
        what = f"{name}: neither a folder here nor a repository that you may read on the hub"
        raise WeightsError(what, f"Correct the name; {_cached()}") from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, OSError, HfHubHTTPError) as error:
        why = "offline" if os.environ.get("HF_HUB_OFFLINE") else first_line(error)
        raise WeightsError(
            f"{name}: not in the cache, and the hub cannot be reached ({why})",
            f"Fetch it where there is a network: hf download {id}; {_cached()}",
        ) from None
    return folder


def revision_of(folder: Path) -> str:
    """The commit of a snapshot folder of the hub's cache; empty for another folder."""
    return folder.name if folder.parent.name == "snapshots" else ""


def _cached() -> str:
    """Name what the hub's cache holds, for an error."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        ids = sorted(repo.repo_id for repo in scan_cache_dir(constants.HF_HUB_CACHE).repos)
    except (CacheNotFound, OSError):
        ids = []
    more = f" and {len(ids) - 5} more" if len(ids) > 5 else ""
    return f"the cache holds {', '.join(ids[:5])}{more}" if ids else "the cache is empty"


def load_model(folder: Path) -> nn.Module:
    """Load the model in `folder` in single precision.

    Raises: WeightsError if transformers is missing, the model is larger than the free memory, or the folder
        does not hold a complete one.
    """
    transformers = _transformers(folder)
    files = [*folder.glob("*.safetensors")] or [*folder.glob(_PICKLED)]
    refuse_too_large(folder, sum(file.stat().st_size for file in files), "encoder")
    with _refusal(folder):
        model, report = transformers.AutoModel.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=bool([*folder.glob("*.safetensors")]) or not [*folder.glob(_PICKLED)],
            weights_only=True,
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
    try:
        import transformers
    except ImportError:
        raise _no_transformers(folder) from None
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    return transformers


def _no_transformers(name: object) -> WeightsError:
    return WeightsError(
        f"{name}: reading it needs the package transformers", 'pip install "mvsent[transformers]"'
    )


def refuse_too_large(name: object, needed: int, kind: str, flag: str = "") -> None:
    """Raise WeightsError for weights of `needed` bytes that the free memory of this machine cannot hold.

    Args:
        kind: of a smaller one to take, `encoder` or `backbone`.
        flag: takes vectors that were computed elsewhere, as ` with --image-vector FILE`.
    """
    free = free_memory()
    if free and needed > free:
        raise WeightsError(
            f"{name}: its weights take {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB of memory are free",
            f"Take a smaller {kind} or another machine, or give vectors that you computed elsewhere{flag}",
        )


def free_memory() -> int:
    """Bytes of memory that programs may still take; 0 if the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return 0


@contextmanager
def _refusal(folder: Path) -> Iterator[None]:
    """Turn any exception of the block into a WeightsError that names the folder."""
    try:
        yield
    except Exception as error:  # every kind of broken file raises its own exception
        raise WeightsError(
            f"{folder}: not the folder of a transformer ({first_line(error)})", _LAYOUT
        ) from None
