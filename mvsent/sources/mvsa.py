"""MVSA-Single and MVSA-Multiple in their published layout (Niu et al. 2016): parsing, and finding the files.

labelResultAll.txt      ID⇥text,image            one column of votes for each annotator, CRLF or LF
                        1⇥neutral,positive
data/1.txt, data/1.jpg  the tweet (UTF-8 or GB18030) and its picture
"""

import io
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from mvsent.curate.labels import IMAGE, TEXT, Labels
from mvsent.errors import InputError, UsageError
from mvsent.pairs import Label
from mvsent.sources.archive import Files, open_files
from mvsent.sources.registry import Source, Terms
from mvsent.storage import unlike_driver

CITATION = """@inproceedings{niu2016mvsa,
  title = {Sentiment Analysis on Multi-View Social Data},
  author = {Niu, Teng and Zhu, Shiai and Pang, Lei and El Saddik, Abdulmotaleb},
  booktitle = {MultiMedia Modeling},
  year = {2016},
  doi = {10.1007/978-3-319-27674-8_2}
}"""

SOURCE = Source(
    name="mvsa",
    terms=Terms(
        """Texts and pictures are tweets of MVSA and belong to their authors. MVSA is given out for
research: ask its authors for a copy instead of passing this one on, and delete what a tweet's author
deletes.""",
        citation=CITATION,
    ),
)

LABEL_FILE = "labelResultAll.txt"
MAX_LABEL_FILE_BYTES = 2**28  # more than ten million rows
MAX_TEXT_BYTES = 2**16  # a tweet has at most 280 characters
_HEADER_BYTES = 2**16

_ROOT = re.compile(r"MVSA(?:[-_ ]?(?:Single|Multiple))?(?:\.zip)?", re.IGNORECASE)
_ID = r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$"  # a file name that leads nowhere else
_FITTING_ID = re.compile(_ID.encode()).fullmatch
_DICTIONARY = pa.dictionary(pa.int32(), pa.string())  # few cells differ, and each is parsed once


@dataclass(frozen=True, slots=True)
class Annotations:
    """A parsed label file of N rows and K annotators."""

    ids: pa.StringArray  # [N], unique
    votes: Labels  # [N, K, 2]: text, image
    given_name: str = ""

    @property
    def name(self) -> str:
        """The prefix of the ids: the given name, else mvsa-single or mvsa-multiple, by the annotators."""
        return self.given_name or ("mvsa-single" if self.votes.shape[1] == 1 else "mvsa-multiple")


@dataclass(frozen=True, slots=True)
class Mvsa:
    """An opened copy of MVSA; `base` is the folder of the label file in `files`: empty, or `NAME/`."""

    files: Files
    base: str

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened_elsewhere, (self.files, self.base)

    def annotations(self) -> Annotations:
        """Parse the label file. Raises: InputError, see `parse_annotations`."""
        name = self.base + LABEL_FILE
        where = self.files.where(name)
        path = self.files.path(name)
        content = path or self.files.read(name, MAX_LABEL_FILE_BYTES) or b""
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        if size > MAX_LABEL_FILE_BYTES:
            raise InputError(
                f"{where}: more than {MAX_LABEL_FILE_BYTES >> 20} MiB of labels", "Give MVSA's own label file"
            )
        return parse_annotations(content, where)

    def text(self, id: str) -> bytes | None:
        """The tweet's bytes, cut off after MAX_TEXT_BYTES + 1; None if there is no file."""
        return self.files.read(self.text_name(id), MAX_TEXT_BYTES)

    def image(self, id: str, max_bytes: int) -> bytes | None:
        """The picture's bytes, cut off after `max_bytes` + 1; None if there is no file."""
        return self.files.read(self.image_name(id), max_bytes)

    def text_name(self, id: str) -> str:
        return f"{self.base}data/{id}.txt"

    def image_name(self, id: str) -> str:
        return f"{self.base}data/{id}.jpg"


def _opened_elsewhere(files: Files, base: str) -> Mvsa:
    """The dataset in a process that it was pickled for. Raises: InputError where it is not there."""
    if files.read(base + LABEL_FILE, 0) is None:
        raise unlike_driver(files.where(base + LABEL_FILE), "not found")
    return Mvsa(files, base)


@contextmanager
def open_mvsa(root: Path) -> Iterator[Mvsa]:
    """Open the MVSA dataset in the folder or zip `root`, or in the one folder at its top.

    Raises: UsageError if there is no `root`; InputError if it holds no label file, or several.
    """
    with open_files(root) as files:
        label_files = [name for name in files.names(depth=1) if PurePosixPath(name).name == LABEL_FILE]
        if not label_files:
            raise InputError(
                f"{root}: no {LABEL_FILE} in it", "Give the MVSA folder that holds it, or its zip"
            )
        at_top = min(label_files, key=len)
        if at_top != LABEL_FILE and len(label_files) > 1:
            raise InputError(
                f"{root}: several datasets: {', '.join(sorted(label_files))}", "Give one of these folders"
            )
        yield Mvsa(files, at_top.removesuffix(LABEL_FILE))


