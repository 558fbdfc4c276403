"""The cost of a training step of every model: its steps per second ÷ DMLANet's; and the time of Table II.

At equal epochs Table II takes as long as DMLANet alone times the sum of 1 / ratio over its systems. DMLANet's
five folds take about twenty minutes of one core, so three hours on two cores are eighteen times DMLANet:
itself, and eleven systems with a ratio of 0.65. Models that are solved instead of trained in steps are left
out.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import torch

from mvsent.config import TrainSettings
from mvsent.learn.batches import Examples, Text
from mvsent.learn.loop import Fold, Trainer
from mvsent.models import registry
from mvsent.models.batch import Sizes, Solved
from mvsent.runs.benchmark_plan import systems
from mvsent.runs.inputs.links import Links

N_ROWS, BATCH, N_WORDS, N_KNOWN, N_ANPS, ROUNDS = 512, 256, 40, 5000, 1200, 3
N_LEXICON, TEXT_SIZE, CHANNELS, N_LINKS = 4, 384, 1280, 8
FOLD = Fold(0, train=np.arange(N_ROWS), validation=np.arange(1))
DMLANET, DMLANET_HOURS, CORES = "dmlanet", 20 / 60, 2


def rows() -> list[tuple[str, float, float, float, str]]:
    """`(figure, the model's steps/s, DMLANet's, ratio, goal)`; medians of rounds that alternate.

    The last row is `(figure, hours of Table II, 3, ratio, goal)`.
    """
    torch.set_num_threads(1)
    data, sizes = examples(), table_sizes()
    found: list[tuple[str, float, float, float, str]] = []
    of_name = {DMLANET: 1.0}
    for name in registry.names():
        if name == DMLANET or isinstance(registry.build(name, sizes, {}), Solved):
            continue
        own, reference = (partial(_steps_per_second, each, data, sizes) for each in (name, DMLANET))
        rates = _alternate(own, reference)
        mine, others = map(median, rates)
        of_name[name] = median(ours / theirs for ours, theirs in zip(*rates, strict=True))
        found.append((f"training steps/s, {name} ÷ DMLANet", mine, others, of_name[name], "≥ 0.65"))
    hours = _table_hours(of_name)
    return [*found, ("Table II on two cores at equal epochs ÷ 3 h", hours, 3, hours / 3, "≤ 1")]


def _table_hours(ratios: dict[str, float]) -> float:
    names = [system.card.name for system in systems("2")]
    return DMLANET_HOURS / CORES * sum(1 / ratios[name] for name in names if name in ratios)


def _alternate(*runs: Callable[[], float]) -> list[list[float]]:
    for run in runs:
        run()  # a first run is slower
    rounds = [[run() for run in runs] for _ in range(ROUNDS)]
    return [list(each) for each in zip(*rounds, strict=True)]


def examples(n_rows: int = N_ROWS, channels: int = CHANNELS) -> Examples:
    """Drawn rows with everything that any model reads, by default shaped as those of MVSA-Single."""
    random = np.random.default_rng(0)

    def floats(*shape: int) -> np.ndarray:
        return random.normal(0, 1, (n_rows, *shape)).astype(np.float32)

    lengths = random.integers(3, N_WORDS + 1, n_rows)
    mask = np.arange(N_WORDS) < lengths[:, None]
    numbers = random.integers(2, N_KNOWN, (n_rows, N_WORDS)) * mask
    target = random.integers(0, 3, n_rows)
    return Examples(
        target,
        {
            "words": Text(lengths, numbers=numbers, sentence=(np.arange(N_WORDS) // 12) * mask),
            "regions": floats(channels, 7, 7).astype(np.float16),
            "text_vector": floats(TEXT_SIZE),
            "lexicon": floats(N_LEXICON),
            "anp_scores": floats(N_ANPS),
            "links": Links(random.integers(0, n_rows, (n_rows, N_LINKS)), floats(channels + 50)),
            "text_target": target,
            "image_target": target,
        },
    )


def table_sizes(channels: int = CHANNELS) -> Sizes:
    """The sizes that the models are built with."""
    return Sizes(
        channels,
        (7, 7),
        torch.randn(N_KNOWN, 50),
        3,
        text_size=TEXT_SIZE,
        n_lexicon=N_LEXICON,
        n_anps=N_ANPS,
    )


def _steps_per_second(name: str, data: Examples, sizes: Sizes) -> float:
    """Training steps per second of one epoch; its validation is a single row."""
    settings = TrainSettings(model=name, epochs=1, batch_size=BATCH)
    options = {"memory": "false"} if name == "dmlanet-plus" else {}  # solved once a fold, not in steps
    trainer = Trainer(registry.build(name, sizes, options), data, settings, torch.device("cpu"))
    with TemporaryDirectory() as folder:
        started = perf_counter()
        trainer.fit(FOLD, Path(folder) / "checkpoint.pt")
        return (N_ROWS // BATCH) / (perf_counter() - started)


if __name__ == "__main__":
    for row in rows():
        print(row)
