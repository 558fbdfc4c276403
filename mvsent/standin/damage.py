"""Bodies of faulty answers: placeholder, SVG, decompression bomb."""

import struct
import zlib
from functools import cache
from io import BytesIO

from PIL import Image, ImageDraw

BOMB_SIDE = 30_000
"""Pixels; 30,000 × 30,000 one-bit pixels unpack to 112 MB, and to 2.7 GB as RGB."""

SVG = b"""<?xml version="1.0"?>
<svg xmlns="http://www.w3.org/2000/svg" width="640" height="480"><script>alert(1)</script></svg>
"""


@cache
def placeholder() -> bytes:
    """A grey PNG like the one that Flickr shows for a photo that is gone."""
    image = Image.new("RGB", (500, 374), (243, 245, 246))
    ImageDraw.Draw(image).text((90, 180), "This photo is no longer available", fill=(120, 120, 120))
    data = BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


@cache
def bomb() -> bytes:
    """A valid PNG of about 110 kB that unpacks to gigabytes of pixels."""
    header = struct.pack(">IIBBBBB", BOMB_SIDE, BOMB_SIDE, 1, 0, 0, 0, 0)
    pack = zlib.compressobj(9)
    row = bytes(1 + BOMB_SIDE // 8)
    pixels = b"".join(pack.compress(row * 1000) for _ in range(BOMB_SIDE // 1000)) + pack.flush()
    chunks = [(b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
