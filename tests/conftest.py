"""Small datasets that every test may use."""

import gc
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import settings

from mvsent.report import plots
from mvsent.shards.writer import DatasetWriter
from mvsent.storage import located
from tests.drawing import draw_pairs, draw_rejected
from tests.object_storage import BUCKET, empty, forget, s3_server, use
from tests.programs import INTERPRETER, PYTHON, fork_server

# Each of xdist's workers has one core, and so have the programs that it starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 would starve its workers beside other tests
_fork_server = fork_server()
PRINTED_DPI, plots.DPI = plots.DPI, 60  # most of the time of drawing is spent on the pixels


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):  # xdist's workers share the fork server, and are forked from it
        sys.executable = os.environ[INTERPRETER]
    else:
        _fork_server.__enter__()
        workers = getattr(config.option, "tx", None) or ()  # without xdist there is no such option
        config.option.tx = [f"popen//python={os.environ[PYTHON]}" for _ in workers]
    multiprocessing.set_executable(os.environ[PYTHON])  # `spawn` starts what the fork server forks


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        _fork_server.__exit__(None, None, None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files of most slow tests, which xdist would leave to the end, and one worker to itself."""
    n_slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -n_slow[item.path])


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # what was imported stays: looking through it again and again is a third of some tests' time


settings.register_profile("mvsent", deadline=None)  # a busy machine is no bug
settings.load_profile("mvsent")


def write_dataset(
    folder: Path, pairs: pa.Table, *, name: str = "", n_rejected: int = 0, shard_size: int = 25
) -> Path:
    """A finished dataset of `pairs` in `folder`, called like the folder unless it gets a name."""
    with DatasetWriter(
        folder, name or folder.name, settings={"drawn": True}, shard_size=shard_size
    ) as writer:
        writer.write(pairs)
        writer.reject(draw_rejected(n_rejected))
        writer.finish(pairs.num_rows + n_rejected)
    return folder


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Path]:
    """Write a dataset: `make_dataset(pairs, name=…, n_rejected=…, shard_size=…)` gives its folder."""

    def make(pairs: pa.Table, *, name: str = "drawn", n_rejected: int = 0, shard_size: int = 25) -> Path:
        return write_dataset(tmp_path / "data" / name, pairs, n_rejected=n_rejected, shard_size=shard_size)

    return make


@pytest.fixture(scope="session")
def sixty_pairs() -> pa.Table:
    """60 pairs with pictures, 20 of each label; rows 9 and 10 repeat the texts of rows 3 and 4."""
    return draw_pairs(60)


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory: pytest.TempPathFactory, sixty_pairs: pa.Table) -> Path:
    """The folder of a finished dataset with `sixty_pairs` in three shards and two dropped rows.

    All tests share it: look, do not change. `make_dataset(sixty_pairs)` gives one of your own.
    """
    return write_dataset(tmp_path_factory.mktemp("data") / "small", sixty_pairs, n_rejected=2)


@pytest.fixture(scope="session")
def s3_address() -> Iterator[str]:
    """The address of an S3 server; `bucket` empties it."""
    with s3_server() as address:
        yield address


@pytest.fixture
def bucket(s3_address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty bucket, with the environment to reach it."""
    use(s3_address, monkeypatch)
    root = located(f"s3://{BUCKET}")
    root.fs.mkdir(BUCKET)
    yield root
    forget()
    empty(s3_address)
