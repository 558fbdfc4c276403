"""The recipe of a table: its rows → pairs with checked texts and pictures."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from mvsent.build.parts import picture_columns
from mvsent.build.table_plan import SCHEME, TableRow
from mvsent.curate.images import check_image, without_content
from mvsent.curate.language import detect
from mvsent.curate.text import check_length, clean_text
from mvsent.errors import InputError, StorageError, UsageError
from mvsent.fetch import Dropped, Fetched
from mvsent.pairs import pair_schema, pair_table
from mvsent.reasons import Reason, Rejection
from mvsent.sources.archive import FolderFiles
from mvsent.sources.table import BUCKET, TableSettings
from mvsent.sources.table_files import TableFile
from mvsent.storage import is_remote, located, reaching, unlike_driver
from mvsent.workers.engine import map_in_threads

MAX_TEXT = 2**16  # characters, as the bytes of a text of MVSA


@dataclass(frozen=True)
class Tabulated:
    """The recipe of a table: its rows → pairs."""

    name: str
    files: Sequence[TableFile]
    embedded: Sequence[bool]
    column: str  # of the pictures
    settings: TableSettings
    extra: Mapping[str, str]

    @property
    def schema(self) -> pa.Schema:
        return pair_schema(self.extra)

    def draft(self, row: TableRow) -> TableRow | Rejection:
        if row.rejection:
            return row.rejection
        rejected = self._reject_text(row)
        if rejected is None and not row.image and not self.embedded[row.file]:
            rejected = Rejection(Reason.IMAGE_MISSING, f"{row.where}: no picture is named")
        return rejected or row

    def _reject_text(self, row: TableRow) -> Rejection | None:
        """The reason to drop the row for its text."""
        settings, where = self.settings, row.where
        text = clean_text((row.text or "")[: MAX_TEXT + 1])
        if not text:
            return Rejection(Reason.TEXT_MISSING, f"{where}: nothing in it")
        if len(row.text) > MAX_TEXT:
            return Rejection(Reason.TEXT_TOO_LONG, f"{where}: more than {MAX_TEXT} characters")
        if settings.min_words or settings.max_words:
            reason = check_length(text, settings.min_words, settings.max_words or MAX_TEXT)
            if reason:
                return Rejection(reason, f"{where}: {text[:200]}")
        if settings.language != "any":
            language, confidence = detect(text)
            if language != settings.language:
                return Rejection(
                    Reason.TEXT_LANGUAGE, f"{where}: {language} ({confidence:.2f}): {text[:200]}"
                )
        return None

    def read(self, drafts: Iterable[TableRow], n_threads: int) -> Iterator[Fetched | Dropped]:
        for file in self.files:
            if not is_remote(file.folder) and not file.folder.exists():
                raise unlike_driver(file.folder, "not found")
        return map_in_threads(self._examined, n_threads, self._with_pictures(drafts), _n_bytes)

    def _with_pictures(self, drafts: Iterable[TableRow]) -> Iterator[tuple[TableRow, Any]]:
        """Each row with the cell of its picture, if that is in the table."""
        file, position = -1, 0
        cells: Iterator[Any] = iter(())
        for row in drafts:
            if not self.embedded[row.file]:
                yield row, None
                continue
            if row.file != file:  # else the rows in between are skipped: they have been dropped
                file, position = row.file, row.number
                cells = self.files[file].pictures(self.column, position)
            yield row, next(islice(cells, row.number - position, None), None)
            position = row.number + 1

    def _examined(self, given: tuple[TableRow, Any]) -> Fetched | Dropped:
        """Read and check the picture of a row."""
        row, cell = given
        settings = self.settings
        data = self._data(row, cell)
        if isinstance(data, Rejection):
            return Dropped(row.id, data.reason, f"{row.where}: {data.detail}")
        facts = check_image(
            data, max_pixels=settings.max_pixels, max_bytes=settings.max_bytes, min_side=settings.min_side
        )
        if isinstance(facts, Rejection):
            if row.image and not self.embedded[row.file] and self._is_outside(row):
                facts = without_content(facts)
            named = f"{row.image[:200]}: " if row.image else ""
            return Dropped(row.id, facts.reason, f"{row.where}: {named}{facts.detail}")
        return Fetched(row.id, data, facts, "")

    def _data(self, row: TableRow, cell: Any) -> bytes | Rejection:
        """The bytes of a picture that is a file, or in the table."""
        path = row.image
        if self.embedded[row.file]:
            if isinstance(cell, dict):
                cell, path = cell.get("bytes"), cell.get("path") or ""
            if isinstance(cell, bytes):
                return cell
        if not path:
            return Rejection(Reason.IMAGE_MISSING, "no picture in it")
        folder, max_bytes = self.files[row.file].folder, self.settings.max_bytes
        bucket = BUCKET.match(path) or BUCKET.match(str(folder))
        if bucket is None:
            return read_picture(folder, path, max_bytes)
        if bucket[0] not in self.settings.allow_hosts and not f"{folder}/".startswith(f"{bucket[0]}/"):
            return Rejection(Reason.BLOCKED_HOST, f"{bucket[0][:80]} is not the bucket of the table")
        address = path if BUCKET.match(path) else f"{folder}/{path}"
        return _read_remote(bucket[0], address, max_bytes, row.where)

    def _is_outside(self, row: TableRow) -> bool:
        """Whether the file of a row, which may be a link, lies outside the folder of its table."""
        folder = self.files[row.file].folder
        return not is_remote(folder) and not _real(folder / row.image).is_relative_to(_real(folder))

    def table(self, pairs: Sequence[tuple[TableRow, Fetched]]) -> pa.Table:
        rows = [row for row, _ in pairs]
        columns = {
            "id": [row.id for row in rows],
            "text": [clean_text(row.text) for row in rows],
            "description": [row.text for row in rows],
            "source": [self.name] * len(rows),
            "url": [row.url or None for row in rows],
            **{name: [row.columns[name] for row in rows] for name in rows[0].columns},
        }
        return pair_table(columns | picture_columns([fetched for _, fetched in pairs]), self.extra)


def _n_bytes(outcome: Fetched | Dropped) -> int:
    return len(outcome.data) if isinstance(outcome, Fetched) else 0


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # `resolve` refuses links in a circle


def read_picture(folder: Path, path: str, max_bytes: int) -> bytes | Rejection:
    """The bytes of the picture at a path relative to `folder`."""
    shown = path[:200]
    if SCHEME.match(path):
        scheme = path.partition(":")[0][:20]
        return Rejection(Reason.BLOCKED_HOST, f"the scheme {scheme!r} is neither http nor https")
    files = FolderFiles(folder)
    try:
        # A table that was written on Windows has backslashes.
        data = files.read(path, max_bytes)
        if data is None and "\\" in path:
            data = files.read(path.replace("\\", "/"), max_bytes)
    except InputError as error:
        return Rejection(Reason.IMAGE_CORRUPT, error.what[:300])
    except ValueError:  # NUL bytes
        return Rejection(Reason.IMAGE_MISSING, f"{shown!r} is no path")
    return Rejection(Reason.IMAGE_MISSING, f"no file {shown}") if data is None else data


def _read_remote(bucket: str, address: str, max_bytes: int, where: str) -> bytes | Rejection:
    """The bytes of an object. Raises: StorageError if object storage does not answer."""
    located(bucket)  # raises if its package is missing
    try:
        with reaching(located(bucket)), located(address).open("rb") as file:
            data: bytes = file.read(max_bytes + 1)
    except (FileNotFoundError, IsADirectoryError, UsageError):
        return Rejection(Reason.IMAGE_MISSING, f"no object {address[:200]}")
    except StorageError as error:
        raise StorageError(f"{where}: {error.what}", error.next_step) from None
    return data
