"""The bytes of a file that may be compressed, up to where it is damaged."""

import bz2
import gzip
import sys
import zlib
from pathlib import Path
from typing import Any

from mvsent.errors import first_line

_PIECE_BYTES = 2**18


class Unpacked:
    """The decompressed bytes of a file; it ends early, and says why, where the file is damaged."""

    def __init__(self, path: str, packing: str) -> None:
        self._raw = Path(path).open("rb")  # noqa: SIM115 - closed with this object
        self._stream: Any = self._raw
        if packing == "bzip2":
            self._stream = bz2.BZ2File(self._raw)
        elif packing == "gzip":
            self._stream = gzip.GzipFile(fileobj=self._raw)
        self._packing, self.at, self.n_whole = packing, 0, 0
        self.broken, self.closed, self._told = "", False, 0

    def __enter__(self) -> "Unpacked":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self.closed = True
        self._stream.close()
        self._raw.close()

    @property
    def n_bytes(self) -> int:
        """Bytes of the file that were read."""
        return self._raw.tell()

    def n_new_bytes(self) -> int:
        """Bytes of the file that were read since the last call."""
        before, self._told = self._told, self.n_bytes
        return self._told - before

    def seek(self, place: int) -> None:
        """Go to a place of a file that is not compressed."""
        self.at = self._told = self._stream.seek(place)

    def readline(self) -> bytes:
        """The rest of the line."""
        line: bytes = self._stream.readline()
        self.at += len(line)
        return line

    def read(self, n: int = -1) -> bytes:
        """Up to `n` bytes; none at the end, or from where the file is damaged."""
        if self.broken:
            return b""
        data: bytes = self._unpack(n) if self._packing else self._stream.read(n)
        self.at += len(data)
        return data

    def _unpack(self, n: int) -> bytes:
        pieces: list[bytes] = []
        left = n if n >= 0 else sys.maxsize
        try:
            # Piece by piece: `read` would lose all of its bytes where the data breaks off.
            while left and (piece := self._stream.read1(min(left, _PIECE_BYTES))):
                pieces.append(piece)
                left -= len(piece)
        except (EOFError, OSError, ValueError, zlib.error) as error:
            self.broken = f"the {self._packing} data breaks off ({first_line(error)})"
        return b"".join(pieces)