def find_root(folder: Path = Path()) -> Path:
    """The one MVSA folder or zip in `folder`, by name: MVSA_Single, MVSA-Multiple, MVSA, mvsa_single.zip, …

    A zip beside the folder of the same name is ignored.

    Raises: UsageError if there is none, or more than one.
    """
    named = sorted(path for path in folder.iterdir() if _ROOT.fullmatch(path.name))
    folders = {path.name for path in named if path.is_dir()}
    roots = [path for path in named if path.name in folders or path.stem not in folders]
    if not roots:
        raise UsageError(
            "No MVSA_Single, MVSA_Multiple or MVSA folder or zip here",
            "Name it: mvsent reconcile-mvsa ROOT",
        )
    if len(roots) > 1:
        names = ", ".join(path.name for path in roots)
        raise UsageError(f"Several MVSA folders here: {names}", "Name one: mvsent reconcile-mvsa ROOT")
    return roots[0]


def parse_annotations(content: bytes | Path, where: str) -> Annotations:
    r"""Parse a label file, given as its bytes or its path; `where` names it in messages.

    >>> parsed = parse_annotations(b"ID\ttext,image\r\n1\tneutral,positive\r\n", "labels")
    >>> parsed.ids.to_pylist(), parsed.votes.tolist(), parsed.name
    (['1'], [[[1, 2]]], 'mvsa-single')

    Raises: InputError naming the line of a bad header, row, id, label or repeated id; or for an empty or
    UTF-16 file.
    """
    with _opened(content) as file:
        head = file.read(_HEADER_BYTES)
    if not head.strip():
        raise InputError(f"{where}: the file is empty", "Unpack the dataset again")
    # A byte order mark of UTF-16, or about every second byte is zero.
    start = head[:256]
    if start[:2] in (b"\xff\xfe", b"\xfe\xff") or len(start) < 3 * start.count(0) < 2 * len(start):
        raise InputError(f"{where}: UTF-16, not UTF-8", f"Convert it: iconv -f UTF-16 -t UTF-8 {where}")
    n_annotators = _annotators(head.splitlines()[0], where)
    try:
        with _opened(content) as file:
            return _parse_columns(file, n_annotators)
    except _RepeatedIdError as error:
        data = content.read_bytes() if isinstance(content, Path) else content
        places = islice(re.finditer(rb"[\r\n]%b\t" % re.escape(error.id.encode()), data), 2)
        first, again = (_line_number(data, place.start() + 1) for place in places)
        raise _repeated(where, again, error.id, first) from None
    except (pa.ArrowInvalid, ValueError):
        with content.open("rb") if isinstance(content, Path) else io.BytesIO(content) as lines:
            # Arrow names no line, so the lines are read one by one until the first faulty one.
            _raise_first_problem(lines, n_annotators, where)
    try:  # no line is faulty, so some are blank
        with _opened(content) as file:
            return _parse_columns(file, n_annotators, _skip_blanks)
    except (pa.ArrowInvalid, ValueError) as error:
        raise InputError(f"{where}: cannot be read as a label file: {error}") from error


def _opened(content: bytes | Path) -> pa.NativeFile:
    return pa.OSFile(str(content)) if isinstance(content, Path) else pa.BufferReader(content)


def _annotators(header: bytes, where: str) -> int:
    """K, from the header `ID⇥text,image⇥…`."""
    first, *others = header.decode("utf-8-sig", errors="replace").lower().split("\t")
    cells = [",".join(part.strip() for part in cell.split(",")) for cell in others]
    if first.strip() != "id" or not cells or any(cell != "text,image" for cell in cells):
        raise InputError(
            f"{where}:1: not the header of an MVSA label file: {header[:80]!r}",
            "It should be ID and then 'text,image' for each annotator, separated by tabs",
        )
    return len(others)


