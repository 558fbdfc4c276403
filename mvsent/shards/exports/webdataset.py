"""WebDataset: tar files NAME-000000.tar in which KEY.jpg, KEY.txt and KEY.json stand side by side."""

import io
import json
import tarfile
from collections.abc import Iterable
from itertools import chain, islice
from pathlib import Path

from mvsent.shards.exports.rows import ExportOptions, Row, extension, facts, file_stem, picture


def write(rows: Iterable[Row], folder: Path, options: ExportOptions) -> None:
    """Write a tar into `folder` for every `options.shard_rows` pairs; the same rows make the same bytes.

    Raises: DatasetError for a pair without a picture.
    """
    left = iter(rows)
    for number, first in enumerate(left):
        with tarfile.open(folder / f"{options.name}-{number:06d}.tar", "w", format=tarfile.PAX_FORMAT) as tar:
            for row in chain([first], islice(left, options.shard_rows - 1)):
                _add(tar, row)


def _add(tar: tarfile.TarFile, row: Row) -> None:
    # WebDataset takes all after the first dot for the extension, so the stem has none.
    stem, image = file_stem(row["id"]), picture(row)
    members = {
        extension(image): image,
        "txt": (row["text"] or "").encode(),
        "json": json.dumps(facts(row), ensure_ascii=False).encode(),
    }
    for suffix, content in members.items():
        member = tarfile.TarInfo(f"{stem}.{suffix}")  # dated 1970: the same bytes every time
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
