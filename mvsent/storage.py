"""Where datasets and runs lie: in a folder of this machine, or at s3://, gs:// … with the same methods.

A place in object storage is a path of universal_pathlib: it has pathlib's methods, and `open` reads by
ranges. What such storage lacks stands here: there are no folders to make, nothing can be renamed, and an
object appears when all of it has come. Credentials come from the usual chain of each service (environment,
profile, instance); an endpoint from AWS_ENDPOINT_URL.
"""

import re
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

from mvsent.errors import InputError, MvsentError, SilentStorageError, StorageError, UsageError

REMOTE = ("s3", "gs")
"""The schemes, each also the name of the extra that it takes."""
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9]+):(?:/+|$)")  # pathlib makes one slash of two
_FILE = re.compile(r"file:(?:///+|//?localhost/|/)(?=[^/]|$)")
_SLIP = re.compile(rf"(?:{'|'.join(REMOTE)}|file):")
"""How an address begins; what begins so and is none would be a folder of that name here."""
_PLACE = re.compile(r"[a-z0-9][a-z0-9._-]*(/[^*?\[\]\x00-\x1f\x7f]*)?")
"""A bucket and a name in it, without *, ? and [: where fsspec looks for files, they are patterns."""
_LIBRARIES = ("botocore", "aiobotocore", "aiohttp", "fsspec", "gcsfs", "google")
"""Whose errors are the network's, or the service's."""
_AHEAD_BYTES = 1 << 20  # read beyond what was asked for: the small columns of a row group lie side by side
_ROUNDS = 3  # of botocore's five attempts, each 15 s at most: four minutes until a hung server is given up
_AT_ONCE = 8  # requests under way about a small object each; botocore has ten connections
_PATIENCE_S, _SLOWEST_BYTES_S = 120, 50_000  # for what is sent, with all attempts
_SMALL_BYTES = 1 << 20  # as much of as many is in memory


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
        if _SLIP.match(text):
            raise UsageError(f"{text}: not an address", "Write s3://BUCKET/NAME, gs://… or file:///FOLDER")
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
        files = path.fs  # the scheme's own package is imported here
    except ImportError:
        raise UsageError(
            f"{text}: needs a package that is not installed", f'pip install "mvsent[{scheme}]"'
        ) from None
    if scheme == "s3":
        files.retries = _ROUNDS
    return cast("Path", path)


def is_remote(path: Path) -> bool:
    """Whether the path lies in object storage."""
    return not isinstance(path, Path)


def local_only(path: Path, what: str) -> Path:
    """The path. Raises: UsageError where `what` cannot be in object storage."""
    if is_remote(path):
        raise UsageError(f"{path}: {what} has to be on this machine", "Copy it here, or name a folder")
    return path


def unlike_driver(place: Path | str, difference: str) -> InputError:
    """The error of a worker for which `place` is not what it is for the driver."""
    return InputError(
        f"{place}: {difference} on {socket.gethostname()}",
        "With --engine ray every machine has to see it under this path",
    )


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
    with reaching(path):  # one by one: a bulk of names goes by fsspec's `rm`, which takes them for patterns
        at_once(_fs(path).rm_file, _fs(path).find(_key(path)))


