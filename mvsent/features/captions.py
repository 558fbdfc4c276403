"""Captions of pictures, from a file beside the dataset."""

import csv
import logging
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mvsent.errors import InputError
from mvsent.shards.reader import Dataset

log = logging.getLogger("mvsent")


def read_captions(path: Path, dataset: Dataset) -> list[str]:
    """A caption for every row of `dataset`, empty where the file has none.

    Args:
        path: a Parquet, CSV or TSV file with the columns id and caption.

    Raises: InputError for another file, or one with no id of the dataset.
    """
    found = _read(path)
    n_known = sum(id in found for id in dataset.ids)
    if not n_known:
        raise InputError(
            f"{path}: has a caption for no row of {dataset.folder}",
            "Add its rows to the file of --captions: it may hold those of several datasets. "
            f"The dataset's ids are like {_first(dataset.ids)}, those of the file like {_first(found)}",
        )
    log.info("captions: %d of %d rows", n_known, len(dataset))
    return [found.get(id, "") for id in dataset.ids]


def _first(ids: Iterable[str]) -> str:
    return repr(next(iter(ids), ""))


def _read(path: Path) -> dict[str, str]:
    wanted = "Give a .parquet, .csv or .tsv file with the columns id and caption"
    try:
        if path.suffix == ".parquet":
            table = pq.read_table(path, columns=["id", "caption"])
            rows = zip(table["id"].to_pylist(), table["caption"].to_pylist(), strict=True)
            return {str(id): str(caption or "") for id, caption in rows}
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.DictReader(file, delimiter="," if path.suffix == ".csv" else "\t")
            return {line["id"]: line["caption"] or "" for line in lines}
    except (OSError, pa.ArrowException, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not readable ({str(error).splitlines()[0]})", wanted) from None
    except KeyError as error:
        raise InputError(f"{path}: has no column {error}", wanted) from None
