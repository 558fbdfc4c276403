"""Atomic writing of datasets and exports: a folder appears when finished; one process writes it at a time."""

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from mvsent.errors import OutputExistsError, UsageError
from mvsent.shards.atomic import sync_folder
from mvsent.shards.croissant import CROISSANT_FILE
from mvsent.shards.lease import lease
from mvsent.shards.manifest import MANIFEST_FILE
from mvsent.storage import (
    entries,
    is_remote,
    put,
    put_all,
    put_bytes,
    reaching,
    remove,
    sizes,
    undoing,
)

# The entries of a dataset folder that mvsent writes, and that `--overwrite` may therefore delete.
_DATASET_ENTRIES = {MANIFEST_FILE, "README.md", CROISSANT_FILE, "rejected.parquet", "data", "splits"}
_PARQUET = {"data": re.compile(r"shard-\d{5,}\.parquet"), "splits": re.compile(r".+\.parquet")}
_CRAWL_ENTRIES = {"crawl.sqlite", "crawl.sqlite-wal", "crawl.sqlite-shm"}


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of output folder.

    Attributes:
        name: a noun for messages.
        marker: the file that marks a finished folder.
        foreign_files: returns the entries of a folder that mvsent did not write, by its marker or a copy
            of it.
    """

    name: str
    marker: str
    foreign_files: Callable[[Path, Path], list[str]]


def _foreign_files(out: Path, marker: Path) -> list[str]:
    """Names in `out` that mvsent did not write, and must not delete."""
    names = entries(out)
    if not marker.exists():
        return sorted(names)
    strange = names - _DATASET_ENTRIES - _CRAWL_ENTRIES
    for folder, ours in _PARQUET.items():
        strange |= {f"{folder}/{name}" for name in entries(out / folder) if not ours.fullmatch(name)}
    return sorted(strange)


DATASET = Kind("dataset", MANIFEST_FILE, _foreign_files)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path` within the block; it is removed afterwards.

    Raises: UsageError if another process holds it.
    """
    if is_remote(path):
        with lease(path):
            yield
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _acquire(path)
    except (FileExistsError, NotADirectoryError):
        file = next(each for each in path.parents if each.exists() and not each.is_dir())
        raise UsageError(f"{file}: is a file, not a folder", "Name another --out") from None
    except OSError as error:  # names what the user named, and not the lock file
        out = path.with_name(path.name.removeprefix(".").removesuffix(".lock"))
        raise OSError(error.errno, f"cannot be written ({error.strerror})", str(out)) from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # before the lock is released: see `_acquire`
        os.close(descriptor)


def _acquire(path: Path) -> int:
    while True:
        # A lock of the kernel, which ends with its process, and not a file with a process number. A file that
        # its holder removed can still be locked, but guards nothing: it has to be the one that has the name.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.fstat(descriptor).st_ino == path.stat().st_ino:
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise UsageError(
                f"another mvsent process is writing here (it holds {path})",
                "Wait for it, or name another --out",
            ) from None
        except FileNotFoundError:
            pass
        os.close(descriptor)  # the previous holder has just removed the file: try again


@contextmanager
def claimed(*files: Path, overwrite: bool) -> Iterator[None]:
    """Reserve files for this process within the block; without `overwrite` none of them may exist.

    Raises: OutputExistsError if one exists; UsageError if another process has reserved the first.
    """
    with locked(lock_file(files[0])):
        for path in files:
            if path.exists() and not overwrite:
                raise OutputExistsError(
                    f"{path}: already exists", "Replace it with --overwrite, or name another --out"
                )
        yield


@contextmanager
def staged(out: Path, *, overwrite: bool = False, kind: Kind = DATASET) -> Iterator[Path]:
    """Yield a sibling folder, which becomes `out` if the block succeeds and is removed if it fails.

    A finished folder that is overwritten stays in place until then, except in object storage, where nothing
    can be renamed: there it is removed first. The leftovers of a killed process are removed.

    Raises:
        OutputExistsError: `out` is finished and `overwrite` is false.
        UsageError: `out` cannot be replaced, contains files that mvsent did not write, or another process is
            writing it.
    """
    refuse_nowhere(out, kind)
    if is_remote(out):
        with _sent(out, overwrite=overwrite, kind=kind) as folder:
            yield folder
        return
    out = absolute(out)
    refuse_irreplaceable(out, kind)
    partial, old = _siblings(out)
    with locked(lock_file(out)):
        _recover(out, partial, old)
        _refuse_unless_free(out, kind, overwrite=overwrite)
        partial.mkdir()
        try:
            yield partial
            sync_folder(partial)
            _swap(partial, out, old)
        finally:
            _recover(out, partial, old)


@contextmanager
def _sent(out: Path, *, overwrite: bool, kind: Kind) -> Iterator[Path]:
    """`staged` for object storage: datasets are written in place, anything else is made locally and sent.

    The marker of a finished folder comes last either way.
    """
    with locked(lock_file(out)):
        if kind is DATASET:
            with filled(out, overwrite=overwrite):
                yield out
            return
        with reaching(out):
            _refuse_unless_free(out, kind, overwrite=overwrite)  # before the work
        with TemporaryDirectory(prefix="mvsent-") as name:
            yield Path(name)
            marker = (Path(name) / kind.marker).read_bytes()
            with filled(out, overwrite=overwrite, kind=kind, marker=marker):
                _send(Path(name), out, kind)


