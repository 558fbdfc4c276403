"""The epochs of a fold in `history.csv`."""

import csv
import io
from dataclasses import asdict, fields
from pathlib import Path

from mvsent.errors import RunError
from mvsent.learn.checkpoint import EpochRecord
from mvsent.shards.atomic import atomic_write


def write_history(history: list[EpochRecord], path: Path) -> None:
    """Write one line for each epoch."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in fields(EpochRecord)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(record) for record in history)
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


def read_history(path: Path) -> list[EpochRecord]:
    """Read the epochs of a fold. Raises: RunError naming the file if it is not a history."""
    again = f"Do without (eval --metrics roc,prc,confusion), or delete {path.parent} and train --resume"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        history = [
            EpochRecord(int(row.pop("epoch")), **{k: float(v) for k, v in row.items()}) for row in rows
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: not a training history ({error})", again) from None
    if not history:
        raise RunError(f"{path}: is empty", again)
    return history
