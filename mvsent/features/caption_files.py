"""Captions of pictures, from a file beside the dataset."""

import csv
import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mvsent.errors import InputError
from mvsent.shards.reader import Dataset

log = logging.getLogger("mvsent")


def read_captions(path: Path, dataset: Dataset) -> list[str]:
    """Read a caption for every row of `dataset`; empty if the file has none.

    Args:
        path: a Parquet, CSV or TSV file with the columns id and caption.

    Raises: InputError for another kind of file, or for one without an id of the dataset.
    """
    captions = _read(path)
    n_known = sum(id in captions for id in dataset.ids)
    if not n_known:
        ours, theirs = (next(iter(ids), "") for ids in (dataset.ids, captions))
        raise InputError(
            f"{path}: has no caption for any row of {dataset.folder}",
            "Add its rows to the file of --captions, which may hold those of several datasets. "
            f"The dataset's ids look like {ours!r}, those of the file like {theirs!r}",
        )
    log.info("captions: %d of %d rows", n_known, len(dataset))
    return [captions.get(id, "") for id in dataset.ids]


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
