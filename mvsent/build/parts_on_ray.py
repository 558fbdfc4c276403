"""The fetch stage of a build with Ray: candidates go to workers, parts come back to the crawl's folder.

A worker needs no folder that others see: the files of its part come back as one object of Ray and are
written here. Such objects lie in Ray's stores, which spill to disk, and on nobody's heap; there are never
more than tasks. What a worker has fetched when all is to end comes back as a spool, and any engine goes on
with that.
"""

import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

import pyarrow as pa
import pyarrow.parquet as pq

from mvsent.build.assemble import is_enough
from mvsent.build.crawl_folder import PARTS
from mvsent.build.parts import Partition, fetch_partition, fetched_urls, rejected_path, spool_path
from mvsent.config import BuildSettings
from mvsent.errors import Interrupted, MvsentError, Unreachable, UsageError
from mvsent.fetch import FetchPolicy
from mvsent.fetch.shared import LeasedLimits, Office
from mvsent.shards.atomic import atomic_write
from mvsent.shards.staging import locked
from mvsent.sources.frontier import Found
from mvsent.workers.engine import RayEngine, Shared

_SCRATCH = "mvsent-part-"


@dataclass(frozen=True)
class Order:
    """What a worker needs to know of a partition."""

    part: Path  # where it will lie on the driver
    found: Sequence[Found]
    spool: pa.Buffer | None  # what was fetched of it before


@dataclass(frozen=True)
class Parcel:
    """What comes back: the part and its rejections, or the spool and why there is no part."""

    order: Path
    files: Mapping[str, pa.Buffer]  # by name
    error: MvsentError | None = None


def fetch_with_ray(
    engine: RayEngine,
    office: Shared,
    folder: Path,
    missing: Iterator[Partition],
    settings: BuildSettings,
    policy: FetchPolicy,
    *,
    stop: threading.Event,
    on_outcome: Callable[[int, int], object],
) -> None:
    """Every partition of `missing` has its part in `folder`, or those before it hold enough pairs.

    Args:
        office: a `LimitsOffice` that the workers share.

    Raises: Interrupted when `stop` was set; Unreachable; EngineError. What was fetched is in the folder then.
    """
    ended = threading.Event()  # by an error, or since there is enough
    failed: MvsentError | None = None

    def look() -> None:
        if stop.is_set() or ended.is_set():
            office.stop()

    def orders() -> Iterator[Order]:
        with suppress(Interrupted):  # then `stop` is set, and what is under way is waited for
            while not ended.is_set() and (one := next(missing, None)):
                yield Order(one.part, one.found, _read(spool_path(one.part)))

    known = tuple(fetched_urls(folder))
    work = partial(fetch_elsewhere, settings, replace(policy, workers=1), office, known)
    for parcel in engine.as_completed(work, orders(), look=look):
        _unpack(folder, parcel)
        if parcel.error is None:
            on_outcome(*_counts(parcel.order))
        elif not isinstance(parcel.error, Interrupted):
            failed = failed or parcel.error
        if failed or is_enough(folder, settings):
            ended.set()
            look()
    if stop.is_set():
        raise Interrupted
    if failed:
        raise failed


def fetch_elsewhere(
    settings: BuildSettings, policy: FetchPolicy, office: Office, known: Sequence[str], order: Order
) -> Parcel:
    """The order's part, or as much of it as there was time for; nothing is left on this machine."""
    stop = threading.Event()
    error: MvsentError | None = None
    with _scratch() as folder, LeasedLimits(office, policy.per_host_per_s, stop) as limits:
        part = folder / order.part.name
        if order.spool is not None:
            spool_path(part).write_bytes(order.spool)
        try:
            fetch_partition(order.found, part, settings, policy, limits=limits, stop=stop, known=known)
        except (Interrupted, Unreachable) as why:
            error = why
        files = {path.name: found for path in folder.iterdir() if (found := _read(path)) is not None}
    return Parcel(order.part, files, error)


@contextmanager
def _scratch() -> Iterator[Path]:
    """An empty folder on this machine; what workers that were killed left of theirs is gone."""
    for left in Path(gettempdir()).glob(f"{_SCRATCH}*"):
        with suppress(UsageError, OSError), locked(left / "lock"):  # one that is held belongs to a living one
            shutil.rmtree(left, ignore_errors=True)
    with TemporaryDirectory(prefix=_SCRATCH) as name, locked(Path(name, "lock")):
        folder = Path(name, PARTS)
        folder.mkdir()
        yield folder


def _read(path: Path) -> pa.Buffer | None:
    """The file's bytes, mapped; None where it is empty or missing."""
    try:
        with pa.memory_map(str(path)) as file:
            return file.read_buffer() if file.size() else None
    except FileNotFoundError:
        return None


def _unpack(folder: Path, parcel: Parcel) -> None:
    """The parcel's files are in `folder`, the one that marks a part as done last."""
    part = parcel.order
    for path in (spool_path(part), rejected_path(part), part):
        if path.name in parcel.files:
            with atomic_write(path) as file:
                file.write(memoryview(parcel.files[path.name]))
    if parcel.error is None:
        spool_path(part).unlink(missing_ok=True)


def _counts(part: Path) -> tuple[int, int]:
    """Candidates of a finished part, and pictures among them."""
    n_pictures, n_rejected = (pq.read_metadata(path).num_rows for path in (part, rejected_path(part)))
    return n_pictures + n_rejected, n_pictures
