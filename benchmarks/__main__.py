"""`make bench`: run the benchmarks named (default: all) and print one table of ratios.

Each module has `rows()`: (figure, ours, the other's, ratio, goal) with both numbers in one unit. Ours and the
other run alternately in one session, so that a busy machine slows both.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from mvsent.report.tables import aligned

GPU = "gpu"
MODULES = (
    "startup",
    "reconcile",
    "features",
    "train",
    "api",
    "ranks",
    "stream",
    "models",
    "predict",
    "fetch",
    "pace",
    "ray",
    "build",
    "table",
    "dump",
    "report",
    "near",
    "memory",
)


def main(
    names: Annotated[
        list[str] | None,
        typer.Argument(help=f"{', '.join(MODULES)}; or gpu. [default: all but gpu]", show_default=False),
    ] = None,
    small: Annotated[bool, typer.Option("--small", help="gpu: a few rows, as without a GPU.")] = False,
    out: Annotated[Path, typer.Option(help="gpu: the folder of gpu-check.md and gpu-check.json.")] = Path(),
) -> None:
    """Run benchmarks: one table on stdout, what is running now on stderr.

    gpu stands alone: it checks a GPU against the CPU, and its exit code is 1 where a check fails.
    """
    if names == [GPU]:
        raise typer.Exit(import_module("benchmarks.bench_gpu").main(out, small=small))
    for name in names or ():
        if name not in MODULES:
            raise typer.BadParameter(f"{name!r}: choose from {', '.join(MODULES)}")
    table = []
    for name in names or MODULES:
        print(f"bench_{name} …", file=sys.stderr)
        for figure, ours, other, ratio, goal in import_module(f"benchmarks.bench_{name}").rows():
            table.append([figure, f"{ours:.3g}", f"{other:.3g}", f"{ratio:.2f}", goal, verdict(ratio, goal)])
    print(aligned(["figure", "ours", "other", "ratio", "goal", ""], table))


def verdict(ratio: float, goal: str) -> str:
    """Whether the ratio meets a goal such as "≥ 0.9" or "≤ 3".

    >>> verdict(0.95, "≥ 0.9"), verdict(3.1, "≤ 3")
    ('met', 'MISSED')
    """
    relation, bound = goal.split()[:2]
    met = ratio >= float(bound) if relation == "≥" else ratio <= float(bound)
    return "met" if met else "MISSED"


if __name__ == "__main__":
    typer.run(main)
