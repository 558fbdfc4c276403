"""Computing on a GPU: as exactly as on a CPU, and with an error that says when its memory is full."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mvsent.errors import DeviceMemoryError


@contextmanager
def single_precision() -> Iterator[None]:
    """Within the block cuDNN multiplies single-precision numbers as they are.

    By default it rounds factors to TF32, which has 10 bits: convolutions and LSTMs then differ from the CPU's
    in the fourth digit. Products of matrices are not rounded by default.
    """
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@contextmanager
def device_memory_named() -> Iterator[None]:
    """Within the block a GPU whose memory is full raises DeviceMemoryError."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).split(". ")[0]
        raise DeviceMemoryError(
            f"the device has too little memory for a step ({reason})", "Give a smaller --batch-size"
        ) from error
