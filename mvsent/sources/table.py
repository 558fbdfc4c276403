"""Tables of pairs that somebody has already: the settings of `build-table`.

    file_name,tweet,sentiment        {"image": "a.jpg", "text": "so good", "label": "positive"}
    a.jpg,so good,pos

`table_columns.py` finds the columns, `table_files.py` reads the files.
"""

import codecs
import re
from typing import Literal

from pydantic import field_validator

from mvsent.config import (
    COLUMNS,
    DATA,
    LABELS,
    MACHINE,
    PICTURES,
    TEXT,
    LabelRules,
    concurrency,
    host_and_port,
    identifiable,
    images_per_second,
    language,
    patience,
    shard_size,
    zero_or_a_rate,
)
from mvsent.curate.label_words import parse_labels
from mvsent.setting import setting
from mvsent.sources.registry import Source, Terms
from mvsent.storage import REMOTE

BUCKET = re.compile(rf"(?:{'|'.join(REMOTE)})://[^/]+")
LINE = "line"
"""Value of --id that numbers the rows by file and line."""

SOURCE = Source(
    name="table",
    terms=Terms(
        """The pairs come from a table of whoever built this dataset, and no source states terms for them.
Ask that person who took the pictures and wrote the texts, and what may be done with them."""
    ),
)


class TableSettings(LabelRules):
    """The settings of `build-table`; with the tables they decide the rows."""

    image: str = setting(
        "", COLUMNS, "Column of the pictures: paths, addresses or bytes.", unset="found by its name"
    )
    text: str = setting("", COLUMNS, "Column of the texts.", unset="found by its name")
    id: str = setting(
        "",
        COLUMNS,
        "Column of the ids; line numbers the rows by file and line.",
        unset="found by its name, else line",
    )
    label: tuple[str, ...] = setting(
        (), COLUMNS, "Column of the labels, or one for each annotator, as a,b.", unset="found by its name"
    )
    text_label: tuple[str, ...] = setting(
        (),
        COLUMNS,
        "Column of the labels of the texts alone, or one for each annotator.",
        unset="found by its name",
    )
    image_label: tuple[str, ...] = setting(
        (),
        COLUMNS,
        "Column of the labels of the pictures alone, or one for each annotator.",
        unset="found by its name",
    )
    annotator: str = setting(
        "",
        COLUMNS,
        "Column that names the annotator: rows with one id are then votes on one pair.",
        unset="found by its name",
    )
    keep_columns: tuple[str, ...] = setting((), COLUMNS, "Further columns that the dataset keeps, as a,b.")
    encoding: str = setting("", COLUMNS, "Encoding of CSV files, such as gb18030.", unset="found")
    delimiter: str = setting(
        "", COLUMNS, "Character between the cells of CSV files; tab is a tab.", unset="found"
    )
    labels: tuple[str, ...] = setting(
        (), LABELS, "Meanings of words or numbers, as 0=negative,1=neutral,2=positive; WORD= is no label."
    )
    unlabelled: Literal["drop", "keep"] = setting(
        "drop", LABELS, "Drop or keep pairs without a label, in a table that has labels."
    )
    text_kind: Literal["auto", "tweets", "captions"] = setting(
        "auto", TEXT, "Kind of text; auto: tweets if 99 of 100 texts have at most 40 words."
    )
    min_words: int = setting(0, TEXT, "Drop texts with fewer words; the paper has 5.", ge=0)
    max_words: int = setting(
        0, TEXT, "Drop texts with more words; the paper has 100.", unset="no limit", ge=0
    )
    language: str = language("any")
    max_pairs: int = setting(0, DATA, "Maximum number of pairs.", unset="all", ge=0)
    duplicates: Literal["keep", "drop"] = setting(
        "keep", PICTURES, "Keep or drop pictures that are equal to an earlier one."
    )
    near_duplicates: Literal["keep", "drop"] = setting(
        "keep", PICTURES, "Keep or drop pictures that look like an earlier one."
    )
    min_side: int = setting(1, PICTURES, "Drop pictures with a shorter side below this many pixels.", ge=1)
    max_pixels: int = setting(100_000_000, PICTURES, "Drop pictures with more pixels.", ge=1)
    max_bytes: int = setting(64 * 2**20, PICTURES, "Drop picture files with more bytes.", ge=1, le=2**40)
    images_per_second: float = images_per_second()
    patience: float = patience()
    concurrency: int = concurrency()
    allow_hosts: tuple[str, ...] = setting(
        (),
        MACHINE,
        "Hosts inside this network, as HOST:PORT, and buckets, as s3://NAME, that have pictures.",
        flags=("--allow-host",),
    )
    shard_size: int = shard_size(1000, ge=1)

    @property
    def unique_columns(self) -> tuple[str, ...]:
        """The columns by which pictures are recognised, of which only the first is kept."""
        near = self.near_duplicates == "drop"
        return ("sha256",) * (near or self.duplicates == "drop") + ("phash",) * near

    @property
    def meanings(self) -> dict[str, int]:
        """The labels of --labels, by the normal form of their words."""
        return parse_labels(self.labels)

    @property
    def places(self) -> frozenset[tuple[str, int]]:
        """The hosts and ports of --allow-host."""
        return frozenset(host_and_port(one) for one in self.allow_hosts if not BUCKET.fullmatch(one))

    @field_validator("labels")
    @classmethod
    def _have_meanings(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        parse_labels(value)
        return value

    @field_validator("allow_hosts")
    @classmethod
    def _are_hosts_with_ports(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            try:
                _ = BUCKET.fullmatch(one) or host_and_port(one)
            except ValueError as error:
                raise ValueError(f"{error}, or s3://NAME") from None
        return value

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, value: str) -> str:
        try:
            "a".encode(value or "utf-8")  # `lookup` also finds codecs that are not of text, such as rot13
        except (LookupError, UnicodeError):
            raise ValueError("is no encoding of text that Python knows") from None
        return value and codecs.lookup(value).name

    @field_validator("delimiter")
    @classmethod
    def _is_one_character(cls, value: str) -> str:
        value = "\t" if value in ("tab", "\\t") else value
        if value and (len(value) != 1 or value in '\r\n"' or ord(value) > 127):
            raise ValueError("should be one character, or tab")
        return value

    _language_is_known = field_validator("language")(identifiable)
    _rate_is_known = field_validator("images_per_second")(zero_or_a_rate)
