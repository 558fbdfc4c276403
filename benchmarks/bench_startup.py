"""The time that a command takes to start: `mvsent --help` ÷ `python -c "import typer"`."""

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

RUNS = 11

Row = tuple[str, float, float, float, str]


def rows() -> list[Row]:
    """(figure, ours in s, the other's in s, ratio, goal); medians of alternating runs."""
    help_command = [str(Path(sys.executable).with_name("mvsent")), "--help"]
    import_command = [sys.executable, "-c", "import typer"]
    seconds(help_command)
    seconds(import_command)  # so that both find their files in the page cache
    ours, other = [], []
    for _ in range(RUNS):
        ours.append(seconds(help_command))
        other.append(seconds(import_command))
    help_s, import_s = statistics.median(ours), statistics.median(other)
    return [("mvsent --help ÷ python -c 'import typer'", help_s, import_s, help_s / import_s, "≤ 3")]


def seconds(command: Sequence[str]) -> float:
    """The time that `command` runs. Raises: CalledProcessError if it fails."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start
