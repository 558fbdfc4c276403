"""What a report counts in a dataset: one pass over the columns, a batch in memory; pictures are not read."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mvsent.curate.labels import MISSING, Labels, combine, majority
from mvsent.errors import DatasetError
from mvsent.pairs import LABEL_NAMES, REJECTED_SCHEMA, Label, Reason
from mvsent.report.histograms import Counts, added, word_counts
from mvsent.shards.reader import Dataset
from mvsent.shards.rejected import REJECTED_FILE
from mvsent.storage import readable

MAX_KINDS = 20_000
"""Different queries, licences or sources that are counted by name; the rows of more are counted together."""
OTHERS = "(others)"
NOT_STATED = "(not stated)"
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
_CONFLICT = re.compile(f"text{_VOTES}, image{_VOTES}")  # as `reconcile-mvsa` says why


def _none() -> Counts:
    return np.zeros(1, dtype=np.int64)


def _square() -> Counts:
    return np.zeros((3, 3), dtype=np.int64)


@dataclass
class Survey:
    """A dataset in counts.

    Attributes:
        words, widths, heights: rows by their number of words, pixels (index = value).
        shapes: pictures by landscape, portrait and square.
        sources, licenses, queries: rows by value.
        sentiments: each query's score.
        modalities: kept rows by text label (first axis) and image label.
        conflicts: the same of dropped rows, as far as rejected.parquet says.
        annotators: rows by their number of votes (index = number).
        n_unanimous: rows with two votes at least that all agree, for the text and for the image.
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

    @property
    def n_compared(self) -> int:
        """Rows with two votes at least."""
        return int(self.annotators[2:].sum())


def survey(dataset: Dataset) -> Survey:
    """The counts of `dataset`. Raises: DatasetError where a file of it cannot be read."""
    found = Survey()
    for batch in dataset.batches(_COLUMNS, _BATCH_ROWS):
        found.words = added(found.words, word_counts(batch["text"]))
        found.widths = added(found.widths, batch["width"])
        found.heights = added(found.heights, batch["height"])
        _count_shapes(found, batch)
        _tally(found.sources, batch["source"])
        _tally(found.licenses, batch["license"])
        _tally(found.queries, batch["query"].drop_null())
        _note_sentiments(found, batch)
        _compare_modalities(found.modalities, batch["text_label"], batch["image_label"])
        _count_votes(found, batch["votes"])
    for batch in rejected_batches(dataset.folder):
        _count_conflicts(found.conflicts, batch)
    return found


def rejected_batches(folder: Path) -> Iterator[pa.RecordBatch]:
    """The dropped rows of a dataset, a batch at a time. Raises: DatasetError where they cannot be read."""
    path = folder / REJECTED_FILE
    try:
        with readable(path) as source, pq.ParquetFile(source) as file:
            yield from file.iter_batches(_BATCH_ROWS, columns=REJECTED_SCHEMA.names)
    except (OSError, pa.ArrowException) as error:
        problem = str(error).splitlines()[0]
        raise DatasetError(f"{path}: cannot be read ({problem})", "Build the dataset again") from None


def kappa(table: Counts) -> float | None:
    """Cohen's kappa of two judgements, a square table of counts; None where chance alone agrees always.

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


def _note_sentiments(found: Survey, batch: pa.RecordBatch) -> None:
    scored = pa.table({"query": batch["query"], "score": batch["query_sentiment"]}).drop_null()
    for row in scored.group_by("query").aggregate([("score", "max")]).to_pylist():
        if row["query"] in found.queries:
            found.sentiments.setdefault(row["query"], row["score_max"])


def _count_shapes(found: Survey, batch: pa.RecordBatch) -> None:
    sizes = pa.table({"width": batch["width"], "height": batch["height"]}).drop_null()
    wider = np.sign(sizes["width"].to_numpy().astype(np.int64) - sizes["height"].to_numpy())
    for sign, name in ((1, "landscape"), (-1, "portrait"), (0, "square")):
        if n := int((wider == sign).sum()):
            found.shapes[name] += n


def _compare_modalities(table: Counts, text: pa.Array, image: pa.Array) -> None:
    both = pa.table({"text": text, "image": image}).drop_null()
    np.add.at(table, (both["text"].to_numpy(), both["image"].to_numpy()), 1)


def _count_votes(found: Survey, votes: pa.Array) -> None:
    n_votes = pc.fill_null(pc.list_value_length(votes), 0)
    found.annotators = added(found.annotators, n_votes)
    several = n_votes.to_numpy() > 1
    parents = pc.list_parent_indices(votes).to_numpy()
    for modality in found.n_unanimous:
        cast = pc.fill_null(votes.flatten().field(modality), -1).to_numpy()
        lowest, highest = np.full(len(votes), 127), np.full(len(votes), -1)
        np.minimum.at(lowest, parents, cast)
        np.maximum.at(highest, parents, cast)
        found.n_unanimous[modality] += int((several & (lowest == highest) & (lowest >= 0)).sum())


def _count_conflicts(table: Counts, batch: pa.RecordBatch) -> None:
    conflicts = batch.filter(pc.equal(batch["reason"], str(Reason.LABEL_CONFLICT)))
    for entry in pc.value_counts(conflicts["detail"]):
        if said := _CONFLICT.fullmatch(entry["values"].as_py() or ""):
            text, image = (_majority(words) for words in said.groups())
            if combine(text, image) == MISSING and MISSING not in (*text, *image):
                table[text, image] += entry["counts"].as_py()


def _majority(words: str) -> Labels:
    """[1]: the label that the votes in `words` come to."""
    return majority(np.array([[Label.parse(word) for word in words.split()]], dtype=np.int8))
