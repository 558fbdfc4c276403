"""Storage of datasets and runs: local folders, or s3:// and gs:// with the same methods.

A place in object storage is a path of universal_pathlib: it has pathlib's methods, and `open` reads by
ranges. Object storage has no folders to create, cannot rename, and shows an object only when it is complete;
the functions here hide these differences. Credentials come from the usual chain of each service (environment,
profile, instance), an endpoint from AWS_ENDPOINT_URL.
"""

# Longer than 350 lines, so that all that knows where bytes lie is in one place.
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

from mvsent.errors import InputError, MvsentError, SilentStorageError, StorageError, UsageError

if TYPE_CHECKING:
    from mvsent.setting import Setting

REMOTE = ("s3", "gs")
"""The schemes; each is also the name of the extra that it needs."""
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9]+):(?:/+|$)")  # pathlib makes one slash of two
_FILE = re.compile(r"file:(?:///+|//?localhost/|/)(?=[^/]|$)")
_SLIP = re.compile(rf"(?:{'|'.join(REMOTE)}|file):")
"""The beginning of a mistyped address, which would otherwise become a local folder of that name."""
_PLACE = re.compile(r"[a-z0-9][a-z0-9._-]*(/[^*?\[\]\x00-\x1f\x7f]*)?")
"""A bucket and a name in it, without *, ? and [, which fsspec treats as patterns."""
_LIBRARIES = ("botocore", "aiobotocore", "aiohttp", "fsspec", "gcsfs", "google")
"""Packages whose exceptions come from the network or the service."""
_AHEAD_BYTES = 1 << 20  # read-ahead: the small columns of a row group are adjacent
_ROUNDS = 3  # of botocore's five attempts of at most 15 s: a server that hangs is given up after four minutes
_AT_ONCE = 8  # concurrent requests for small objects; botocore has ten connections
_PATIENCE_S, _SLOWEST_BYTES_S = 120, 50_000  # time limit for sending an object, with all attempts
_SMALL_BYTES = 1 << 20  # objects up to this size are sent concurrently, which takes memory


def located(place: str | Path) -> Path:
    """Convert a folder name or an address to a path with pathlib's methods.

    >>> located("data/mvsa-single"), located("file:///srv/data")
    (PosixPath('data/mvsa-single'), PosixPath('/srv/data'))

    Raises: UsageError for another scheme, a missing bucket, or if the extra of the scheme is not installed.
    """
    text = str(place)
    if "\0" in text:
        raise UsageError(f"{text!r}: holds a null character", "Leave it out")
    if _FILE.match(text):
        return Path("/" + unquote(_FILE.sub("", text, count=1)))
    if not (address := _ADDRESS.match(text)):
        if _SLIP.match(text):
            raise UsageError(f"{text}: not an address", "Write s3://BUCKET/NAME, gs://… or file:///FOLDER")
        return Path(place) if isinstance(place, str) else place
    scheme, rest = address[1], text[address.end() :]
    if scheme not in REMOTE:
        raise UsageError(f"{scheme}://…: data cannot be stored there", "Name a folder, s3://… or gs://…")
    # The message leaves the address out: messages end up in logs.
    if "@" in rest.partition("/")[0]:
        raise UsageError(
            f"{scheme}://…: contains a user name or a password", "Leave it out: see docs/storage.md"
        )
    if not _PLACE.fullmatch(rest) or ".." in rest.split("/"):
        raise UsageError(
            f"{text}: not a bucket and a name in it",
            f"Name one such as {scheme}://my-bucket/data, without *?[]",
        )
    try:
        from upath import UPath

        # Listings are not cached: another process may write here, and a reader must see its manifest.
        path = UPath(f"{scheme}://{rest}", use_listings_cache=False)
        files = path.fs  # imports the package of the scheme
    except ImportError:
        raise UsageError(
            f"{text}: needs a package that is not installed", f'pip install "mvsent[{scheme}]"'
        ) from None
    if scheme == "s3":
        files.retries = _ROUNDS
    return cast("Path", path)


def recorded(stated: "Setting", value: Any) -> Any:
    """The value of a setting as it is kept, given the one that was typed."""
    if stated.takes_several and stated.path == "absolute":
        from mvsent.setting import named_files

        return [_resolved(located(path)) for typed in value for path in named_files(typed)]
    match stated.path:
        case "typed":
            return str(located(value))
        case "several":
            return [str(located(each)) for each in value]
        case "absolute":
            return _resolved(located(value))
        case "perhaps":  # NAME, PATH, NAME=PATH, or several of them
            whole = _if_path(value)
            return whole if whole != value else ",".join(_if_path(part) for part in value.split(","))
    return value


