"""Undoing a body's `Content-Encoding` without unpacking more than is wanted."""

import zlib


class EncodingError(ValueError):
    """The body is not in the encoding that it is said to be in."""


class UnknownEncodingError(EncodingError):
    """The encoding is none that we undo."""


def decoded(data: bytes, encoding: str, max_bytes: int) -> bytes:
    """The body as it was before `encoding` (gzip, deflate, none), cut after max_bytes + 1 bytes.

    >>> import gzip
    >>> decoded(gzip.compress(b"abcdef"), "gzip", 3), decoded(b"abcdef", "", 3)
    (b'abcd', b'abcd')

    Raises: UnknownEncodingError for any other encoding, two in a row among them;
        EncodingError for a damaged body.
    """
    if encoding in ("", "identity"):
        return data[: max_bytes + 1]
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise UnknownEncodingError(f"Content-Encoding {encoding[:40]!r}, which was not asked for")
    try:
        return zlib.decompressobj(wbits=zlib.MAX_WBITS | 32).decompress(data, max_bytes + 1)
    except zlib.error as error:
        raise EncodingError(f"Content-Encoding {encoding}: {error}") from None
