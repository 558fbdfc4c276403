"""The manifest `dataset.json`: settings, funnel, labels, and the hash of every shard."""

import hashlib
import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    JsonValue,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    field_validator,
)

from mvsent import __version__
from mvsent.errors import DatasetError, UsageError
from mvsent.pairs import LABEL_NAMES, SCHEMA_VERSION, ExtraType
from mvsent.sources.registry import SEARCHED
from mvsent.storage import reaching, refuse_no_bucket

MANIFEST_FILE = "dataset.json"
_SHARD_PATH = re.compile(r"data/[A-Za-z0-9_-][A-Za-z0-9._-]*\.parquet")  # nowhere but in data/


TextKind = Literal["", "tweets", "captions"]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Funnel(_Frozen):
    """Every input row is either kept or dropped for one reason."""

    input: NonNegativeInt
    kept: NonNegativeInt
    dropped: dict[str, NonNegativeInt] = {}

    @property
    def n_dropped(self) -> int:
        return sum(self.dropped.values())

    @property
    def adds_up(self) -> bool:
        """Whether `input == kept + sum(dropped)`.

        >>> Funnel(input=5, kept=3, dropped={"label-conflict": 2}).adds_up
        True
        """
        return self.input == self.kept + self.n_dropped


class Shard(_Frozen):
    """One Parquet file of a dataset; `path` is relative to the dataset's folder."""

    path: str
    rows: NonNegativeInt
    bytes: NonNegativeInt
    sha256: str

    @field_validator("path")
    @classmethod
    def _is_a_place_for_a_shard(cls, path: str) -> str:
        if not _SHARD_PATH.fullmatch(path):
            raise ValueError(f"{path} is no place for a shard")
        return path


class Agreement(_Frozen):
    """Krippendorff's alpha between annotators, one for each modality; null where it is not defined."""

    text: float | None
    image: float | None


class Manifest(_Frozen):
    """The content of `dataset.json`.

    Attributes:
        text_kind: tweets or captions, which differ in how many words are read; empty if unknown.
        extra_columns: columns after those of `COLUMNS`, with their types (`EXTRA_TYPES`).
    """

    schema_version: PositiveInt = 1
    name: str
    mvsent_version: str = __version__
    created_at: datetime
    settings: dict[str, JsonValue] = {}
    funnel: Funnel
    labels: dict[str, NonNegativeInt]
    shards: list[Shard]
    agreement: Agreement | None = None
    notes: JsonValue = None
    text_kind: TextKind = ""
    extra_columns: dict[str, ExtraType] = {}

    @property
    def sha256(self) -> str:
        """Hash of the rows: equal for two builds that kept the same pairs."""
        return hashlib.sha256("\n".join(shard.sha256 for shard in self.shards).encode()).hexdigest()

    @property
    def label_counts(self) -> list[int]:
        """Number of rows by label (index)."""
        return [self.labels.get(name, 0) for name in LABEL_NAMES]

    @property
    def n_unlabelled(self) -> int:
        """Number of rows without a label."""
        return self.funnel.kept - sum(self.labels.values())

    @property
    def layout(self) -> dict[str, Any]:
        """Keywords of `DatasetWriter` for a dataset whose pairs have the same columns and kinds of text."""
        return {
            "labelled": not self.n_unlabelled,
            "text_kind": self.text_kind,
            "extra_columns": self.extra_columns,
        }

    @property
    def sources(self) -> list[str]:
        """Names of the datasets that this one was merged of, or is a subset of; otherwise its own name."""
        names = self.settings.get("merged") or self.settings.get("subset_of")
        return [str(name) for name in names] if isinstance(names, list) and names else [self.name]

    def to_json(self) -> str:
        """The text of `dataset.json`."""
        optional = ("agreement", "notes", "text_kind", "extra_columns")
        absent = {name for name in optional if getattr(self, name) in (None, "", {})}
        return self.model_dump_json(indent=2, exclude=absent) + "\n"

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Load the manifest of the dataset in `folder`.

        Raises:
            DatasetError: the folder is missing, unfinished or not a dataset, or a newer mvsent wrote it.
        """
        path = folder / MANIFEST_FILE
        with reaching(path):
            content = _read_json(folder, path)
        # Before validation, which would complain about the unknown fields of a newer version instead.
        version = content.get("schema_version")
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise DatasetError(
                f"{path}: written by a newer mvsent (schema {version}, this one knows {SCHEMA_VERSION})",
                "Upgrade mvsent",
            )
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise DatasetError(
                f"{path}: not a dataset manifest: {where}: {first['msg'].lower()}", "Build the dataset again"
            ) from None


def _read_json(folder: Path, path: Path) -> dict[str, Any]:
    if not folder.exists():
        refuse_no_bucket(folder)
        raise DatasetError(f"{folder}: no such folder", "Name a dataset folder, such as data/mvsa-single")
    if not path.is_file():
        unfinished = (folder / "crawl.sqlite").exists()
        raise DatasetError(
            f"{folder}: not a finished dataset (it has no {MANIFEST_FILE})",
            "The build that began it continues by the same command"
            if unfinished
            else f"Build a dataset of it: mvsent build-table {folder}"
            if folder.is_file()
            else "Name a dataset folder, or build one: mvsent reconcile-mvsa"
            + "".join(f", build-{name}" for name in ("table", *SEARCHED)),
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(content, ensure_ascii=False).encode()  # a lone surrogate such as \ud800 is not text
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, a huge number or endless nesting
        raise DatasetError(f"{path}: not readable as JSON: {error}", "Build the dataset again") from None
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: not a dataset manifest", "Build the dataset again")
    return content


def creation_time() -> datetime:
    """The current time in UTC, to the second; or that of SOURCE_DATE_EPOCH, for reproducible builds.

    Raises: UsageError if it is not a time.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        moment = datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)
    except (ValueError, OverflowError, OSError):
        raise UsageError(
            f"SOURCE_DATE_EPOCH={epoch}: not a time", "Set it to seconds since 1970, or unset it"
        ) from None
    return moment.replace(microsecond=0)  # as SOURCE_DATE_EPOCH counts
