"""Pictures a second, downloaded + checked + hashed + written to Parquet, beside img2dataset; peak memory.

4000 JPEGs of about 60 KB from nginx on loopback, which has to be installed. `IMG2DATASET` names the program
of img2dataset 1.47, which pins old libraries and so lives in an environment of its own (Python 3.10 or 3.11):
`python3.11 -m venv V && V/bin/pip install img2dataset==1.47.0`, then `IMG2DATASET=V/bin/img2dataset`.
"""

import contextlib
import io
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

N_PICTURES = int(os.environ.get("BENCH_FETCH_N", "4000"))
N_DISTINCT, RUNS = 100, int(os.environ.get("BENCH_FETCH_RUNS", "3"))
SIZE = (800, 600)
_LOOK_S = 0.02  # between two looks at the memory

Row = tuple[str, float, float, float, str]


def rows() -> list[Row]:
    """(figure, ours, the other's, ratio, goal): medians of alternating runs; of memory the largest."""
    other = os.environ.get("IMG2DATASET", "")
    if not other or not shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin"):
        print("bench_fetch: skipped, needs nginx and IMG2DATASET=path/to/img2dataset (1.47)", file=sys.stderr)
        return []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        draw_pictures(root / "www")
        with nginx(root) as base:
            urls = root / "urls.txt"
            urls.write_text("".join(f"{base}/{i}.jpg\n" for i in range(N_PICTURES)))
            ours, theirs = [], []
            for _ in range(RUNS):
                ours.append(
                    measured([sys.executable, "-m", "benchmarks.bench_fetch", str(urls)], root / "ours")
                )
                theirs.append(measured(img2dataset(other, urls), root / "theirs"))
    our_s, their_s = (median(seconds for seconds, _ in runs) for runs in (ours, theirs))
    our_mb, their_mb = (max(megabytes for _, megabytes in runs) for runs in (ours, theirs))
    fast, slow = N_PICTURES / our_s, N_PICTURES / their_s
    return [
        (f"fetch {N_PICTURES} pictures of 60 KB ÷ img2dataset, images/s", fast, slow, fast / slow, "≥ 2.5"),
        ("peak memory of that ÷ img2dataset's, MB", our_mb, their_mb, our_mb / their_mb, "≤ 1"),
    ]


def draw_pictures(folder: Path) -> None:
    """Draw N_PICTURES JPEGs of about 60 KB into `folder`, of which N_DISTINCT differ."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(min(N_DISTINCT, N_PICTURES)):
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(SIZE, Image.Resampling.BICUBIC), dtype=np.float32)
        grain = rng.normal(0, 4.6, (SIZE[1], SIZE[0], 1))
        stream = io.BytesIO()
        Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(stream, "JPEG", quality=70)
        (folder / f"{i}.jpg").write_bytes(stream.getvalue())
    for i in range(N_DISTINCT, N_PICTURES):
        (folder / f"{i}.jpg").hardlink_to(folder / f"{i % N_DISTINCT}.jpg")


@contextlib.contextmanager
def nginx(root: Path) -> Iterator[str]:
    """Serve root/www by nginx; yields the address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # By default nginx keeps these folders where only root may write.
    temporary = "".join(
        f"{kind}_temp_path {root}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (root / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {root}/nginx.pid; error_log {root}/error.log crit;\n"
        f"events {{ worker_connections 1024; }}\n"
        f"http {{ access_log off; sendfile on; {temporary} types {{ image/jpeg jpg; }}\n"
        f"server {{ listen 127.0.0.1:{port}; root {root}/www; }} }}\n"
    )
    if os.geteuid() == 0:  # nginx's worker gives up root's rights
        root.chmod(0o755)
    program = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin") or "nginx"
    server = subprocess.Popen([program, "-p", str(root), "-c", str(root / "nginx.conf")])
    try:
        while server.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def img2dataset(program: str, urls: Path) -> list[str]:
    flags = (
        "--input_format txt --resize_mode no --output_format parquet --processes_count 2 --thread_count 64"
    )
    return [
        program,
        "--url_list",
        str(urls),
        *flags.split(),
        "--number_sample_per_shard",
        "1000",
        "--output_folder",
    ]


def measured(command: Sequence[str], out: Path) -> tuple[float, float]:
    """Seconds that `command out` takes from start to end, and the peak MB of its processes together."""
    shutil.rmtree(out, ignore_errors=True)
    # Idle OpenMP threads would spin on the cores that are measured, and albumentations asks PyPI for updates.
    environment = os.environ | {"OMP_WAIT_POLICY": "passive", "NO_ALBUMENTATIONS_UPDATE": "1"}
    start = time.perf_counter()
    process = subprocess.Popen(
        [*command, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
    )
    peak_bytes = [0]

    def look() -> None:
        while process.poll() is None:
            peak_bytes[0] = max(peak_bytes[0], resident_bytes(process.pid))
            time.sleep(_LOOK_S)

    watch = threading.Thread(target=look)
    watch.start()
    _, words = process.communicate()
    seconds = time.perf_counter() - start
    watch.join()
    n_written = count_rows(out)
    if process.returncode or n_written != N_PICTURES:
        raise RuntimeError(
            f"{command[0]}: exit {process.returncode}, {n_written} rows\n{words.decode()[-2000:]}"
        )
    return seconds, peak_bytes[0] / 1e6


def resident_bytes(pid: int) -> int:
    """Resident memory of a process and its descendants."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):  # it has ended
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(resident_bytes(int(child)) for child in children)


def count_rows(out: Path) -> int:
    """Rows under `out` that have a picture; img2dataset writes a row for each failure too."""
    import pyarrow.parquet as pq

    n_rows = 0
    for path in out.rglob("*.parquet"):
        names = pq.read_schema(path).names
        column = "status" if "status" in names else "sha256"
        values = pq.read_table(path, columns=[column])[column].to_pylist() if column in names else []
        n_rows += sum(value == "success" if column == "status" else value is not None for value in values)
    return n_rows


def fetch(urls: Path, out: Path) -> None:
    """Fetch every picture of the list into a dataset in `out`, as a build does between search and card."""
    from urllib.parse import urlsplit

    from mvsent.fetch import Fetched, FetchPolicy, ImageRequest, fetch_images
    from mvsent.pairs import pair_table
    from mvsent.shards.writer import DatasetWriter

    requests = [ImageRequest(f"bench:{i}", url) for i, url in enumerate(urls.read_text().split())]
    place = urlsplit(requests[0].url)
    policy = FetchPolicy(
        concurrency=int(os.environ.get("BENCH_FETCH_CONCURRENCY", "32")),
        # Private addresses such as loopback are refused unless allowed.
        allowed=frozenset({(place.hostname or "", place.port or 80)}),
    )
    batch: list[Fetched] = []

    def write() -> None:
        writer.write(
            pair_table(
                {
                    "id": [one.id for one in batch],
                    "label": [2] * len(batch),
                    "image": [{"bytes": one.data, "path": f"{i}.jpg"} for i, one in enumerate(batch)],
                    "width": [one.facts.width for one in batch],
                    "height": [one.facts.height for one in batch],
                    "sha256": [one.facts.sha256 for one in batch],
                    "phash": [one.facts.phash for one in batch],
                    "url": [one.url for one in batch],
                }
            )
        )
        batch.clear()

    with DatasetWriter(out, "bench", settings={}, shard_size=1000) as writer:
        for found in fetch_images(requests, policy):
            assert isinstance(found, Fetched), found
            batch.append(found)
            if len(batch) == 256:
                write()
        if batch:
            write()
        writer.finish(len(requests))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        fetch(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        for row in rows():
            print(row)
