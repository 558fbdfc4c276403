"""Figures of datasets: labels beside the paper's Table I, lengths, sizes, duplicates."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from mvsent.curate.table_one import PAPER_TABLE_I
from mvsent.datasets.leaks import dataset_groups
from mvsent.errors import DatasetError
from mvsent.pairs import WATERMARKED
from mvsent.report.histograms import PERCENTILES, Counts, added, percentiles, word_counts
from mvsent.shards.manifest import MANIFEST_FILE
from mvsent.shards.reader import Dataset
from mvsent.shards.terms import reminder

_BATCH_ROWS = 8192  # without pictures


@dataclass(frozen=True)
class DatasetStats:
    """Figures of one dataset.

    Attributes:
        labels: label → number of rows.
        n_unlabelled: rows without a label.
        annotation: strong: people labelled the pairs; weak: the query did; empty: unknown.
        pairs: the rule that made one label of two, as `--pairs` names it; empty if there were none.
        paper: the paper's label counts for a dataset of this name.
        words, widths, heights: `PERCENTILES` of words in a text and of pixels; empty without texts or
            pictures.
        n_duplicates: rows with the text or picture of another row; None for a dataset without either.
        n_contradicted: duplicates whose group has more than one label.
        n_watermarked: pictures with a watermark; None if their source does not say.
        reminder: a line if the dataset is older than its source allows; else empty.
    """

    folder: Path
    name: str
    labels: dict[str, int]
    n_unlabelled: int
    annotation: str
    paper: dict[str, int] | None
    words: list[int]
    widths: list[int]
    heights: list[int]
    n_images: int
    n_duplicates: int | None
    n_contradicted: int | None
    n_watermarked: int | None = None
    reminder: str = ""
    pairs: str = ""

    @property
    def total(self) -> int:
        return sum(self.labels.values()) + self.n_unlabelled

    def document(self) -> dict[str, Any]:
        """The figures as JSON."""
        return {
            "folder": str(self.folder),
            "name": self.name,
            "labels": self.labels,
            "unlabelled": self.n_unlabelled,
            "total": self.total,
            "annotation": self.annotation,
            "pairs": self.pairs,
            "paper": self.paper,
            "percentiles": list(PERCENTILES),
            "text_words": self.words,
            "image_width": self.widths,
            "image_height": self.heights,
            "images": self.n_images,
            "duplicates": self.n_duplicates,
            "contradicted": self.n_contradicted,
            "watermarked": self.n_watermarked,
            "reminder": self.reminder,
        }


def dataset_folders(folders: Sequence[Path], parent: Path = Path("data")) -> list[Path]:
    """Return `folders`, or every finished dataset in `parent` if empty.

    Raises: DatasetError if there is none.
    """
    chosen = list(folders) or sorted(path.parent for path in parent.glob(f"[!.]*/{MANIFEST_FILE}"))
    if not chosen:
        raise DatasetError(
            f"{parent}: contains no dataset",
            "Build one (`mvsent --help` lists the ways), or name its folder",
        )
    return chosen


def dataset_stats(folder: Path) -> DatasetStats:
    """Compute the figures of the dataset in `folder`, without reading its pictures. Raises: DatasetError."""
    dataset = Dataset.open(folder)
    columns = ["text", "width", "height", "query_sentiment"]
    words, widths, heights = (np.zeros(1, dtype=np.int64) for _ in range(3))
    n_scored = 0
    for batch in dataset.batches(columns, _BATCH_ROWS):
        words = added(words, word_counts(batch["text"]))
        widths = added(widths, batch["width"])
        heights = added(heights, batch["height"])
        n_scored += len(batch) - batch["query_sentiment"].null_count
    groups = dataset_groups(dataset)
    comparable = bool(words.any() or widths.any())
    twins, contradicted = _duplicates(groups, dataset.labels) if comparable else (None, None)
    paper = PAPER_TABLE_I.get(dataset.name)
    has_two = dataset.table(["text_label"])["text_label"].null_count < len(dataset)
    return DatasetStats(
        folder=folder,
        name=dataset.name,
        labels=dict(dataset.manifest.labels),
        n_unlabelled=dataset.manifest.n_unlabelled,
        annotation=_annotation(dataset, n_scored),
        paper=dict(paper) if paper else None,
        words=percentiles(words),
        widths=percentiles(widths),
        heights=percentiles(heights),
        n_images=int(widths.sum()),
        n_duplicates=twins,
        n_contradicted=contradicted,
        n_watermarked=_n_watermarked(dataset),
        reminder=reminder(dataset.manifest, folder),
        pairs=str(dataset.manifest.settings.get("pairs", "")) if has_two else "",
    )


def _n_watermarked(dataset: Dataset) -> int | None:
    if dataset.manifest.extra_columns.get(WATERMARKED) != "bool":
        return None
    return int(pc.sum(dataset.table([WATERMARKED])[WATERMARKED]).as_py() or 0)


def _annotation(dataset: Dataset, n_scored: int) -> str:
    if n_scored:
        return "weak"
    voted = any(batch["votes"].null_count < len(batch) for batch in dataset.batches(["votes"], _BATCH_ROWS))
    return "strong" if voted else ""


def _duplicates(groups: Counts, labels: npt.NDArray[np.int8]) -> tuple[int, int]:
    """Number of rows in groups of two or more; number of rows in groups with two or more labels."""
    if len(groups) == 0:
        return 0, 0
    size = np.bincount(groups)
    seen = np.zeros(len(size), np.uint8)  # a bit for each label
    known = labels >= 0
    np.bitwise_or.at(seen, groups[known], np.left_shift(1, labels[known]).astype(np.uint8))
    several = (seen & (seen - 1)) > 0
    return int(size[size > 1].sum()), int(size[several].sum())
