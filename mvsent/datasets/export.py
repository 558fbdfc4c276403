"""Export of a dataset's pairs to another tool's format, in a folder of their own."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mvsent import __version__
from mvsent.curate.duplicates import string_keys
from mvsent.errors import DatasetError, UsageError, did_you_mean
from mvsent.shards.atomic import atomic_write
from mvsent.shards.exports import croissant_json as croissant
from mvsent.shards.exports import csv_table, imagefolder, webdataset
from mvsent.shards.exports import label_studio_tasks as label_studio
from mvsent.shards.exports.rows import ExportOptions, Row, plain_name, read_rows
from mvsent.shards.reader import Dataset
from mvsent.shards.staging import Kind, refuse_inside, staged
from mvsent.storage import entries, sizes

EXPORT_FILE = "export.json"
CROISSANT = "croissant"
_IDS_AT_ONCE = 8192

_WRITERS: Mapping[str, Callable[[Iterable[Row], Path, ExportOptions], None]] = {
    "webdataset": webdataset.write,
    "imagefolder": imagefolder.write,
    "csv": csv_table.write,
    "label-studio": label_studio.write,
}
FORMATS = (*_WRITERS, CROISSANT)


@dataclass(frozen=True, slots=True)
class ExportResult:
    """A finished export.

    Attributes:
        entries: names in the folder.
        files, bytes: number and size of the files at any depth.
    """

    folder: Path
    format: str
    dataset: str
    dataset_sha256: str
    rows: int
    entries: list[str]
    files: int
    bytes: int

    def document(self) -> dict[str, Any]:
        """The result as JSON."""
        names = ("format", "dataset", "dataset_sha256", "rows", "entries", "files", "bytes")
        return {"folder": str(self.folder)} | {name: getattr(self, name) for name in names}


def export(
    folder: Path,
    to: str,
    out: Path | None = None,
    *,
    shard_rows: int = 0,
    embed_images: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> ExportResult:
    """Write the pairs of the dataset in `folder` to `out`, in the format `to`.

    Args:
        out: the folder; None: exports/NAME-FORMAT.
        shard_rows: pairs in one tar of a webdataset; 0: 1000.
        embed_images: store the pictures in Label Studio's tasks.

    Raises: UsageError, OutputExistsError or DatasetError; `out` is then unchanged.
    """
    if to not in FORMATS:
        choice = f"Choose from {', '.join(FORMATS)}"
        raise UsageError(f"--to {to}: unknown format", did_you_mean(to, FORMATS) + choice)
    if shard_rows < 0 or (shard_rows and to != "webdataset"):
        raise UsageError("--shard-size is the pairs in one tar, for --to webdataset", "Leave it out")
    if embed_images and to != "label-studio":
        raise UsageError("--embed-images is for --to label-studio", "Leave it out")
    dataset = Dataset.open(folder)
    if not len(dataset):
        raise DatasetError(f"{dataset.folder}: has no rows", "Export a dataset with rows")
    # A picture is named after its id, so a repeated id would replace a file.
    n_without, keys = 0, [np.zeros(0, np.uint64)]
    for batch in dataset.batches(["id"], _IDS_AT_ONCE):
        n_without += batch["id"].null_count
        keys.append(string_keys(batch["id"].to_pylist()))
    ordered = np.sort(np.concatenate(keys))
    if n_without or (ordered[1:] == ordered[:-1]).any():
        raise DatasetError(
            f"{dataset.folder}: two rows have the same id, or a row has none",
            f"See which: mvsent validate {dataset.folder}",
        )
    name = plain_name(dataset.name)
    out = out or Path("exports", f"{name}-{to}")
    refuse_inside(out, dataset.folder)
    options = ExportOptions(name, out.resolve().name, dataset.schema.names, shard_rows or 1000, embed_images)
    hidden = quiet or not sys.stderr.isatty()
    with staged(out, overwrite=overwrite, kind=EXPORT) as partial:
        with tqdm(total=len(dataset), unit="pair", disable=hidden) as progress:
            if to == CROISSANT:
                croissant.write(dataset, partial, progress.update)
            else:
                _WRITERS[to](_counted(read_rows(dataset), progress), partial, options)
        os.sync()  # all files at once, before the file that marks them as complete
        n_bytes, names = sizes(partial), sorted(entries(partial))
        result = ExportResult(
            out, to, dataset.name, dataset.sha256, len(dataset), names, len(n_bytes), sum(n_bytes.values())
        )
        document = {"mvsent_version": __version__, **result.document()}
        del document["folder"]
        with atomic_write(partial / EXPORT_FILE) as file:
            file.write((json.dumps(document, indent=2) + "\n").encode())
        return result


def _counted(rows: Iterable[Row], progress: Any) -> Iterable[Row]:
    for row in rows:
        yield row
        progress.update()


def _foreign_files(out: Path, marker: Path) -> list[str]:
    """Names in `out` that no export wrote; "an added file" if there are more files in subfolders."""
    names = entries(out)
    try:
        document = json.loads(marker.read_text(encoding="utf-8"))
        strange = names - {EXPORT_FILE, *document["entries"]}
        if strange:
            return sorted(strange)
        # The marker does not name files in subfolders, which may be a million pictures; it counts them.
        n_files = len(sizes(out).keys() - {EXPORT_FILE})
        return ["an added file"] if n_files > document["files"] else []
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return sorted(names)


EXPORT = Kind("dataset export", EXPORT_FILE, _foreign_files)
