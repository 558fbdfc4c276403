"""`build-table`, which checks every picture, against Hugging Face's imagefolder, which checks none."""

import csv
import io
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import datasets
import numpy as np
from PIL import Image

from mvsent.build.from_table import build_table
from mvsent.build.table_cells import read_plan
from mvsent.pairs import LABEL_NAMES
from mvsent.sources.table import TableSettings

N_PICTURES, RUNS = 4000, 3

Row = tuple[str, float, float, float, str]


def rows() -> list[Row]:
    """(figure, ours, the other's, ratio, goal): medians of alternating runs in pictures per second."""
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "pictures")
        draw(folder)
        ours, theirs = [], []
        for _ in range(RUNS):
            ours.append(seconds(lambda: by_us(folder, Path(scratch, "out"))))
            theirs.append(seconds(lambda: by_hugging_face(folder, Path(scratch))))
    ours_s, theirs_s = N_PICTURES / median(ours), N_PICTURES / median(theirs)
    figure = f"build-table of {N_PICTURES} JPEGs of 60 kB ÷ datasets' imagefolder, pictures/s"
    return [(figure, ours_s, theirs_s, ours_s / theirs_s, "≥ 1.0")]


def draw(folder: Path) -> None:
    """Write JPEGs of about 60 kB, each with other pixels, and a metadata.csv into `folder`."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 12, (400, 500, 3))
    with (folder / "metadata.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "text", "label"])
        for number in range(N_PICTURES):
            small = Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8))
            pixels = np.asarray(small.resize((500, 400), Image.Resampling.BICUBIC)) + noise
            stream = io.BytesIO()
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=80)
            (folder / f"{number}.jpg").write_bytes(stream.getvalue())
            table.writerow([f"{number}.jpg", f"picture number {number} of the day", LABEL_NAMES[number % 3]])


def by_us(folder: Path, out: Path) -> None:
    build_table(read_plan([folder], TableSettings(), "table"), out, overwrite=True, quiet=True)


def by_hugging_face(folder: Path, scratch: Path) -> None:
    cache = scratch / "cache"
    loaded = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train", cache_dir=str(cache))
    loaded.to_parquet(scratch / "pairs.parquet")
    shutil.rmtree(cache)  # else the next run would read it instead of the pictures


def seconds(job: Callable[[], object]) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


if __name__ == "__main__":
    for row in rows():
        print(row)
