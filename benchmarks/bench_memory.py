"""The peak memory of each command over 1,000,000 rows with tiny pictures ÷ that over 100,000.

Each command runs in a process of its own. `BENCH_MEMORY_ROWS=10000,100000` changes the sizes, and
`BENCH_MEMORY_COMMANDS=stats,split` what is measured.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from mvsent.pairs import pair_table
from mvsent.shards.writer import DatasetWriter
from tests.drawing import draw_picture

FEW, MANY = (int(n) for n in os.environ.get("BENCH_MEMORY_ROWS", "100000,1000000").split(","))
COMMANDS = {
    "stats": ["stats", "{data}"],
    "validate": ["validate", "{data}"],
    "split": ["split", "{data}", "--protocol", "paper-5x"],  # of near copies see bench_near
    "export": ["export", "{data}", "--to", "webdataset", "--out", "{scratch}/tars", "--overwrite"],
    "report": ["report", "{data}", "--out", "{scratch}/page.html"],
    "merge": ["merge", "{data}", "{other}", "--out", "{scratch}/merged", "--overwrite"],
    "train": [
        *("train", "{data}", "--model", "text-only", "--stream", "--words", "random", "--epochs", "1"),
        *("--folds", "0", "--batch-size", "1024", "--out", "{scratch}/run", "--overwrite"),
    ],
    "shard": ["shard", "{data}", "--rows-per-shard", "20000", "--out", "{scratch}/again", "--overwrite"],
}
_BATCH = 10_000
_SMALL = (16, 16)

Row = tuple[str, float, float, float, str]


def rows() -> list[Row]:
    """(command, MB over MANY rows, MB over FEW, ratio, goal)."""
    wanted = os.environ.get("BENCH_MEMORY_COMMANDS", ",".join(COMMANDS)).split(",")
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        places = {n: drawn(scratch / f"rows-{n}", n) for n in (FEW, MANY)}
        other = drawn(scratch / "other", 1000)
        found = []
        for command in wanted:
            peaks = {}
            for n, data in places.items():
                words = [w.format(data=data, other=other, scratch=scratch) for w in COMMANDS[command]]
                peaks[n] = peak_of(words)
            few, many = peaks[FEW], peaks[MANY]
            title = f"peak memory of {command}, {MANY} rows ÷ {FEW}, MB"
            found.append((title, many, few, many / few, "≤ 1.3"))
            print(f"  {command}: {few:.0f} → {many:.0f} MB", file=sys.stderr)
    return found


_ASKS = "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL); "
_ASKS += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"


def peak_of(words: list[str]) -> float:
    """The peak memory in MB of `mvsent WORDS` in one process.

    A small process starts it, because the resident memory of a parent counts as its child's.
    """
    command = [sys.executable, "-c", _ASKS, sys.executable, "-m", "mvsent", *words, "--quiet"]
    ended = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return int(ended.stdout) * 1024 / 1e6  # Linux counts ru_maxrss in KiB


def drawn(folder: Path, n_rows: int) -> Path:
    """A finished dataset of `n_rows` pairs, each with a picture, a text and a hash of its own."""
    settings = {"drawn": n_rows}
    with DatasetWriter(folder, folder.name, settings=settings, shard_size=10_000) as writer:
        for table in tables(folder.name, n_rows):
            writer.write(table)
        writer.finish(n_rows)
    return folder


def tables(name: str, n_rows: int) -> Iterator[pa.Table]:
    pictures = [draw_picture(label, label, _SMALL) for label in range(3)]
    random = np.random.default_rng(0)
    for start in range(0, n_rows, _BATCH):
        numbers = range(start, min(start + _BATCH, n_rows))
        labels = [i % 3 for i in numbers]
        data = [commented(pictures[label], f"{name} {i}") for i, label in zip(numbers, labels, strict=True)]
        hashes = random.integers(2**63, 2**64, len(data), dtype=np.uint64)
        yield pair_table(
            {
                "id": [f"{name}:{i}" for i in numbers],
                "text": [f"day {i % 997} of the {name} in town {i // 997} was {i % 97}" for i in numbers],
                "label": labels,
                "source": [name] * len(data),
                "query": [f"query {i % 1200}" for i in numbers],
                "image": [{"bytes": each, "path": f"{i}.jpg"} for i, each in zip(numbers, data, strict=True)],
                "width": [_SMALL[0]] * len(data),
                "height": [_SMALL[1]] * len(data),
                "sha256": [hashlib.sha256(each).hexdigest() for each in data],
                "phash": hashes.tolist(),
            }
        )


def commented(jpeg: bytes, comment: str) -> bytes:
    """The picture with a comment in it: other bytes, the same pixels."""
    text = comment.encode()
    return jpeg[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text + jpeg[2:]
