"""A report over 20,000 pairs: the size of the page, and the time to open it in headless Chromium.

Opening needs Debian's packages chromium and chromium-driver, and is left out if they are not installed.
"""

import io
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa

from mvsent.lexicons import Term, load_anps
from mvsent.pairs import REJECTED_SCHEMA, Label, pair_table
from mvsent.reasons import Reason
from mvsent.shards.writer import DatasetWriter
from mvsent.standin.drawings import draw_picture

N_PAIRS, N_DROPPED, N_DISTINCT, RUNS = 20_000, 5_000, 60, 5
MAX_MB, MAX_S = 20, 3

Row = tuple[str, float, float, float, str]


def rows() -> list[Row]:
    """(figure, ours, the limit, ratio, goal); the time is the median of several openings."""
    with tempfile.TemporaryDirectory() as scratch:
        page = Path(scratch) / "report.html"
        write_dataset(Path(scratch) / "many")
        program = str(Path(sys.executable).with_name("mvsent"))
        subprocess.run([program, "report", "-q", Path(scratch) / "many", "--out", page], check=True, stdout=2)
        megabytes = page.stat().st_size / 1e6
        found: list[Row] = [
            (f"report over {N_PAIRS:,} rows ÷ {MAX_MB} MB", megabytes, MAX_MB, megabytes / MAX_MB, "≤ 1")
        ]
        if not shutil.which("chromium") or not shutil.which("chromedriver"):
            print("bench_report: opening skipped, needs chromium and chromium-driver", file=sys.stderr)
            return found
        seconds = statistics.median(opening_seconds(page) for _ in range(RUNS))
    return [*found, (f"opening that in Chromium ÷ {MAX_S} s", seconds, MAX_S, seconds / MAX_S, "≤ 1")]


def write_dataset(folder: Path) -> None:
    """A dataset of drawn pictures with queries, licences and dropped rows."""
    pictures = [[encoded(label, seed) for seed in range(N_DISTINCT)] for label in Label]
    terms, batch = load_anps(), 500
    with DatasetWriter(folder, folder.name, settings={"drawn": True}, shard_size=1000) as writer:
        for first in range(0, N_PAIRS, batch):
            numbers = range(first, first + batch)
            writer.write(pairs(numbers, pictures, [terms[i % len(terms)] for i in numbers]))
        reasons = list(Reason)
        rejected = [
            {"id": f"drawn:r{i}", "reason": str(reasons[i % len(reasons)]), "detail": f"detail {i}"}
            for i in range(N_DROPPED)
        ]
        writer.reject(pa.Table.from_pylist(rejected, REJECTED_SCHEMA))
        writer.finish(N_PAIRS + N_DROPPED)


def pairs(numbers: range, pictures: list[list[bytes]], terms: list[Term]) -> pa.Table:
    """The pairs with these numbers, each found by its term."""
    labels = [i % len(Label) for i in numbers]
    return pair_table(
        {
            "id": [f"drawn:{i}" for i in numbers],
            "image": [
                {"bytes": pictures[label][i % N_DISTINCT], "path": f"{i}.jpg"}
                for i, label in zip(numbers, labels, strict=True)
            ],
            "text": [
                f"{term.query} number {i} " + "and more words " * (i % 40)
                for i, term in zip(numbers, terms, strict=True)
            ],
            "label": labels,
            "source": ["drawn"] * len(labels),
            "query": [term.query for term in terms],
            "query_sentiment": [term.sentiment for term in terms],
            "width": [640] * len(labels),
            "height": [480] * len(labels),
            "license": [f"CC BY {i % 4}.0" for i in numbers],
            "owner": [f"owner {i % 999}" for i in numbers],
            "page_url": [f"https://example.org/{i}" for i in numbers],
        }
    )


def encoded(label: Label, seed: int) -> bytes:
    """A drawn picture as JPEG."""
    stream = io.BytesIO()
    draw_picture(label, seed, (640, 480)).save(stream, "JPEG", quality=85)
    return stream.getvalue()


def opening_seconds(page: Path) -> float:
    """From the request for `page` until everything on it is loaded, in a fresh browser."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    # In a container, Chromium's sandbox refuses to run as root, and /dev/shm is too small for it.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options, Service(str(shutil.which("chromedriver"))))
    try:
        driver.get(page.resolve().as_uri())
        entry = "return performance.getEntriesByType('navigation')[0].loadEventEnd"
        return float(driver.execute_script(entry)) / 1000
    finally:
        driver.quit()


if __name__ == "__main__":
    for row in rows():
        print(row)