def _parse_columns(
    file: pa.NativeFile, n_annotators: int, on_other_width: Callable[[Any], str] | None = None
) -> Annotations:
    """Parse a file without faults, fast. Raises: ArrowInvalid or ValueError, without the line."""
    names = ["id", *(f"votes-{k}" for k in range(n_annotators))]
    table = pyarrow.csv.read_csv(
        file,
        pyarrow.csv.ReadOptions(column_names=names, skip_rows=1),
        pyarrow.csv.ParseOptions(delimiter="\t", quote_char=False, invalid_row_handler=on_other_width),
        pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names, _DICTIONARY) | {"id": pa.string()},
            strings_can_be_null=False,
            check_utf8=False,  # nothing but ASCII passes the checks below
        ),
    )
    table = table.unify_dictionaries().combine_chunks()
    ids = table["id"].chunk(0) if table.num_rows else pa.array([], pa.string())
    if not table.num_rows:
        raise ValueError("no rows")
    votes = np.empty((n_annotators, 2, len(ids)), dtype=np.int8)  # a column's votes lie side by side
    for k, name in enumerate(names[1:]):
        column = table[name].chunk(0)
        meaning = np.array([parse_vote(cell) for cell in column.dictionary.to_pylist()], dtype=np.int8)
        for modality in (TEXT, IMAGE):
            # "clip": with the default mode, numpy would buffer the output. No index is out of range.
            meaning[:, modality].take(column.indices.to_numpy(), out=votes[k, modality], mode="clip")
    _check_ids(ids)  # last, so that a repeated id is the only fault then
    return Annotations(ids, votes.transpose(2, 0, 1))


def _skip_blanks(row: pyarrow.csv.InvalidRow) -> str:
    """How Arrow treats a row of another width."""
    return "error" if row.text.strip(" ") else "skip"


class _RepeatedIdError(ValueError):
    """The only fault is that ids are repeated; `id` is the first."""

    def __init__(self, id: str) -> None:
        self.id = id
        super().__init__(f"repeated: {id}")


def _check_ids(ids: pa.StringArray) -> None:
    """Check that every id can be a file name and none is repeated; fast for the usual rising numbers.

    Raises: _RepeatedIdError; ValueError for an id that cannot be a file name.
    """
    try:
        numbers = pc.cast(ids, pa.uint64()).to_numpy()
        if (numbers[1:] > numbers[:-1]).all():
            return
    except pa.ArrowInvalid:
        if not pc.all(pc.match_substring_regex(ids, _ID)).as_py():
            raise ValueError("an id that cannot be a file name") from None
    kinds = ids.dictionary_encode().indices.to_numpy()  # numbered as they occur
    if len(repeated := np.flatnonzero(kinds != np.arange(len(ids)))):
        raise _RepeatedIdError(ids[int(repeated[0])].as_py())


def parse_vote(cell: str) -> tuple[Label, Label]:
    """Parse one annotator's labels of the text and of the image.

    >>> parse_vote("neutral,positive")
    (<Label.NEUTRAL: 1>, <Label.POSITIVE: 2>)

    Raises: ValueError for anything but two of negative, neutral and positive, in any case.
    """
    try:
        text, image = cell.split(",")
        return Label.parse(text), Label.parse(image)
    except (ValueError, KeyError):
        raise ValueError(f"not two of negative, neutral, positive: {cell!r}") from None


def _line_number(data: bytes, at: int) -> int:
    r"""The number, from 1, of the line that starts `at`; lines end in \n, \r\n or \r.

    >>> _line_number(b"a\r\nb\rc\nd", 7)
    4
    """
    return 1 + data.count(b"\n", 0, at) + data.count(b"\r", 0, at) - data.count(b"\r\n", 0, at)


def _repeated(where: str, number: int, id: str, first: int) -> InputError:
    return InputError(
        f"{where}:{number}: id {id} is already on line {first}",
        "Delete one of the two lines: only you can know which votes are the pair's",
    )


def _raise_first_problem(file: Iterable[bytes], n_annotators: int, where: str) -> None:
    """Raise the InputError of the first faulty line; slow."""
    line_of_id: dict[bytes, int] = {}
    good_votes: set[bytes] = set()  # few differ, so each is parsed once
    lines = (line for piece in file for line in piece.splitlines())  # a piece may hold lines that end in \r
    for number, line in enumerate(lines, start=1):
        if number == 1 or not line.strip(b" "):
            continue
        id, _, votes = line.partition(b"\t")
        if votes in good_votes and _FITTING_ID(id) and line_of_id.setdefault(id, number) == number:
            continue
        name, *cells = line.decode("utf-8", errors="backslashreplace").split("\t")
        if len(cells) != n_annotators:
            raise InputError(
                f"{where}:{number}: {len(cells)} votes where the header has {n_annotators}: {line[:80]!r}",
                "Correct or delete the line",
            )
        if not _FITTING_ID(id):
            raise InputError(
                f"{where}:{number}: an id that cannot be a file name: {name[:80]!r}", "Correct it"
            )
        if id in line_of_id:
            raise _repeated(where, number, name, line_of_id[id])
        line_of_id[id] = number
        for cell in cells:
            try:
                parse_vote(cell)
            except ValueError as error:
                raise InputError(f"{where}:{number}: {error}", "Correct or delete the line") from None
        good_votes.add(votes)
    if not line_of_id:
        raise InputError(f"{where}: a header and no rows", "Unpack the dataset again")
