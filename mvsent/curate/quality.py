"""Suspicion scores of the rows of a dataset: one for each kind of suspicion, and their combination.

Arrays have a row per pair: `N` rows, labels as numbers (0 negative, 1 neutral, 2 positive). Scores range from
0, not suspicious, to 1, the worst; positive against negative is twice as bad as either against neutral.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mvsent.errors import UsageError

Scores = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.integer[Any]]

WEIGHTS = {
    "contradiction": 0.9,
    "label-error": 0.8,
    "annotators": 0.5,
    "modalities": 0.3,
    "duplicate": 0.05,
}
"""Kind of suspicion → its weight at the worst, in order of severity."""

_DISTANCE = np.abs(np.subtract.outer(np.arange(3), np.arange(3))) / 2  # between two labels


def contradiction(groups: Numbers, labels: Numbers) -> Scores:
    """Mean distance [N] of a row's label from those of the others in its group; 0 if it is alone.

    >>> contradiction(np.array([0, 0, 0, 1]), np.array([2, 2, 0, 1])).tolist()
    [0.5, 0.5, 1.0, 0.0]
    """
    counts = label_counts(groups, labels)[groups]  # [N, 3]
    others = np.maximum(counts.sum(axis=1) - 1, 1)
    distances: Scores = (counts * _DISTANCE[labels]).sum(axis=1) / others
    return distances


def label_counts(groups: Numbers, labels: Numbers) -> npt.NDArray[np.int64]:
    """Number of rows of each group by label [G, 3]; groups are numbered from 0.

    >>> label_counts(np.array([0, 1, 0]), np.array([2, 1, 2])).tolist()
    [[0, 0, 2], [0, 1, 0]]
    """
    counts = np.zeros((int(groups.max(initial=-1)) + 1, 3), dtype=np.int64)
    np.add.at(counts, (groups, labels), 1)
    return counts


def disagreement(counts: Numbers) -> Scores:
    """Mean distance between two annotators of a row: votes by label [N, 3] → [N]; 0 for a single annotator.

    >>> disagreement(np.array([[1, 0, 1], [0, 1, 2], [0, 0, 1]])).round(3).tolist()
    [1.0, 0.333, 0.0]
    """
    n_votes = counts.sum(axis=1)
    n_pairs = np.maximum(n_votes * (n_votes - 1), 1)  # ordered
    apart: Scores = np.einsum("ni,ij,nj->n", counts, _DISTANCE, counts) / n_pairs
    return apart


def distance(one: Numbers, other: Numbers) -> Scores:
    """Distance [N] between two labels of a row; 0 if either is missing (below 0).

    >>> distance(np.array([0, 0, 1, -1]), np.array([2, 1, 1, 2])).tolist()
    [1.0, 0.5, 0.0, 0.0]
    """
    known = (one >= 0) & (other >= 0)
    return np.where(known, np.abs(one - other) / 2, 0.0)


@dataclass(frozen=True)
class LabelErrors:
    """Probable label errors.

    Attributes:
        flagged: [N], whether the label is probably wrong.
        score: [N], one minus the normalised margin of the label: 0 if the model is sure of the label, 0.5 if
            another is as probable, 1 if it is sure of another.
        suggested: [N], the most probable label.
    """

    flagged: npt.NDArray[np.bool_]
    score: Scores
    suggested: npt.NDArray[np.int64]


def label_errors(labels: Numbers, y_prob: Scores) -> LabelErrors:
    """Find probable label errors by confident learning (cleanlab).

    Flags take into account how often each label is confused with each other one; the score depends on the row
    alone. Labels that neither occur nor get any probability are not counted as classes. With a single class
    nothing is flagged.

    Args:
        labels: [N].
        y_prob: [N, 3], probabilities by models that were not trained on the row.

    Reference: Northcutt, Jiang & Chuang 2021, "Confident learning: estimating uncertainty in dataset labels".

    Raises: UsageError if cleanlab is not installed.
    """
    occurs = np.bincount(labels, minlength=3).astype(bool) | (y_prob > 0).any(axis=0)
    classes = np.flatnonzero(occurs)
    suggested = y_prob.argmax(axis=1)
    if len(classes) < 2:
        return LabelErrors(np.zeros(len(labels), dtype=bool), np.zeros(len(labels)), suggested)
    find_label_issues, get_label_quality_scores = _cleanlab()
    # cleanlab wants classes 0 … K - 1, and rows that sum to one.
    y, p = np.searchsorted(classes, labels), y_prob[:, classes]
    p = p / p.sum(axis=1, keepdims=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cleanlab warns about classes with few rows
        flagged = find_label_issues(y, p, n_jobs=1)
        quality = get_label_quality_scores(y, p, method="normalized_margin")
    return LabelErrors(flagged & (suggested != labels), 1 - quality, suggested)


def _cleanlab() -> tuple[Any, Any]:
    try:
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores
    except ImportError as error:
        raise UsageError(
            f"finding label errors needs the package cleanlab ({error})",
            "Install it: pip install 'mvsent[review]'",
        ) from None
    return find_label_issues, get_label_quality_scores


def combined(scores: Mapping[str, Scores]) -> Scores:
    """Combine the scores of all kinds, as if they were independent: [N], 1 - Π (1 - weight · score).

    >>> combined({"contradiction": np.array([1, 0]), "label-error": np.array([0.5, 0])}).round(2).tolist()
    [0.94, 0.0]
    """
    cleared = [1 - WEIGHTS[kind] * score for kind, score in scores.items()]
    suspicion: Scores = 1 - np.prod(cleared, axis=0)
    return suspicion


def worst_first(score: Scores, groups: Numbers, n: int, n_of_group: int) -> npt.NDArray[np.int64]:
    """Row numbers of the `n` highest scores above 0; ties keep the order of the rows.

    At most `n_of_group` rows of a group are listed, so that a text that was sent a thousand times does not
    fill the list.

    >>> worst_first(np.array([0.1, 0.9, 0.0, 0.9]), np.array([0, 1, 1, 2]), 3, n_of_group=1).tolist()
    [1, 3, 0]
    """
    # Rounded, because sums in another order would break ties in the last digit.
    order = np.argsort(-score.round(9), kind="stable")
    order = order[score[order] > 0]
    return order[_place_in_group(groups[order]) < n_of_group][:n].astype(np.int64)


def _place_in_group(groups: Numbers) -> npt.NDArray[np.int64]:
    """Number of earlier rows [N] in the group of each row.

    >>> _place_in_group(np.array([7, 3, 7, 7, 3])).tolist()
    [0, 0, 1, 2, 1]
    """
    by_group = np.argsort(groups, kind="stable")
    ordered = groups[by_group]
    place = np.empty(len(groups), dtype=np.int64)
    place[by_group] = np.arange(len(groups)) - np.searchsorted(ordered, ordered)
    return place
