"""Splits into training, validation and test rows: made by named protocols, and the file that stores one."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mvsent.curate.tenths import tenths
from mvsent.errors import SplitError, UsageError, did_you_mean, first_line
from mvsent.pairs import Label
from mvsent.storage import readable

log = logging.getLogger("mvsent")

PLAIN = ("paper-5x", "kfold-5", "kfold-10")
GROUPED, GROUPED_NEAR = "grouped-", "grouped-near-"
"""Protocols that begin so keep duplicates on one side; the second near copies, too."""
PROTOCOLS = tuple(before + name for before in ("", GROUPED, GROUPED_NEAR) for name in PLAIN)
N_FOLDS = {name: 5 if "5" in name else 10 for name in PROTOCOLS}
"""Protocol → number of folds."""

ROLES = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = 0, 1, 2
ABSENT = -1
"""The role of a row that a fold does not use."""

_BLOCK = 65_536  # rows read or written at a time
_LEAK = b"mvsent.leak"
_LEFT_OUT = b"mvsent.left_out"
"""In the file's metadata: the number of rows that no fold uses, so that a lost row is still found."""

Ints = npt.NDArray[np.int64]
Roles = npt.NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class Split:
    """The role of every row in every fold.

    Attributes:
        protocol, seed: how it was made.
        ids: [N], row ids.
        roles: int8 [F, N], TRAIN, VALIDATION, TEST or ABSENT.
        leak: as JSON, what it leaks, where that was measured; else empty.
    """

    protocol: str
    seed: int
    ids: Sequence[str]
    roles: Roles
    leak: str = ""

    @property
    def n_folds(self) -> int:
        return len(self.roles)

    def rows(self, fold: int, role: int) -> Ints:
        """The rows that have `role` in `fold`, ascending."""
        return np.flatnonzero(self.roles[fold] == role)

    @property
    def n_left_out(self) -> int:
        """Number of rows that no fold uses."""
        return int((self.roles == ABSENT).all(axis=0).sum())

    @property
    def sha256(self) -> str:
        """Hash of ids and roles."""
        digest = hashlib.sha256()
        for number, id in enumerate(self.ids):  # one by one, as a single text would take much memory
            digest.update(f"\n{id}".encode() if number else id.encode())
        digest.update(self.roles.tobytes())
        return digest.hexdigest()


def make_split(
    ids: Sequence[str],
    labels: npt.NDArray[np.int8],
    protocol: str,
    seed: int = 0,
    groups: Ints | None = None,
) -> Split:
    """Split rows by `protocol`, deterministically for the same ids, labels, seed and groups.

    Args:
        labels: int8 [N].
        groups: int [N], required by the grouped protocols: rows of a group get the same role in each fold.

    A group that is larger than the test rows of a fold makes folds unequal, which is a warning.

    Raises: UsageError for an unknown protocol; SplitError if a class would be missing from training, or if a
        group has more than half of the rows.
    """
    plain = plain_protocol(protocol)
    if plain == protocol:
        groups = None
    elif groups is None:
        raise ValueError(f"{protocol} needs the groups of duplicates")
    else:
        _check_groups(protocol, ids, groups)
    # Every protocol is made of tenths: 8 + 1 + 1 of them, or two per fold for the test rows of five folds.
    if plain == "paper-5x":
        folds = [_fold(tenths(labels, groups, seed + i), [0], 1) for i in range(5)]
    else:
        n_folds = int(plain.removeprefix("kfold-"))
        width, tenth = 10 // n_folds, tenths(labels, groups, seed)
        folds = [
            _fold(tenth, range(i * width, (i + 1) * width), (i + 1) * width % 10) for i in range(n_folds)
        ]
    split = Split(protocol, seed, ids, np.stack(folds))
    _check_classes(split, labels)
    return split


def plain_protocol(protocol: str) -> str:
    """The protocol that is the same but for the groups.

    >>> plain_protocol("grouped-near-kfold-10"), plain_protocol("paper-5x")
    ('kfold-10', 'paper-5x')

    Raises: UsageError for an unknown protocol.
    """
    if protocol not in PROTOCOLS:
        choice = f"Choose from {', '.join(PROTOCOLS)}"
        raise UsageError(f"unknown protocol {protocol!r}", did_you_mean(protocol, PROTOCOLS) + choice)
    return protocol.removeprefix(GROUPED_NEAR).removeprefix(GROUPED)


