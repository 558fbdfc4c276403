"""A split from other people's files: several or a folder of them, in any layout of `split_tables`.

The name of a file tells its role and fold, unless its columns do:

    train.csv val.csv test.csv · train_1.txt val_1.txt test_1.txt train_2.txt … · all.parquet (id, role, fold)

Folds without roles (fold_1.txt fold_2.txt …, or a table with id and fold) are held out one after the other:
the rows of a fold are its test rows, and those of all others its training rows.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mvsent.config import TrainSettings
from mvsent.datasets.split_ids import (
    NO_ROW,
    RowFinder,
    as_numbers,
    counted_from,
    look_like_numbers,
    rows_of,
)
from mvsent.datasets.split_tables import (
    ROLE_WORDS,
    SUFFIXES,
    SplitTable,
    numbers_of_name,
    parse_list,
    parse_split_table,
    role_names,
    role_of_name,
)
from mvsent.errors import SplitError, UsageError
from mvsent.shards.reader import Dataset
from mvsent.splits import ABSENT, ROLES, TEST, TRAIN, VALIDATION, Roles, Split, encoded, roles_of
from mvsent.storage import entries, is_remote, located, reaching

MAX_BYTES = 1 << 30
"""Limit of a split file, which is read into memory."""

Ints = npt.NDArray[np.int64]
Fold = tuple[int, ...]


@dataclass(frozen=True)
class SplitFiles:
    """The files of a split, and how they are read.

    Attributes:
        paths: files, or folders of them.
        ids: a list of ids, of which the files name line numbers; None if they name ids.
        unknown: whether an id that the dataset lacks is refused or left out.
        first_line: number of the first line of `ids`: 0, 1, or auto.
        validation_share: share of the training rows for folds without validation rows.
    """

    paths: tuple[Path, ...]
    ids: Path | None = None
    unknown: Literal["refuse", "drop"] = "refuse"
    first_line: Literal["auto", "0", "1"] = "auto"
    validation_share: float = 0.0

    @classmethod
    def of(cls, settings: TrainSettings) -> "SplitFiles | None":
        """The split files that the settings name; None if there are none.

        Raises: UsageError for a setting of split files without them.
        """
        if not settings.split_file:
            alone = ("split_ids", "split_unknown", "split_first_line", "validation_share")
            for name in alone:
                if getattr(settings, name) != TrainSettings.stated()[name].default:
                    flag = TrainSettings.stated()[name].flag
                    raise UsageError(f"{flag}: only for --split-file", "Leave it out, or name a split file")
            return None
        return cls(
            tuple(located(path) for path in settings.split_file),
            located(settings.split_ids) if settings.split_ids else None,
            settings.split_unknown,
            settings.split_first_line,
            settings.validation_share,
        )

    @property
    def name(self) -> str:
        """The name of the split: that of its only file or folder, else of the folder of the first file."""
        [first, *others] = self.paths
        named = first.absolute().parent if others else first
        return f"file-{(named.stem if named.suffix.lower() in SUFFIXES else named.name) or 'split'}"

    @property
    def described(self) -> str:
        """The names of the files, for a result."""
        names = [path.name for path in self.paths]
        return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@dataclass(frozen=True)
class FoundSplit:
    """A split, and notes on how its files were read."""

    split: Split
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Part:
    """The entries of one file, with what its name tells."""

    name: str
    table: SplitTable
    role: str
    fold: Fold

    def __len__(self) -> int:
        return len(self.table)


def read_split_files(files: SplitFiles, dataset: Dataset) -> FoundSplit:
    """Read the split of a dataset from files; validation rows are not carved yet.

    Raises: SplitError if a file cannot be read, is in no known layout or contradicts another, if an id is
        unknown, or if a role is missing from some folds; UsageError if a path does not exist.
    """
    notes: list[str] = []
    parts = [
        Part(name, parse_split_table(name, content), role_of_name(name), numbers_of_name(name))
        for name, content in read_files(files, notes)
    ]
    place = parts[0].name if len(parts) == 1 else files.described
    values, value = encoded(pa.chunked_array([part.table.ids for part in parts]))
    rows = _rows(place, [str(each) for each in values], files, dataset, notes)[value]
    held_out = len({key for part in parts for key in _keys(part)}) > 1 and not any(map(_tells_roles, parts))
    roles = None if held_out else np.concatenate([_part_roles(part) for part in parts])
    entry, fold, numbers = _folds(parts)
    known = rows[entry] != NO_ROW
    entry, fold = entry[known], fold[known]
    if roles is None:
        table = _held_out(place, dataset.ids, fold, rows[entry], len(numbers))
        notes.append(f"the rows of each of the {len(numbers)} folds are its test rows, all others train")
    else:
        table = roles_of(place, dataset.ids, fold, rows[entry], roles[entry])
    _check_roles(place, table, numbers, carved=files.validation_share > 0)
    split = Split(files.name, 0, dataset.ids, table)
    if not all(known):
        n_unknown = len(np.unique(value[rows == NO_ROW]))
        notes.append(f"{n_unknown} ids of the split that are not in the dataset are dropped")
    if split.n_left_out:
        notes.append(f"{split.n_left_out} of {len(dataset)} rows are not in the split and are left out")
    return FoundSplit(split, notes)


def read_files(files: SplitFiles, notes: list[str]) -> list[tuple[str, bytes]]:
    """Names and contents of the files. Notes those of a folder that are ignored.

    Files of the same name in several folders are told apart by the folders' names.
    """
    found = [each for path in files.paths for each in _listed(path, files.ids, notes)]
    often = Counter(name for name, _ in found)
    names = [name if often[name] == 1 else f"{path.absolute().parent.name}/{name}" for name, path in found]
    return [(name, read_bytes(path)) for name, (_, path) in zip(names, found, strict=True)]


def _listed(path: Path, ids: Path | None, notes: list[str]) -> list[tuple[str, Path]]:
    """The file; or of a folder and the folders in it, the split files: those whose name tells a role."""
    with reaching(path):
        if not path.is_dir():
            return [(path.name, path)]
        names = [name for name in sorted(entries(path)) if not name.startswith(".")]
        for folder in [name for name in names if (path / name).is_dir()]:
            names += [f"{folder}/{name}" for name in sorted(entries(path / folder))]
        found = [(name, path / name) for name in names if Path(name).suffix.lower() in SUFFIXES]
        found = [(name, each) for name, each in found if each != ids and each.is_file()]
    named = [(name, each) for name, each in found if role_of_name(name)]
    numbers = {numbers_of_name(name) for name, _ in found}
    are_folds = len(numbers) == len(found) and () not in numbers
    if not named and len(found) != 1 and not are_folds:
        listed = f": {', '.join(name for name, _ in found[:5])}" if found else ""
        raise SplitError(
            f"{path}: no file in this folder is called train, val or test, and not all have numbers{listed}",
            "Name the files",
        )
    if named and (ignored := [name for name, each in found if not role_of_name(name)]):
        notes.append(f"{path}: ignored, as their names tell no role: {', '.join(ignored[:5])}")
    return named or found


def read_bytes(path: Path) -> bytes:
    """The content of a file that the user names. Raises: SplitError if it is missing, or too large."""
    try:
        with reaching(path):
            if not is_remote(path) and not path.is_file():
                problem = "not an ordinary file" if path.exists() else "no such split file"
                raise SplitError(f"{path}: {problem}", "Name a file, several, or a folder of them")
            if (size := path.stat().st_size) > MAX_BYTES:
                raise SplitError(f"{path}: {size} bytes are more than {MAX_BYTES}", "Give the ids alone")
            return path.read_bytes()
    except FileNotFoundError:
        raise SplitError(f"{path}: no such split file", "Name a file, several, or a folder of them") from None
    except OSError as error:
        raise SplitError(f"{path}: cannot be read ({error.strerror})", "Check its permissions") from None


def _rows(place: str, values: Sequence[str], files: SplitFiles, dataset: Dataset, notes: list[str]) -> Ints:
    """The row of each distinct id or line number; `NO_ROW` for one that is dropped."""
    finder, drop = RowFinder(dataset.ids), files.unknown == "drop"
    if files.ids is None:
        of_lines = ""
        if look_like_numbers(values):
            of_lines = "for line numbers, give the list: --split-ids"
            notes.append(f"its numbers are taken for ids; {of_lines}")
        return rows_of(place, values, finder, drop_unknown=drop, advice=of_lines)
    listed, header = parse_list(files.ids.name, read_bytes(files.ids), frozenset(dataset.ids))
    if not listed:
        raise SplitError(f"{files.ids}: has no ids", "Give a list with one id a line")
    numbers = as_numbers(place, values)
    first = counted_from(place, numbers, len(listed), files.first_line)
    of_header = f", after the header {header!r}" if header else ""
    notes.append(f"its numbers are taken for lines of {files.ids.name}, which count from {first}{of_header}")
    return rows_of(files.ids.name, [listed[number - first] for number in numbers], finder, drop_unknown=drop)


def _tells_roles(part: Part) -> bool:
    return bool(part.role) or part.table.roles is not None


def _held_out(place: str, ids: Sequence[str], fold: Ints, row: Ints, n_folds: int) -> Roles:
    """The roles [F, N] where each row [E] is a test row of one fold, and a training row of the others.

    Raises: SplitError if a row is in two folds.
    """
    own = np.full(len(ids), -1, dtype=np.int64)
    own[row] = fold
    if len(other := np.flatnonzero(own[row] != fold)):
        at = int(other[0])
        raise SplitError(
            f"{place}: id {ids[int(row[at])]} is in two folds, and nothing tells its role in them",
            "Add a column role, or leave one",
        )
    is_test = own == np.arange(n_folds)[:, np.newaxis]
    roles = np.where(is_test, TEST, TRAIN)
    return np.where(own < 0, ABSENT, roles).astype(np.int8)


def _part_roles(part: Part) -> Roles:
    """The role of each entry: from the column, else from the file's name."""
    names = part.table.roles
    if names is not None:
        words, word = encoded(pa.chunked_array([names]))
        roles = [ROLE_WORDS.get((name or "").strip().lower(), "") for name in words]
        if all(roles):
            return np.array([ROLES.index(role) for role in roles], dtype=np.int8)[word]
        if not part.role:
            unknown = roles.index("")
            at = int(np.argmax(word == unknown))
            raise SplitError(
                f"{part.name}: unknown role {words[unknown]!r} (row {at + 1})", f"Roles are {role_names()}"
            )
    if not part.role:
        raise SplitError(
            f"{part.name}: neither its name nor a column role tells the role of its rows",
            "Call it train, val or test, add the column, or number two folds or more",
        )
    return np.full(len(part), ROLES.index(part.role), dtype=np.int8)


