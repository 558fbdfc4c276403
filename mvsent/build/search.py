"""Flickr's or Getty's search → a dataset of pairs with weak labels (paper §4.1 B, C), over days if need be.

    search   every query's pages → crawl.sqlite
    fetch    candidates, a partition at a time → parts/, one Parquet file each
    assemble parts → shards, rejected.parquet, card, dataset.json last

Each stage goes on where it was stopped, and none depends on when that was.
"""

import logging
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import pyarrow.parquet as pq
from pydantic import SecretStr
from tqdm import tqdm

from mvsent.build.assemble import assemble, clear, n_kept, wanted_parts
from mvsent.build.crawl_folder import PARTS, open_frontier, workplace
from mvsent.build.fetch import fetch_parts, partitions
from mvsent.build.parts import rejected_path, rejected_table
from mvsent.config import BuildSettings, FlickrSettings, GettySettings
from mvsent.errors import InputError, UsageError
from mvsent.fetch import FetchPolicy
from mvsent.lexicons import Term, load_anps, load_keywords, select
from mvsent.limits import TokenBucket
from mvsent.pairs import Reason
from mvsent.shards.manifest import MANIFEST_FILE, Manifest, creation_time
from mvsent.shards.staging import absolute, filled, swap_in
from mvsent.shards.writer import DatasetWriter
from mvsent.sources.crawl import FlickrSearch, GettySearch, Source, search
from mvsent.sources.flickr import FlickrClient
from mvsent.sources.frontier import Frontier
from mvsent.sources.getty import GettyClient
from mvsent.sources.patience import Asker
from mvsent.storage import is_remote
from mvsent.workers.engine import LOCAL, Engine
from mvsent.workers.interrupt import interruptible

log = logging.getLogger("mvsent")

LOG_EVERY_S = 60.0
"""How often a stage says how far it is where nobody sees a bar."""

SAFE = {"safe": 1, "moderate": 2, "restricted": 3}


@dataclass(frozen=True, slots=True)
class BuildResult:
    """Where the dataset is, and what became of every candidate."""

    folder: Path
    manifest: Manifest


def build_flickr(
    out: Path, settings: FlickrSettings, key: SecretStr, *, name: str = "flickr", overwrite: bool = False,
    workers: int = 0, engine: Engine = LOCAL, quiet: bool = False,
) -> BuildResult:  # fmt: skip
    """Folder `out` holds a finished dataset of what Flickr finds for the ANPs.

    Args:
        name: the dataset's; the paper's figures stand beside those of `flickr` and `getty` alone.
        workers: threads that check pictures in this process; 0 is one a core.
        engine: what fetches and checks the pictures; the search is this process's.

    Raises: UsageError or OutputExistsError before anything is done; Interrupted, SourceFailure,
        Unreachable or OSError on the way: the same call then goes on.
    """
    client = FlickrClient(key.get_secret_value(), endpoint=settings.endpoint or None)
    source = FlickrSearch(client, settings.license, SAFE[settings.safe])
    return _build(name, source, flickr_terms(settings), out, settings, overwrite, workers, engine, quiet)


def build_getty(
    out: Path, settings: GettySettings, key: SecretStr, secret: SecretStr | None = None, *,
    name: str = "getty", overwrite: bool = False, workers: int = 0, engine: Engine = LOCAL,
    quiet: bool = False,
) -> BuildResult:  # fmt: skip
    """Folder `out` holds a finished dataset of what Getty finds for the keywords; see `build_flickr`."""
    endpoint_place(settings.token_url, "--token-url")
    client = GettyClient(
        key.get_secret_value(),
        secret.get_secret_value() if secret else None,
        endpoint=settings.endpoint or None,
        token_url=settings.token_url or None,
    )
    source = GettySearch(client, settings.family)
    return _build(name, source, getty_terms(settings), out, settings, overwrite, workers, engine, quiet)


def flickr_terms(settings: FlickrSettings) -> list[Term]:
    """The ANPs that are searched for."""
    return _strong(load_anps(Path(settings.anps) if settings.anps else None), settings)