def _if_path(value: str) -> str:
    """A path, or that of NAME=PATH, as an absolute one; anything else as it is."""
    given = value.strip()
    if _is_path(given):
        return str(Path(given).resolve())
    name, equals, path = given.partition("=")
    return f"{name}={Path(path).resolve()}" if equals and _is_path(path) else value


def _resolved(path: Path) -> str:
    return str(path) if is_remote(path) else os.path.realpath(path)  # unlike `resolve`, not refusing circles


def _is_path(value: str) -> bool:
    return ("/" in value or Path(value).suffix != "") and Path(value).exists()


def is_remote(path: Path) -> bool:
    """Whether the path is in object storage."""
    # universal_pathlib's remote paths do not inherit from pathlib.Path.
    return not isinstance(path, Path)


def local_only(path: Path, what: str) -> Path:
    """Return `path`. Raises: UsageError if it is in object storage, where `what` cannot be."""
    if is_remote(path):
        raise UsageError(f"{path}: {what} must be on this machine", "Copy it here, or name a folder")
    return path


def unlike_driver(place: Path | str, difference: str) -> InputError:
    """The error of a worker that sees something else at `place` than the driver does."""
    return InputError(
        f"{place}: {difference} on {socket.gethostname()}",
        "With --engine ray every machine must have it under this path",
    )


def make_folder(path: Path) -> None:
    """Create the folder `path` and its parents. A bucket is never created: that is up to its owner.

    Raises: UsageError if a file has the name of one of the folders.
    """
    if is_remote(path):
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UsageError(f"{path}: a file is in the way", "Name another --out") from None


def remove(path: Path) -> None:
    """Remove the file or folder `path`, if it exists."""
    if not is_remote(path):
        if path.is_symlink() or path.is_file():
            path.unlink()
        shutil.rmtree(path, ignore_errors=True)
        return
    with reaching(path):  # one by one, as fsspec's `rm` for many names treats them as patterns
        at_once(_fs(path).rm_file, _fs(path).find(_key(path)))


def at_once(ask: Callable[[Any], object], each: Iterable[Any]) -> None:
    """Call `ask` with each, several at a time. Raises: the exception of the first failing call."""
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        asked = [threads.submit(ask, one) for one in each]
        try:
            for answer in asked:
                answer.result()
        finally:
            threads.shutdown(cancel_futures=True)  # after a failure, the rest is not asked


