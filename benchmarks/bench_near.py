"""Near duplicates: ten million simulated perceptual hashes, and 276,000 captions; time, memory, share found.

Every hash has 32 bits of 64, as a picture's has. One in a hundred is planted as a neighbour of another, 1 … 4
bits away; all planted hashes have to be found. A caption has words of made-up syllables, a few of them as
frequent as in a language. One in a hundred is planted as another without its last word.
"""

import json
import subprocess
import sys
import time

import numpy as np

from benchmarks.memory import peak_megabytes
from mvsent.curate.near import near_pairs
from mvsent.curate.near_texts import near_text_pairs

N_HASHES, DISTANCE = 10_000_000, 4
N_TEXTS = 276_000
MAX_MINUTES, MAX_GB = 5, 4

Row = tuple[str, float, float, float, str]


def rows(n_hashes: int = N_HASHES, n_texts: int = N_TEXTS) -> list[Row]:
    """(figure, ours, the limit, ratio, goal), from two searches, each in a process of its own."""
    return [
        *_rows("--measure", n_hashes, f"near duplicates, {n_hashes:,} hashes"),
        *_rows("--measure-texts", n_texts, f"near copies, {n_texts:,} captions"),
    ]


def _rows(flag: str, n: int, name: str) -> list[Row]:
    command = [sys.executable, "-m", "benchmarks.bench_near", flag, str(n)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = json.loads(printed)
    print(f"bench_near: {printed.strip()}", file=sys.stderr)
    minutes, gigabytes = found["seconds"] / 60, found["gigabytes"]
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


def measured_texts(n_texts: int) -> dict[str, float]:
    """One search among captions, timed, and checked for the planted copies."""
    texts, originals, planted = simulated_texts(n_texts)
    start = time.perf_counter()
    different, place = np.unique(np.array(texts, dtype=object), return_inverse=True)
    pairs = near_text_pairs(different.tolist())
    seconds, gigabytes = time.perf_counter() - start, peak_megabytes() / 1e3
    wanted = np.sort(np.stack([place[originals], place[planted]], axis=1), axis=1)
    is_found = np.isin(wanted @ (len(different), 1), pairs @ (len(different), 1))
    return {
        "seconds": seconds,
        "gigabytes": gigabytes,
        "planted": len(planted),
        "found": int(is_found.sum()),
        "pairs": len(pairs),
    }


def simulated_texts(n_texts: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """(captions of 12 to 60 words, places of originals, places of copies without the last word)."""
    rng = np.random.default_rng(0)
    syllables = [f"{a}{b}{c}" for a in ("", *"bcdfghklmnprstvw") for b in "aeiou" for c in ("", *"lmnrst")]
    parts = rng.choice(syllables, (200_000, 3))
    vocabulary = np.array(["".join(word[: 1 + i % 3]) for i, word in enumerate(parts.tolist())])
    frequency = 1 / np.arange(1, len(vocabulary) + 1)  # Zipf's law
    lengths = rng.integers(12, 61, n_texts)
    words = vocabulary[rng.choice(len(vocabulary), int(lengths.sum()), p=frequency / frequency.sum())]
    texts = [" ".join(each) for each in np.split(words, np.cumsum(lengths)[:-1])]
    places = rng.permutation(n_texts)[: 2 * (n_texts // 100)]
    originals, planted = np.split(places, 2)
    for original, copy in zip(originals.tolist(), planted.tolist(), strict=True):
        texts[copy] = texts[original].rpartition(" ")[0]
    return texts, originals, planted


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
    elif sys.argv[1:2] == ["--measure-texts"]:
        print(json.dumps(measured_texts(int(sys.argv[2]))))
    else:
        for row in rows(*map(int, sys.argv[1:])):
            print(row)
