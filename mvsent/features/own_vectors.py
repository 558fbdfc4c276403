"""Vectors of one's own: a Parquet or npz file of id → vector of a text or of a picture, computed elsewhere.

Parquet: a column `id` of text and a column `vector` of lists of numbers, all of one length
npz:     an array `ids` [N] of text and an array `vectors` [N, D] of numbers
"""

import hashlib
import logging
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mvsent.errors import InputError, first_line

log = logging.getLogger("mvsent")

SUFFIXES = (".parquet", ".npz")
_UNREADABLE = (OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile)

Vectors = npt.NDArray[np.float32]


def is_vector_file(name: str) -> bool:
    """Whether `name` is a file of vectors.

    >>> is_vector_file("minilm"), is_vector_file("my.npz")
    (False, True)
    """
    return name.endswith(SUFFIXES)


def file_sha256(path: Path) -> str:
    """Hash of the file. Raises: InputError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", "Give a .parquet or .npz file of id → vector") from None


def own_vectors(path: Path, ids: Sequence[str]) -> Vectors:
    """The vectors of `ids`, `[N, D]` in their order; how many others the file has is logged.

    Raises: InputError for a file of another kind, a vector that is not finite, an id that occurs twice, or
        ids without a vector, with their number.
    """
    known, vectors = _read(path)
    row_of = {id: row for row, id in enumerate(known)}
    if len(row_of) < len(known):
        twice = next(id for row, id in enumerate(known) if row_of[id] != row)
        raise InputError(f"{path}: the id {twice[:80]!r} occurs twice", "Keep one vector for each id")
    missing = [id for id in ids if id not in row_of]
    if missing:
        raise InputError(
            f"{path}: has vectors for {len(ids) - len(missing)} of the {len(ids)} rows, and none for "
            f"{', '.join(missing[:3])}" + (" …" if len(missing) > 3 else ""),
            "Add them, or take a dataset of the rows that have one with mvsent subset",
        )
    if len(known) > len(ids):
        log.info("%s: %d of its %d vectors are of other rows", path, len(known) - len(ids), len(known))
    found = vectors[[row_of[id] for id in ids]]
    if not np.isfinite(found).all():
        row = int(np.flatnonzero(~np.isfinite(found).all(axis=1))[0])
        raise InputError(f"{path}: the vector of {ids[row]} is not finite", "Compute it again")
    return found


def _read(path: Path) -> tuple[list[str], Vectors]:
    """Ids and vectors `[N, D]` of the file."""
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                ids, vectors = [str(id) for id in arrays["ids"].tolist()], arrays["vectors"]
        else:
            table = pq.read_table(path, columns=["id", "vector"])
            ids = [str(id) for id in table["id"].to_pylist()]
            vectors = _matrix(table["vector"].combine_chunks(), len(ids))
        vectors = np.asarray(vectors, np.float32)
    except (*_UNREADABLE, pa.ArrowException) as error:
        raise InputError(
            f"{path}: not a file of id → vector ({first_line(error)})",
            "Give Parquet with the columns id and vector, or npz with the arrays ids and vectors",
        ) from None
    if vectors.ndim != 2 or len(vectors) != len(ids) or not vectors.size:
        shape = " × ".join(map(str, vectors.shape))
        raise InputError(f"{path}: {len(ids)} ids and an array of {shape}", "Give one vector for each id")
    return ids, vectors


def _matrix(column: pa.Array, n_rows: int) -> Vectors:
    """`[N, D]` of a column of lists. Raises: ValueError if their lengths differ, or a value is null."""
    flat = column.flatten()
    if n_rows and (flat.null_count or column.null_count or len(flat) % n_rows):
        raise ValueError("the vectors are not all of one length")
    lengths = np.diff(column.offsets.to_numpy()) if hasattr(column, "offsets") else np.array([0])
    if len(set(lengths.tolist())) > 1:
        raise ValueError("the vectors are not all of one length")
    values: Vectors = flat.to_numpy(zero_copy_only=False).astype(np.float32).reshape(n_rows, -1)
    return values
