"""Outcomes of an unfinished partition in one file, appended to as they come, so that a kill loses none.

A record is a JSON head and the picture's bytes, after their lengths and a checksum.
"""

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from mvsent.curate.images import ImageFacts
from mvsent.fetch import Dropped, Fetched
from mvsent.reasons import Reason

_PREFIX = struct.Struct("<III")  # length of the head, length of the bytes, CRC-32 of both


@dataclass(frozen=True, slots=True)
class _Place:
    head: dict[str, Any]
    start: int
    n_bytes: int


class Spool:
    """The outcomes in the file `path`, by id; a half-written record at its end is cut off."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # Unbuffered, so that a kill loses no record that was added; and not "ab", which ignores `seek`: a
        # record after a failed write has to overwrite the incomplete one.
        path.touch()
        self._file: BinaryIO = path.open("r+b", buffering=0)
        self._places: dict[str, _Place] = {}
        self._end = 0
        for head, start, n_bytes in self._records():
            self._places[head["id"]] = _Place(head, start, n_bytes)
            self._end = start + n_bytes
        self._file.truncate(self._end)

    def __enter__(self) -> "Spool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def n_pictures(self) -> int:
        """Number of outcomes that are pictures."""
        return sum(map(self.is_picture, self._places))

    def __contains__(self, id: str) -> bool:
        return id in self._places

    def is_picture(self, id: str) -> bool:
        """Whether the candidate's outcome is a picture."""
        return id in self._places and "reason" not in self._places[id].head

    def add(self, outcome: Fetched | Dropped) -> None:
        """Append the outcome. Raises: OSError naming the file."""
        head: dict[str, Any]
        if isinstance(outcome, Dropped):
            head, data = {"id": outcome.id, "reason": str(outcome.reason), "detail": outcome.detail}, b""
        else:
            facts = asdict(outcome.facts)
            head = {"id": outcome.id, "facts": facts, "url": outcome.url, "asked": outcome.asked}
            data = outcome.data
        text = json.dumps(head).encode()
        prefix = _PREFIX.pack(len(text), len(data), zlib.crc32(data, zlib.crc32(text)))
        start = self._end + len(prefix) + len(text)
        self._file.seek(self._end)
        left = memoryview(prefix + text + data)
        try:
            while left:  # an unbuffered write may take only part of it
                left = left[self._file.write(left) :]
        except OSError as error:
            error.filename = error.filename or str(self._path)
            raise
        self._places[outcome.id] = _Place(head, start, len(data))
        self._end = start + len(data)

    def get(self, id: str) -> Fetched | Dropped:
        """The outcome of a candidate. Raises: KeyError if it has none."""
        place = self._places[id]
        if "reason" in place.head:
            return Dropped(id, Reason(place.head["reason"]), place.head["detail"])
        self._file.seek(place.start)
        data = self._file.read(place.n_bytes)
        # The spool of an earlier version has the address after redirects alone.
        url = place.head["url"]
        return Fetched(id, data, ImageFacts(**place.head["facts"]), url, place.head.get("asked", url))

    def remove(self) -> None:
        """Delete the file."""
        self._path.unlink(missing_ok=True)

    def _records(self) -> Iterator[tuple[dict[str, Any], int, int]]:
        """Yield (head, start of the bytes, number of bytes) of each record before the first damaged one."""
        while len(prefix := self._file.read(_PREFIX.size)) == _PREFIX.size:
            n_head, n_bytes, checksum = _PREFIX.unpack(prefix)
            text = self._file.read(n_head)
            start = self._file.tell()
            data = self._file.read(n_bytes)
            # No head is empty, but the checksum of zeros, which a power cut may leave, is right.
            if not text or len(data) != n_bytes or zlib.crc32(data, zlib.crc32(text)) != checksum:
                return
            yield json.loads(text), start, n_bytes
