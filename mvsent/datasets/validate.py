"""Check a dataset against its manifest: everything is recomputed, and every picture decoded."""

import hashlib
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial, reduce
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from mvsent.curate.duplicates import NO_KEY, Keys, string_keys
from mvsent.curate.images import check_image
from mvsent.errors import DatasetError, SplitError, first_line
from mvsent.pairs import EXTRA_TYPES, LABEL_COLUMNS, LABEL_NAMES, columns_of
from mvsent.reasons import Reason, Rejection
from mvsent.shards.manifest import MANIFEST_FILE, Manifest, Shard
from mvsent.shards.reader import Ids, open_shard, read_columns, size_problem
from mvsent.shards.rejected import REJECTED_FILE, read_rejected
from mvsent.shards.schema import PICTURELESS_ROW_GROUP_ROWS, ROW_GROUP_ROWS
from mvsent.shards.staging import absolute
from mvsent.splits import read_split
from mvsent.storage import located, readable, unlike_driver
from mvsent.workers.engine import LOCAL, Engine

MAX_LISTED = 100
"""Maximum number of problems listed in a report; the others are only counted."""

_REASONS = set(map(str, Reason))
_NO_LIMIT = 2**62  # pixels or bytes: size limits were applied when the picture was kept
_CHECKED = ["id", "image", *LABEL_COLUMNS, "width", "height", "sha256"]


@dataclass
class ValidationReport:
    """Numbers of things checked, and the problems, one line each.

    Attributes:
        problems: the first `MAX_LISTED`.
    """

    folder: Path
    name: str = ""
    n_shards: int = 0
    n_rows: int = 0
    n_images: int = 0
    n_splits: int = 0
    problems: list[str] = field(default_factory=list)
    n_problems: int = 0

    @property
    def clean(self) -> bool:
        return self.n_problems == 0

    def add(self, problem: str) -> None:
        """Count a problem, and list it if there is room."""
        self.n_problems += 1
        if len(self.problems) < MAX_LISTED:
            self.problems.append(problem)

    def merge(self, other: "ValidationReport") -> None:
        """Add the results of other shards."""
        self.n_shards += other.n_shards
        self.n_rows += other.n_rows
        self.n_images += other.n_images
        for problem in other.problems:
            self.add(problem)
        self.n_problems += other.n_problems - len(other.problems)

    def document(self) -> dict[str, Any]:
        """The report as JSON."""
        return {"clean": self.clean, **vars(self), "folder": str(self.folder)}


def validate(
    folder: Path, workers: int = 0, *, engine: Engine = LOCAL, quiet: bool = False
) -> ValidationReport:
    """Check the dataset in `folder`: hashes, schema, rows, labels, funnel, ids, pictures, splits.

    Args:
        workers: threads that decode pictures in this process; 0: one per core.
        engine: where shards are read; workers of a cluster must find `folder` under the same path.

    Raises: DatasetError if `folder` is not a finished dataset.
    """
    manifest = Manifest.load(folder)
    report = ValidationReport(folder, manifest.name)
    rows = _Rows()
    hidden = quiet or not sys.stderr.isatty()
    check = partial(
        _check_shards, str(absolute(folder)), str(folder), _types(manifest), engine.threads(workers)
    )
    with tqdm(total=manifest.funnel.kept, unit="pair", disable=hidden) as progress:
        for part, part_rows in engine.map(check, manifest.shards):
            report.merge(part)
            rows.merge(part_rows)
            progress.update(part.n_rows)
    _check_rows(report, manifest, rows)
    _check_funnel(report, manifest)
    known = {shard.path for shard in manifest.shards}
    for path in sorted((folder / "data").glob("*")):
        if f"data/{path.name}" not in known:
            report.add(f"{path}: not in the manifest")
    if not (folder / "README.md").is_file():
        report.add(f"{folder}: has no README.md")
    split_files = sorted((folder / "splits").glob("[!.]*.parquet"))
    # With missing rows every split would seem wrong.
    if split_files and report.n_rows == sum(shard.rows for shard in manifest.shards):
        ids = Ids(pa.concat_arrays([pa.array([], pa.string()), *_read_ids(folder, manifest)]))
        for path in split_files:
            report.n_splits += 1
            try:
                read_split(path, ids)
            except SplitError as error:
                report.add(error.what)
    return report


