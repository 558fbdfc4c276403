"""Undoing a body's `Content-Encoding` without unpacking more than is wanted."""

import zlib


class EncodingError(ValueError):
    """The body is damaged, or not in the encoding that its header states."""


class UnknownEncodingError(EncodingError):
    """The encoding is not one that `decoded` undoes."""


def decoded(data: bytes, encoding: str, max_bytes: int) -> bytes:
    """The body as it was before `encoding` (gzip, deflate, none), cut after max_bytes + 1 bytes.

    >>> import gzip
    >>> decoded(gzip.compress(b"abcdef"), "gzip", 3), decoded(b"abcdef", "", 3)
    (b'abcd', b'abcd')

    Raises: UnknownEncodingError for any other encoding, two in a row among them;
        EncodingError for a damaged body.
    """
    # One byte more than the limit tells the caller that the body is too long.
    if encoding in ("", "identity"):
        return data[: max_bytes + 1]
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise UnknownEncodingError(f"Content-Encoding {encoding[:40]!r}, which was not asked for")
    try:
        # MAX_WBITS + 32: zlib finds out by the header whether it is gzip or zlib.
        return zlib.decompressobj(wbits=zlib.MAX_WBITS | 32).decompress(data, max_bytes + 1)
    except zlib.error as error:
        raise EncodingError(f"Content-Encoding {encoding}: {error}") from None