def at_once(ask: Callable[[Any], object], each: Iterable[Any]) -> None:
    """`ask` was called with each, some at the same time. Raises: what the first failing call raised."""
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        asked = [threads.submit(ask, one) for one in each]
        try:
            for answer in asked:
                answer.result()
        finally:
            threads.shutdown(cancel_futures=True)


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of every file under `folder`, by its path from there: a few requests for many objects."""
    if not is_remote(folder):
        files = (path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    with reaching(folder):
        found: dict[str, dict[str, Any]] = _fs(folder).find(_key(folder), detail=True)
    start = len(_key(folder).rstrip("/")) + 1
    names = {name[start:]: int(about["size"]) for name, about in found.items()}
    return {name: size for name, size in names.items() if name and not name.endswith("/")}


def entries(folder: Path) -> set[str]:
    """Names of what lies directly in `folder`; none where it is no folder.

    An object `NAME/`, with which a console pretends that there is a folder, is no file.
    """
    if is_remote(folder):
        return {name.partition("/")[0] for name in sizes(folder)}
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def readable(path: Path) -> AbstractContextManager[Any]:
    """What pyarrow reads `path` from, closed after the block: a path here, a file that reads ranges there."""
    if not is_remote(path):
        return nullcontext(path)
    opened = cast("Any", path).open("rb", block_size=_AHEAD_BYTES, cache_type="readahead")
    return cast("AbstractContextManager[Any]", opened)


def put(local: Path, path: Path) -> None:
    """The object `path` has the bytes of the file `local`; a reader sees all of them or what was there."""
    put_all({path: local})


def put_all(files: Mapping[Path, Path]) -> None:
    """Each object has the bytes of its file; small ones are sent several at a time."""

    def send(path: Path) -> None:
        with reaching(path):
            _sent_in_time(path, "_put_file", str(files[path]), n_bytes=files[path].stat().st_size)

    small = {path for path, local in files.items() if local.stat().st_size <= _SMALL_BYTES}
    at_once(send, sorted(small))
    for path in sorted(files.keys() - small):
        send(path)


def put_bytes(path: Path, data: bytes) -> None:
    """The object `path` has these bytes."""
    with reaching(path):
        _sent_in_time(path, "_pipe_file", data, n_bytes=len(data))


def created(path: Path, data: bytes) -> bool:
    """Whether there was no object `path`, which has these bytes now."""
    try:
        _sent_in_time(path, "_pipe_file", data, n_bytes=len(data), mode="create")
    except Exception as error:
        if _is_taken(error):
            return False
        with reaching(path):
            raise
    return True


def _is_taken(error: Exception) -> bool:
    """Whether it says that the object is there, or being created by two at once."""
    answer = getattr(error.__cause__, "response", {}).get("ResponseMetadata", {})  # the reason has many names
    return isinstance(error, FileExistsError) or answer.get("HTTPStatusCode") in (409, 412)


def _sent_in_time(path: Path, method: str, content: str | bytes, *, n_bytes: int, **more: Any) -> None:
    """The `content` is sent by a method of the file system.

    The libraries' own time limits do not count while they send, nor while they wait to be told to
    (`Expect: 100-continue`): a server that hangs then would be waited for without an end.
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
        return _answer(error, said or name, place)
    if kind == "builtins" and said.startswith("Invalid endpoint"):
        return StorageError(
            f"{place}: AWS_ENDPOINT_URL is no address of a server", "Give one such as http://127.0.0.1:9000"
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
        return StorageError(f"{place}: {said}", "Mend that, or run the same command again")
    return SilentStorageError(
        f"{place}: nobody answers there ({name})", "Check the network and AWS_ENDPOINT_URL, and run it again"
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
            "Give credentials that may do this (AWS_PROFILE, AWS_ACCESS_KEY_ID …), and run it again",
        )
    of_a_file = isinstance(error, FileNotFoundError | FileExistsError)
    if of_a_file or type(error.__cause__).__module__.partition(".")[0] not in _LIBRARIES:
        return None
    return StorageError(f"{place}: {said}", "Run the same command again")


def refuse_no_bucket(path: Path) -> None:
    """Raises: StorageError where `path` lies in a bucket that is not there."""
    if is_remote(path):
        with reaching(path):
            if not _fs(path).exists(_key(path).partition("/")[0]):
                raise _no_bucket(str(path))


def _no_bucket(place: str) -> StorageError:
    return StorageError(f"{place}: there is no such bucket", "Make it, or mend its name")


def _no_credentials(place: str) -> StorageError:
    return StorageError(
        f"{place}: no credentials, or they have expired",
        "Set AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and run the same command again",
    )


@contextmanager
def undoing(undo: Callable[[BaseException], object]) -> Iterator[None]:
    """Where the block fails, `undo` gets its error; that error is raised, whatever becomes of undoing.

    Where object storage does not answer, it is not waited for once more.
    """
    try:
        yield
    except BaseException as error:
        if not isinstance(error, SilentStorageError) and not isinstance(problem(error), SilentStorageError):
            with suppress(Exception):
                undo(error)
        raise
