"""Reads a table but for its pictures: the id, text and label of every row, or the reason to drop it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa

from mvsent.build.reconcile import agreement_of, decide_votes
from mvsent.build.table_plan import Plan
from mvsent.build.table_values import extra_column, plain_text
from mvsent.curate.label_words import label_cell, label_meanings, what_to_do
from mvsent.curate.labels import IMAGE, MISSING, TEXT, Decisions, Labels, majority
from mvsent.curate.text import clean_text, count_words
from mvsent.errors import InputError
from mvsent.pairs import ExtraType
from mvsent.reasons import Reason, Rejection
from mvsent.shards.manifest import TextKind
from mvsent.sources.table import TableSettings
from mvsent.sources.table_columns import FILLED, Columns, find_columns
from mvsent.sources.table_files import TableFile, open_files

TWEET_WORDS, TWEETS = 40, 0.99
MAX_ID = 500  # characters

_TEXTS = (pa.string(), pa.large_string(), pa.string_view())
_BYTES = (pa.binary(), pa.large_binary(), pa.binary_view())


def read_plan(places: Sequence[Path], settings: TableSettings, name: str) -> Plan:
    """Read the table in the files, folders and patterns `places`, without its pictures.

    Args:
        name: of the dataset and prefix of its ids.

    Raises: UsageError or InputError, naming file and line.
    """
    files = open_files(places, settings.encoding, settings.delimiter)
    columns = find_columns(files[0].columns, settings, str(files[0].path))
    for file in files[1:]:
        for column in (columns.image, *columns.read):
            if column not in file.columns:
                raise InputError(
                    f"{file.path}: no column {column}, which {files[0].path} has", "Give it alone"
                )
    embedded = [_is_embedded(file, columns) for file in files]
    cells = _Cells(files, columns, embedded, settings, name)
    cells.read()
    if not cells.ids:
        raise InputError(
            f"{', '.join(str(file.path) for file in files[:3])}: has no rows", "Give a table with rows"
        )
    return cells.plan()


def _is_embedded(file: TableFile, columns: Columns) -> bool:
    """Whether the pictures are in the file. Raises: InputError for a column of a type that cannot be used."""
    for column, kinds in ((columns.text, "texts"), (columns.image, "pictures")):
        kind = _plain(file.types.get(column, pa.string()))
        if kind in _TEXTS:
            continue
        is_picture = kind in _BYTES or (
            pa.types.is_struct(kind)
            and {"bytes"} <= {child.name for child in kind.fields} <= {"bytes", "path"}
        )
        if column == columns.text or not is_picture:
            raise InputError(
                f"{file.path}: column {column} has no {kinds} but {str(kind)[:80]}", "Name another column"
            )
        return True
    return False


def _plain(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    return kind.value_type if pa.types.is_dictionary(kind) else kind


@dataclass
class _Cells:
    """The cells of a table while it is read: one list a column, one entry a pair."""

    files: list[TableFile]
    columns: Columns
    embedded: list[bool]
    settings: TableSettings
    name: str
    ids: list[str] = field(default_factory=list)
    places: list[tuple[int, int, int]] = field(default_factory=list)  # file, line, number
    texts: list[Any] = field(default_factory=list)
    images: list[Any] = field(default_factory=list)
    rejected: dict[int, Rejection] = field(default_factory=dict)
    votes: list[tuple[int, str, tuple[str, ...]]] = field(default_factory=list)  # pair, annotator, cells
    kept: dict[str, list[Any]] = field(default_factory=dict)
    n_rows: int = 0

    def read(self) -> None:
        """Read every file."""
        self.kept = {column: [] for column in self.columns.kept}
        first: dict[str, int] = {}
        for place, file in enumerate(self.files):
            wanted = self.columns.read + [self.columns.image] * (not self.embedded[place])
            for number, (line, row) in enumerate(file.rows(list(dict.fromkeys(wanted)))):
                self.n_rows += 1
                self._add(place, line, number, row, first)

    def _add(self, place: int, line: int, number: int, row: dict[str, Any], first: dict[str, int]) -> None:
        file, columns = self.files[place], self.columns
        image = None if self.embedded[place] else picture_cell(row[columns.image])
        text = row[columns.text]
        if isinstance(text, str):
            text = plain_text(text[1:] if file.own and text.startswith("'") else text)
        id = self._id(file, line, row)
        pair = first.setdefault(id, len(self.ids))
        is_vote = pair < len(self.ids) and bool(columns.annotator)
        if is_vote and (text, image) == (self.texts[pair], self.images[pair]):
            self._vote(file, line, pair, row)
            return
        if pair < len(self.ids):
            before, at, _ = self.places[pair]
            detail = f"{file.name}:{line}: the id of {self.files[before].name}:{at}"
            self.rejected[len(self.ids)] = Rejection(
                Reason.DUPLICATE_ID, detail + (", with another text or picture" if is_vote else "")
            )
        else:
            self._vote(file, line, pair, row)
        if not isinstance(text, str | None):
            problem = f"{file.name}:{line}: the text is not a string but {type(text).__name__}"
            self._reject(len(self.ids), Reason.TEXT_MISSING, problem)
        self.ids.append(id)
        self.places.append((place, line, number))
        self.texts.append(text)
        self.images.append(image)
        for column, values in self.kept.items():
            values.append(row[column])

    def _vote(self, file: TableFile, line: int, pair: int, row: dict[str, Any]) -> None:
        cells = []
        for column in self.columns.labels:
            value, names = row[column], file.names.get(column)
            if names and isinstance(value, str) and value.isdecimal():  # an exported CSV has numbers
                value = int(value)
            if names and isinstance(value, int) and not isinstance(value, bool):
                value = names[value] if 0 <= value < len(names) else None
            if isinstance(value, list | dict | bytes):
                file.refuse(line, f"the label is not a word but {type(value).__name__}")
            cells.append(label_cell(value))
        annotator = str(row[self.columns.annotator]) if self.columns.annotator else ""
        self.votes.append((pair, annotator, tuple(cells)))

    def _id(self, file: TableFile, line: int, row: dict[str, Any]) -> str:
        prefix = f"{self.name}:"
        if not self.columns.id:
            return f"{prefix}{file.name}:{line}"
        value = row[self.columns.id]
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        text = "" if value is None else str(value).strip()
        problem = ""
        if not text:
            problem = "the id is empty"
        elif len(text) > MAX_ID:
            problem = f"the id has {len(text)} characters, more than {MAX_ID}"
        elif not text.isprintable():
            problem = f"the id {text[:60]!a} has characters that cannot be printed"
        if problem:
            file.refuse(line, problem, "Correct it, or number the rows: --id line")
        return text if text.startswith(prefix) else prefix + text

    def plan(self) -> Plan:
        """The plan, once everything is read."""
        columns, settings = self.columns, self.settings
        votes = self._votes()
        decisions = self._decisions(votes)
        n_annotators = votes.shape[1]
        labelled = bool(columns.labels) and settings.unlabelled == "drop"
        self._reject_unlabelled(votes, decisions, labelled)
        kept, extra = self._kept()
        label_columns = {
            name: pa.array(values, pa.int8(), mask=values == MISSING)
            for name, values in (
                ("label", decisions.label),
                ("text_label", decisions.text_label),
                ("image_label", decisions.image_label),
            )
        }
        reasons = [self.rejected.get(row) for row in range(len(self.ids))]
        file, line, number = zip(*self.places, strict=True)
        several = columns.is_of_modalities or n_annotators > 1
        table = pa.table(
            {
                "id": self.ids,
                "file": pa.array(file, pa.int32()),
                "line": pa.array(line, pa.int64()),
                "number": pa.array(number, pa.int64()),
                "text": pa.array(
                    [text if isinstance(text, str) else None for text in self.texts], pa.string()
                ),
                "image": pa.array(self.images, pa.string()),
                "reason": pa.array([one and str(one.reason) for one in reasons], pa.string()),
                "detail": pa.array([one and plain_text(one.detail) for one in reasons], pa.string()),
                "votes": pa.array([_given(each) for each in votes] if several else [None] * len(self.ids)),
                **label_columns,
                **kept,
            }
        )
        return Plan(
            name=self.name,
            files=self.files,
            columns=columns,
            settings=settings,
            embedded=self.embedded,
            extra=extra,
            text_kind=self._text_kind(),
            labelled=labelled,
            table=table,
            agreement=agreement_of(votes) if n_annotators > 1 else {},
            n_annotations=self.n_rows if columns.annotator else 0,
            meanings={cell: label for cell, label in self._meanings().items() if cell},
        )

    def _votes(self) -> Labels:
        """Votes [N, K, 2] of all annotators."""
        meaning = self._meanings()
        n_columns = max(len(self.columns.label), len(self.columns.text_label), 1)
        people = {name: k for k, name in enumerate(sorted({name for _, name, _ in self.votes}))}
        if 2 * len(self.ids) * len(people) * n_columns > 2**30:
            raise InputError(
                f"{len(self.ids)} pairs with {len(people)} annotators are too many votes", "Give it in parts"
            )
        votes: Labels = np.full((len(self.ids), len(people) * n_columns, 2), MISSING, dtype=np.int8)
        by_pair = not self.columns.is_of_modalities
        for pair, name, cells in self.votes:
            labels = [meaning[cell] for cell in cells]
            place = slice(people[name] * n_columns, (people[name] + 1) * n_columns)
            if by_pair:  # a label of the pair is one of both its halves
                given = labels[: len(self.columns.label)] or [int(MISSING)]
                votes[pair, place, TEXT] = votes[pair, place, IMAGE] = given
            else:
                votes[pair, place, TEXT], votes[pair, place, IMAGE] = labels[:n_columns], labels[n_columns:]
        return votes

    def _meanings(self) -> dict[str, int]:
        """The label of each cell. Raises: InputError naming the first row with a cell that is none."""
        every = {cell for _, _, cells in self.votes for cell in cells}
        meaning = label_meanings(every, self.settings.meanings)
        for pair, _, cells in self.votes if len(meaning) < len(every) else ():
            for column, cell in zip(self.columns.labels, cells, strict=True):
                if cell not in meaning:
                    place, line, _ = self.places[pair]
                    problem = f"{column} is {cell[:60]!r}, which is no label"
                    self.files[place].refuse(line, problem, what_to_do(cell))
        return meaning

    def _decisions(self, votes: Labels) -> Decisions:
        if self.columns.is_of_modalities:
            return decide_votes(votes, self.settings)
        if self.settings.aggregate == "majority":
            label = majority(votes[:, :, TEXT], self.settings.ties)
        else:
            label = decide_votes(votes, self.settings).text_label
        none = np.full(len(label), None, dtype=object)
        none[label == MISSING] = Reason.NO_MAJORITY
        return Decisions(label, *self._stored_modalities(len(label)), none)

    def _stored_modalities(self, n_rows: int) -> tuple[Labels, Labels]:
        """The labels of text and picture that a table has beside the label of the pair."""
        stored: Labels = np.full((2, n_rows), MISSING, dtype=np.int8)
        start, meaning = len(self.columns.label), self._meanings()
        for modality, columns in ((TEXT, self.columns.text_label), (IMAGE, self.columns.image_label)):
            if columns:
                for pair, _, cells in self.votes:
                    stored[modality, pair] = meaning[cells[start]]
                start += len(columns)
        return stored[TEXT], stored[IMAGE]

    def _reject_unlabelled(self, votes: Labels, decisions: Decisions, labelled: bool) -> None:
        if not self.columns.labels:
            return
        has_vote = (votes != MISSING).any(axis=1)  # [N, 2]
        for row in np.flatnonzero(~decisions.kept).tolist():
            file, line, _ = self.places[row]
            where = f"{self.files[file].name}:{line}"
            if not has_vote[row].all():
                if labelled:
                    self._reject(row, Reason.LABEL_MISSING, f"{where}: {', '.join(self.columns.labels)}")
            else:
                self._reject(row, decisions.reason[row], f"{where}: {in_words(votes[row])}")

    def _reject(self, row: int, reason: Reason, detail: str) -> None:
        self.rejected.setdefault(row, Rejection(reason, detail))

    def _kept(self) -> tuple[dict[str, pa.Array], dict[str, ExtraType]]:
        arrays: dict[str, pa.Array] = {}
        extra: dict[str, ExtraType] = {}
        for column, values in self.kept.items():
            kind, arrays[column] = extra_column(values, column, as_text=column in FILLED)
            if column not in FILLED:
                extra[column] = kind
        return arrays, extra

    def _text_kind(self) -> TextKind:
        if self.settings.text_kind != "auto":
            return self.settings.text_kind
        texts = [text for text in self.texts if isinstance(text, str) and text]
        n_short = sum(
            len(text) <= TWEET_WORDS or count_words(clean_text(text)) <= TWEET_WORDS for text in texts
        )
        return "tweets" if texts and n_short >= TWEETS * len(texts) else "captions"


def picture_cell(value: Any) -> str | None:
    """The path or address in a cell, which may be a struct of Hugging Face; None for none.

    >>> picture_cell(" a.jpg "), picture_cell({"path": "a.jpg", "bytes": None}), picture_cell("")
    ('a.jpg', 'a.jpg', None)
    >>> picture_cell("file:///data/a%20b.jpg")
    '/data/a b.jpg'
    """
    if isinstance(value, dict) and value.keys() <= {"bytes", "path"}:
        value = value.get("path")
    if not isinstance(value, str):
        return None
    text = plain_text(value).strip()
    return unquote(text[len("file://") :]) if text.lower().startswith("file:///") else text or None


def in_words(votes: Labels) -> str:
    """Votes [K, 2] as `text neutral positive, image positive -`.

    >>> in_words(np.array([[1, 2], [2, -1]], np.int8))
    'text neutral positive, image positive -'
    """
    names = ("negative", "neutral", "positive", "-")
    text, image = (" ".join(names[vote] for vote in votes[:, modality]) for modality in (TEXT, IMAGE))
    return f"text {text}, image {image}"


def _given(votes: Labels) -> list[dict[str, int | None]]:
    """The votes [K, 2] that were cast on a pair."""
    return [
        {"text": None if text == MISSING else int(text), "image": None if image == MISSING else int(image)}
        for text, image in votes
        if not (text == MISSING and image == MISSING)
    ]
