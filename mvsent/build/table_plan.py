"""A table that was read but for its pictures, and how it is shown before the pictures are."""

import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from mvsent.pairs import LABEL_NAMES, ExtraType, label_name
from mvsent.reasons import Reason, Rejection
from mvsent.report.tables import aligned
from mvsent.shards.manifest import TextKind
from mvsent.sources.table import LINE, TableSettings
from mvsent.sources.table_columns import FILLED, Columns
from mvsent.sources.table_files import TableFile

URL = re.compile(r"https?://", re.IGNORECASE)
_SHOWN = 12  # words for labels
SCHEME = re.compile(r"[a-z][a-z0-9+.-]+://|data:", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row of a table as a part needs it.

    Attributes:
        file, number: place in the table; the number counts rows from 0.
        where: file and line.
        text: as the table has it.
        image: a path, or an address; empty for a picture inside the table, and for none.
        url: the address, which has to be fetched; empty for other pictures.
        columns: the values of the other columns of a pair.
    """

    id: str
    file: int
    number: int
    where: str
    text: Any
    image: str
    columns: Mapping[str, Any]
    rejection: Rejection | None = None

    @property
    def url(self) -> str:
        return self.image if URL.match(self.image) else ""

    @property
    def urls(self) -> tuple[str, ...]:
        """The address, if it has one."""
        return (self.url,) if self.url else ()


@dataclass
class Plan:
    """A read table.

    Attributes:
        files: its files.
        columns: which column is which.
        embedded: for each file, whether the pictures are in it.
        extra: columns that are kept, with their types.
        table: a row for every pair, in order, see `rows`.
        agreement: Krippendorff's alpha, if there are several annotators.
        n_annotations: rows that were votes on the pairs; 0 if each row is a pair.
        meanings: the label that each word or number stands for, -1 for none.
    """

    name: str
    files: list[TableFile]
    columns: Columns
    settings: TableSettings
    embedded: list[bool]
    extra: dict[str, ExtraType]
    text_kind: TextKind
    labelled: bool
    table: pa.Table
    agreement: dict[str, float | None] = field(default_factory=dict)
    n_annotations: int = 0
    meanings: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def rows(self, numbers: range) -> list[TableRow]:
        """The rows with these numbers."""
        given = self.table.slice(numbers.start, len(numbers)).to_pylist()
        own = ("label", "text_label", "image_label", "votes", *FILLED, *self.extra)
        return [
            TableRow(
                id=row["id"],
                file=row["file"],
                number=row["number"],
                where=f"{self.files[row['file']].name}:{row['line']}",
                text=row["text"],
                image=row["image"] or "",
                columns={name: row[name] for name in own if name in row},
                rejection=Rejection(Reason(row["reason"]), row["detail"]) if row["reason"] else None,
            )
            for row in given
        ]

    def pictures(self) -> Counter[str]:
        """Numbers of rows by where their pictures are: path, address, table, or none."""
        counts = Counter[str]()
        for file, image in zip(self.table["file"].to_pylist(), self.table["image"].to_pylist(), strict=True):
            kind = "address" if image and URL.match(image) else "path" if image else "none"
            counts["table" if self.embedded[file] else kind] += 1
        return counts

    def n_outside(self) -> int:
        """Number of paths that lead out of the folder of their table."""
        folders = [os.path.abspath(file.folder) for file in self.files]  # noqa: PTH100 - links are not followed
        rows = zip(self.table["file"].to_pylist(), self.table["image"].to_pylist(), strict=True)
        return sum(
            not os.path.normpath(f"{folders[file]}/{image}").startswith(f"{folders[file]}/")
            if not image.startswith("/")
            else not os.path.normpath(image).startswith(f"{folders[file]}/")
            for file, image in rows
            if image and not SCHEME.match(image)
        )

    @property
    def taken(self) -> dict[str, str]:
        """Which column was taken for what."""
        columns = self.columns
        return {
            "image": columns.image,
            "text": columns.text,
            "label": ", ".join(columns.label),
            "text label": ", ".join(columns.text_label),
            "image label": ", ".join(columns.image_label),
            "annotator": columns.annotator,
            "id": columns.id or LINE,
            "kept": ", ".join(f"{name} ({kind})" for name, kind in self.extra.items()),
        }

    def document(self) -> dict[str, Any]:
        """The plan as JSON: what was found out, and what is dropped before a picture is looked at."""
        dropped = Counter(reason for reason in self.table["reason"].to_pylist() if reason)
        labels = Counter(label for label in self._kept_labels() if label is not None)
        return {
            "name": self.name,
            "files": [{"path": str(file.path), "format": file.said} for file in self.files],
            "columns": {role: name for role, name in self.taken.items() if name},
            "also_possible": {role: list(names) for role, names in self.columns.also.items()},
            "rows": len(self),
            "annotations": self.n_annotations,
            "pictures": dict(self.pictures()),
            "outside": self.n_outside(),
            "labels": {name: labels[index] for index, name in enumerate(LABEL_NAMES)},
            "meanings": dict(self.meanings),
            "unlabelled": sum(label is None for label in self._kept_labels()),
            "dropped": dict(dropped),
            "text_kind": self.text_kind,
        }

    def _kept_labels(self) -> list[int | None]:
        rows = zip(self.table["label"].to_pylist(), self.table["reason"].to_pylist(), strict=True)
        return [label for label, reason in rows if reason is None]


def render_plan(plan: Plan) -> str:
    """Render which column was taken for what, and what else was found out about a table."""
    files = [f"{file.path}: {file.said}" for file in plan.files[:5]]
    if len(plan.files) > len(files):
        files.append(f"and {len(plan.files) - len(files)} more files")
    also = {role.replace("_", " "): names for role, names in plan.columns.also.items()}
    rows = [
        (role, name, f"also possible: {', '.join(also[role])}" if role in also else "")
        for role, name in plan.taken.items()
        if name
    ]
    lines = [*files, "", aligned(("what", "column", ""), rows), ""]
    lines.append(f"{len(plan)} rows; texts are read as {plan.text_kind}")
    if plan.n_annotations:
        lines.append(f"{plan.n_annotations} annotations")
    if other := {cell: label for cell, label in plan.meanings.items() if cell not in LABEL_NAMES}:
        shown = sorted(other.items(), key=lambda each: (each[1], each[0]))[:_SHOWN]
        read = ", ".join(
            f"{cell[:20]} is {label_name(None if label < 0 else label)}" for cell, label in shown
        )
        lines.append(f"labels: {read}" + (f" and {len(other) - _SHOWN} more" if len(other) > _SHOWN else ""))
    if n_outside := plan.n_outside():
        lines.append(f"Pictures outside the folder of their table: {n_outside}")
    return "\n".join(lines)


def render_dry_run(plan: Plan) -> str:
    """Render what a build would do, as far as it is known without a picture."""
    document = plan.document()
    rows = [("rows", str(len(plan))), *((f"- {name}", str(n)) for name, n in document["dropped"].items())]
    labels = [(name, str(n)) for name, n in document["labels"].items() if plan.columns.labels]
    where = {
        "path": "pictures by path",
        "address": "pictures to fetch",
        "table": "pictures in the table",
        "none": "rows without a picture",
    }
    pictures = [(where[kind], str(n)) for kind, n in document["pictures"].items()]
    if n_to_fetch := document["pictures"].get("address", 0):
        rate = plan.settings.images_per_second
        pictures.append(
            ("hours to fetch them from one host", f"{n_to_fetch / rate / 3600:.2f}" if rate else "-")
        )
    left = len(plan) - sum(document["dropped"].values())
    rows += [("left before pictures and texts are checked", str(left)), *labels, *pictures]
    return f"{render_plan(plan)}\n\n{aligned(('of ' + plan.name, 'count'), rows)}"