def getty_terms(settings: GettySettings) -> list[Term]:
    """The keywords that are searched for."""
    return _strong(load_keywords(Path(settings.keywords) if settings.keywords else None), settings)


def _strong(terms: list[Term], settings: BuildSettings) -> list[Term]:
    strong = select(terms, min_sentiment=settings.min_sentiment)
    if not strong:
        raise UsageError(
            f"--min-sentiment {settings.min_sentiment:g}: no word of the lexicon is so strong", "Lower it"
        )
    return strong


def _build(
    name: str,
    source: Source,
    terms: Sequence[Term],
    out: Path,
    settings: BuildSettings,
    overwrite: bool,
    workers: int,
    engine: Engine,
    quiet: bool,
) -> BuildResult:
    place = endpoint_place(settings.endpoint)
    target = absolute(out)
    with workplace(target, overwrite=overwrite) as work, engine, interruptible() as stop:
        if not (work / MANIFEST_FILE).exists():
            with open_frontier(work, terms, settings, overwrite=overwrite) as frontier:
                show = _Shown(quiet)
                _search(frontier, source, settings, stop, show)
                folder = work / PARTS
                folder.mkdir(exist_ok=True)
                policy = _policy(settings, place, engine.threads(workers))
                with show.stage("fetch", frontier.n_candidates, 0, "candidates") as stage:
                    n_done = n_pictures = 0

                    def on_progress(n_more: int, n_more_pictures: int) -> None:
                        nonlocal n_done, n_pictures
                        n_done, n_pictures = n_done + n_more, n_pictures + n_more_pictures
                        stage.to(n_done, f"{n_pictures} pictures")

                    fetch_parts(
                        frontier, folder, settings, policy, engine, stop=stop, on_progress=on_progress
                    )
                if is_remote(target):
                    with filled(target, overwrite=overwrite):
                        _assemble(name, frontier, work, target, settings, show)
                else:
                    clear(work)
                    _assemble(name, frontier, work, work, settings, show)
        if is_remote(target):
            shutil.rmtree(work, ignore_errors=True)
            return BuildResult(out, Manifest.load(out))
        shutil.rmtree(work / PARTS, ignore_errors=True)
        if work != target:
            swap_in(work, target)
    return BuildResult(out, Manifest.load(out))


def endpoint_place(endpoint: str, option: str = "--endpoint") -> frozenset[tuple[str, int]]:
    """The host and port that `option` names; those of `--endpoint` alone may be inside this network.

    >>> sorted(endpoint_place("http://127.0.0.1:8000/services/rest/")), endpoint_place("")
    ([('127.0.0.1', 8000)], frozenset())

    Raises: UsageError for what is no http address, or one with a password in it, without repeating it.
    """
    if not endpoint:
        return frozenset()
    try:
        parts = urlsplit(endpoint)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    except ValueError:
        raise UsageError(f"{option}: not an address", "Give one like https://HOST/PATH") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{option}: not an http address", "Give one like https://HOST/PATH")
    if "@" in parts.netloc or parts.query:
        raise UsageError(f"{option}: holds a name, a password or parameters", "Leave them out")
    return frozenset({(parts.hostname, port)})


def _policy(settings: BuildSettings, place: frozenset[tuple[str, int]], workers: int) -> FetchPolicy:
    return FetchPolicy(
        concurrency=settings.concurrency,
        max_bytes=settings.max_bytes,
        max_pixels=settings.max_pixels,
        min_side=settings.min_side,
        per_host_per_s=settings.images_per_second or None,
        allowed=place,
        workers=workers,
    )


class _Shown:
    """One line of progress for each stage, on stderr: a bar on a terminal, a sentence in a log."""

    def __init__(self, quiet: bool) -> None:
        self._hidden = quiet or not sys.stderr.isatty()

    def stage(self, title: str, total: int, done: int, unit: str) -> "_Stage":
        if self._hidden:
            log.info("%s: %d of %d %s are left", title, total - done, total, unit)
        return _Stage(title, total, done, unit, self._hidden)