def _check_groups(protocol: str, ids: Sequence[str], groups: Ints) -> None:
    """Raises: SplitError if a group has more than half of the rows; warn if it is larger than a fold."""
    _, group, size = np.unique(groups, return_inverse=True, return_counts=True)
    largest = int(size.max(initial=0))
    fold = 2 * len(ids) / 10 if protocol.endswith("kfold-5") else len(ids) / 10
    if largest <= max(fold, 1):
        return
    two = " and ".join(ids[row] for row in np.flatnonzero(group == size.argmax())[:2])
    found = f"{largest} of {len(ids)} rows are one group that stays on one side, such as {two}"
    other = protocol.replace(GROUPED_NEAR, GROUPED)
    looser = f"use {other}, which joins exact copies only" if other != protocol else "use a plain protocol"
    if 2 * largest > len(ids):
        raise SplitError(
            f"{protocol}: {found}: that is more than half", f"Leave copies out of the dataset, or {looser}"
        )
    log.warning(
        "%s: %s; a fold has %d test rows, but the one with this group has at least %d. For equal folds leave "
        "copies out of the dataset, or %s",
        protocol,
        found,
        round(fold),
        largest,
        looser,
    )


def _fold(tenth: Ints, test: Sequence[int], validation: int) -> Roles:
    roles = np.full(len(tenth), TRAIN, dtype=np.int8)
    roles[tenth == validation] = VALIDATION
    roles[np.isin(tenth, test)] = TEST
    return roles


def _check_classes(split: Split, labels: npt.NDArray[np.int8]) -> None:
    """Raises: SplitError if a class is missing from training in a fold; warn if from validation or test."""
    for label, n_rows in enumerate(np.bincount(labels).tolist()):
        if n_rows == 0:
            continue
        count = [(split.roles[:, labels == label] == role).sum(axis=1) for role in (TRAIN, VALIDATION, TEST)]
        name, rows = str(Label(label)), "1 row" if n_rows == 1 else f"{n_rows} rows"
        if count[TRAIN].min() == 0:
            raise SplitError(
                f"{split.protocol}: class {name} ({rows} in all) is missing from training in fold "
                f"{int(count[TRAIN].argmin())}",
                "Add rows of that class, or drop it from the dataset",
            )
        n_lacking = int(((count[VALIDATION] == 0) | (count[TEST] == 0)).sum())
        if n_lacking:
            log.warning(
                "%s: class %s (%s in all) is missing from validation or test in %d of %d folds",
                split.protocol,
                name,
                rows,
                n_lacking,
                split.n_folds,
            )


def write_split(split: Split, file: Path | IO[bytes]) -> None:
    """Write the split as Parquet: a row for each id of each fold, with protocol and seed as metadata."""
    metadata = {"mvsent.protocol": split.protocol, "mvsent.seed": str(split.seed)}
    if split.n_left_out:
        metadata[_LEFT_OUT.decode()] = str(split.n_left_out)
    if split.leak:
        metadata[_LEAK.decode()] = split.leak
    schema = pa.schema(
        [("id", pa.string()), ("fold", pa.int32()), ("role", pa.dictionary(pa.int8(), pa.string()))], metadata
    )
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for fold, roles in enumerate(split.roles):
            for start in range(0, len(roles), _BLOCK):
                rows = np.flatnonzero(roles[start : start + _BLOCK] != ABSENT)
                ids = pa.array(split.ids[start : start + _BLOCK]).take(pa.array(rows))
                names = pa.DictionaryArray.from_arrays(pa.array(roles[start + rows]), pa.array(ROLES))
                folds = pa.repeat(pa.scalar(fold, pa.int32()), len(rows))
                writer.write_table(pa.table([ids, folds, names], schema=schema))


def read_split(path: Path, ids: Sequence[str]) -> Split:
    """Read a split from a Parquet file with columns id, role and, for several folds, fold: `write_split`'s.

    Raises: SplitError if the file is not a split, or does not cover exactly `ids`, apart from the rows that
        it says to leave out.
    """
    if (in_order := _read_in_order(path, ids)) is not None:
        return in_order
    table = _read_table(path)
    names, value = encoded(table["role"])
    if unknown := [number for number, name in enumerate(names) if name not in ROLES]:
        where = f"{names[unknown[0]]!r} (row {int(np.argmax(value == unknown[0])) + 1})"
        raise SplitError(f"{path}: unknown role {where}", f"Roles are {', '.join(ROLES)}")
    role = np.array([ROLES.index(str(name)) for name in names], dtype=np.int8)[value]
    fold = np.zeros(table.num_rows, dtype=np.int64)
    if "fold" in table.column_names:
        fold = np.unique(table["fold"].to_numpy(), return_inverse=True)[1]
    given, value = encoded(table["id"])
    row_of = {id: row for row, id in enumerate(ids)}
    if strangers := [id for id in given if id not in row_of]:
        raise SplitError(
            f"{path}: {len(strangers)} of {len(given)} ids are not in the dataset, e.g. {strangers[0]!r}",
            "Use the split of this dataset",
        )
    row = np.array([row_of[str(id)] for id in given], dtype=np.int64)[value]
    roles = roles_of(str(path), ids, fold, row, role)
    metadata = table.schema.metadata or {}
    protocol = metadata.get(b"mvsent.protocol", path.stem.encode()).decode()
    leak = metadata.get(_LEAK, b"").decode()
    split = Split(protocol, int(metadata.get(b"mvsent.seed", b"0")), ids, roles, leak)
    if str(split.n_left_out).encode() != metadata.get(_LEFT_OUT, b"0"):
        example = ids[int(np.argmax((roles == ABSENT).all(axis=0)))]
        raise SplitError(
            f"{path}: {split.n_left_out} of {len(ids)} ids of the dataset have no role, e.g. {example!r}",
            "Give it by --split-file if they may be left out",
        )
    return split


