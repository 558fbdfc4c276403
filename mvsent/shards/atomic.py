"""A half-written file never looks finished: temp name → fsync → rename."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from mvsent.errors import UsageError
from mvsent.storage import is_remote, put


class PartialFile:
    """A binary file under a temporary name, which `commit` gives its own name and `discard` removes.

    Every OSError names `path`: not the temporary name, and a full disk does not say by itself where it is.

    What is for object storage is written on this machine first, and sent as a whole.

    Raises: UsageError where `path` is a folder, a device or a pipe, which the new name would replace.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._is_remote = path, is_remote(path)
        if not self._is_remote and path.exists() and not path.is_file():
            raise UsageError(f"{path}: is there, and no ordinary file", "Choose another name")
        beside = Path(tempfile.mkdtemp(prefix="mvsent-")) if self._is_remote else path.parent
        self._temporary = beside / f".{path.name}.{os.getpid()}.tmp"
        with self.naming_path():
            self.file = self._temporary.open("wb")

    def commit(self) -> None:
        """The content is on the disk or in object storage, under `path`."""
        with self.naming_path():
            self.file.flush()
            if self._is_remote:
                self.file.close()
                put(self._temporary, self.path)
                return
            os.fsync(self.file.fileno())
            self.file.close()
            self._temporary.replace(self.path)

    def discard(self) -> None:
        """Nothing is left of the file, unless it was committed."""
        with suppress(OSError):  # closing flushes, which a full disk refuses once more
            self.file.close()
        self._temporary.unlink(missing_ok=True)
        if self._is_remote:
            shutil.rmtree(self._temporary.parent, ignore_errors=True)

    @contextmanager
    def naming_path(self) -> Iterator[None]:
        """An OSError in the block that names no file, or the temporary one, names `path`."""
        try:
            yield
        except OSError as error:
            if error.filename in (None, str(self._temporary)):
                error.filename = str(self.path)
            raise


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that becomes `path` when the block ends well; otherwise `path` stays as it was.

    The bytes are on the disk before the name is, so a crash leaves the old file or the new one. The temporary
    name `.NAME.PID.tmp` lies beside `path`; what a killed process left under it is harmless.
    """
    partial = PartialFile(path)
    try:
        with partial.naming_path():
            yield partial.file
        partial.commit()
    finally:
        partial.discard()
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """The names in `folder` are on the disk: a rename before this call survives a power cut."""
    if is_remote(folder):
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
