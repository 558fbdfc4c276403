"""Where datasets and runs lie: in a folder of this machine, or at s3://, gs:// … with the same methods.

A place in object storage is a path of universal_pathlib: it has pathlib's methods, and `open` reads by
ranges. What such storage lacks stands here: there are no folders to make, nothing can be renamed, an object
appears when all of it has come, and only "create unless it is there" tells two writers apart. Credentials
come from the usual chain of each service (environment, profile, instance); an endpoint from AWS_ENDPOINT_URL.
"""

import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

from mvsent.errors import MvsentError, StorageError, UsageError

REMOTE = ("s3", "gs")
"""The schemes, each also the name of the extra that it takes."""
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9]+):(?:/+|$)")  # pathlib makes one slash of two
_FILE = re.compile(r"file:/+")
_PLACE = re.compile(r"[a-z0-9][a-z0-9._-]*(/[^*?\[\]\x00-\x1f\x7f]*)?")
"""A bucket and a name in it, without *, ? and [: to delete by name, fsspec takes them for patterns."""
_LIBRARIES = ("botocore", "aiobotocore", "aiohttp", "gcsfs", "google")
"""Whose errors are the network's, or the service's."""
_AHEAD_BYTES = 1 << 20  # read beyond what was asked for: the small columns of a row group lie side by side


def located(place: str | Path) -> Path:
    """The place as a path, whose methods are pathlib's wherever it lies.

    >>> located("data/mvsa-single"), located("file:///srv/data")
    (PosixPath('data/mvsa-single'), PosixPath('/srv/data'))

    Raises: UsageError for another scheme, no bucket, or where the scheme's extra is not installed.
    """
    text = str(place)
    if _FILE.match(text):
        return Path("/" + unquote(_FILE.sub("", text, count=1)))
    if not (found := _ADDRESS.match(text)):
        return Path(place) if isinstance(place, str) else place
    scheme, rest = found[1], text[found.end() :]
    if scheme not in REMOTE:
        raise UsageError(f"{scheme}://…: is no place for data", "Name a folder, s3://… or gs://…")
    if "@" in rest.partition("/")[0]:
        raise UsageError(f"{scheme}://…: holds a name or a password", "Leave it out: see docs/storage.md")
    if not _PLACE.fullmatch(rest) or ".." in rest.split("/"):
        raise UsageError(
            f"{text}: not a bucket and a name in it",
            f"Name one such as {scheme}://my-bucket/data, without *?[]",
        )
    try:
        from upath import UPath

        # Listings are not kept: another process may write here, and a reader must see its manifest.
        path = UPath(f"{scheme}://{rest}", use_listings_cache=False)
        path.fs  # noqa: B018 - the scheme's own package is imported here
    except ImportError:
        raise UsageError(
            f"{text}: needs a package that is not installed", f'pip install "mvsent[{scheme}]"'
        ) from None
    return cast("Path", path)


def is_remote(path: Path) -> bool:
    """Whether the path lies in object storage."""
    return not isinstance(path, Path)


def local_only(path: Path, what: str) -> Path:
    """The path. Raises: UsageError where `what` cannot be in object storage."""
    if is_remote(path):
        raise UsageError(f"{path}: {what} has to be on this machine", "Copy it here, or name a folder")
    return path


def make_folder(path: Path) -> None:
    """Files can be put into `path`. A bucket is never made: its owner decides where and for whom it is.

    Raises: UsageError where a file has the name of a folder.
    """
    if is_remote(path):
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UsageError(f"{path}: a file is in the way", "Name another --out") from None


