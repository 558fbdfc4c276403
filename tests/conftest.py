"""Small datasets that every test may use."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from mvsent.shards.writer import DatasetWriter
from tests.drawing import draw_pairs, draw_rejected


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Path]:
    """Write a dataset: `make_dataset(pairs, name=…, n_rejected=…, shard_size=…)` gives its folder."""

    def make(pairs: pa.Table, *, name: str = "drawn", n_rejected: int = 0, shard_size: int = 25) -> Path:
        folder = tmp_path / "data" / name
        with DatasetWriter(folder, name, settings={"drawn": True}, shard_size=shard_size) as writer:
            writer.write(pairs)
            writer.reject(draw_rejected(n_rejected))
            writer.finish(pairs.num_rows + n_rejected)
        return folder

    return make


@pytest.fixture(scope="session")
def sixty_pairs() -> pa.Table:
    """60 pairs with pictures, 20 of each label; rows 9 and 10 repeat the texts of rows 3 and 4."""
    return draw_pairs(60)


@pytest.fixture
def small_dataset(make_dataset: Callable[..., Path], sixty_pairs: pa.Table) -> Path:
    """The folder of a finished dataset with `sixty_pairs` in three shards and two dropped rows."""
    return make_dataset(sixty_pairs, name="small", n_rejected=2)
