"""SQLite's errors as errors of mvsent."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mvsent.errors import DatasetError, StorageError

_SPOILT = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR}  # the last: no such table
_HELD = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


@contextmanager
def readable(path: Path, if_spoilt: str = "Move it away, or begin anew with --overwrite") -> Iterator[None]:
    """Turn SQLite's errors in the block into one that names the file and what to do.

    Raises: DatasetError, which advises `if_spoilt`, for a file that is not ours; StorageError for a file that
        another program holds or a disk that fails.
    """
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # without its details
        if code in _SPOILT:
            raise DatasetError(f"{path}: not a crawl ({error})", if_spoilt) from None
        if code in _HELD:
            next_step = "Another program has it open: end it or wait, then run the same command again"
        else:
            next_step = "See to the disk, then run the same command again"
        raise StorageError(f"{path}: {error}", next_step) from None