class _Stage:
    """How far a stage is: a bar, or a line in the log now and then, so that days leave a trace."""

    def __init__(self, title: str, total: int, done: int, unit: str, hidden: bool) -> None:
        self._bar = tqdm(total=total, initial=done, desc=title, unit=f" {unit}", disable=hidden)
        self._title, self._total, self._unit, self._hidden = title, total, unit, hidden
        self._done, self._said_at = done, time.monotonic()

    def __enter__(self) -> "_Stage":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    @property
    def is_due(self) -> bool:
        """Whether anything would be shown now: what is shown need not be counted otherwise."""
        return not self._hidden or time.monotonic() - self._said_at >= LOG_EVERY_S

    def to(self, done: int, state: str) -> None:
        """`done` of the stage's total are done; `state` says what came of them."""
        self._bar.set_postfix_str(state, refresh=False)
        self._bar.update(done - self._done)
        self._done = done
        if self._hidden and self.is_due:
            self._said_at = time.monotonic()
            log.info("%s: %d of %d %s, %s", self._title, done, self._total, self._unit, state)


def _search(
    frontier: Frontier, source: Source, settings: BuildSettings, stop: threading.Event, show: _Shown
) -> None:
    """The frontier holds everything that the queries find."""
    bucket = TokenBucket.per_hour(settings.quota_per_hour)
    bucket.restore(frontier.calls())
    total = frontier.n_queries
    with show.stage("search", total, total - frontier.n_queries_left, "queries") as stage:

        def on_page() -> None:
            if stage.is_due:
                state = f"{frontier.n_candidates} candidates, {bucket.left} calls left"
                stage.to(total - frontier.n_queries_left, state)

        search(
            frontier,
            source,
            Asker(bucket, stop, frontier.note_call),
            per_query=settings.per_query,
            found_at=lambda: int(creation_time().timestamp()),
            on_page=on_page,
        )


def _assemble(
    name: str, frontier: Frontier, work: Path, out: Path, settings: BuildSettings, show: _Shown
) -> None:
    """`out` is a finished dataset of the parts in `work`."""
    parts = wanted_parts(work / PARTS, settings)
    _refuse_nothing(parts, settings, frontier)
    recorded = _recorded(settings, frontier)
    writer = DatasetWriter(out, name, settings=recorded, shard_size=settings.shard_size)
    with writer, show.stage("assemble", len(parts), 0, "parts") as stage:
        assemble(parts, writer, settings, on_part=lambda n_done: stage.to(n_done, ""))
        for numbers in partitions(frontier, settings)[len(parts) :]:
            rows = [(id, str(Reason.OVER_MAX_PAIRS), "") for id in frontier.ids(numbers)]
            writer.reject(rejected_table(rows))
        refusals = frontier.refusals()
        writer.finish(
            frontier.n_candidates, extra={"notes": {"refused_queries": refusals}} if refusals else {}
        )


def _recorded(settings: BuildSettings, frontier: Frontier) -> dict[str, Any]:
    """The settings as dataset.json keeps them: with the dates that were searched, and without any key."""
    recorded = settings.model_dump(mode="json")
    if isinstance(settings, FlickrSettings):
        since, until = (datetime.fromtimestamp(second, UTC).isoformat() for second in frontier.span)
        recorded |= {"since": since, "until": until}
    return recorded | {"queries": frontier.n_queries, "lexicon_sha256": frontier.settings["lexicon_sha256"]}


def _refuse_nothing(parts: Sequence[Path], settings: BuildSettings, frontier: Frontier) -> None:
    if n_kept(parts, settings):
        return
    counts = Counter(
        reason for part in parts for reason in pq.read_table(rejected_path(part))["reason"].to_pylist()
    )
    why = ", ".join(f"{reason} {n}" for reason, n in counts.most_common(3))
    raise InputError(
        f"none of the {frontier.n_candidates} candidates of {frontier.n_queries} queries can be kept"
        + (f" ({why})" if why else ""),
        "Widen the filters, with --overwrite",
    )
