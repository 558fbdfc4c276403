"""Is a dataset what its manifest says? Everything is recomputed, and every picture decoded."""

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
from mvsent.errors import DatasetError, SplitError
from mvsent.pairs import LABEL_COLUMNS, LABEL_NAMES, Reason, Rejection, columns_of
from mvsent.shards.manifest import MANIFEST_FILE, Manifest, Shard
from mvsent.shards.reader import Ids, open_shard, read_columns, size_problem
from mvsent.shards.rejected import REJECTED_FILE, read_rejected
from mvsent.shards.schema import PICTURELESS_ROW_GROUP_ROWS, ROW_GROUP_ROWS
from mvsent.shards.staging import absolute
from mvsent.splits import read_split
from mvsent.storage import located, readable, unlike_driver
from mvsent.workers.engine import LOCAL, Engine

MAX_LISTED = 100
"""Problems that a report lists; the others are counted."""

_REASONS = set(map(str, Reason))
_NO_LIMIT = 2**62  # of pixels or bytes: whether a picture is too large was decided when it was kept
_CHECKED = ["id", "image", *LABEL_COLUMNS, "width", "height", "sha256"]


@dataclass
class ValidationReport:
    """What was looked at, and every problem found, one line each."""

    folder: Path
    name: str = ""
    n_shards: int = 0
    n_rows: int = 0
    n_images: int = 0
    n_splits: int = 0
    problems: list[str] = field(default_factory=list)
    """The first `MAX_LISTED`."""
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
        """What was found in other shards is in this report, too."""
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
    """The report on the dataset in `folder`: hashes, schema, rows, labels, funnel, ids, pictures, splits.

    Args:
        workers: threads that decode pictures in this process; 0 is one a core.
        engine: what reads the shards; workers of a cluster must find `folder` under the same path.

    Raises: DatasetError when `folder` is no finished dataset.
    """
    manifest = Manifest.load(folder)
    report = ValidationReport(folder, manifest.name)
    rows = _Rows()
    hidden = quiet or not sys.stderr.isatty()
    check = partial(
        _check_shards, str(absolute(folder)), str(folder), manifest.schema_version, engine.threads(workers)
    )
    with tqdm(total=manifest.funnel.kept, unit="pair", disable=hidden) as progress:
        for part, part_rows in engine.map(check, manifest.shards):
            report.merge(part)
            rows.merge(part_rows)
            progress.update(part.n_rows)
    _check_rows(report, manifest, rows)
    _check_funnel(report, manifest)
    _check_folder(report, manifest)
    if report.n_rows == sum(shard.rows for shard in manifest.shards):  # else every split would seem wrong
        _check_splits(report, manifest)
    return report


@dataclass
class _Rows:
    """What has to be compared across shards."""

    ids: list[Keys] = field(default_factory=list)  # eight bytes for each, not the ids themselves
    labels: Counter[int] = field(default_factory=Counter)

    def merge(self, other: "_Rows") -> None:
        self.ids += other.ids
        self.labels.update(other.labels)


def _check_shards(
    place: str, name: str, version: int, threads: int, shards: Sequence[Shard]
) -> Iterator[tuple[ValidationReport, _Rows]]:
    """Yield reports on each row group and file of the dataset at `place`, called `name` in them."""
    folder = located(place)
    if not (folder / MANIFEST_FILE).exists():
        raise unlike_driver(place, "not found")
    with ThreadPoolExecutor(threads) as pool:
        for shard in shards:
            for report, rows in _check_shard(folder, shard, version, pool):
                report.problems = [problem.replace(place, name, 1) for problem in report.problems]
                yield report, rows


