"""One process at a time writes a place in object storage, wherever it runs: an object says which.

Of all that such storage offers, only "create unless it is there" tells two writers apart.
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

_TRIES = 8  # to take what another process holds or gives back at the same moment
_held: set[str] = set()
"""Whose leases this process holds now."""


@contextmanager
def lease(path: Path) -> Iterator[None]:
    """Within the block no other process holds the object `path`, wherever it runs; it is gone afterwards.

    An owner on this machine that died no longer holds it. One elsewhere cannot be asked: a person decides.

    Raises: UsageError where another process holds it; StorageError where it cannot be known who does.
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
            return  # the answer was lost on its way, and the libraries asked once more
        if holder is None:
            time.sleep(0.05 * n_tried)  # it was given back just now
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
    """The lease `path` of a dead owner is gone.

    Two processes may find it dead at once, and the later one must not delete what the earlier one took since:
    so who deletes holds another lease while he looks again.
    """
    with lease(path.with_name(f"{path.name}.dead")):
        holder = _holder(path)
        if holder is not None and _is_dead(holder):
            with reaching(path):
                path.unlink(missing_ok=True)


def _give_back(path: Path, own: dict[str, Any]) -> None:
    if _holder(path) == own:  # and not another's, after a person deleted this one
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
    if holder.get("host") != socket.gethostname():
        return False
    if holder.get("pid") == os.getpid():  # in a container every process may have the same
        return holder.get("id") not in _held
    return not _is_alive(holder.get("pid"))


def _is_alive(pid: object) -> bool:
    try:
        os.kill(int(str(pid)), 0)
    except (ValueError, OverflowError, ProcessLookupError):
        return False
    except PermissionError:  # somebody else's, and alive
        pass
    return True
