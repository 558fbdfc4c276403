"""Datasets with columns that this mvsent does not know, of a later schema or added by another tool."""

import logging
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mvsent.datasets.export import export
from mvsent.datasets.merge import merge
from mvsent.datasets.reshard import reshard
from mvsent.datasets.stats import dataset_stats
from mvsent.datasets.validate import validate
from mvsent.errors import DatasetError
from mvsent.pairs import PAIR_SCHEMA, SCHEMA_VERSION
from mvsent.shards.manifest import MANIFEST_FILE
from mvsent.shards.reader import Dataset
from tests.conftest import write_dataset
from tests.drawing import draw_pairs
from tests.more_columns import a_column_more


@pytest.fixture
def newer(tmp_path: Path) -> Path:
    """A dataset of the next schema version, which has a column `mood`."""
    with a_column_more():
        return write_dataset(tmp_path / "newer", draw_pairs(20))


@pytest.fixture
def extended(newer: Path) -> Path:
    """A dataset of this schema version, to which somebody added a column `mood`."""
    path = newer / MANIFEST_FILE
    said, says = (f'"schema_version": {version}' for version in (SCHEMA_VERSION + 1, SCHEMA_VERSION))
    path.write_text(path.read_text().replace(said, says))
    return newer


def test_a_dataset_of_a_newer_schema_is_refused_in_one_line(newer: Path) -> None:
    with pytest.raises(DatasetError, match=r"written by a newer mvsent .*Upgrade mvsent"):
        Dataset.open(newer)


def test_an_unknown_column_is_ignored(extended: Path) -> None:
    assert validate(extended, quiet=True).problems == []
    assert dataset_stats(extended).total == 20
    table = Dataset.open(extended).table(PAIR_SCHEMA.names)
    assert table.equals(draw_pairs(20))
    with pytest.raises(KeyError):
        Dataset.open(extended).table(["mood"])


@pytest.mark.parametrize(
    "write",
    [
        lambda dataset, other, out: reshard(dataset, 7, out),
        lambda dataset, other, out: merge([other, dataset], out),
        lambda dataset, other, out: export(dataset, "csv", out),
    ],
    ids=["shard", "merge", "export"],
)
def test_an_unknown_column_is_left_out_of_what_is_written_and_a_warning_names_it(
    write: Callable[[Path, Path, Path], object],
    extended: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = write_dataset(tmp_path / "other", draw_pairs(8, prefix="other"))
    with caplog.at_level(logging.WARNING, "mvsent"):
        write(extended, other, tmp_path / "out")
    assert caplog.messages == [f"{extended}: columns that mvsent does not know are left out: mood"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda pairs: pairs.drop_columns(["id"]), "no column id"),
        (lambda pairs: pairs.drop_columns(["label"]).append_column("label", pairs["text"]), "sad"),
    ],
    ids=["missing", "of another type"],
)
def test_a_column_that_has_to_be_there_and_is_not_is_one_line(
    change: Callable[[pa.Table], pa.Table], said: str, tmp_path: Path
) -> None:
    folder = write_dataset(tmp_path / "drawn", draw_pairs(3))
    shard = folder / "data/shard-00000.parquet"
    n_bytes = shard.stat().st_size
    pq.write_table(change(pq.read_table(shard)), shard)
    manifest = folder / MANIFEST_FILE
    manifest.write_text(
        manifest.read_text().replace(f'"bytes": {n_bytes}', f'"bytes": {shard.stat().st_size}')
    )
    dataset = Dataset.open(folder)
    with pytest.raises(DatasetError, match=f"{shard}: not a readable shard .*{said}"):
        list(dataset.pairs(2))
    assert (
        f"{shard}: not the columns of a pair: {'id' if 'id' in said else 'label'}"
        in validate(folder, quiet=True).problems
    )
