"""Small pictures as data URIs for a page."""

import base64
import io
import warnings

from PIL import Image

from mvsent.curate.images import FORMATS, to_rgb

SIDE = 240
"""Longer side of a thumbnail, in pixels."""
MAX_PIXELS = 100_000_000
"""Pictures with more pixels are not decoded."""
_TRIES = ((1.0, 65), (1.0, 40), (0.5, 40), (0.25, 30))  # share of the side, quality


def thumbnail(data: bytes, max_bytes: int, side: int = SIDE) -> str:
    """Make a WebP data URI of a picture; empty if it cannot be decoded or made small enough.

    Args:
        data: an encoded, untrusted picture.
        max_bytes: limit of the encoded thumbnail; quality and size are reduced until it fits.
        side: maximum length of the longer side, in pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns from 89 million pixels on
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    return ""
                image.draft("RGB", (2 * side, 2 * side))  # has an effect on JPEG only
                small = to_rgb(image)
    except Exception:  # Pillow's plugins raise exceptions of any kind on hostile bytes
        return ""
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    for share, quality in _TRIES:
        size = (max(1, round(small.width * share)), max(1, round(small.height * share)))
        stream = io.BytesIO()
        small.resize(size).save(stream, "WEBP", quality=quality, method=4)
        if len(encoded := stream.getvalue()) <= max_bytes:
            return "data:image/webp;base64," + base64.b64encode(encoded).decode()
    return ""
