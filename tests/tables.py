"""Tables of drawn pairs, and `mvsent build-table` called on them."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from mvsent.cli import app
from mvsent.shards.reader import Dataset
from tests.drawing import draw_picture

TEXTS = ("so happy today", "a table in a street", "so sad, really")
LABELS = ("positive", "neutral", "negative")


def draw_files(folder: Path, n: int = 3) -> list[str]:
    """Write `n` drawn pictures into `folder/images`; return their paths relative to `folder`."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    names = [f"images/{number}.jpg" for number in range(n)]
    for number, name in enumerate(names):
        (folder / name).write_bytes(draw_picture(2 - number % 3, number))
    return names


def drawn_rows(folder: Path, n: int = 3) -> list[dict[str, str]]:
    """Rows with the columns image, text and label."""
    return [
        {"image": name, "text": f"{TEXTS[row % 3]} {row}", "label": LABELS[row % 3]}
        for row, name in enumerate(draw_files(folder, n))
    ]


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], **options: Any) -> Path:
    """Write rows as a CSV; `encoding` and the options of csv.writer."""
    encoding = options.pop("encoding", "utf-8")
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), **options)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def build_table(*words: object) -> str:
    """The output of `mvsent build-table WORDS`. Raises: the command's error."""
    result = CliRunner().invoke(
        app, ["build-table", *map(str, words)], catch_exceptions=False, standalone_mode=False
    )
    assert result.return_value in (0, None), result.output
    return result.stdout


def built(*words: object, out: Path) -> Dataset:
    """The dataset that `mvsent build-table WORDS --out OUT` writes."""
    build_table(*words, "--out", out, "-q")
    return Dataset.open(out)


def column(dataset: Dataset, name: str) -> list[Any]:
    """The values of a column."""
    values: list[Any] = dataset.table([name])[name].to_pylist()
    return values


def rejected(dataset: Dataset) -> list[tuple[str, str, str]]:
    """The dropped rows of a dataset: id, reason, detail."""
    import pyarrow.parquet as pq

    return [tuple(row.values()) for row in pq.read_table(dataset.folder / "rejected.parquet").to_pylist()]