def _check_shard(
    folder: Path, shard: Shard, version: int, pool: ThreadPoolExecutor
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
            if _has_layout(report, path, shard, version, file):
                for group in range(file.metadata.num_row_groups):
                    rows = _Rows()
                    _check_group(report, path, read_columns(file, _CHECKED, group), rows, pool)
                    yield report, rows
                    report = ValidationReport(folder)
    except (OSError, pa.ArrowException) as error:
        report.add(f"{path}: not readable as Parquet ({str(error).splitlines()[0]})")
    if digest.result() != shard.sha256:
        report.add(f"{path}: altered: sha256 is {digest.result()}, the manifest says {shard.sha256}")
    yield report, _Rows()


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _has_layout(
    report: ValidationReport, path: Path, shard: Shard, version: int, file: pq.ParquetFile
) -> bool:
    """Whether the file has the columns of schema `version`, and perhaps others.

    A row count that differs is a problem, too, but its rows can be checked.
    """
    n_rows = file.metadata.num_rows
    if n_rows != shard.rows:
        report.add(f"{path}: {n_rows} rows, the manifest says {shard.rows}")
    types = dict(zip(file.schema_arrow.names, file.schema_arrow.types, strict=True))
    wrong = [column.name for column in columns_of(version) if types.get(column.name) != column.type]
    if wrong:
        report.add(f"{path}: not the columns of a pair: {', '.join(wrong)}")
    return not wrong


def _check_group(
    report: ValidationReport, path: Path, table: pa.Table, rows: _Rows, pool: ThreadPoolExecutor
) -> None:
    report.n_rows += table.num_rows
    n_images = table.num_rows - table["image"].null_count
    report.n_images += n_images
    limit = ROW_GROUP_ROWS if n_images else PICTURELESS_ROW_GROUP_ROWS
    if table.num_rows > limit:
        report.add(f"{path}: a row group of {table.num_rows} rows, the most is {limit}")
    rows.ids.append(string_keys(table["id"].to_pylist()))
    for name in LABEL_COLUMNS:
        counts = {c["values"]: c["counts"] for c in pc.value_counts(table[name]).to_pylist()}
        strange = [value for value in counts if value not in range(len(LABEL_NAMES)) and value is not None]
        if strange:
            report.add(f"{path}: {name} {strange[0]} is none of 0, 1, 2")
        if name == "label":
            rows.labels.update(counts)
    told = [pc.is_valid(table[name]) for name in ("image", "width", "height", "sha256")]
    pairs = table.select(["id", "image", "width", "height", "sha256"]).filter(reduce(pc.or_, told))
    for problem in pool.map(_image_problem, *(pairs[name].to_pylist() for name in pairs.column_names)):
        if problem:
            report.add(problem)


def _image_problem(
    id: str, image: Mapping[str, Any] | None, width: int | None, height: int | None, sha256: str | None
) -> str:
    """What is wrong with a row's picture; empty if nothing. A row without one says nothing about it."""
    stated = (width, height, sha256)
    if image is None:
        return "" if stated == (None, None, None) else f"{id}: has the size or hash of a picture, but none"
    data = image["bytes"]
    if data is None:
        return f"{id}: the picture has no bytes"
    facts = check_image(data, max_pixels=_NO_LIMIT, max_bytes=_NO_LIMIT)
    if isinstance(facts, Rejection):
        return f"{id}: {facts.reason}: {facts.detail}"
    found = (facts.width, facts.height, facts.sha256)
    names = ("width", "height", "sha256")
    wrong = [
        f"{name} is {is_}, the row says {said}"
        for name, is_, said in zip(names, found, stated, strict=True)
        if is_ != said
    ]
    return f"{id}: {'; '.join(wrong)}" if wrong else ""


def _check_rows(report: ValidationReport, manifest: Manifest, rows: _Rows) -> None:
    """Ids are unique, and the counts are those of the manifest."""
    keys = np.concatenate([np.zeros(0, np.uint64), *rows.ids])
    if n_without := int((keys == NO_KEY).sum()):
        report.add(f"{n_without} rows have no id")
    keys.sort()
    repeated = np.unique(keys[1:][(keys[1:] == keys[:-1]) & (keys[1:] != NO_KEY)])
    if len(repeated):
        _name_repeated(report, manifest, repeated)
    for label, name in enumerate(LABEL_NAMES):
        if rows.labels[label] != manifest.labels.get(name, 0):
            report.add(
                f"{rows.labels[label]} rows are {name}, the manifest says {manifest.labels.get(name, 0)}"
            )


def _name_repeated(report: ValidationReport, manifest: Manifest, repeated: Keys) -> None:
    """The ids that several rows have, by the keys of such ids."""
    counts: Counter[str] = Counter()
    for ids in _read_ids(report.folder, manifest):
        counts.update(ids.filter(pa.array(np.isin(string_keys(ids.to_pylist()), repeated))).to_pylist())
    for id, n_rows in counts.items():
        if n_rows > 1:
            report.add(f"{id}: {n_rows} rows have this id")


def _read_ids(folder: Path, manifest: Manifest) -> Iterator[pa.Array]:
    """The ids of every shard that has some to read."""
    for shard in manifest.shards:
        with suppress(DatasetError), open_shard(folder / shard.path) as file:
            yield from read_columns(file, ["id"])["id"].chunks


def _check_funnel(report: ValidationReport, manifest: Manifest) -> None:
    """Every input row is kept or dropped for one known reason, and rejected.parquet lists the dropped."""
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


def _check_folder(report: ValidationReport, manifest: Manifest) -> None:
    """Nothing lies among the shards that the manifest does not know, and there is a card."""
    known = {shard.path for shard in manifest.shards}
    for path in sorted((report.folder / "data").glob("*")):
        if f"data/{path.name}" not in known:
            report.add(f"{path}: not in the manifest")
    if not (report.folder / "README.md").is_file():
        report.add(f"{report.folder}: has no README.md")


def _check_splits(report: ValidationReport, manifest: Manifest) -> None:
    """Every split covers the ids with known roles."""
    if not any(_split_files(report.folder)):
        return
    ids = Ids(pa.concat_arrays([pa.array([], pa.string()), *_read_ids(report.folder, manifest)]))
    for path in _split_files(report.folder):
        report.n_splits += 1
        try:
            read_split(path, ids)
        except SplitError as error:
            report.add(error.what)


def _split_files(folder: Path) -> Iterator[Path]:
    yield from sorted((folder / "splits").glob("[!.]*.parquet"))
