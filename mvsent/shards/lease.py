"""A lock for object storage: an object names the process that may write a place.

It relies on the only atomic operation of such storage, "create unless it exists".
"""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from mvsent.errors import StorageError, UsageError
from mvsent.storage import created, reaching, undoing

_TRIES = 8  # attempts, as another process may release the lease at the same moment
_held: set[str] = set()
"""Leases that this process holds."""


@contextmanager
def lease(path: Path) -> Iterator[None]:
    """Hold the object `path` within the block, against processes on any machine; it is removed afterwards.

    The lease of a dead process on this machine is taken over. On another machine it cannot be checked: a
    person decides.

    Raises: UsageError if another process holds it; StorageError if its holder cannot be determined.
    """
    id = uuid4().hex
    own = {"host": socket.gethostname(), "pid": os.getpid(), "id": id}
    _held.add(id)
    try:
        with undoing(lambda error: _give_back(path, own)):
            _take(path, own)
            yield
    finally:
        _held.discard(id)
    _give_back(path, own)


def _take(path: Path, own: dict[str, Any]) -> None:
    for n_tried in range(_TRIES):
        if created(path, json.dumps(own).encode()):
            return
        holder = _holder(path)
        if holder == own:
            return  # the answer was lost, and the library repeated the request
        if holder is None:
            time.sleep(0.05 * n_tried)  # it has just been released
        elif _is_dead(holder):
            _bury(path)
        else:
            raise UsageError(
                f"another mvsent process is writing here (process {holder.get('pid')} on {holder.get('host')}"
                f" holds {path})",
                "Wait for it, or name another --out; if it died, delete that object",
            )
    raise StorageError(
        f"{path}: is said to be there, and is not to be found", "Run the same command again in a minute"
    )


def _bury(path: Path) -> None:
    """Remove the lease `path` of a dead process.

    Two processes may find it dead at the same time, and the later one must not delete the earlier one's new
    lease: so a process holds another lease while it checks again and deletes.
    """
    with lease(path.with_name(f"{path.name}.dead")):
        holder = _holder(path)
        if holder is not None and _is_dead(holder):
            with reaching(path):
                path.unlink(missing_ok=True)


def _give_back(path: Path, own: dict[str, Any]) -> None:
    if _holder(path) == own:  # not another process's, after a person deleted this one
        with reaching(path):
            path.unlink(missing_ok=True)


def _holder(path: Path) -> dict[str, Any] | None:
    try:
        with reaching(path):
            held = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        held = {}
    return held if isinstance(held, dict) else {}


def _is_dead(holder: dict[str, Any]) -> bool:
    # No lease expires: a process that only sleeps would lose its dataset to another.
    if holder.get("host") != socket.gethostname():
        return False
    if holder.get("pid") == os.getpid():  # in containers every process may have the same number
        return holder.get("id") not in _held
    try:
        os.kill(int(str(holder.get("pid"))), 0)  # signal 0 only asks whether it exists
    except (ValueError, OverflowError, ProcessLookupError):
        return True
    except PermissionError:  # another user's process, alive
        pass
    return False
