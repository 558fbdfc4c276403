"""Atomic writing of files: temporary name → fsync → rename."""

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
    """A binary file under a temporary name; `commit` renames it, `discard` removes it.

    Every OSError names `path` instead of the temporary name; the error of a full disk names no file by
    itself.

    A file for object storage is written locally first, and sent as a whole.

    Raises: UsageError if `path` is a folder, a device or a pipe, which the rename would replace.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._is_remote = path, is_remote(path)
        if not self._is_remote and path.exists() and not path.is_file():
            raise UsageError(f"{path}: is there, and no ordinary file", "Choose another name")
        # Beside the target, because a rename cannot cross file systems.
        beside = Path(tempfile.mkdtemp(prefix="mvsent-")) if self._is_remote else path.parent
        self._temporary = beside / f".{path.name}.{os.getpid()}.tmp"
        with self.naming_path():
            self.file = self._temporary.open("wb")

    def commit(self) -> None:
        """Store the content under `path`, on disk or in object storage."""
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
        """Remove the file, unless it was committed."""
        with suppress(OSError):  # closing flushes, which fails again on a full disk
            self.file.close()
        self._temporary.unlink(missing_ok=True)
        if self._is_remote:
            shutil.rmtree(self._temporary.parent, ignore_errors=True)

    @contextmanager
    def naming_path(self) -> Iterator[None]:
        """Make an OSError of the block name `path`, if it names no file or the temporary one."""
        try:
            yield
        except OSError as error:
            if error.filename in (None, str(self._temporary)):
                error.filename = str(self.path)
            raise


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Yield a binary file that becomes `path` if the block succeeds; otherwise `path` is unchanged.

    The bytes are synced before the rename, so a crash leaves either the old or the new file. The temporary
    file `.NAME.PID.tmp` is beside `path`; the leftover of a killed process is harmless.
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
    """Sync the names in `folder`, so that earlier renames survive a power cut."""
    if is_remote(folder):
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
