"""Features that are computed once."""

import errno
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from mvsent.errors import DatasetError, MvsentError
from mvsent.features import cache_entry
from mvsent.features.cache import cached_maps, cached_pixels
from mvsent.features.cache_entry import CacheEntry
from mvsent.features.cache_folder import default_cache_dir
from mvsent.features.pixels import pixel_batches
from mvsent.shards.reader import Dataset
from tests import programs
from tests.drawing import draw_pairs


class TinyBackbone(nn.Module):
    """Stands in for a `Backbone`: four channels on a 2×2 grid, and it counts the pictures it has seen."""

    name, tap, size, shape, weights_sha256 = "tiny", "", 16, (4, 2, 2), "0"
    n_seen = 0

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.AvgPool2d(8), nn.Conv2d(3, 4, 1))
        for parameter in self.parameters():
            nn.init.constant_(parameter, 0.01)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        TinyBackbone.n_seen += len(pixels)
        return self.trunk(pixels.float())


@pytest.fixture
def dataset(small_dataset: Path) -> Dataset:
    return Dataset.open(small_dataset)


@pytest.fixture
def tiny() -> TinyBackbone:
    TinyBackbone.n_seen = 0
    return TinyBackbone()


def expected_maps(dataset: Dataset) -> np.ndarray:
    with torch.inference_mode():
        return torch.cat([TinyBackbone()(batch) for batch in pixel_batches(dataset, 16, 60)]).half().numpy()


def test_maps_are_the_backbones_in_half_precision_and_row_order(
    tmp_path: Path, dataset: Dataset, tiny: TinyBackbone
) -> None:
    maps = cached_maps(dataset, tiny, cache_dir=tmp_path, batch_size=7, quiet=True)
    assert isinstance(maps, np.memmap)
    assert maps.dtype == np.float16
    assert maps.shape == (60, 4, 2, 2)
    np.testing.assert_allclose(maps, expected_maps(dataset), rtol=1e-3)


def test_the_second_call_computes_nothing(tmp_path: Path, dataset: Dataset, tiny: TinyBackbone) -> None:
    first = cached_maps(dataset, tiny, cache_dir=tmp_path, quiet=True)
    assert TinyBackbone.n_seen == 60
    second = cached_maps(dataset, tiny, cache_dir=tmp_path, quiet=True)
    assert TinyBackbone.n_seen == 60
    assert (first == second).all()
    assert not second.flags.writeable


@pytest.mark.parametrize(("what", "value"), [("weights_sha256", "1"), ("tap", "mixed_5b"), ("size", 24)])
def test_other_weights_taps_or_sizes_are_other_entries(
    tmp_path: Path, dataset: Dataset, tiny: TinyBackbone, what: str, value: object
) -> None:
    cached_maps(dataset, tiny, cache_dir=tmp_path, quiet=True)
    setattr(tiny, what, value)
    tiny.shape = (4, 3, 3) if what == "size" else tiny.shape
    cached_maps(dataset, tiny, cache_dir=tmp_path, quiet=True)
    assert TinyBackbone.n_seen == 120
    assert len(list(tmp_path.glob("maps-tiny-*"))) == 2


def test_pixels_are_those_of_the_batches(tmp_path: Path, dataset: Dataset) -> None:
    pixels = cached_pixels(dataset, 16, cache_dir=tmp_path, batch_size=7, quiet=True)
    assert (pixels == torch.cat(list(pixel_batches(dataset, 16, 60))).numpy()).all()
    assert pixels.shape == (60, 3, 16, 16)


KILLED = """
import sys
from pathlib import Path
from mvsent.features.cache import cached_maps
from mvsent.shards.reader import Dataset
from tests.test_features_cache import TinyBackbone

class Reporting(TinyBackbone):
    def forward(self, pixels):
        maps = super().forward(pixels)
        print(TinyBackbone.n_seen, flush=True)
        if TinyBackbone.n_seen == 30:
            sys.stdin.readline()  # until killed
        return maps

cached_maps(Dataset.open(Path(sys.argv[1])), Reporting(), cache_dir=Path(sys.argv[2]), batch_size=5, quiet=True)
"""


@pytest.mark.slow
def test_after_kill_9_the_next_run_goes_on_and_gives_the_same(
    tmp_path: Path, dataset: Dataset, tiny: TinyBackbone
) -> None:
    command = programs.python("-c", KILLED, str(dataset.folder), str(tmp_path))
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    )
    assert [int(child.stdout.readline()) for _ in range(6)] == [5, 10, 15, 20, 25, 30]
    os.kill(programs.pid(child.pid), signal.SIGKILL)
    child.communicate()
    assert not list(tmp_path.glob("*/finished.json"))
    maps = cached_maps(dataset, tiny, cache_dir=tmp_path, batch_size=5, quiet=True)
    assert TinyBackbone.n_seen <= 60 - 20  # the fifth and sixth batch were in flight
    np.testing.assert_allclose(maps, expected_maps(dataset), rtol=1e-3)


