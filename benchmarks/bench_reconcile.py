"""The cost of reconciling beyond reading the label file: 1,000,000 rows, three annotators, labels only."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow.csv

from mvsent.build.reconcile import reconcile
from mvsent.config import ReconcileSettings
from mvsent.pairs import LABEL_NAMES

N_ROWS, N_ANNOTATORS, RUNS = 1_000_000, 3, 9
SETTINGS = ReconcileSettings(labels_only=True)

Row = tuple[str, float, float, float, str]


def rows() -> list[Row]:
    """(figure, ours, the other's, ratio, goal): medians of alternating runs in s; memory in GB."""
    with tempfile.TemporaryDirectory() as scratch:
        root, out = Path(scratch, "MVSA_Multiple"), Path(scratch, "out")
        label_file = write_label_file(root)
        read, ours = [], []
        for _ in range(RUNS):
            read.append(seconds(lambda: read_csv(label_file)))
            ours.append(seconds(lambda: reconcile(root, out, SETTINGS, overwrite=True, quiet=True)))
        gigabytes = peak_gigabytes(root, out)
    ours_s, read_s = median(ours[1:]), median(read[1:])  # the first runs import and warm up
    return [
        (
            "reconcile 1M rows × 3, labels only ÷ pyarrow.csv.read_csv, s",
            ours_s,
            read_s,
            ours_s / read_s,
            "≤ 5",
        ),
        ("peak memory of that ÷ 2 GB", gigabytes, 2.0, gigabytes / 2.0, "≤ 1"),
    ]


def write_label_file(root: Path) -> Path:
    """Write a label file whose annotators mostly agree into `root`; returns its path."""
    rng = np.random.default_rng(0)
    mood = rng.choice(len(LABEL_NAMES), N_ROWS, p=[0.2, 0.35, 0.45])
    words = np.array([f"{text},{image}" for text in LABEL_NAMES for image in LABEL_NAMES])
    columns = []
    for _ in range(N_ANNOTATORS):
        text, image = (
            np.where(rng.random(N_ROWS) < 0.75, mood, rng.integers(0, 3, N_ROWS)) for _ in range(2)
        )
        columns.append(words[3 * text + image].tolist())
    root.mkdir(parents=True)
    path = root / "labelResultAll.txt"
    with path.open("w", newline="") as file:
        file.write("\t".join(["ID"] + ["text,image"] * N_ANNOTATORS) + "\r\n")
        file.writelines(
            "\t".join([str(i), *cells]) + "\r\n" for i, cells in enumerate(zip(*columns, strict=True), 1)
        )
    return path


def read_csv(path: Path) -> None:
    pyarrow.csv.read_csv(path, parse_options=pyarrow.csv.ParseOptions(delimiter="\t"))


def seconds(job: Callable[[], object]) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def peak_gigabytes(root: Path, out: Path) -> float:
    """The largest resident size of a process that runs the command."""
    program = (
        "import sys\n"
        "from benchmarks.memory import peak_megabytes\n"
        "from mvsent.cli import app\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
        "print(peak_megabytes())"
    )
    flags = ["reconcile-mvsa", str(root), "--out", str(out), "--labels-only", "--overwrite", "--quiet"]
    printed = subprocess.run(
        [sys.executable, "-c", program, *flags], check=True, capture_output=True, text=True
    )
    return float(printed.stdout.split()[-1]) / 1e3


if __name__ == "__main__":
    for row in rows():
        print(row)
