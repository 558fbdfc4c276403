"""A source's search → a dataset of pairs with weak labels (paper §4.1 B, C), over days if need be.

    search    every query's pages → crawl.sqlite
    fetch     candidates that pass the filters, a partition at a time → parts/, one Parquet file each
    assemble  parts → shards, rejected.parquet, card, dataset.json last

Each stage continues where it was stopped, and its result does not depend on when that was.
"""

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from mvsent.build.assemble import assemble, n_kept, refuse_failed, wanted_parts
from mvsent.build.crawl_folder import PARTS, clear_up, open_frontier, workplace, write_dataset
from mvsent.build.crawl_progress import StageProgress
from mvsent.build.crawled import Crawled
from mvsent.build.fetch import fetch_parts, fetch_policy, partitions
from mvsent.build.filters import SIZES
from mvsent.build.match_dump import broken_in, dump_notes, match_dump
from mvsent.build.owners import owner_rejections
from mvsent.build.parts import rejected_table, rejections_of
from mvsent.config import BuildSettings
from mvsent.errors import InputError, Interrupted
from mvsent.limits import TokenBucket
from mvsent.pairs import ExtraType
from mvsent.reasons import Reason, Rejection
from mvsent.shards.manifest import MANIFEST_FILE, Manifest, creation_time
from mvsent.shards.staging import absolute
from mvsent.shards.writer import DatasetWriter
from mvsent.sources.crawl.crawl_queries import DRIFT, INCOMPLETE, search
from mvsent.sources.crawl.frontier import Found, Frontier
from mvsent.sources.crawl.http_json import check_endpoint
from mvsent.sources.crawl.patience import Asker
from mvsent.sources.registry import Keys, Paging, S, Search, SearchedSource
from mvsent.workers.engine import LOCAL, Engine
from mvsent.workers.interrupt import interruptible


@dataclass(frozen=True, slots=True)
class BuildResult:
    """The folder of the dataset, and its manifest."""

    folder: Path
    manifest: Manifest


def build(
    source: SearchedSource[S],
    out: Path,
    settings: S,
    keys: Keys,
    *,
    name: str = "",
    overwrite: bool = False,
    workers: int = 0,
    engine: Engine = LOCAL,
    quiet: bool = False,
) -> BuildResult:
    """Build the dataset of what the source finds for the words of its lexicon.

    Args:
        out: folder of the dataset.
        keys: API keys by name, as from `read_keys`.
        name: of the dataset; empty: the source's. By it, the paper's figures are chosen.
        workers: threads that check pictures in this process; 0: one a core.
        engine: fetches and checks the pictures; this process searches.

    Raises: UsageError, InputError or OutputExistsError before anything is done. Interrupted, SourceFailure,
        Unreachable, AllFailed or OSError later: the same call then continues.
    """
    words = source.words(settings)
    dump = source.dump(settings, words)
    ask = None if dump else source.search(settings, keys)
    endpoint = check_endpoint(settings.endpoint)
    allowed = frozenset({endpoint} if endpoint else ())  # the only host that may be inside this network
    policy = fetch_policy(settings, allowed, engine.threads(workers))
    target = absolute(out)
    with workplace(target, overwrite=overwrite) as work, engine, interruptible() as stop:
        # With a manifest, an earlier process was killed while it cleared up.
        if not (work / MANIFEST_FILE).exists():
            with open_frontier(work, source, words, settings, overwrite=overwrite, dump=dump) as frontier:
                folder = work / PARTS
                folder.mkdir(exist_ok=True)
                if dump:
                    match_dump(
                        frontier,
                        dump,
                        folder,
                        engine,
                        per_query=settings.per_query,
                        found_at=_now,
                        check_stop=lambda: _check(stop),
                        workers=workers,
                        quiet=quiet,
                    )
                if ask:
                    _search(frontier, ask, source.paging, settings, stop, quiet)
                # After the search, because only then are the photos known that were found under both signs.
                load = partial(_load, frontier, owner_rejections(frontier, settings))
                assembly = Assembly(name or source.name, source.columns, frontier, settings)
                if settings.metadata_only:
                    write = partial(assembly.write_listed, load, quiet=quiet)
                else:
                    write = partial(assembly.write, work, quiet=quiet)
                    with StageProgress("fetch", frontier.n_candidates, 0, "candidates", quiet=quiet) as stage:
                        fetch_parts(
                            Crawled(settings, source.columns),
                            partitions(frontier, settings),
                            load,
                            folder,
                            settings,
                            policy,
                            engine,
                            stage,
                            stop=stop,
                        )
                write_dataset(work, target, write, overwrite=overwrite)
        clear_up(work, target)
    return BuildResult(out, Manifest.load(out))


def _load(frontier: Frontier, rejections: Mapping[int, Rejection], numbers: Sequence[int]) -> list[Found]:
    return [frontier.found(number, rejections.get(int(number))) for number in numbers]


def _now() -> int:
    return int(creation_time().timestamp())  # fixed by SOURCE_DATE_EPOCH


def _check(stop: threading.Event) -> None:
    if stop.is_set():
        raise Interrupted


def _search(
    frontier: Frontier,
    ask: Search,
    paging: Paging,
    settings: BuildSettings,
    stop: threading.Event,
    quiet: bool,
) -> None:
    """Ask for every page that is left, within the quota, of which earlier runs have used a part."""
    bucket = TokenBucket.per_hour(settings.quota_per_hour)
    bucket.restore(frontier.calls())
    total = frontier.n_queries
    with StageProgress("search", total, total - frontier.n_queries_left, "queries", quiet=quiet) as stage:

        def on_page() -> None:
            if stage.is_due:
                state = f"{frontier.n_candidates} candidates, {bucket.left} calls left"
                stage.to(total - frontier.n_queries_left, state)

        search(
            frontier,
            ask,
            paging,
            Asker(bucket, stop, frontier.note_call),
            per_query=settings.per_query,
            found_at=_now,
            on_page=on_page,
        )


