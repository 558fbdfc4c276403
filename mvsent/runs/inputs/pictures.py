"""Pictures (a path, bytes, or decoded already) as the squares that backbones read."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mvsent.curate.images import opened_image, turn_of, without_content
from mvsent.errors import InputError
from mvsent.features.pixels import Pixels, decode_pixels, squashed
from mvsent.reasons import Reason, Rejection

ImageLike = str | os.PathLike[str] | bytes | Image.Image
"""A picture: the path of its file, its bytes, or decoded already."""

MAX_BYTES, MAX_PIXELS = 32 * 2**20, 100_000_000
"""Limits of one picture; a larger one is refused before it is decoded."""


@dataclass(frozen=True)
class Picture:
    """A decoded picture, or the reason why it cannot be decoded.

    Attributes:
        pixels: side of the square → uint8 `[side, side, 3]`; None where there is no picture.
        error: in one line; empty where nothing is wrong.
    """

    pixels: Mapping[int, Pixels] | None = None
    error: str = ""


NO_PICTURE = Picture()


def decode_picture(image: ImageLike | None, sides: Sequence[int], max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode a picture to squares of `sides` pixels; safe to call from many threads.

    Without `sides`, the picture is not opened. One of more than `max_pixels` is refused before it is decoded.
    """
    if image is None or not sides:
        return NO_PICTURE if image is None else Picture({})
    try:
        if isinstance(image, Image.Image):
            return Picture({side: squashed(image, side) for side in sides})
        data = image if isinstance(image, bytes) else read_picture(Path(image))
        opened = opened_image(data, max_pixels=max_pixels, max_bytes=MAX_BYTES)
        if isinstance(opened, Rejection):
            return Picture(error=f"{opened.reason}: {without_content(opened).detail}")
        with turn_of(opened.width * opened.height):
            try:
                return Picture({side: decode_pixels(data, side) for side in sides})
            except InputError as error:
                return Picture(error=f"{Reason.IMAGE_CORRUPT}: {error.what}")
    except InputError as error:
        return Picture(error=error.what)
    except Exception as error:  # a decoded picture may be one whose file is gone, or of any mode
        return Picture(error=f"{Reason.IMAGE_CORRUPT}: {type(error).__name__}: {error}")


def read_picture(path: Path) -> bytes:
    """Read the file's first bytes, one more than a picture may have at most.

    Raises: InputError if `path` is not a readable file; a pipe is refused, as it could block for ever.
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
