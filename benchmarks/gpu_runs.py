"""Whole trainings on a device: their answers against the CPU's, and their epochs against a bare loop."""

import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch
from torch import nn

import mvsent
from benchmarks.bench_features import alternate, draw_photograph, write_shards
from benchmarks.gpu_checks import CPU, Measured, precisions
from mvsent.config import TrainSettings
from mvsent.features.backbone import fused
from mvsent.features.backbones import load_backbone
from mvsent.features.cache import BATCH_SIZE, cached_maps
from mvsent.features.pixels import pixel_batches
from mvsent.models import registry
from mvsent.models.batch import Batch, Sizes
from mvsent.pairs import LABEL_NAMES
from mvsent.runs.history import read_history
from mvsent.runs.train import train
from mvsent.shards.reader import Dataset

BACKBONE, CHANNELS, GRID = "efficientnet_lite0", 1280, (7, 7)
N_WORDS, N_KNOWN = 40, 1000
FINE_TUNED_ROWS = 64  # of a step through the backbone's last block


@dataclass
class Runs:
    """Trainings of DMLANet, each made once, on datasets that are drawn once.

    Attributes:
        folder: where datasets, caches and runs are kept.
        n_compared, n_timed: pictures of the two datasets.
        side: the width of a drawn photograph, in pixels.
        epochs: of a training that is timed, of which the first does not count.
        rounds: of what is timed in turns.
    """

    folder: Path
    device: torch.device
    n_compared: int
    n_timed: int
    side: int
    epochs: int
    rounds: int
    peaks: dict[Path, float] = field(default_factory=dict)  # megabytes of each run

    @cached_property
    def compared(self) -> Dataset:
        """A dataset that the CPU trains on, too."""
        return self._draw(self.n_compared)

    @cached_property
    def timed(self) -> Dataset:
        """A dataset as large as an epoch that is timed."""
        return self._draw(self.n_timed)

    @cached_property
    def pictures(self) -> list[bytes]:
        """Photographs, of which every row has one."""
        n = min(256, self.n_timed)
        return [draw_photograph(seed, self.side, self.side * 3 // 4) for seed in range(n)]

    def _draw(self, n_rows: int) -> Dataset:
        pictures = [self.pictures[row % len(self.pictures)] for row in range(n_rows)]
        labels = [0 if row % 7 < 2 else 2 for row in range(n_rows)]  # 14 rows have ten of one label
        return write_shards(self.folder / f"shards-{n_rows}", pictures, texts(n_rows), labels)

    def train(self, dataset: Dataset, device: torch.device, *, epochs: int = 1, **settings: Any) -> Path:
        """The run of the settings; made once."""
        told = "-".join(f"{key}={value}" for key, value in settings.items())
        out = self.folder / f"{dataset.folder.name}-{device}-{epochs}-{told}"
        if out.exists():
            return out
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        given = {
            "dataset": str(dataset.folder),
            "weights": "random",
            "words": "random",
            "folds": [0],
            "epochs": epochs,
            "device": str(device),
            **settings,
        }
        train(TrainSettings(**given), out=out, quiet=True)
        if device.type == "cuda":
            self.peaks[out] = torch.cuda.max_memory_allocated(device) / 1e6
        return out

    def compare(self, *, amp: bool, **settings: Any) -> Measured:
        """The largest difference of a test row's probability from a training on the CPU."""
        settings |= {"options": {"dropout": 0}, "batch_size": 8}
        here = self.train(self.compared, self.device, amp=amp, **settings)
        reference = self.train(self.compared, CPU, amp=False, **settings)
        return Measured(float(np.abs(answers(here) - answers(reference)).max()))

    def predict(self) -> Measured:
        """The largest difference between a run's answers and those of `mvsent.load(run).predict`."""
        run = self.train(self.compared, self.device, amp=True, options={"dropout": 0}, batch_size=8)
        rows = [int(name.removeprefix("drawn:")) for name in test_rows(run)["id"].to_pylist()]
        pictures = [self.pictures[row % len(self.pictures)] for row in rows]
        given = pictures, [texts(len(self.compared))[row] for row in rows]
        predicted = mvsent.load(run, device=str(self.device)).predict(*given, cleaned=True)
        own = answers(run, predicted.classes)
        return Measured(float(np.abs(predicted.probabilities - own).max()))

    def maps(self) -> Measured:
        """The largest difference of a cached map from the CPU's, as a share of its largest value."""
        backbone, found = load_backbone(BACKBONE, weights="random"), []
        for device in (self.device, CPU):
            with tempfile.TemporaryDirectory(dir=self.folder) as cache:
                maps = cached_maps(self.compared, backbone, cache_dir=Path(cache), device=device, quiet=True)
                found.append(maps.astype(np.float32))
        here, reference = found
        return Measured(float(np.abs(here - reference).max() / np.abs(reference).max()))

    def extraction(self) -> Measured:
        """Seconds from shards to cached maps ÷ those of the backbone on pixels that lie ready."""
        backbone = load_backbone(BACKBONE, weights="random")
        ready = list(pixel_batches(self.timed, backbone.size, BATCH_SIZE))
        network = fused(backbone).to(self.device)

        def bare() -> None:
            with torch.inference_mode():
                for pixels in ready:
                    network(pixels.to(self.device))
            self._wait()

        def extract() -> None:
            with tempfile.TemporaryDirectory(dir=self.folder) as cache:
                cached_maps(self.timed, backbone, cache_dir=Path(cache), device=self.device, quiet=True)

        seconds = alternate({"ours": extract, "bare": bare}, self.rounds)
        rate = len(self.timed) / seconds["ours"]
        return Measured(seconds["ours"] / seconds["bare"], f"{rate:.0f} pictures/s")

    def epoch(self, *, stream: bool) -> Measured:
        """Seconds of an epoch of DMLANet with its validation ÷ those of a bare loop over such tensors.

        Streamed, both send the pictures through the backbone in every epoch.
        """
        settings = TrainSettings()
        run = self.train(self.timed, self.device, epochs=self.epochs, patience=self.epochs, stream=stream)
        ours = statistics.median(
            record.seconds for record in read_history(run / "fold-0" / "history.csv")[1:]
        )
        n_test = test_rows(run).num_rows
        n_rows = [len(self.timed) - 2 * n_test, n_test]
        batches = [
            [
                drawn_batch(min(settings.batch_size, n - start), pixels=stream)
                for start in range(0, n, settings.batch_size)
            ]
            for n in n_rows
        ]
        loop = self._bare_loop(batches[0], batches[1])
        bare = alternate({"bare": loop}, self.rounds)["bare"]
        n_steps = len(batches[0])
        return Measured(
            ours / bare, f"{1e3 * ours / n_steps:.1f} ms a step of {settings.batch_size}, with validation"
        )

    def _bare_loop(self, train: Sequence[Batch], validation: Sequence[Batch]) -> Callable[[], None]:
        """An epoch as one writes it by hand."""
        sizes = Sizes(CHANNELS, GRID, torch.randn(N_KNOWN, 50), 3)
        network = registry.build("dmlanet", sizes, {}).to(self.device)
        backbone = fused(load_backbone(BACKBONE, weights="random")).to(self.device)
        optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad])
        lower = precisions(self.device)[1] if self.device.type == "cuda" else torch.float32

        def on_device(batch: Batch) -> Batch:
            batch = batch.to(self.device)
            if batch.pixels is None:
                return batch
            with torch.no_grad():
                return replace(batch, regions=backbone(batch.pixels), pixels=None)

        def epoch() -> None:
            torch.use_deterministic_algorithms(False)  # off by default, as in a loop by hand
            network.train()
            for batch in map(on_device, train):
                with torch.autocast(self.device.type, dtype=lower, enabled=lower != torch.float32):
                    logits = network(batch).logits
                assert batch.target is not None
                loss = nn.functional.cross_entropy(logits.float(), batch.target)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            network.eval()
            with torch.no_grad():
                for batch in map(on_device, validation):
                    network(batch).logits.argmax(dim=1).cpu()
            self._wait()
            torch.use_deterministic_algorithms(True, warn_only=True)  # as training has them

        return epoch

    def peak(self, **settings: Any) -> Measured:
        """The peak of the device's memory in a training, in MB."""
        if self.device.type == "cpu":
            return Measured(None, "no GPU")
        return Measured(self.peaks[self.train(self.timed, self.device, **settings)])

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # kernels run after the call that starts them


