"""Checks of pictures, and their properties and perceptual hashes, from the bytes alone."""

import hashlib
import io
import threading
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from PIL import Image, ImageOps, UnidentifiedImageError

from mvsent.errors import InputError
from mvsent.reasons import Reason, Rejection

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")
"""Formats that may be opened, by content: those that Pillow decodes itself (for EPS it starts a program)."""

_MAGIC = (b"\xff\xd8", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\x00", b"MM\x00*")
_HASH_SIDE = 32  # pixels of the grey thumbnail whose frequencies are hashed
_DRAFT_SIDE = 64  # minimum side of a JPEG's reduced decode, in pixels; 3 of 4 hashes equal the full one's
_FLAT = 2.0  # grey levels; a thumbnail with a smaller deviation has no meaningful hash
_LARGE = 25_000_000  # pixels; larger pictures are decoded one at a time to limit memory
_one_large_picture = threading.Lock()

# Pillow's warnings concern sizes, which are checked here, or are harmless (broken EXIF in a good picture).
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """Properties of a picture, from its bytes."""

    width: int  # pixels, as stored (before any EXIF rotation)
    height: int
    format: str  # Pillow's name: JPEG, PNG, …
    sha256: str  # of the bytes, in hexadecimal
    phash: int | None  # see `phash`; None for a flat picture, whose hash would be noise


def check_image(data: bytes, *, max_pixels: int, max_bytes: int, min_side: int = 0) -> ImageFacts | Rejection:
    """The facts about a picture whose every byte has been decoded, or why it cannot be used.

    The limits (pixels, bytes, pixels of the shorter side) are applied before anything is decoded. A JPEG's
    entropy data is read in full but turned into a small grey picture, at a third of the cost.
    """
    image = opened_image(data, max_pixels=max_pixels, max_bytes=max_bytes, min_side=min_side)
    if isinstance(image, Rejection):
        return image
    width, height = image.size
    kind = str(image.format)
    try:
        with image, turn_of(width * height):
            image.draft("L", (_DRAFT_SIDE, _DRAFT_SIDE))  # only a JPEG heeds it
            grey = _thumbnail(_flat(image))
    except Exception as error:  # hostile bodies raise as freely as hostile headers
        return Rejection(Reason.IMAGE_CORRUPT, _one_line(error))
    bits = None if _is_flat(grey) else _hash_of(grey)
    return ImageFacts(width, height, kind, hashlib.sha256(data).hexdigest(), bits)


def image_columns(
    pictures: Sequence[bytes], *, max_pixels: int = 100_000_000, max_bytes: int = 32 * 2**20
) -> dict[str, list[Any]]:
    """Build the columns image, width, height, sha256 and phash from pictures.

    Raises: InputError naming a picture, counted from 0, that cannot be used.
    """
    columns: dict[str, list[Any]] = {name: [] for name in ("image", "width", "height", "sha256", "phash")}
    for place, data in enumerate(pictures):
        facts = check_image(data, max_pixels=max_pixels, max_bytes=max_bytes)
        if isinstance(facts, Rejection):
            raise InputError(f"picture {place}: {facts.reason}: {facts.detail}", "Leave its pair out")
        columns["image"].append({"bytes": data, "path": None})
        for name in ("width", "height", "sha256", "phash"):
            columns[name].append(getattr(facts, name))
    return columns


def opened_image(
    data: bytes, *, max_pixels: int, max_bytes: int, min_side: int = 0
) -> Image.Image | Rejection:
    """A picture of which only the header was read and which is within the limits, or why it is refused."""
    if len(data) > max_bytes:
        return Rejection(Reason.IMAGE_TOO_LARGE, f"more than {max_bytes} bytes")
    if not data:
        return Rejection(Reason.IMAGE_CORRUPT, "the file is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:  # Pillow's own limit, 179 million pixels
        return Rejection(Reason.IMAGE_TOO_LARGE, str(error).rstrip("."))
    except Exception as error:  # plugins raise whatever hostile headers make them raise
        if data.startswith(_MAGIC):
            return Rejection(Reason.IMAGE_CORRUPT, _one_line(error))
        return Rejection(Reason.IMAGE_NOT_AN_IMAGE, f"starts with {data[:24]!r}")
    width, height = image.size
    if width * height > max_pixels:
        return Rejection(Reason.IMAGE_TOO_LARGE, f"{width}x{height} pixels, more than {max_pixels}")
    if min(image.size) < min_side:
        return Rejection(Reason.IMAGE_TOO_SMALL, f"{width}x{height} pixels, a side is under {min_side}")
    return image


def without_content(rejection: Rejection) -> Rejection:
    """The rejection without the first bytes of the file, which may hold a key if a stranger named it."""
    not_one = rejection.reason is Reason.IMAGE_NOT_AN_IMAGE
    return Rejection(rejection.reason, "does not begin as a picture does") if not_one else rejection


def turn_of(pixels: int) -> AbstractContextManager[object]:
    """A context manager that lets only one picture of more than 25 million pixels be decoded at a time."""
    return _one_large_picture if pixels > _LARGE else nullcontext()


def _one_line(error: Exception) -> str:
    # Pillow's message contains the address of the in-memory file, which differs from run to run.
    text = "cannot be opened" if isinstance(error, UnidentifiedImageError) else str(error)
    return " ".join((text or type(error).__name__).split())[:200]


def phash(image: Image.Image) -> int:
    """The 64-bit perceptual hash of a picture, identical to that of `imagehash.phash`.

    Bit 63 - (8 u + v) is set if the cosine frequency (u, v), both below 8, of the 32x32 grey picture is above
    the median of the 64 frequencies. Rescaled or recompressed copies have the same bits, or nearly.

    >>> f"{phash(Image.linear_gradient('L')):016x}"
    '8000800080008000'
    """
    return _hash_of(_thumbnail(image))


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a picture to 8-bit RGB as a person sees it: first frame, upright, transparency on white.

    16-bit greys are scaled to 8 bits; palettes and CMYK are converted.

    >>> to_rgb(Image.new("RGBA", (1, 1), (255, 0, 0, 0))).getpixel((0, 0))
    (255, 255, 255)
    """
    flat = _flat(image)
    return flat if flat.mode == "RGB" else flat.convert("RGB")


def _flat(image: Image.Image) -> Image.Image:
    """The picture as a person sees it, in RGB, or in L if it is grey already."""
    if image.tell():
        image.seek(0)
    image.load()  # outside the try: a failure here concerns the picture, not its EXIF
    with suppress(Exception):  # broken EXIF is ignored; the picture is fine without it
        image = ImageOps.exif_transpose(image)
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I") or image.mode == "F":
        # 16 or 32 bit integers (0..65535) or floats (0..the largest) become 0..255; Pillow would clip them
        values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)
        full = 65535.0 if image.mode.startswith("I") else max(1.0, float(values.max(initial=0.0)))
        return Image.fromarray(np.clip(values * (255.0 / full), 0, 255).round().astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image if image.mode == "L" else image.convert("RGB")


def _thumbnail(image: Image.Image) -> np.ndarray:
    """Grey levels of the picture, float64 [32, 32]."""
    small = (image if image.mode == "L" else image.convert("L")).resize(
        (_HASH_SIDE, _HASH_SIDE), Image.Resampling.LANCZOS
    )
    return np.frombuffer(small.tobytes(), np.uint8).astype(np.float64).reshape(_HASH_SIDE, _HASH_SIDE)


def _is_flat(grey: np.ndarray) -> bool:
    # Sums of whole numbers are exact, and take a fraction of the time of `std`.
    total, squares = grey.sum(), np.vdot(grey, grey)
    return bool(squares * grey.size - total * total < (_FLAT * grey.size) ** 2)


def _hash_of(grey: np.ndarray) -> int:
    # The constant frequency (0, 0) is included, as in imagehash.
    low = scipy.fft.dctn(grey)[:8, :8]
    middle = np.sort(low, axis=None)[31:33].sum() / 2  # the median, at a tenth of its time
    return int.from_bytes(np.packbits(low > middle).tobytes(), "big")
