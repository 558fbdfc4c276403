"""The saved predictions of a fold, from which every number of an evaluation is computed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mvsent.errors import RunError, first_line
from mvsent.pairs import LABEL_NAMES
from mvsent.shards.atomic import atomic_write
from mvsent.storage import make_folder, readable

COLUMNS = ["id", "label", *(f"p_{name}" for name in LABEL_NAMES), "role"]
_TOLERANCE = 1e-3  # of a sum of three float32, or of three half-precision probabilities


@dataclass(frozen=True)
class Predictions:
    """Predictions of one fold's network.

    Attributes:
        ids: ids of the rows.
        y_true: labels, int [N].
        y_prob: probabilities, float64 [N, 3], a column for each label; rows sum to one.
    """

    ids: list[str]
    y_true: npt.NDArray[np.int64]
    y_prob: npt.NDArray[np.float64]

    def take(self, rows: npt.NDArray[np.bool_]) -> "Predictions":
        """The predictions of the rows that are marked in `rows` [N]."""
        ids = [id for id, taken in zip(self.ids, rows.tolist(), strict=True) if taken]
        return Predictions(ids, self.y_true[rows], self.y_prob[rows])


def read_predictions(path: Path, classes: list[int]) -> dict[str, Predictions]:
    """Read a `predictions.parquet`: role → predictions; the role `test` is always present.

    Raises: RunError naming the file if it is malformed, has no test rows, or has an impossible row.
    """
    try:
        with readable(path) as source:
            table = pq.read_table(source)
    except (OSError, pa.ArrowInvalid) as error:
        raise _bad(path, f"not readable ({first_line(error)})") from None
    if missing := [name for name in COLUMNS if name not in table.column_names]:
        raise _bad(path, f"has no column {missing[0]}")
    if any(column.null_count for column in table.columns):
        raise _bad(path, "has empty cells")
    wanted = [pa.string(), pa.int8(), pa.float32(), pa.float32(), pa.float32(), pa.string()]
    if table.select(COLUMNS).schema.types != wanted:
        raise _bad(path, "has a column of another type")
    by_role = {
        role: _predictions(table.filter(pc.equal(table["role"], role)))
        for role in table["role"].unique().to_pylist()
    }
    if "test" not in by_role:
        raise _bad(path, "has no test rows")
    for predictions in by_role.values():
        _check(path, predictions, classes)
    return by_role


def prediction_table(
    ids: Sequence[str], y_true: npt.NDArray[np.int8], y_prob: npt.NDArray[np.float32], role: str
) -> pa.Table:
    """The table of a `predictions.parquet` with rows of one role; `y_prob` is [N, 3]."""
    probabilities = {f"p_{name}": y_prob[:, i] for i, name in enumerate(LABEL_NAMES)}
    return pa.table(
        {
            "id": pa.array(ids, pa.string()),
            "label": y_true,
            **probabilities,
            "role": pa.array([role] * len(ids), pa.string()),
        }
    )


def write_predictions(table: pa.Table, path: Path) -> None:
    """Write the file atomically."""
    make_folder(path.parent)
    with atomic_write(path) as file:
        pq.write_table(table, file)


def _predictions(table: pa.Table) -> Predictions:
    y_prob = np.stack([table[f"p_{name}"].to_numpy() for name in LABEL_NAMES], axis=1)
    return Predictions(
        ids=table["id"].to_pylist(),
        y_true=table["label"].to_numpy().astype(np.int64),
        y_prob=y_prob.astype(np.float64),
    )


def _check(path: Path, predictions: Predictions, classes: list[int]) -> None:
    ids, y_true, y_prob = predictions.ids, predictions.y_true, predictions.y_prob
    for rows, problem in (
        (~np.isfinite(y_prob).all(axis=1), "a probability that is not a number"),
        ((y_prob < 0).any(axis=1), "a negative probability"),
        (np.abs(y_prob.sum(axis=1) - 1) > _TOLERANCE, "probabilities that do not sum to one"),
        (~np.isin(y_true, classes), f"a label that is none of the run's classes {classes}"),
    ):
        if rows.any():
            raise _bad(path, f"{int(rows.sum())} rows have {problem}, the first is {ids[int(rows.argmax())]}")


def _bad(path: Path, problem: str) -> RunError:
    return RunError(
        f"{path}: {problem}",
        f"Delete it and train that fold again: mvsent train --resume --out {path.parents[1]}",
    )