def sizes(folder: Path) -> dict[str, int]:
    """Size in bytes of every file under `folder`, by relative path, with few requests for many objects."""
    if not is_remote(folder):
        files = (path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    with reaching(folder):
        objects: dict[str, dict[str, Any]] = _fs(folder).find(_key(folder), detail=True)
    start = len(_key(folder).rstrip("/")) + 1
    names = {name[start:]: int(about["size"]) for name, about in objects.items()}
    # An object `NAME/`, by which a console represents an empty folder, is not a file.
    return {name: size for name, size in names.items() if name and not name.endswith("/")}


def entries(folder: Path) -> set[str]:
    """Names of the files and folders directly in `folder`; empty if it is not a folder."""
    if is_remote(folder):
        return {name.partition("/")[0] for name in sizes(folder)}
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def readable(path: Path) -> AbstractContextManager[Any]:
    """A context manager for pyarrow to read `path`: the path itself, or a remote file that reads ranges."""
    if not is_remote(path):
        return nullcontext(path)
    opened = cast("Any", path).open("rb", block_size=_AHEAD_BYTES, cache_type="readahead")
    return cast("AbstractContextManager[Any]", opened)


def put(local: Path, path: Path) -> None:
    """Send the file `local` to the object `path`; a reader sees either all of it or the previous object."""
    # Sent whole, not streamed: fsspec completes a multipart upload when a file is closed, also by an
    # exception, and half a shard would become visible.
    put_all({path: local})


def put_all(files: Mapping[Path, Path]) -> None:
    """Send each file to its object; small ones several at a time."""

    def send(path: Path) -> None:
        with reaching(path):
            _sent_in_time(path, "_put_file", str(files[path]), n_bytes=files[path].stat().st_size)

    small = {path for path, local in files.items() if local.stat().st_size <= _SMALL_BYTES}
    at_once(send, sorted(small))
    for path in sorted(files.keys() - small):
        send(path)


def put_bytes(path: Path, data: bytes) -> None:
    """Write bytes to the object `path`."""
    with reaching(path):
        _sent_in_time(path, "_pipe_file", data, n_bytes=len(data))


def created(path: Path, data: bytes) -> bool:
    """Create the object `path` with these bytes; return False if it exists or another is creating it."""
    try:
        _sent_in_time(path, "_pipe_file", data, n_bytes=len(data), mode="create")  # If-None-Match: *
    except Exception as error:
        # The status is checked, as the reason has different names in different services.
        answer = getattr(error.__cause__, "response", {}).get("ResponseMetadata", {})
        if isinstance(error, FileExistsError) or answer.get("HTTPStatusCode") in (409, 412):
            return False
        with reaching(path):
            raise
    return True


def _sent_in_time(path: Path, method: str, content: str | bytes, *, n_bytes: int, **more: Any) -> None:
    """Send `content` by a method of the file system, with a time limit.

    The libraries' own time limits do not apply while they send, or wait for permission to send
    (`Expect: 100-continue`): a server that hangs then would block for ever.
    """
    from fsspec.asyn import sync

    files, key = _fs(path), _key(path)
    words = (content, key) if isinstance(content, str) else (key, content)
    patience_s = _PATIENCE_S + n_bytes / _SLOWEST_BYTES_S
    sync(files.loop, getattr(files, method), *words, timeout=patience_s, **more)


def _fs(path: Path) -> Any:
    return cast("Any", path).fs


def _key(path: Path) -> str:
    return str(cast("Any", path).path)


@contextmanager
def reaching(path: Path) -> Iterator[None]:
    """Turn errors of object storage in the block into StorageError; other exceptions pass."""
    try:
        yield
    except MvsentError:
        raise
    except Exception as error:
        if not is_remote(path) or (known := problem(error, str(path))) is None:
            raise
        raise known from None


def problem(error: BaseException, place: str = "object storage") -> StorageError | None:
    """The StorageError for an exception of object storage; None for any other exception."""
    # By name, as the libraries of the extras may not be installed.
    kind, name = type(error).__module__.partition(".")[0], type(error).__name__
    said = " ".join(str(error).split())[:200]
    if isinstance(error, OSError) and kind == "builtins":
        return _answer(error, said or name, place)
    if kind == "builtins" and said.startswith("Invalid endpoint"):  # botocore's ValueError
        return StorageError(
            f"{place}: AWS_ENDPOINT_URL is not an address", "Give one such as http://127.0.0.1:9000"
        )
    if kind not in _LIBRARIES:
        return None
    if "Credential" in name or "Token" in name:
        return _no_credentials(place)
    if name in ("ParamValidationError", "ProfileNotFound", "InvalidRegionError", "ConfigParseError"):
        return StorageError(
            f"{place}: the settings or the name cannot be used ({name})",
            "Check AWS_PROFILE, AWS_DEFAULT_REGION, ~/.aws/config and the bucket's name",
        )
    if name == "HttpError":
        return StorageError(f"{place}: {said}", "Correct this, or run the same command again")
    return SilentStorageError(
        f"{place}: no answer ({name})", "Check the network and AWS_ENDPOINT_URL, and run it again"
    )


def _answer(error: OSError, said: str, place: str) -> StorageError | None:
    if isinstance(error, FileNotFoundError) and "bucket" in said.lower():
        return _no_bucket(place)
    is_denied = isinstance(error, PermissionError)
    if is_denied and "token" in said.lower():
        return _no_credentials(place)
    if is_denied or said.startswith("Forbidden:"):
        return StorageError(
            f"{place}: access denied ({said})",
            "Use credentials with the permission (AWS_PROFILE, AWS_ACCESS_KEY_ID …), and run it again",
        )
    of_a_file = isinstance(error, FileNotFoundError | FileExistsError)
    if of_a_file or type(error.__cause__).__module__.partition(".")[0] not in _LIBRARIES:
        return None
    return StorageError(f"{place}: {said}", "Run the same command again")


def refuse_no_bucket(path: Path) -> None:
    """Raises: StorageError if the bucket of `path` does not exist."""
    if is_remote(path):
        with reaching(path):
            if not _fs(path).exists(_key(path).partition("/")[0]):
                raise _no_bucket(str(path))


def _no_bucket(place: str) -> StorageError:
    return StorageError(f"{place}: no such bucket", "Create it, or correct its name")


def _no_credentials(place: str) -> StorageError:
    return StorageError(
        f"{place}: no credentials, or they have expired",
        "Set AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and run the same command again",
    )


@contextmanager
def undoing(undo: Callable[[BaseException], object]) -> Iterator[None]:
    """Call `undo` with the exception if the block fails; that exception is raised even if `undo` fails.

    `undo` is not called if object storage does not answer, as it would only time out, too.
    """
    try:
        yield
    except BaseException as error:
        if not isinstance(error, SilentStorageError) and not isinstance(problem(error), SilentStorageError):
            with suppress(Exception):
                undo(error)
        raise
