"""Parsing of other people's split files: tables, JSON and plain lists, each into ids with roles and folds.

train.csv       id,label            train_1.txt   17         dev.json   [{"id": 4, "label": 0}, …]
                12.jpg,positive                   4          all.csv    id,role,fold
"""

import csv as csv_text
import io
import json
import re
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv

from mvsent.errors import SplitError, first_line
from mvsent.splits import ROLES

DELIMITED, LISTS, JSON, JSON_LINES = (
    (".csv", ".tsv"),
    (".txt", ".lst", ".ids", ""),
    (".json",),
    (".jsonl", ".ndjson"),
)
SUFFIXES = (*DELIMITED, *LISTS, *JSON, *JSON_LINES, ".parquet")

ROLE_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "val", "valid", "dev", "devel", "development"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Words for a role, in a file's name or a table's cell."""

ID_COLUMNS = (
    *("id", "ids", "image_id", "img_id", "imageid", "tweet_id", "tweetid", "post_id", "pair_id", "sample_id"),
    *("pid", "uid", "key", "file_name", "filename", "file", "image_name", "img_name", "image", "img"),
    *("image_path", "img_path", "path", "name", "index", "idx"),
)
"""Usual names of the column of ids; the first of them that a table has counts."""
ROLE_COLUMNS = ("role", "split", "subset", "set", "partition", "phase")
FOLD_COLUMNS = ("fold", "fold_id", "cv_fold")

_NEXT = "Give a table with a column id, a JSON list, or a list with one id or line number a line"
_WORD = re.compile(rf"({'|'.join(sorted(ROLE_WORDS, key=len, reverse=True))})(set|list|ids?|split|data)?")


@dataclass(frozen=True)
class SplitTable:
    """The entries of a split file.

    Attributes:
        ids: [E] ids or line numbers, as text.
        roles: [E] words for roles; None if the file states none.
        folds: [E] numbers of folds; None if the file states none.
    """

    ids: pa.StringArray
    roles: pa.StringArray | None = None
    folds: pa.Int64Array | None = None

    def __len__(self) -> int:
        return len(self.ids)


def role_of_name(name: str) -> str:
    """The role that a file name tells; empty if it tells none, or two.

    >>> role_of_name("train_1.txt"), role_of_name("mvsa-devset.json"), role_of_name("train_test.csv")
    ('train', 'validation', '')
    """
    words = re.findall(r"[a-z]+", PurePath(name).stem.lower())
    roles = {ROLE_WORDS[match[1]] for word in words if (match := _WORD.fullmatch(word))}
    return roles.pop() if len(roles) == 1 else ""


def numbers_of_name(name: str) -> tuple[int, ...]:
    """The numbers in a file name, which tell folds apart.

    >>> numbers_of_name("fold2/train_10.txt"), numbers_of_name("val.csv")
    ((2, 10), ())
    """
    return tuple(int(number) for number in re.findall(r"[0-9]{1,9}", str(PurePath(name).with_suffix(""))))


def parse_split_table(name: str, content: bytes) -> SplitTable:
    """Parse a split file, whose suffix and content tell its layout.

    Raises: SplitError if it is in no known layout, has no column of ids, or no entries.
    """
    suffix = PurePath(name).suffix.lower()
    try:
        if suffix == ".parquet":
            table = _of_columns(name, pq.read_table(io.BytesIO(content)))
        elif suffix in (*JSON, *JSON_LINES):
            table = _of_json(name, _loaded(content, by_line=suffix in JSON_LINES))
        elif suffix in (*DELIMITED, *LISTS):
            table = _of_text(name, content, suffix)
        else:
            raise SplitError(f"{name}: its suffix {suffix} is none of a split file", _NEXT)
    except (ValueError, RecursionError, OSError, pa.ArrowException, csv_text.Error) as error:
        raise SplitError(f"{name}: not a readable split ({first_line(error)})", _NEXT) from None
    if not len(table):
        raise SplitError(f"{name}: has no rows", _NEXT)
    if table.ids.null_count:
        at = table.ids.is_null().index(True).as_py()
        raise SplitError(f"{name}: row {at + 1} has no id", "Fill it in, or remove the row")
    return table


def parse_list(name: str, content: bytes, known: frozenset[str] = frozenset()) -> tuple[list[str], str]:
    """The ids of a list in order, and its header; a table's first column is the ids.

    A first line is a header if it is a usual name of the column of ids, or is no number and none of the
    `known` ids. Empty lines at the end do not count.

    >>> parse_list("ids.csv", b"tweet,label\\n12,positive\\n13,neutral\\n")
    (['12', '13'], 'tweet')
    """
    text = _decoded(name, content)
    first = text.partition("\n")[0]
    delimiter = _delimiter(first, PurePath(name).suffix.lower())
    lines = [line.split(delimiter, 1)[0] if delimiter else line for line in text.rstrip().splitlines()]
    ids = [line.strip().strip('"') for line in lines]
    if ids and ids[0] not in known and (_is_id_column(ids[0]) or not re.search("[0-9]", ids[0])):
        return ids[1:], ids[0]
    return ids, ""


def _of_text(name: str, content: bytes, suffix: str) -> SplitTable:
    text = _decoded(name, content)
    first = text.lstrip("\r\n").partition("\n")[0].rstrip("\r")
    delimiter = _delimiter(first, suffix)
    if not delimiter:
        ids = [line.strip().strip('"') for line in text.splitlines() if line.strip()]
        return SplitTable(pa.array(ids[1:] if ids and _is_id_column(ids[0]) else ids, pa.string()))
    header = next(csv_text.reader([first], delimiter=delimiter))
    # Text, or an id like 007 would become a number.
    options = csv.ConvertOptions(column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=True)
    parse = csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    stream = io.BytesIO(text.encode())
    return _of_columns(name, csv.read_csv(stream, parse_options=parse, convert_options=options))


def _of_columns(name: str, table: pa.Table) -> SplitTable:
    """The entries of a table. Raises: SplitError if it has no column of ids, or several of one name."""
    plain = [_plain(column) for column in table.column_names]
    found: dict[str, pa.Array | None] = {}
    for kind, names in (("id", ID_COLUMNS), ("role", ROLE_COLUMNS), ("fold", FOLD_COLUMNS)):
        column = next((each for each in names if each in plain), None)
        if column is not None and plain.count(column) > 1:
            raise SplitError(f"{name}: has more than one column {column}", "Leave one")
        found[kind] = None if column is None else table[plain.index(column)].combine_chunks()
    if found["id"] is None:
        listed = ", ".join(table.column_names[:12])
        raise SplitError(f"{name}: has no column of ids, only {listed}", "Call it id")
    roles, folds = found["role"], found["fold"]
    return SplitTable(
        _as_ids(found["id"]),
        None if roles is None else pc.cast(roles, pa.string()),
        None if folds is None else _as_folds(name, folds),
    )


def _as_folds(name: str, column: pa.Array) -> pa.Int64Array:
    try:
        if pa.types.is_string(column.type):
            column = pc.utf8_trim_whitespace(column)
        folds = pc.cast(column, pa.int64())
    except pa.ArrowException as error:
        raise SplitError(f"{name}: a fold is not a number ({error})", "Number the folds from 0") from None
    if folds.null_count:
        at = folds.is_null().index(True).as_py()
        raise SplitError(f"{name}: row {at + 1} has no fold", "Number the folds from 0")
    return folds


def _as_ids(column: pa.Array) -> pa.StringArray:
    """The ids as text: those of a table that pandas wrote with gaps, such as 12.0, as 12."""
    if pa.types.is_floating(column.type):
        column = pc.cast(column, pa.int64())
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return pc.utf8_trim_whitespace(pc.cast(column, pa.string()))


def _loaded(content: bytes, *, by_line: bool) -> Any:
    text = content.decode("utf-8-sig")
    return [json.loads(line) for line in text.splitlines() if line.strip()] if by_line else json.loads(text)


def _of_json(name: str, value: Any) -> SplitTable:
    """The entries of a list of ids or objects, or of an object of such lists by role."""
    if isinstance(value, dict):
        roles = [ROLE_WORDS.get(str(key).strip().lower(), "") for key in value]
        if not value or not all(roles) or not all(isinstance(each, list) for each in value.values()):
            keys = ", ".join(map(str, islice(value, 5)))
            raise SplitError(f"{name}: an object with the keys {keys}, not train, val and test", _NEXT)
        parts = [_of_json(name, each) for each in value.values()]
        words = [role for role, part in zip(roles, parts, strict=True) for _ in range(len(part))]
        return SplitTable(pa.concat_arrays([part.ids for part in parts]), pa.array(words, pa.string()))
    if not isinstance(value, list):
        raise SplitError(f"{name}: a {type(value).__name__}, not a list", _NEXT)
    if any(isinstance(each, dict) for each in value):
        return _of_objects(name, value)
    return SplitTable(pa.array([_scalar(name, at, each) for at, each in enumerate(value)], pa.string()))


def _of_objects(name: str, rows: list[Any]) -> SplitTable:
    plain = []
    for at, row in enumerate(rows):
        if not isinstance(row, dict):
            raise SplitError(f"{name}: entry {at + 1} is not an object, as others are", _NEXT)
        plain.append({_plain(str(key)): value for key, value in row.items()})
    held = set().union(*plain)
    column = next((each for each in ID_COLUMNS if each in held), None)
    if column is None:
        listed = ", ".join(sorted(held)[:12])
        raise SplitError(f"{name}: its objects have no id, only {listed}", "Call it id")
    ids = [_scalar(name, at, row.get(column)) for at, row in enumerate(plain)]
    role = next((each for each in ROLE_COLUMNS if each in held), None)
    fold = next((each for each in FOLD_COLUMNS if each in held), None)
    roles = None if role is None else pa.array([_text(row.get(role)) for row in plain], pa.string())
    folds = None if fold is None else pa.array([_text(row.get(fold)) for row in plain], pa.string())
    return SplitTable(pa.array(ids, pa.string()), roles, None if folds is None else _as_folds(name, folds))


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _scalar(name: str, at: int, value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise SplitError(f"{name}: the id of entry {at + 1} is {str(value)[:40]!r}", "Give text or a number")
    return str(value).strip()


def _decoded(name: str, content: bytes) -> str:
    try:
        text = content.decode("utf-8-sig")
        return text.replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        where = content.count(b"\n", 0, error.start) + 1
        raise SplitError(f"{name}:{where}: not UTF-8", "Save it as UTF-8") from None


def _delimiter(line: str, suffix: str) -> str:
    """The delimiter of a table, by its first line; empty for a list of one column.

    >>> _delimiter("id;role", ".csv"), _delimiter("17", ".txt"), _delimiter("mvsa:1", "")
    (';', '', '')
    """
    if suffix == ".tsv" or "\t" in line:
        return "\t" if "\t" in line else ""
    return max(",;", key=line.count) if "," in line or ";" in line else ""


def _is_id_column(cell: str) -> bool:
    return _plain(cell) in ID_COLUMNS


def _plain(name: str) -> str:
    """A column's name for comparison.

    >>> _plain(" Image-ID ")
    'image_id'
    """
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def role_names() -> str:
    """The roles and the words for them, for a message."""
    return "; ".join(
        f"{role}: {', '.join(w for w, of in ROLE_WORDS.items() if of == role)}" for role in ROLES
    )
