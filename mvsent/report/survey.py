"""The counts that a report on a dataset shows: one pass over the columns, without the pictures."""

import re
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mvsent.curate.labels import from_modalities, majority
from mvsent.pairs import LABEL_NAMES, WATERMARKED, Label
from mvsent.reasons import Reason
from mvsent.report.histograms import Counts, added, word_counts
from mvsent.shards.reader import Dataset
from mvsent.shards.rejected import read_rejected

MAX_KINDS = 20_000
"""Maximum number of queries, licences or sources counted by name; the rows of others are counted together."""
OTHERS = "(others)"
NOT_STATED = "(not stated)"
CONFLICTS = (Reason.LABEL_CONFLICT, Reason.LABELS_DIFFER)
"""Reasons of rows whose text and picture have different labels."""
_BATCH_ROWS = 4096
_COLUMNS = [
    "text",
    "text_label",
    "image_label",
    "votes",
    "source",
    "query",
    "query_sentiment",
    "width",
    "height",
    "license",
]
_VOTES = "((?: (?:" + "|".join(LABEL_NAMES) + "))+)"
_CONFLICT = re.compile(f"text{_VOTES}, image{_VOTES}")  # the detail that `reconcile-mvsa` writes


def _none() -> Counts:
    return np.zeros(1, dtype=np.int64)


def _square() -> Counts:
    return np.zeros((3, 3), dtype=np.int64)


@dataclass
class Survey:
    """Counts of a dataset.

    Attributes:
        words, widths, heights: number of rows by words or pixels (index = value).
        shapes: number of pictures by landscape, portrait and square.
        sources, licenses, queries: number of rows by value.
        sentiments: query → score.
        modalities: number of kept rows by text label (first axis) and image label.
        conflicts: the same for dropped rows, as far as rejected.parquet states their labels.
        annotators: number of rows by number of votes (index = value).
        n_unanimous: number of rows with at least two votes that all agree, by modality.
        n_watermarked: number of pictures with a watermark; None if the sources do not say.
    """

    words: Counts = field(default_factory=_none)
    widths: Counts = field(default_factory=_none)
    heights: Counts = field(default_factory=_none)
    shapes: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    licenses: Counter[str] = field(default_factory=Counter)
    queries: Counter[str] = field(default_factory=Counter)
    sentiments: dict[str, float] = field(default_factory=dict)
    modalities: Counts = field(default_factory=_square)
    conflicts: Counts = field(default_factory=_square)
    annotators: Counts = field(default_factory=_none)
    n_unanimous: dict[str, int] = field(default_factory=lambda: {"text": 0, "image": 0})
    n_watermarked: int | None = None

    @property
    def n_compared(self) -> int:
        """Number of rows with at least two votes."""
        return int(self.annotators[2:].sum())


def survey(dataset: Dataset) -> Survey:
    """Count `dataset`. Raises: DatasetError if one of its files cannot be read."""
    says_watermarks = dataset.manifest.extra_columns.get(WATERMARKED) == "bool"
    counts = Survey(n_watermarked=0 if says_watermarks else None)
    columns = [*_COLUMNS, WATERMARKED] if says_watermarks else _COLUMNS
    for batch in dataset.batches(columns, _BATCH_ROWS):
        if counts.n_watermarked is not None:
            counts.n_watermarked += pc.sum(batch[WATERMARKED]).as_py() or 0
        counts.words = added(counts.words, word_counts(batch["text"]))
        counts.widths = added(counts.widths, batch["width"])
        counts.heights = added(counts.heights, batch["height"])
        sizes = pa.table({"width": batch["width"], "height": batch["height"]}).drop_null()
        wider = np.sign(sizes["width"].to_numpy().astype(np.int64) - sizes["height"].to_numpy())
        for sign, name in ((1, "landscape"), (-1, "portrait"), (0, "square")):
            if n := int((wider == sign).sum()):
                counts.shapes[name] += n
        _tally(counts.sources, batch["source"])
        _tally(counts.licenses, batch["license"])
        _tally(counts.queries, batch["query"].drop_null())
        scored = pa.table({"query": batch["query"], "score": batch["query_sentiment"]}).drop_null()
        for row in scored.group_by("query").aggregate([("score", "max")]).to_pylist():
            if row["query"] in counts.queries:  # not one of those counted as others
                counts.sentiments.setdefault(row["query"], row["score_max"])
        both = pa.table({"text": batch["text_label"], "image": batch["image_label"]}).drop_null()
        np.add.at(counts.modalities, (both["text"].to_numpy(), both["image"].to_numpy()), 1)
        votes = batch["votes"]
        n_votes = pc.fill_null(pc.list_value_length(votes), 0)
        counts.annotators = added(counts.annotators, n_votes)
        several = n_votes.to_numpy() > 1
        parents = pc.list_parent_indices(votes).to_numpy()
        for modality in counts.n_unanimous:
            cast = pc.fill_null(votes.flatten().field(modality), -1).to_numpy()
            lowest, highest = np.full(len(votes), 127), np.full(len(votes), -1)  # above and below every label
            np.minimum.at(lowest, parents, cast)
            np.maximum.at(highest, parents, cast)
            counts.n_unanimous[modality] += int((several & (lowest == highest) & (lowest >= 0)).sum())
    for dropped in read_rejected(dataset.folder):
        for reason in CONFLICTS:
            conflicts = dropped.filter(pc.equal(dropped["reason"], str(reason)))
            # Few different details describe all conflicts, so each is parsed once.
            for entry in pc.value_counts(conflicts["detail"]):
                if matched := _CONFLICT.fullmatch(entry["values"].as_py() or ""):
                    votes = ([[Label.parse(word) for word in words.split()]] for words in matched.groups())
                    text, image = (majority(np.array(one, dtype=np.int8)) for one in votes)  # [1], [1]
                    if from_modalities(text, image, "consistent").reason.tolist() == [reason]:
                        counts.conflicts[text, image] += entry["counts"].as_py()
    return counts


def kappa(table: Counts) -> float | None:
    """Cohen's kappa of two raters, from a square table of counts; None if chance agreement is perfect.

    >>> kappa(np.array([[5, 0], [0, 5]])), kappa(np.array([[4, 0], [0, 0]])) is None
    (1.0, True)

    Reference: Cohen 1960, "A coefficient of agreement for nominal scales".
    """
    total = table.sum()
    if not total:
        return None
    by_chance = float((table.sum(axis=0) * table.sum(axis=1)).sum() / total**2)
    return None if by_chance == 1 else float((np.trace(table) / total - by_chance) / (1 - by_chance))


def _tally(counter: Counter[str], values: pa.Array) -> None:
    for entry in pc.value_counts(values):
        name = entry["values"].as_py() or NOT_STATED
        known = name in counter or len(counter) < MAX_KINDS
        counter[name if known else OTHERS] += entry["counts"].as_py()
