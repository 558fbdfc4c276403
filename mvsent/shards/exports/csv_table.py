"""CSV: pairs.csv with every column of a pair, and the pictures in images/.

The texts are untrusted, and spreadsheets execute cells that begin with `=`, `+`, `-` or `@` as formulas.
Such a text gets an apostrophe in front, and so does one that begins with an apostrophe: taking one leading
apostrophe off every text gives back what it was.
"""

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mvsent.shards.exports.rows import ExportOptions, Row, extension, facts, file_stem, picture

TABLE_FILE = "pairs.csv"
IMAGE_FOLDER = "images"

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def write(rows: Iterable[Row], folder: Path, options: ExportOptions) -> None:
    """Write the table into `folder`, and the pictures of the rows that have one."""
    (folder / IMAGE_FOLDER).mkdir()
    columns = ["id", "image", "text", "label", "label_name", *options.columns[4:]]
    with (folder / TABLE_FILE).open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(columns)
        for row in rows:
            path = None
            if row["image"] is not None:
                image = picture(row)
                path = f"{IMAGE_FOLDER}/{file_stem(row['id'])}.{extension(image)}"
                (folder / path).write_bytes(image)
            known = facts(row) | {"image": path}
            table.writerow([cell(known[name]) for name in columns])


def csv_line(values: Iterable[Any]) -> str:
    """Format one line of a table, which ends with a line feed.

    If Python's writer ended the line so, it would not quote a lone carriage return in a cell, which every
    reader takes for the end of a row.

    >>> csv_line(["a\\rb", 1, None])
    '"a\\rb",1,\\n'
    """
    text = io.StringIO()
    csv.writer(text).writerow(values)
    return text.getvalue().removesuffix("\r\n") + "\n"


def cell(value: Any) -> Any:
    """The form of `value` in a table that a spreadsheet may open.

    >>> cell("=cmd|' /C calc'!A0"), cell("'quoted'"), cell(-1.5), cell(["a"]), cell(None)
    ("'=cmd|' /C calc'!A0", "''quoted'", -1.5, '["a"]', None)
    """
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)
    return f"'{value}" if isinstance(value, str) and value.startswith(("'", *_FORMULA_STARTS)) else value
