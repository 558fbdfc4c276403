"""Conditions on the columns of a dataset, as SQL expressions that DuckDB evaluates.

An expression may come from anyone. DuckDB parses it as one expression, so it cannot hold a second statement.
It is evaluated in a database of its own without access to files, network, extensions or Python objects, and
in a process with limits of memory and time, as DuckDB's own does not cover what it evaluates in advance.
"""

import re
import resource
import uuid
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mvsent.errors import MvsentError, UsageError
from mvsent.pairs import LABEL_COLUMNS, LABEL_NAMES
from mvsent.shards.reader import Dataset
from mvsent.sources.flickr_licenses import LICENSES
from mvsent.storage import located
from mvsent.workers.processes import Ended, ProcessFailure, apart

MAX_LENGTH = 10_000
"""Characters of an expression."""

MAX_MEMORY, MAX_SECONDS = 3 * 2**30, 600
"""Bytes and seconds of CPU time of the process that evaluates an expression."""

_BY_NUMBER = re.compile(r"(?<!\w)license\s*(?:not\s+in|in|=|<>|!=)\s*\(?\s*[0-9]", re.IGNORECASE)
"""A licence that is compared with numbers: those are Flickr's."""

_BATCH_ROWS = 8192
_ROW = f"row {uuid.uuid4().hex}"  # no column of a dataset, and no expression, can have this name
_LOCKED: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "python_enable_replacements": False,  # or a name in the expression could be one of our variables
    "allow_community_extensions": False,
    "memory_limit": "1GB",
    "temp_directory": "",
    "threads": 1,  # for the same reason as the seed below
    "lock_configuration": True,
}


def matching_rows(
    dataset: Dataset, expression: str, *, max_seconds: int = MAX_SECONDS
) -> npt.NDArray[np.bool_]:
    """Whether each row of the dataset fulfils `expression`: [N]; False where it is null.

    Labels are the texts negative, neutral and positive, and times are UTC without a zone. Pictures are not
    read: there is no column `image`.

    Raises: MvsentError if it is no condition on the columns, or cannot be evaluated, or if DuckDB is missing.
    """
    ((_, answer),) = apart([(str(dataset.folder), expression, max_seconds)], 1, _answer)
    if isinstance(answer, ProcessFailure):
        raise answer.exception()
    if isinstance(answer, Ended):
        raise UsageError(f"--where: its evaluation {answer}", "It needs too much memory or time: simplify it")
    return np.asarray(answer)


def _answer(connection: Connection, task: tuple[str, str, int]) -> None:
    """Send the rows that fulfil an expression, or the failure, from a process with limits."""
    folder, expression, max_seconds = task
    for limit, value in ((resource.RLIMIT_DATA, MAX_MEMORY), (resource.RLIMIT_CPU, max_seconds)):
        resource.setrlimit(limit, (value, resource.getrlimit(limit)[1]))
    try:
        connection.send(evaluated_rows(Dataset.open(located(folder)), expression))
    except MvsentError as error:
        connection.send(ProcessFailure.of(error, "the condition"))
    except RuntimeError as error:
        if "interrupted" not in str(error):
            raise
        raise SystemExit(1) from None  # DuckDB's word for the signal with which this process is ended
    except MemoryError:
        connection.send(ProcessFailure("--where: needs too much memory", "Simplify it", UsageError.exit_code))


def evaluated_rows(dataset: Dataset, expression: str) -> npt.NDArray[np.bool_]:
    """The same in this process, without limits. Raises: as `matching_rows`, and MemoryError."""
    try:
        import duckdb
    except ImportError:
        raise UsageError(
            "--where: needs DuckDB, which is not installed", 'pip install "mvsent[sql]"'
        ) from None
    if re.search(r"[\0\ud800-\udfff]", expression):
        raise UsageError("--where: has a character that is no text", "Type it anew")
    if len(expression) > MAX_LENGTH:
        raise UsageError(f"--where: {len(expression)} characters", f"Write at most {MAX_LENGTH}")
    names = [name for name in dataset.schema.names if name != "image"]
    read = [name for name in names if _may_name(expression, name)]
    fulfilled = np.zeros(len(dataset), dtype=bool)
    with duckdb.connect(":memory:", config=_LOCKED) as database:
        try:
            database.execute(
                "SELECT setseed(0)"
            ).fetchall()  # so that `random()` gives the same rows every time
            condition = duckdb.SQLExpression(expression)
            empty = database.from_arrow(_readable(pa.table({}), dataset, names, 0, expression))
            if str(empty.select(condition).types[0]) != "BOOLEAN":
                raise UsageError(
                    f"--where: {expression[:80]!r} is no condition", "Write one such as label = 'positive'"
                )
            batches = _batches(dataset, read, expression)
            reader = pa.RecordBatchReader.from_batches(
                _readable(pa.table({}), dataset, read, 0, expression).schema, batches
            )
            found = database.from_arrow(reader).filter(condition).select(duckdb.ColumnExpression(_ROW))
            fulfilled[found.fetchnumpy()[_ROW]] = True
        except duckdb.Error as error:
            raise UsageError(f"--where: {_reason(error)}", _advice(error, names)) from None
    return fulfilled


def _may_name(expression: str, column: str) -> bool:
    """Whether the expression may read the column; `COLUMNS(…)` may read all."""
    named = rf"(?<!\w)({re.escape(column)}|columns)(?!\w)"
    return re.search(named, expression, re.IGNORECASE) is not None


def _batches(dataset: Dataset, names: list[str], expression: str) -> Iterator[pa.RecordBatch]:
    first = 0
    for batch in dataset.batches([*names] or ["id"], _BATCH_ROWS):
        table = _readable(pa.Table.from_batches([batch]), dataset, names, first, expression)
        first += batch.num_rows
        yield from table.combine_chunks().to_batches()


def _readable(table: pa.Table, dataset: Dataset, names: list[str], first: int, expression: str) -> pa.Table:
    """The columns as an expression sees them, with the number of each row."""
    if not table.num_columns:
        table = dataset.schema.empty_table()
    columns: dict[str, Any] = {_ROW: pa.array(range(first, first + table.num_rows), pa.int64())}
    for name in names:
        column = table[name]
        if name in LABEL_COLUMNS:
            column = pa.array(LABEL_NAMES).take(column.combine_chunks())
        elif name == "license" and _BY_NUMBER.search(expression):
            numbers = {text: int(number) for number, text in LICENSES.items()}
            column = pa.array([numbers.get(text) for text in column.to_pylist()], pa.int64())
        elif pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("us", tz="UTC")).cast(pa.timestamp("us"))
        columns[name] = column
    return pa.table(columns)


def _reason(error: Exception) -> str:
    """The first lines of DuckDB's message, without the places of its own names."""
    text = re.split(r"\n\s*\n|LINE \d+:|\nCandidate|\nDid you mean", str(error))[0]
    return " ".join(re.sub(r"^[A-Z][\w ]* Error: ", "", text).split()).rstrip(".!")[:300]


def _advice(error: Exception, names: list[str]) -> str:
    if "not found in FROM clause" in str(error):
        return f"The columns are {', '.join(names)}; texts stand in single quotes"
    if str(error).startswith("Out of Memory"):
        return "Simplify it"
    if "Could not convert string" in str(error):
        return "Compare text with quoted text: label = 'positive', license in ('CC BY 2.0', 'CC0 1.0')"
    return "Write a condition such as label = 'positive' and width > 200"