def _types(manifest: Manifest) -> dict[str, pa.DataType]:
    """The columns that the dataset's shards must have, with their types."""
    extra = {name: EXTRA_TYPES[kind] for name, kind in manifest.extra_columns.items()}
    return extra | {column.name: column.type for column in columns_of(manifest.schema_version)}


@dataclass
class _Rows:
    """Values to compare across shards."""

    ids: list[Keys] = field(default_factory=list)  # hashes of eight bytes, to save memory
    labels: Counter[int | None] = field(default_factory=Counter)

    def merge(self, other: "_Rows") -> None:
        self.ids += other.ids
        self.labels.update(other.labels)


def _check_shards(
    place: str, name: str, types: Mapping[str, pa.DataType], threads: int, shards: Sequence[Shard]
) -> Iterator[tuple[ValidationReport, _Rows]]:
    """Yield reports on each row group and file of the dataset at `place`, called `name` in them."""
    folder = located(place)
    if not (folder / MANIFEST_FILE).exists():
        raise unlike_driver(place, "not found")
    with ThreadPoolExecutor(threads) as pool:
        for shard in shards:
            for report, rows in _check_shard(folder, shard, types, pool):
                # Workers get an absolute path; users see the one that they typed.
                report.problems = [problem.replace(place, name, 1) for problem in report.problems]
                yield report, rows


def _check_shard(
    folder: Path, shard: Shard, types: Mapping[str, pa.DataType], pool: ThreadPoolExecutor
) -> Iterator[tuple[ValidationReport, _Rows]]:
    path = folder / shard.path
    report = ValidationReport(folder, n_shards=1)
    if problem := size_problem(folder, shard):
        report.add(problem)
    if not path.is_file():
        yield report, _Rows()
        return
    digest = pool.submit(_file_sha256, path)
    try:
        with readable(path) as source, pq.ParquetFile(source) as file:
            n_rows = file.metadata.num_rows
            if n_rows != shard.rows:  # its rows can be checked all the same
                report.add(f"{path}: {n_rows} rows, the manifest says {shard.rows}")
            held = dict(zip(file.schema_arrow.names, file.schema_arrow.types, strict=True))
            wrong = [name for name, kind in types.items() if held.get(name) != kind]
            if wrong:
                report.add(f"{path}: not the columns of a pair: {', '.join(wrong)}")
            else:
                for group in range(file.metadata.num_row_groups):
                    rows = _Rows()
                    _check_group(report, path, read_columns(file, _CHECKED, group), rows, pool)
                    yield report, rows
                    report = ValidationReport(folder)
    except (OSError, pa.ArrowException) as error:
        report.add(f"{path}: not readable as Parquet ({first_line(error)})")
    if digest.result() != shard.sha256:
        report.add(f"{path}: altered: sha256 is {digest.result()}, the manifest says {shard.sha256}")
    yield report, _Rows()


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_group(
    report: ValidationReport, path: Path, table: pa.Table, rows: _Rows, pool: ThreadPoolExecutor
) -> None:
    report.n_rows += table.num_rows
    n_images = table.num_rows - table["image"].null_count
    report.n_images += n_images
    limit = ROW_GROUP_ROWS if n_images else PICTURELESS_ROW_GROUP_ROWS
    if table.num_rows > limit:
        report.add(f"{path}: a row group of {table.num_rows} rows, more than {limit}")
    rows.ids.append(string_keys(table["id"].to_pylist()))
    for name in LABEL_COLUMNS:
        counts = {c["values"]: c["counts"] for c in pc.value_counts(table[name]).to_pylist()}
        strange = [value for value in counts if value not in range(len(LABEL_NAMES)) and value is not None]
        if strange:
            report.add(f"{path}: {name} {strange[0]} is not 0, 1 or 2")
        if name == "label":
            rows.labels.update(counts)
    stated = [pc.is_valid(table[name]) for name in ("image", "width", "height", "sha256")]
    pairs = table.select(["id", "image", "width", "height", "sha256"]).filter(reduce(pc.or_, stated))
    for problem in pool.map(_image_problem, *(pairs[name].to_pylist() for name in pairs.column_names)):
        if problem:
            report.add(problem)


