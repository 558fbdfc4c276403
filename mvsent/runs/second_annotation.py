"""How often people agree: the pairs of a dataset that were annotated twice, under different ids.

A tweet that was collected twice was labelled twice. The share of such pairs that got the same label again is
the human line beside systems that predict the label.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import stats

from mvsent.curate.duplicates import NO_KEY, look_keys, text_keys
from mvsent.learn.answers import N_LABELS
from mvsent.learn.bootstrap import Answered, Summary, summarise
from mvsent.shards.reader import Dataset

MIN_PAIRS = 10
"""Of fewer pairs an interval says next to nothing."""

_OF_LABELS = ("precision", "recall", "f1", "matthews_corrcoef", "cohen_kappa")
"""The metrics, beside accuracy, that labels have without probabilities."""


@dataclass(frozen=True)
class AnnotatedTwice:
    """The pairs of a dataset that were annotated at least twice.

    Attributes:
        first, second: labels of the first two annotations of each pair, in the order of the rows, int [N].
    """

    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]

    def document(self, classes: Sequence[int], *, n: int, seed: int) -> dict[str, Any]:
        """The part `second_annotation` of `metrics.json`: how well one annotation predicts the other.

        Each of the two is judged by the other one. The interval of the accuracy, which is the share of pairs
        with equal labels, is Wilson's; those of the other metrics are from `n` resamplings of the pairs.

        Reference: Wilson, Probable inference, the law of succession, and statistical inference. JASA, 1927.
        """
        y_true, answer = np.concatenate([self.first, self.second]), np.concatenate([self.second, self.first])
        pairs = np.tile(np.arange(len(self.first)), 2)
        answers = Answered([(y_true, np.eye(N_LABELS)[answer])], [pairs])
        _, summaries = summarise(answers, classes, n=n, seed=seed)
        n_equal, n_pairs = int((self.first == self.second).sum()), len(self.first)
        low, high = stats.binomtest(n_equal, n_pairs).proportion_ci(method="wilson")
        accuracy = Summary(mean=n_equal / n_pairs, std=None, low=float(low), high=float(high))
        others = {key: of for key, of in summaries.items() if key.startswith(_OF_LABELS)}
        return {"n_pairs": n_pairs, "metrics": {"accuracy": accuracy, **others}}


def annotated_twice(dataset: Dataset) -> AnnotatedTwice | None:
    """The pairs that occur under several ids, with their labels; None if there are fewer than `MIN_PAIRS`.

    Two rows are the same pair if they have the same text, by `normalised_text`, and the same perceptual hash
    of the picture. Rows that a query labelled do not count. Dropped rows are not in the dataset, so an
    annotation that was dropped as a conflict is never one of the two.
    """
    columns = dataset.table(["phash", "query", "label"])
    look = look_keys(columns["phash"].to_pylist())
    by_people = columns["query"].is_null().to_numpy() & columns["label"].is_valid().to_numpy()
    _, place, count = np.unique(look, return_inverse=True, return_counts=True)
    again = np.flatnonzero(
        (count[place] > 1) & (look != NO_KEY) & by_people
    )  # a few: only their texts are read
    text = text_keys(dataset.table(["text"])["text"].take(pa.array(again)).to_pylist())
    rows_of: dict[tuple[int, int], list[int]] = {}
    for row, *key in zip(again.tolist(), look[again].tolist(), text.tolist(), strict=True):
        if key[1] != NO_KEY:
            rows_of.setdefault((key[0], key[1]), []).append(row)
    twice = [rows[:2] for rows in rows_of.values() if len(rows) > 1]
    if len(twice) < MIN_PAIRS:
        return None
    first, second = dataset.labels[np.array(twice)].astype(np.int64).T
    return AnnotatedTwice(first, second)