@contextmanager
def filled(
    out: Path, *, overwrite: bool = False, kind: Kind = DATASET, marker: bytes = b""
) -> Iterator[None]:
    """Clear the remote `out` and let the block write it; if the block fails, remove everything.

    Meanwhile the object `.NAME.partial` holds a copy of the marker, by which the leftovers of a killed
    process are recognised as mvsent's. The caller must hold the lock of `out`.

    Raises: as `staged`.
    """
    with reaching(out):
        _refuse_unless_free(out, kind, overwrite=overwrite)
        note = _siblings(out)[0]
        finished = out / kind.marker
        if finished.exists():
            put_bytes(note, finished.read_bytes())
            finished.unlink()  # before the rest of the folder
        remove(out)
        put_bytes(note, marker)

    def forget(error: BaseException) -> None:
        remove(out)
        if isinstance(error, Exception):  # after an interrupt, requests under way may still arrive
            note.unlink(missing_ok=True)

    with undoing(forget):
        yield
    with reaching(note):
        note.unlink(missing_ok=True)


def _send(folder: Path, out: Path, kind: Kind) -> None:
    files = {out / name: folder / name for name in sizes(folder) if name != kind.marker}
    put_all(files)
    put(folder / kind.marker, out / kind.marker)


def absolute(out: Path) -> Path:
    """The absolute path; links are not followed, as a link to a dataset is replaced, not its target."""
    return out if is_remote(out) else Path(os.path.abspath(out))  # noqa: PTH100


def lock_file(out: Path) -> Path:
    """The lock file of the dataset `out`."""
    return out.with_name(f".{out.name}.lock")


def recover(out: Path) -> None:
    """Restore `out` after an interrupted swap. The caller must hold the lock of `out`."""
    if is_remote(out):
        return
    _recover(out, *_siblings(out))


def swap_in(folder: Path, out: Path) -> None:
    """Replace `out` by `folder`. The caller must hold the lock of `out`."""
    partial, old = _siblings(out)
    sync_folder(folder)
    _swap(folder, out, old)
    _recover(out, partial, old)


def _siblings(out: Path) -> tuple[Path, Path]:
    return out.with_name(f".{out.name}.partial"), out.with_name(f".{out.name}.old")


def _recover(out: Path, partial: Path, old: Path) -> None:
    """Undo an interrupted swap: between its two renames the old dataset has no name."""
    if old.exists() and not out.exists():
        old.rename(out)
    # Only now: until `out` exists, `old` is the dataset.
    for leftover in (partial, old):
        if leftover.is_symlink():
            leftover.unlink()
        shutil.rmtree(leftover, ignore_errors=True)


def refuse_nowhere(out: Path, kind: Kind = DATASET) -> None:
    """Raises: UsageError if a folder `out`, or one beside it, cannot exist."""
    if not out.name:
        raise UsageError(
            f"{out}: cannot be replaced by a {kind.name}", f"Name a folder in it: --out {out / 'NAME'}"
        )
    for parent in [] if is_remote(out) else out.parents:
        if parent.is_file():
            raise UsageError(f"{parent}: is a file, not a folder", "Name another --out")


def refuse_inside(out: Path, folder: Path) -> None:
    """Raises: UsageError if `out` is the dataset in `folder`, or inside or around it."""
    new, old = out.resolve(), folder.resolve()
    if type(new) is type(old) and (new.is_relative_to(old) or old.is_relative_to(new)):
        raise UsageError(f"{out}: is {folder}, or inside or around it", "Name another --out")


def refuse_irreplaceable(out: Path, kind: Kind = DATASET) -> None:
    """Raises: UsageError if the last step, the rename to `out`, would fail."""
    refuse_nowhere(out, kind)
    if out == Path.cwd():
        raise UsageError(
            f"{out}: cannot be replaced by a {kind.name}", f"Name a folder in it: --out {out / 'NAME'}"
        )
    if os.path.ismount(out):
        raise UsageError(f"{out}: is a mount point", f"Name a folder in it: --out {out / 'NAME'}")
    if out.is_symlink() and not (out / kind.marker).exists():
        raise UsageError(
            f"{out}: is a link to {out.readlink()}, which is not a {kind.name}",
            "Name another --out, or remove the link",
        )


def _refuse_unless_free(out: Path, kind: Kind, *, overwrite: bool) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError(f"{out}: is a file, not a folder", "Name another --out")
    refuse_foreign_files(out, kind)
    if (out / kind.marker).exists() and not overwrite:
        raise OutputExistsError(
            f"{out}: already contains a finished {kind.name}", "Add --overwrite to replace it"
        )


def refuse_foreign_files(out: Path, kind: Kind = DATASET) -> None:
    """Raises: UsageError if the folder `out` contains something that mvsent did not write."""
    marker, note = out / kind.marker, _siblings(out)[0]
    is_begun = is_remote(out) and not marker.exists()  # locally an unfinished folder has another name
    strangers = kind.foreign_files(out, note if is_begun else marker)
    if strangers:
        raise UsageError(
            f"{out}: contains {strangers[0]}, which is not part of a {kind.name}",
            "Name another --out, or move it away",
        )


def _swap(partial: Path, out: Path, old: Path) -> None:
    # Two renames, since none replaces a folder that has entries; `_recover` undoes a kill in between.
    if out.exists() and any(out.iterdir()):
        out.rename(old)
    partial.rename(out)  # replaces an empty folder
    sync_folder(out.parent)