def texts(n_rows: int) -> list[str]:
    """Texts of forty random words each."""
    random = np.random.default_rng(0)
    return [" ".join(f"word{i}" for i in random.integers(0, N_KNOWN - 2, N_WORDS)) for _ in range(n_rows)]


def drawn_batch(n_rows: int, *, pixels: bool) -> Batch:
    """Rows on the host as training has them."""
    return Batch(
        regions=None if pixels else torch.randn(n_rows, CHANNELS, *GRID),
        pixels=torch.randint(0, 256, (n_rows, 3, 224, 224), dtype=torch.uint8) if pixels else None,
        words=torch.randint(2, N_KNOWN, (n_rows, N_WORDS)),
        word_mask=torch.ones(n_rows, N_WORDS, dtype=torch.bool),
        target=torch.randint(0, 3, (n_rows,)),
    )


def test_rows(run: Path) -> Any:
    """The table of the test rows of a run's first fold."""
    return pq.read_table(run / "fold-0" / "predictions.parquet", filters=[("role", "=", "test")])


def answers(run: Path, classes: Sequence[str] = LABEL_NAMES) -> npt.NDArray[np.float32]:
    """`[n, len(classes)]` probabilities of the test rows."""
    table = test_rows(run)
    return np.stack([table[f"p_{name}"].to_numpy() for name in classes], axis=1)
