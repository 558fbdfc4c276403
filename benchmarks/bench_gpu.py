"""A comparison of a GPU with the CPU, in answers and speed: `python -m benchmarks gpu`.

One command, at most eight minutes, nothing to fetch: weights are random, rows and pictures are drawn. Without
a GPU the CPU is compared with itself on a few rows, so that the test suite can run the check. A check that
fails or crashes stops no other. The table is written after every check, as Markdown and as JSON.
"""

import json
import logging
import math
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal
from unittest.mock import patch

import torch

from benchmarks import gpu_checks
from benchmarks.gpu_checks import Measured, Scale
from benchmarks.gpu_runs import FINE_TUNED_ROWS, Runs
from mvsent.models import registry
from mvsent.runs.train import compute_alike
from mvsent.workers.devices import compute_device

SECONDS = 420
"""No check begins later, so that all end within eight minutes."""

EXACT = 0.0
RESUMED = ("dmlanet", "dmlanet-plus", "hsan")
SHARED = ("dmlanet", "dmlanet-plus")


@dataclass(frozen=True)
class Check:
    """A measurement and its tolerance; without a tolerance, the value is only reported."""

    name: str
    measure: Callable[[], Measured]
    tolerance: float | None = None


@dataclass(frozen=True)
class Row:
    """The result of a check."""

    check: str
    result: Literal["pass", "FAIL", "measured"]
    value: float | None
    tolerance: float | None
    seconds: float
    note: str


def checks(runs: Runs, scale: Scale, *, small: bool) -> Iterator[Check]:
    """Every check, in the order in which they are made."""
    device = runs.device
    types = {str(dtype).removeprefix("torch."): dtype for dtype in gpu_checks.precisions(device)}
    for told, dtype in types.items():
        for name in registry.names():
            measure = partial(gpu_checks.compare_model, name, scale, device, dtype, ablations=not small)
            yield Check(f"{name}, {told}: share of the tolerances", measure, 1.0)
    for told, dtype in types.items():
        for name in RESUMED[: 1 if small else None]:
            measure = partial(gpu_checks.resumed, name, scale, device, dtype)
            yield Check(f"{name}, {told}: resumed, weights", measure, EXACT)
    for name in SHARED:
        measure = partial(gpu_checks.one_rank, name, scale, device, torch.float32)
        yield Check(f"{name}: DDP of one rank, weights", measure, EXACT)
    if not small:
        measure = partial(gpu_checks.two_ranks, "dmlanet-plus", scale, device)
        yield Check("dmlanet-plus: DDP of two ranks on one device, answers", measure, 1e-3)
    if device.type == "cuda":
        yield Check("more ranks than GPUs, accepted", gpu_checks.refused_ranks, EXACT)
    yield Check("cached maps, share of the largest", runs.maps, 1e-3)
    for amp in (False, True)[: 1 + (device.type == "cuda")]:
        told, tolerance = ("AMP on", 5e-2) if amp else ("AMP off", 1e-2)
        yield Check(f"train, {told}: answers", partial(runs.compare, amp=amp), tolerance)
        fine_tuned = partial(runs.compare, amp=amp, fine_tune="last")
        yield Check(f"train --fine-tune last, {told}: answers", fine_tuned, tolerance)
        yield Check(
            f"train --stream, {told}: answers", partial(runs.compare, amp=amp, stream=True), tolerance
        )
    yield Check("predict ÷ test rows of train: answers", runs.predict, 1e-3)
    yield Check("shards → cached maps ÷ bare backbone, seconds", runs.extraction)
    yield Check("epoch of DMLANet, cached maps ÷ bare loop, seconds", partial(runs.epoch, stream=False))
    yield Check("epoch of DMLANet, streamed ÷ bare loop, seconds", partial(runs.epoch, stream=True))
    timed = {"epochs": runs.epochs, "patience": runs.epochs}
    yield Check("peak memory of DMLANet, cached maps, MB", partial(runs.peak, **timed, stream=False))
    yield Check("peak memory of DMLANet, streamed, MB", partial(runs.peak, **timed, stream=True))
    fine_tuned = partial(runs.peak, fine_tune="last", batch_size=FINE_TUNED_ROWS)
    yield Check(f"peak memory of --fine-tune last, {FINE_TUNED_ROWS} rows, MB", fine_tuned)


def main(out: Path, *, small: bool) -> int:
    """Make every check, print the table, write it to `out`, and return the exit code: 1 if one failed."""
    device = compute_device("auto")
    small = small or device.type == "cpu"
    until = time.monotonic() + SECONDS
    rows: list[Row] = []
    log = logging.getLogger("mvsent")
    level = log.level
    log.setLevel(logging.ERROR)  # that weights are random is known
    compute_alike(torch.get_num_threads())  # as `mvsent train` does
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, MVSENT_CACHE=f"{folder}/cache"):
        sizes = (14, 14, 160, 2, 1) if small else (64, 2048, 1024, 4, 3)
        scale = Scale(12, 8) if small else Scale(48, 1280)
        for check in checks(Runs(Path(folder), device, *sizes), scale, small=small):
            print(f"{check.name} …", file=sys.stderr)
            rows.append(carried_out(check, until))
            write(out, rows, device)  # after each, so that a killed process loses no row
    log.setLevel(level)
    print(table(rows, device))
    return int(any(row.result == "FAIL" for row in rows))


def carried_out(check: Check, until: float) -> Row:
    """The result of the check; it fails if it crashes, or if it would begin after `until`."""
    began = time.monotonic()

    def row(result: Literal["pass", "FAIL", "measured"], value: float | None, note: str) -> Row:
        return Row(check.name, result, value, check.tolerance, time.monotonic() - began, note)

    if began > until:
        return row("FAIL", None, f"not made: {SECONDS} s were over")
    try:
        found = check.measure()
    except Exception as error:  # a check that crashes must not stop the others
        traceback.print_exc()
        return row("FAIL", None, f"{type(error).__name__}: {error}".splitlines()[0])
    if found.value is not None and not math.isfinite(found.value):
        return row("FAIL", None, f"{found.value}; {found.note}")
    if check.tolerance is None:
        return row("measured", found.value, found.note)
    within = found.value is not None and found.value <= check.tolerance
    return row("pass" if within else "FAIL", found.value, found.note)


def write(out: Path, rows: list[Row], device: torch.device) -> None:
    """The table so far, as `gpu-check.md` and `gpu-check.json`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "gpu-check.md").write_text(table(rows, device) + "\n", encoding="utf-8")
    document = {
        "device": described(device),
        "torch": torch.__version__,
        "checks": [asdict(row) for row in rows],
    }
    (out / "gpu-check.json").write_text(json.dumps(document, indent=2), encoding="utf-8")


def described(device: torch.device) -> str:
    """The device's name, and CUDA's version."""
    if device.type == "cpu":
        return f"CPU, {torch.get_num_threads()} threads"
    return f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"


def table(rows: list[Row], device: torch.device) -> str:
    """The rows as a Markdown table under a line that says where they were made."""
    n_failed = sum(row.result == "FAIL" for row in rows)
    seconds = sum(row.seconds for row in rows)
    count = f"{len(rows)} checks, {n_failed} failed, {seconds:.0f} s"
    lines = [
        f"{described(device)}, torch {torch.__version__}: {count}",
        "",
        "| check | value | tolerance | result | note |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        value, tolerance = (
            "–" if number is None else f"{number:.3g}" for number in (row.value, row.tolerance)
        )
        note = row.note.replace("|", "\\|")
        lines.append(f"| {row.check} | {value} | {tolerance} | {row.result} | {note} |")
    return "\n".join(lines)