def _folds(parts: Sequence[Part]) -> tuple[Ints, Ints, list[str]]:
    """The entries that count [E'], the fold of each, and the folds' own numbers.

    A file without a number belongs to every fold, if others have one: a test file that all folds share.
    """
    keys: list[Fold] = sorted({key for part in parts for key in _keys(part)})
    shared = () in keys and len(keys) > 1
    numbered = {key: number for number, key in enumerate(key for key in keys if key or not shared)}
    entry, fold, start = [], [], 0
    for part in parts:
        own = np.arange(start, start := start + len(part))
        if part.table.folds is None:
            of_part = [numbered[part.fold]] if part.fold in numbered else range(len(numbered))
            for number in of_part:
                entry.append(own)
                fold.append(np.full(len(own), number))
        else:
            distinct, which = np.unique(part.table.folds.to_numpy(), return_inverse=True)
            entry.append(own)
            fold.append(np.array([numbered[(*part.fold, int(each))] for each in distinct])[which])
    names = [".".join(map(str, key)) or "0" for key in numbered]
    return np.concatenate(entry), np.concatenate(fold).astype(np.int64), names


def _keys(part: Part) -> list[Fold]:
    if part.table.folds is None:
        return [part.fold]
    return [(*part.fold, number) for number in pc.unique(part.table.folds).to_pylist()]


def _check_roles(place: str, roles: Roles, numbers: Sequence[str], *, carved: bool) -> None:
    """Raises: SplitError if a role is in no fold, or in some only; validation rows may be carved."""
    has: Mapping[str, Any] = {name: (roles == role).any(axis=1) for role, name in enumerate(ROLES)}
    for name, folds in has.items():
        may_lack = name == ROLES[VALIDATION] and (carved or not folds.any())
        if folds.all() or may_lack:
            continue
        of_fold = f"fold {numbers[int(np.argmin(folds))]}" if len(numbers) > 1 else "the split"
        raise SplitError(f"{place}: {of_fold} has no {name} rows", "Add the file that is missing")
