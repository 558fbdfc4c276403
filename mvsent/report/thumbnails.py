"""Small pictures that stand in a page as data URIs."""

import base64
import io
import warnings

from PIL import Image

from mvsent.curate.images import FORMATS, to_rgb

SIDE = 240
"""Pixels of a thumbnail's longer side."""
MAX_PIXELS = 100_000_000
"""A larger picture is not decoded for a thumbnail."""
_TRIES = ((1.0, 65), (1.0, 40), (0.5, 40), (0.25, 30))  # share of the side, quality


def thumbnail(data: bytes, max_bytes: int, side: int = SIDE) -> str:
    """The picture in `data` as a WebP data URI; empty where it cannot be decoded, or not be made that small.

    Args:
        data: an encoded picture, from anywhere.
        max_bytes: of the encoded thumbnail; a rougher or smaller one is made where it takes more.
        side: pixels of the longer side, at most.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    return ""
                image.draft("RGB", (2 * side, 2 * side))  # only a JPEG heeds it
                small = to_rgb(image)
    except Exception:  # plugins raise whatever hostile bytes make them raise
        return ""
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    for share, quality in _TRIES:
        encoded = _webp(small, share, quality)
        if len(encoded) <= max_bytes:
            return "data:image/webp;base64," + base64.b64encode(encoded).decode()
    return ""


def _webp(image: Image.Image, share: float, quality: int) -> bytes:
    size = (max(1, round(image.width * share)), max(1, round(image.height * share)))
    stream = io.BytesIO()
    image.resize(size).save(stream, "WEBP", quality=quality, method=4)
    return stream.getvalue()