@dataclass(frozen=True)
class Assembly:
    """The last stage of a build: parts → the dataset called `name`, with the source's further `columns`."""

    name: str
    columns: Mapping[str, ExtraType]
    frontier: Frontier
    settings: BuildSettings

    def write(self, work: Path, out: Path, *, quiet: bool) -> None:
        """Write the dataset to `out`, of the parts in `work`.

        Raises: InputError if nothing can be kept; AllFailed if that is for reasons of the pictures' hosts.
        """
        frontier, settings = self.frontier, self.settings
        parts = wanted_parts(work / PARTS, settings)
        rejections = [each for part in parts for each in rejections_of(part)]
        if not n_kept(parts, settings):
            refuse_failed(work / PARTS, rejections)
            self._refuse(Counter(reason for reason, _ in rejections))
        writer = self._writer(out, self.columns)
        with writer, StageProgress("assemble", len(parts), 0, "parts", quiet=quiet) as stage:
            assemble(parts, writer, settings, on_part=lambda n_done: stage.to(n_done, ""))
            # The funnel adds up only with the candidates that `max_pairs` left unfetched.
            for numbers in partitions(frontier, settings)[len(parts) :]:
                rows = [(id, str(Reason.OVER_MAX_PAIRS), "") for id in frontier.ids(numbers)]
                writer.reject(rejected_table(rows))
            self._finish(writer, rejections)

    def write_listed(self, load: Callable[[Any], list[Found]], out: Path, *, quiet: bool) -> None:
        """Write a dataset of addresses and texts to `out`, without pictures. Raises: as `write`."""
        columns: dict[str, ExtraType] = {
            name: kind for name, kind in self.columns.items() if name not in ("size", "watermarked")
        }
        recipe = Crawled(self.settings, {**columns, SIZES: "string"})
        rejections: list[tuple[str, str]] = []
        n_left = self.settings.max_pairs or self.frontier.n_candidates
        writer = self._writer(out, recipe.extra)
        parts = partitions(self.frontier, self.settings)
        with writer, StageProgress("write", len(parts), 0, "parts", quiet=quiet) as stage:
            for n_done, numbers in enumerate(parts, start=1):
                drafts = [(one.id, recipe.draft(one)) for one in load(numbers)]
                kept = [draft for _, draft in drafts if not isinstance(draft, Rejection)]
                dropped = [(id, one) for id, one in drafts if isinstance(one, Rejection)]
                dropped += [(one.id, Rejection(Reason.OVER_MAX_PAIRS, "")) for one in kept[n_left:]]
                if kept[:n_left]:
                    writer.write(recipe.listed(kept[:n_left]))
                writer.reject(rejected_table([(id, str(one.reason), one.detail) for id, one in dropped]))
                rejections += [(str(one.reason), one.detail) for _, one in dropped]
                n_left -= len(kept[:n_left])
                stage.to(n_done, "")
            if len(rejections) == self.frontier.n_candidates:
                self._refuse(Counter(reason for reason, _ in rejections))
            self._finish(writer, rejections)

    def _writer(self, out: Path, columns: Mapping[str, ExtraType]) -> DatasetWriter:
        return DatasetWriter(
            out,
            self.name,
            settings=self._recorded(),
            shard_size=self.settings.shard_size,
            text_kind="captions",
            extra_columns=columns,
        )

    def _finish(self, writer: DatasetWriter, rejections: Sequence[tuple[str, str]]) -> None:
        notes = self._notes(rejections)
        writer.finish(self.frontier.n_candidates, extra={"notes": notes} if notes else {})

    def _refuse(self, counts: Counter[str]) -> NoReturn:
        why = ", ".join(f"{reason} {n}" for reason, n in counts.most_common(3))
        n_queries = self.frontier.n_queries
        raise InputError(
            f"none of the {self.frontier.n_candidates} candidates of {n_queries} queries can be kept"
            + (f" ({why})" if why else "")
            + "".join(f"; {file}: {where}" for file, where in broken_in(dump_notes(self.frontier)).items()),
            "Widen the filters, with --overwrite",
        )

    def _recorded(self) -> dict[str, Any]:
        recorded = self.settings.model_dump(mode="json")
        if any(self.frontier.span):  # searched by date: the dates that empty settings stood for
            since, until = (datetime.fromtimestamp(second, UTC).isoformat() for second in self.frontier.span)
            recorded |= {"since": since, "until": until}
        lexicon = self.frontier.settings["lexicon_sha256"]
        return recorded | {"queries": self.frontier.n_queries, "lexicon_sha256": lexicon}

    def _notes(self, rejections: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """The notes of the manifest about the search, of which the card tells, too."""
        without = Counter(
            query
            for reason, detail in rejections
            if reason == Reason.QUERY_NOT_FOUND
            for query in detail.split(", ")
        )
        notes = {
            "refused_queries": self.frontier.refusals(),
            INCOMPLETE: self.frontier.notes(INCOMPLETE),
            DRIFT: self.frontier.notes(DRIFT),
            "query_not_found": dict(sorted(without.items())),
        }
        return {name: value for name, value in notes.items() if value} | dump_notes(self.frontier)