def remove(path: Path) -> None:
    """Nothing is at `path` or under it any more, whatever was there."""
    if not is_remote(path):
        if path.is_symlink() or path.is_file():
            path.unlink()
        shutil.rmtree(path, ignore_errors=True)
        return
    with reaching(path):
        files: list[str] = _fs(path).find(_key(path))
        if files:
            _fs(path).rm(files)


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of every object under a remote `folder`, by its path from there: a few requests for many."""
    with reaching(folder):
        found: dict[str, dict[str, Any]] = _fs(folder).find(_key(folder), detail=True)
    start = len(_key(folder).rstrip("/")) + 1
    return {name[start:]: int(about["size"]) for name, about in found.items()}


def readable(path: Path) -> AbstractContextManager[Any]:
    """What pyarrow reads `path` from, closed after the block: a path here, a file that reads ranges there."""
    if not is_remote(path):
        return nullcontext(path)
    opened = cast("Any", path).open("rb", block_size=_AHEAD_BYTES, cache_type="readahead")
    return cast("AbstractContextManager[Any]", opened)


def put(local: Path, path: Path) -> None:
    """The object `path` has the bytes of the file `local`; a reader sees all of them or what was there."""
    with reaching(path):
        _fs(path).put_file(str(local), _key(path))


def _fs(path: Path) -> Any:
    return cast("Any", path).fs


def _key(path: Path) -> str:
    return str(cast("Any", path).path)


@contextmanager
def reaching(path: Path) -> Iterator[None]:
    """Raises: StorageError in one line for what object storage answers in the block; nothing else changes."""
    try:
        yield
    except MvsentError:
        raise
    except Exception as error:
        if not is_remote(path) or (known := problem(error, str(path))) is None:
            raise
        raise known from None


def problem(error: BaseException, place: str = "object storage") -> StorageError | None:
    """What an error of object storage means; None where it is no such error."""
    kind, name = type(error).__module__.partition(".")[0], type(error).__name__
    said = " ".join(str(error).split())[:200]
    if isinstance(error, OSError) and kind == "builtins":
        if isinstance(error, FileNotFoundError) and "bucket" in said.lower():
            return StorageError(f"{place}: there is no such bucket", "Make it, or mend its name")
        if isinstance(error, PermissionError) and "token" in said.lower():
            return _no_credentials(place)
        if isinstance(error, PermissionError):
            return StorageError(
                f"{place}: access denied ({said})",
                "Give credentials that may do this (AWS_PROFILE, AWS_ACCESS_KEY_ID …), and run it again",
            )
        of_a_file = isinstance(error, FileNotFoundError | FileExistsError)
        if of_a_file or type(error.__cause__).__module__.partition(".")[0] not in _LIBRARIES:
            return None
        return StorageError(f"{place}: {said or name}", "Run the same command again")
    if kind not in _LIBRARIES:
        return None
    if "Credential" in name or "Token" in name:
        return _no_credentials(place)
    if name in ("ParamValidationError", "ProfileNotFound", "InvalidRegionError", "ConfigParseError"):
        return StorageError(
            f"{place}: the settings or the name cannot be used ({name})",
            "Check AWS_PROFILE, AWS_DEFAULT_REGION, ~/.aws/config and the bucket's name",
        )
    return StorageError(
        f"{place}: nobody answers there ({name})", "Check the network and AWS_ENDPOINT_URL, and run it again"
    )


def _no_credentials(place: str) -> StorageError:
    return StorageError(
        f"{place}: no credentials, or they have expired",
        "Set AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and run the same command again",
    )


@contextmanager
def lease(path: Path) -> Iterator[None]:
    """Within the block no other process holds the object `path`, wherever it runs; it is gone afterwards.

    An owner on this machine that died no longer holds it. One elsewhere cannot be asked: a person decides.

    Raises: UsageError where another process holds it.
    """
    own = json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode()
    while not _created(path, own):
        holder = _holder(path)
        if holder is None:
            continue  # it was given back just now
        host, pid = holder.get("host"), holder.get("pid")
        if host == socket.gethostname() and not _is_alive(pid):
            with reaching(path):
                path.unlink()
            continue
        raise UsageError(
            f"another mvsent process is writing here (process {pid} on {host} holds {path})",
            "Wait for it, or name another --out; if it died, delete that object",
        )
    try:
        yield
    finally:
        with reaching(path):
            path.unlink(missing_ok=True)


def _created(path: Path, data: bytes) -> bool:
    try:
        with reaching(path):
            _fs(path).pipe_file(_key(path), data, mode="create")
    except FileExistsError:
        return False
    return True


def _holder(path: Path) -> dict[str, Any] | None:
    try:
        with reaching(path):
            held = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        held = {}
    return held if isinstance(held, dict) else {}


def _is_alive(pid: object) -> bool:
    try:
        os.kill(int(str(pid)), 0)
    except (ValueError, OverflowError, ProcessLookupError):
        return False
    except PermissionError:  # somebody else's, and alive
        pass
    return True