def roles_of(place: str, ids: Sequence[str], fold: Ints, row: Ints, role: Roles) -> Roles:
    """The roles [F, N] of entries [E], each of which gives a row its role in a fold.

    Raises: SplitError naming `place` if a row has two different roles in a fold.
    """
    roles = np.full((int(fold.max(initial=-1)) + 1, len(ids)), ABSENT, dtype=np.int8)
    roles[fold, row] = role
    other = np.flatnonzero(roles[fold, row] != role)
    if len(other):
        at = int(other[0])
        first, second = (ROLES[number] for number in sorted((role[at], roles[fold[at], row[at]])))
        raise SplitError(
            f"{place}: id {ids[int(row[at])]} has two roles in fold {fold[at]}: {first} and {second}",
            "Leave one",
        )
    return roles


def _read_in_order(path: Path, ids: Sequence[str]) -> Split | None:
    """Read a file of `write_split` in which every row has a role; None for any other file.

    Its rows are those of the dataset, fold after fold, so only a block of them is in memory.
    """
    if path.suffix != ".parquet" or not len(ids):
        return None
    folds: list[Roles] = []
    position = len(ids)
    try:
        with readable(path) as source, pq.ParquetFile(source) as file:
            metadata = file.schema_arrow.metadata or {}
            if file.schema_arrow.names != ["id", "fold", "role"] or b"mvsent.protocol" not in metadata:
                return None
            for batch in file.iter_batches(_BLOCK):
                number = batch["fold"].to_numpy()
                if position == len(ids):
                    folds.append(np.full(len(ids), ABSENT, dtype=np.int8))
                    position = 0
                rows = slice(position, position + len(batch))
                fits = (number == len(folds) - 1).all() and rows.stop <= len(ids)
                if not fits or batch["id"].to_pylist() != ids[rows]:
                    return None
                position = rows.stop
                names = batch["role"].dictionary.to_pylist()
                numbers = np.array([ROLES.index(name) for name in names], dtype=np.int8)
                folds[-1][rows] = numbers[batch["role"].indices.to_numpy()]
    except (OSError, ValueError, AttributeError, pa.ArrowException):
        return None  # reading it as any other file gives the error
    if position < len(ids) or not folds:
        return None
    protocol, seed = metadata[b"mvsent.protocol"].decode(), int(metadata.get(b"mvsent.seed", b"0"))
    return Split(protocol, seed, ids, np.stack(folds), metadata.get(_LEAK, b"").decode())


def _read_table(path: Path) -> pa.Table:
    """Read the columns id, role and, if present, fold."""
    next_step = "Restore it, or remove it and make the split again"
    try:
        with readable(path) as source:
            table = pq.read_table(source)
    except FileNotFoundError:
        raise SplitError(f"{path}: no such split file", next_step) from None
    except (OSError, pa.ArrowException) as error:
        raise SplitError(f"{path}: not a readable split ({first_line(error)})", next_step) from None
    missing = [name for name in ("id", "role") if name not in table.column_names]
    if missing:
        raise SplitError(f"{path}: has no column {' and no column '.join(missing)}", next_step)
    if table.num_rows == 0:
        raise SplitError(f"{path}: has no rows", next_step)
    fold = table["fold"] if "fold" in table.column_names else None
    if fold is not None and (not pa.types.is_integer(fold.type) or fold.null_count):
        raise SplitError(f"{path}: a fold is not a number", next_step)
    return table


def encoded(column: pa.ChunkedArray) -> tuple[list[str | None], Ints]:
    """The distinct values of a column as strings, and the index of each row's value."""
    # "encode": null is a value of its own, so that every row has an index.
    encoded = pc.cast(column, pa.string()).combine_chunks().dictionary_encode("encode")
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy().astype(np.int64)
