"""The files of a published dataset, in a folder or in a zip that is never extracted.

Names are relative and use `/`; reads are bounded, so neither a huge file nor a zip bomb costs more than its
limit.
"""

import lzma
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from mvsent.errors import InputError, UsageError
from mvsent.storage import local_only, unlike_driver

# Errors of `zipfile` for a damaged member; which one depends on its compression.
_DAMAGES = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    OSError,
    ValueError,
)


class Files(Protocol):
    """Named files that can be read from several threads at once."""

    def where(self, name: str) -> str:
        """The file's name in messages."""

    def names(self, depth: int) -> Iterator[str]:
        """Names of all files at most `depth` folders deep, in no particular order."""

    def path(self, name: str) -> Path | None:
        """Path of the file on the disk; None if it is in a zip, or missing."""

    def read(self, name: str, limit: int) -> bytes | None:
        """The file's bytes, cut off after `limit + 1` of them; None if there is no such file.

        Raises: InputError if the file cannot be read or is damaged.
        """


@contextmanager
def open_files(root: Path) -> Iterator[Files]:
    """Open the files under the folder or in the zip `root`.

    Raises: UsageError if there is no `root`; InputError if it is neither a folder nor a readable zip, or an
    encrypted one.
    """
    if local_only(root, "the folder or zip").is_dir():
        yield FolderFiles(root)
    elif not root.exists():
        raise UsageError(f"{root}: no such folder or zip file", "Give the dataset's folder or its zip")
    else:
        try:
            archive = zipfile.ZipFile(root)
        except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError) as error:
            raise InputError(
                f"{root}: neither a folder nor a readable zip file ({error})",
                "Give the dataset's folder or its zip",
            ) from None
        with archive:
            yield ZipFiles(archive, root)


def _opened_elsewhere(root: Path) -> Files:
    """The files of `root` in a process that they were pickled for, open until it ends."""
    opened = open_files(root)
    try:
        files = opened.__enter__()
    except UsageError:
        raise unlike_driver(root, "not found") from None
    _open.append(opened)
    return files


_open: list[AbstractContextManager[Files]] = []


class FolderFiles:
    """The regular files under a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened_elsewhere, (self._root.absolute(),)

    def where(self, name: str) -> str:
        return str(self._root / name)

    def names(self, depth: int) -> Iterator[str]:
        # Links may lead in a circle; `depth` ends it.
        for folder, subfolders, files in os.walk(self._root, followlinks=True):
            inside = Path(folder).relative_to(self._root)
            yield from ((inside / file).as_posix() for file in files)
            if len(inside.parts) >= depth:
                subfolders.clear()

    def path(self, name: str) -> Path | None:
        path = self._root / name
        return path if os.path.isfile(path) else None  # noqa: PTH113 - never raises

    def read(self, name: str, limit: int) -> bytes | None:
        path = self._root / name
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):  # reading a pipe would block
                return None
            with path.open("rb") as file:
                # `read` allocates all that it is asked for, so not the limit alone.
                return file.read(min(status.st_size, limit + 1))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:  # a link to itself, no permission, a bad block, too long a name
            raise InputError(f"{name}: cannot be read ({error.strerror})") from None


class ZipFiles:
    """The members of a zip, looked up by name and never extracted, so that names like ../x do no harm."""

    def __init__(self, archive: zipfile.ZipFile, root: Path) -> None:
        members = [member for member in archive.infolist() if not member.is_dir()]
        for member in members:
            if member.flag_bits & 1:
                raise InputError(
                    f"{root}: {member.filename} is encrypted",
                    "Unpack it with its password and give the folder",
                )
        self._archive, self._root = archive, root
        # Some programs on Windows write backslashes.
        self._members = {member.filename.replace("\\", "/"): member for member in members}

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened_elsewhere, (self._root.absolute(),)

    def where(self, name: str) -> str:
        return f"{self._root}/{name}"

    def names(self, depth: int) -> Iterator[str]:
        return (name for name in self._members if name.count("/") <= depth)

    def path(self, name: str) -> Path | None:
        return None

    def read(self, name: str, limit: int) -> bytes | None:
        member = self._members.get(name)
        if member is None:
            return None
        try:
            with self._archive.open(member) as file:
                return file.read(limit + 1)  # the declared size may be a lie
        except _DAMAGES as error:
            raise InputError(f"{name}: damaged in {self._root.name}: {error}") from None