def fail_after(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the disk be full after `n` batches."""
    append, calls = CacheEntry._append, []

    def appending(self: CacheEntry, file: object, batch: np.ndarray, done: int) -> None:
        calls.append(done)
        if len(calls) > n:
            file.write(batch.data[:1])  # type: ignore[attr-defined]
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(self, file, batch, done)

    monkeypatch.setattr(CacheEntry, "_append", appending)


def test_a_disk_that_fills_up_is_named_and_what_was_done_is_kept(
    tmp_path: Path, dataset: Dataset, tiny: TinyBackbone
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fail_after(3, patch)
        with pytest.raises(OSError, match="No space left") as caught:
            cached_maps(dataset, tiny, cache_dir=tmp_path, batch_size=10, quiet=True)
    assert caught.value.filename.startswith(str(tmp_path))
    TinyBackbone.n_seen = 0
    maps = cached_maps(dataset, tiny, cache_dir=tmp_path, batch_size=10, quiet=True)
    assert TinyBackbone.n_seen == 30
    np.testing.assert_allclose(maps, expected_maps(dataset), rtol=1e-3)


def test_too_little_room_is_said_before_anything_is_computed(
    tmp_path: Path, dataset: Dataset, tiny: TinyBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "mvsent.features.cache_entry.shutil.disk_usage", lambda path: SimpleNamespace(free=100)
    )
    with pytest.raises(MvsentError, match="MVSENT_CACHE"):
        cached_maps(dataset, tiny, cache_dir=tmp_path, quiet=True)
    assert TinyBackbone.n_seen == 0


@pytest.mark.parametrize("damage", ["cut", "gone", "nonsense"])
def test_an_entry_whose_file_was_damaged_is_computed_again(
    tmp_path: Path, dataset: Dataset, tiny: TinyBackbone, damage: str
) -> None:
    cached_maps(dataset, tiny, cache_dir=tmp_path, quiet=True)
    (entry,) = tmp_path.iterdir()
    if damage == "cut":
        os.truncate(entry / "values.npy", 300)
    elif damage == "gone":
        (entry / "values.npy").unlink()
    else:
        (entry / "finished.json").unlink()
        (entry / "rows.txt").write_text("many")
    np.testing.assert_allclose(
        cached_maps(dataset, tiny, cache_dir=tmp_path, quiet=True), expected_maps(dataset), rtol=1e-3
    )


def test_of_two_at_once_one_computes_and_the_other_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, go, waiting = threading.Event(), threading.Event(), threading.Event()
    monkeypatch.setattr(cache_entry.log, "warning", lambda *args: waiting.set())
    results: list[np.ndarray] = []

    def slow(start: int) -> Iterator[np.ndarray]:
        started.set()
        go.wait(60)
        yield np.arange(start, 8, dtype=np.uint8).reshape(8, 1)

    def never(start: int) -> Iterator[np.ndarray]:
        raise AssertionError("computed twice")
        yield

    def entry() -> CacheEntry:
        return CacheEntry(tmp_path, "test", (8, 1), np.dtype(np.uint8), {"a": 1})

    first = threading.Thread(target=lambda: results.append(entry().values(slow, "first", quiet=True)))
    first.start()
    assert started.wait(60)
    second = threading.Thread(target=lambda: results.append(entry().values(never, "second", quiet=True)))
    second.start()
    assert waiting.wait(60)
    go.set()
    first.join()
    second.join()
    assert [result.tolist() for result in results] == [[[i] for i in range(8)]] * 2


def test_a_dataset_without_pictures_leaves_nothing_that_looks_finished(
    tmp_path: Path, make_dataset: Callable[..., Path], tiny: TinyBackbone
) -> None:
    dataset = Dataset.open(make_dataset(draw_pairs(3, images=False)))
    with pytest.raises(DatasetError, match="rows without pictures"):
        cached_maps(dataset, tiny, cache_dir=tmp_path / "cache", quiet=True)
    assert not list(tmp_path.glob("cache/*/finished.json"))


def test_a_finished_entry_says_what_it_was_made_from(
    tmp_path: Path, dataset: Dataset, tiny: TinyBackbone
) -> None:
    cached_maps(dataset, tiny, cache_dir=tmp_path, quiet=True)
    (marker,) = tmp_path.glob("*/finished.json")
    facts = json.loads(marker.read_text())
    assert facts["dataset"] == dataset.sha256
    assert facts["shape"] == [60, 4, 2, 2]


def test_the_cache_folder_can_be_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MVSENT_CACHE", str(tmp_path))
    assert default_cache_dir() == tmp_path
    monkeypatch.delenv("MVSENT_CACHE")
    assert default_cache_dir().name == "mvsent"
