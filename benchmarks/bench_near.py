"""Near duplicates among ten million simulated perceptual hashes: time, memory, and the share found.

Every hash has 32 bits of 64, as a picture's has. One in a hundred is planted as a neighbour of another, 1 … 4
bits away; all planted hashes have to be found.
"""

import json
import subprocess
import sys
import time

import numpy as np

from benchmarks.memory import peak_megabytes
from mvsent.curate.near import near_pairs

N_HASHES, DISTANCE = 10_000_000, 4
MAX_MINUTES, MAX_GB = 5, 4

Row = tuple[str, float, float, float, str]


def rows(n_hashes: int = N_HASHES) -> list[Row]:
    """(figure, ours, the limit, ratio, goal), from one search in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.bench_near", "--measure", str(n_hashes)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = json.loads(printed)
    print(f"bench_near: {printed.strip()}", file=sys.stderr)
    name, minutes, gigabytes = (
        f"near duplicates, {n_hashes:,} hashes",
        found["seconds"] / 60,
        found["gigabytes"],
    )
    return [
        (f"{name} ÷ {MAX_MINUTES} min", minutes, MAX_MINUTES, minutes / MAX_MINUTES, "≤ 1"),
        (f"… peak memory ÷ {MAX_GB} GB", gigabytes, MAX_GB, gigabytes / MAX_GB, "≤ 1"),
        (
            "… found of those planted",
            found["found"],
            found["planted"],
            found["found"] / found["planted"],
            "≥ 1",
        ),
    ]


def measured(n_hashes: int) -> dict[str, float]:
    """One search, timed from the hashes as a dataset has them, and checked."""
    hashes, originals, planted = simulated(n_hashes)
    start = time.perf_counter()
    # The search takes distinct hashes, so finding them counts.
    different, place = np.unique(hashes, return_inverse=True)
    pairs = near_pairs(different, DISTANCE)
    seconds, gigabytes = time.perf_counter() - start, peak_megabytes() / 1e3
    # A pair as one number, which np.isin can look up.
    found = pairs[:, 0] * len(different) + pairs[:, 1]
    wanted = np.sort(np.stack([place[originals], place[planted]], axis=1), axis=1)
    is_found = np.isin(wanted[:, 0] * len(different) + wanted[:, 1], found)
    assert np.bitwise_count(different[pairs[:, 0]] ^ different[pairs[:, 1]]).max() <= DISTANCE
    return {
        "seconds": seconds,
        "gigabytes": gigabytes,
        "planted": len(planted),
        "found": int(is_found.sum()),
        "pairs": len(pairs),
    }


def simulated(n_hashes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(hashes, places of originals, places of what was planted 1 … DISTANCE bits from each)."""
    rng = np.random.default_rng(0)
    hashes = np.concatenate([balanced(rng, size) for size in chunks(n_hashes, 500_000)])
    n_planted = n_hashes // 100
    places = rng.permutation(n_hashes)[: 2 * n_planted]
    originals, planted = places[:n_planted], places[n_planted:]
    hashes[planted] = hashes[originals]
    bits = np.tile(np.arange(64, dtype=np.uint64), (n_planted, 1))
    bits = rng.permuted(bits, axis=1)[:, :DISTANCE]  # different ones, of which each flips the first few
    flipped = np.arange(DISTANCE) <= np.arange(n_planted)[:, None] % DISTANCE
    hashes[planted] ^= (np.where(flipped, np.uint64(1) << bits, np.uint64(0))).sum(axis=1, dtype=np.uint64)
    return hashes, originals, planted


def balanced(rng: np.random.Generator, n: int) -> np.ndarray:
    """`n` hashes of 32 bits each: which 32 of 64 random numbers are above their median."""
    numbers = rng.random((n, 64), dtype=np.float32)
    above = numbers > np.median(numbers, axis=1, keepdims=True)
    return np.packbits(above, axis=1).view(np.uint64).ravel()


def chunks(total: int, size: int) -> list[int]:
    return [min(size, total - first) for first in range(0, total, size)]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measured(int(sys.argv[2]))))
    else:
        for row in rows(*map(int, sys.argv[1:])):
            print(row)