def _image_problem(
    id: str, image: Mapping[str, Any] | None, width: int | None, height: int | None, sha256: str | None
) -> str:
    """The problem of a row's picture; empty if none.

    A row without a picture must not state its properties.
    """
    stated = (width, height, sha256)
    if image is None:
        return "" if stated == (None, None, None) else f"{id}: states a picture's size or hash, but has none"
    data = image["bytes"]
    if data is None:
        return f"{id}: the picture has no bytes"
    facts = check_image(data, max_pixels=_NO_LIMIT, max_bytes=_NO_LIMIT)
    if isinstance(facts, Rejection):
        return f"{id}: {facts.reason}: {facts.detail}"
    actual = (facts.width, facts.height, facts.sha256)
    wrong = [
        f"{name} is {is_}, the row says {said}"
        for name, is_, said in zip(("width", "height", "sha256"), actual, stated, strict=True)
        if is_ != said
    ]
    return f"{id}: {'; '.join(wrong)}" if wrong else ""


def _check_rows(report: ValidationReport, manifest: Manifest, rows: _Rows) -> None:
    """Check that ids are unique, and that label counts are those of the manifest."""
    keys = np.concatenate([np.zeros(0, np.uint64), *rows.ids])
    if n_without := int((keys == NO_KEY).sum()):
        report.add(f"{n_without} rows have no id")
    keys.sort()
    repeated = np.unique(keys[1:][(keys[1:] == keys[:-1]) & (keys[1:] != NO_KEY)])
    counts: Counter[str] = Counter()
    # Equal hashes are no equal ids yet, so the ids behind them are compared as text.
    for ids in _read_ids(report.folder, manifest) if len(repeated) else ():
        counts.update(ids.filter(pa.array(np.isin(string_keys(ids.to_pylist()), repeated))).to_pylist())
    for id, n_rows in counts.items():
        if n_rows > 1:
            report.add(f"{id}: {n_rows} rows have this id")
    if rows.labels[None] != manifest.n_unlabelled and manifest.n_unlabelled >= 0:
        report.add(f"{rows.labels[None]} rows have no label, the manifest says {manifest.n_unlabelled}")
    for label, name in enumerate(LABEL_NAMES):
        if rows.labels[label] != manifest.labels.get(name, 0):
            report.add(
                f"{rows.labels[label]} rows are {name}, the manifest says {manifest.labels.get(name, 0)}"
            )


def _read_ids(folder: Path, manifest: Manifest) -> Iterator[pa.Array]:
    """Read the ids of every readable shard."""
    for shard in manifest.shards:
        with suppress(DatasetError), open_shard(folder / shard.path) as file:
            yield from read_columns(file, ["id"])["id"].chunks


def _check_funnel(report: ValidationReport, manifest: Manifest) -> None:
    """Check that every input row is kept or dropped for a known reason, and that rejected.parquet agrees."""
    funnel = manifest.funnel
    if not funnel.adds_up:
        report.add(
            f"the funnel does not add up: {funnel.input} in, {funnel.kept} kept, dropped {funnel.dropped}"
        )
    if funnel.kept != report.n_rows:
        report.add(f"{report.n_rows} rows, the funnel says {funnel.kept} were kept")
    path, listed = report.folder / REJECTED_FILE, Counter[str | None]()
    try:
        for dropped in read_rejected(report.folder):
            listed.update({c["values"]: c["counts"] for c in pc.value_counts(dropped["reason"]).to_pylist()})
    except DatasetError as error:
        report.add(error.what)
        return
    for reason in sorted(listed.keys() | funnel.dropped.keys(), key=str):
        n_listed, n_dropped = listed[reason], funnel.dropped.get(reason or "", 0)
        if reason not in _REASONS:
            report.add(f"{path}: unknown reason {reason!r}")
        if n_listed != n_dropped:
            report.add(f"{path}: {n_listed} rows for {reason}, the funnel says {n_dropped}")
