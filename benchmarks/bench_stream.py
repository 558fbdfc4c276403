"""The cost of streaming: shards read and shuffled in every epoch ÷ rows that are ready in memory.

The map-style loader holds the encoded pictures and texts of the same shards in memory, gets each step's rows
by number, and decodes and batches them as the stream does, with as many threads and steps ahead. It is the
best case of random access, because nothing is read: the difference is the cost of reading, planning and
keeping rows. The pictures are photographs of 1024×768 and about
150 kB; the epoch is a whole one, the filling of the buffer included. The shards are in the page cache.
"""

import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from benchmarks.bench_features import alternate, draw_photograph, write_shards
from mvsent.config import TrainSettings
from mvsent.learn.batches import Rows, cut
from mvsent.learn.stream import STEPS_AHEAD, Stream
from mvsent.models.batch import Batch
from mvsent.runs import train as training
from mvsent.runs.material import prepare
from mvsent.runs.run_folder import RunFolder
from mvsent.shards.reader import Dataset

Row = tuple[str, float, float, float, str]

N_DRAWN, BATCH_SIZE, WORKERS = 256, 64, 2
EPOCHS = 4096, 12_288
"""Rows; in the shorter one the first buffer and the groups ahead are a third of what is read."""


def rows() -> list[Row]:
    """`(figure, seconds streamed, seconds map-style, ratio, goal)`, medians of alternating epochs."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = draw_dataset(Path(folder) / "shards")
        stream = source(dataset.folder, Path(folder) / "run")
        held = dict(enumerate(everything(stream, len(dataset))))
        return [epoch_row(stream, held, n_rows) for n_rows in EPOCHS]


def epoch_row(stream: Stream[Any, Any], held: Mapping[int, Any], n_rows: int) -> Row:
    """The row of an epoch over the first `n_rows`."""
    steps = partial(steps_of, stream, n_rows)
    seconds = alternate(
        {
            "streamed": lambda: exhaust(stream.batches(steps())),
            "map-style": lambda: exhaust(map_style(stream, held, steps())),
        }
    )
    ours, other = seconds["streamed"], seconds["map-style"]
    return f"epoch of {n_rows} pictures, streamed ÷ map-style", ours, other, ours / other, "≤ 1.1"


def training_row(elsewhere: Path | str, disk: Path) -> Row:
    """`(figure, rows/s of training from elsewhere, from disk, ratio, goal)` of the same dataset in both.

    An epoch through a frozen EfficientNet-Lite0 and DMLANet, with the reading of its validation rows.
    """
    with tempfile.TemporaryDirectory() as folder:
        runs = {
            name: partial(train_once, str(place), Path(folder) / name)
            for name, place in (("elsewhere", elsewhere), ("disk", disk))
        }
        seconds = alternate(runs)
    per_second = {name: len(Dataset.open(disk)) / value for name, value in seconds.items()}
    ratio = per_second["elsewhere"] / per_second["disk"]
    return (
        "training from object storage ÷ from disk, rows/s",
        per_second["elsewhere"],
        per_second["disk"],
        ratio,
        "≥ 0.8",
    )


def train_once(dataset: str, run: Path) -> None:
    """One fold, one epoch; nothing is left of it."""
    training.train(settings(dataset, fine_tune="none"), out=run, quiet=True)
    shutil.rmtree(run)


def draw_dataset(folder: Path) -> Dataset:
    """Pairs for the longest epoch, of `N_DRAWN` photographs."""
    pictures = [draw_photograph(seed) for seed in range(N_DRAWN)]
    return write_shards(folder, [pictures[row % N_DRAWN] for row in range(max(EPOCHS))])


def settings(dataset: str, *, fine_tune: Literal["none", "all"]) -> TrainSettings:
    return TrainSettings(
        dataset=dataset,
        stream=True,
        weights="random",
        words="random",
        fine_tune=fine_tune,
        batch_size=BATCH_SIZE,
        workers=WORKERS,
        epochs=1,
        folds=[0],
        shuffle_buffer=512,
    )


def source(dataset: Path, run: Path) -> Stream[Any, Any]:
    """The rows of a trainer that trains the backbone, too: squares of pixels, and words."""
    chosen = settings(str(dataset), fine_tune="all")
    material = prepare(chosen, device=torch.device("cpu"), quiet=True)
    folder = RunFolder.create(run, chosen, training.resolve(chosen, material, 1), overwrite=False)
    folder.fold(0).mkdir()
    found = training.make_trainer(folder, 0, material).source
    assert isinstance(found, Stream)
    return found


def everything(stream: Stream[Any, Any], n_rows: int) -> Iterator[Any]:
    """The rows as they were read, in row order."""
    ends = [*stream.firsts[1:].tolist(), n_rows]
    for group, (first, end) in enumerate(zip(stream.firsts.tolist(), ends, strict=True)):
        yield from stream.read(group, np.arange(first, end)).values()


def steps_of(stream: Stream[Any, Any], n_rows: int) -> list[Rows]:
    return cut(stream.order(np.arange(n_rows), seed=0, fold=0, epoch=0), BATCH_SIZE)


def map_style(stream: Stream[Any, Any], held: Mapping[int, Any], steps: list[Rows]) -> Iterator[Batch]:
    """The batches of `steps` from rows that are all in memory."""
    with ThreadPoolExecutor(WORKERS) as pool:
        waiting: deque[tuple[Rows, list[Any]]] = deque()
        for rows in steps:
            waiting.append((rows, [pool.submit(stream.decode, held[row]) for row in rows.tolist()]))
            if len(waiting) > STEPS_AHEAD:
                yield batch_of(stream.collate, *waiting.popleft())
        while waiting:
            yield batch_of(stream.collate, *waiting.popleft())


def batch_of(collate: Callable[..., Batch], rows: Rows, jobs: list[Any]) -> Batch:
    return collate(rows, [job.result() for job in jobs])


def exhaust(batches: Iterator[Batch]) -> None:
    for _ in batches:
        pass


if __name__ == "__main__":
    for row in rows():
        print(row)
