"""A model's answers under row weights, and the counts that the metrics need."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mvsent.pairs import LABEL_NAMES

Ints = npt.NDArray[np.integer]
Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]
Fold = tuple[Ints, Floats]
"""The test rows of one fold: `(y_true, y_prob)`."""

N_LABELS = len(LABEL_NAMES)


@dataclass(frozen=True, eq=False)
class Predicted:
    """N rows as a model answered them, under R weightings: one for a point value, many for a bootstrap.

    Attributes:
        y_true: int [N], the label numbers, all of them in `classes`.
        y_prob: float [N, 3], its columns in `Label`'s order, 0 for a class that the model does not know.
        classes: the C labels that count, sorted.
        weights: float [N, R], ≥ 0. A whole number has the effect of repeating the row that many times.
    """

    y_true: Ints
    y_prob: Floats
    classes: Sequence[int]
    weights: Floats

    def reweighted(self, weights: Floats) -> "Predicted":
        """The same rows under other weights."""
        other = replace(self, weights=weights)
        vars(other)["rankings"] = self.rankings  # sorted once for all blocks of a bootstrap
        return other

    def mean(self, values: Floats | Bools) -> Floats:
        """The weighted means [R] of values [N], one for each row."""
        return ratio(values @ self.weights, self.total, math.nan)

    @cached_property
    def total(self) -> Floats:
        """The weight of all rows [R]."""
        total: Floats = self.weights.sum(axis=0)
        return total

    @cached_property
    def y_pred(self) -> Ints:
        """The most probable label of each row [N]."""
        y_pred: Ints = self.y_prob.argmax(axis=1)
        return y_pred

    @cached_property
    def confusion(self) -> Floats:
        """The weight of the rows by true label (second axis) and predicted label (third): [R, 3, 3]."""
        cell = self.y_true.astype(np.int64) * N_LABELS + self.y_pred
        by_cell: Floats = self.weights.T @ np.eye(N_LABELS**2)[cell]
        return by_cell.reshape(-1, N_LABELS, N_LABELS)

    @cached_property
    def counts(self) -> tuple[Floats, Floats, Floats]:
        """The weight of each class's hits, of its rows, and of the rows predicted as it: [R, C] each."""
        columns, confusion = list(self.classes), self.confusion
        hits = np.diagonal(confusion, axis1=1, axis2=2)
        return hits[:, columns], confusion.sum(axis=2)[:, columns], confusion.sum(axis=1)[:, columns]

    @cached_property
    def rankings(self) -> list["Ranking"]:
        """The rows by the probability of each class; last, all pairs of a row and a class together."""
        hits, scores = one_vs_rest(self.y_true, self.y_prob, self.classes)
        rows = np.arange(len(self.y_true))
        by_class = [rank(hits[:, i], scores[:, i], rows) for i in range(len(self.classes))]
        return [*by_class, rank(hits.ravel(), scores.ravel(), np.repeat(rows, len(self.classes)))]

    @cached_property
    def ranked(self) -> list["Ranked"]:
        """`rankings` with their weights: the sums that take most of a bootstrap's time."""
        ranked = []
        for ranking in self.rankings:
            above = np.zeros((len(ranking.rows) + 1, self.weights.shape[1]))
            # By default (mode="raise") numpy would buffer `out`; the rows are known to exist.
            np.take(self.weights, ranking.rows, axis=0, out=above[1:], mode="clip")
            np.cumsum(above, axis=0, out=above)
            hits = np.add.reduceat(self.weights[ranking.rows[ranking.at]], ranking.first, axis=0)
            sums = np.cumsum(hits, axis=0), above[ranking.begin], above[ranking.end]
            ranked.append(Ranked(hits, *sums, above[-1]))
        return ranked


def one_vs_rest(y_true: Ints, y_prob: Floats, classes: Sequence[int]) -> tuple[Bools, Floats]:
    """Whether each row is of each class, and the probability it was given: [N, C] each."""
    return y_true[:, None] == np.asarray(classes)[None, :], y_prob[:, list(classes)]


def confusion_counts(y_true: Ints, y_prob: Floats) -> npt.NDArray[np.int64]:
    """Number of rows of each label (first axis) predicted as each label (second axis): [3, 3]."""
    counts = np.zeros((N_LABELS, N_LABELS), dtype=np.int64)
    np.add.at(counts, (y_true, y_prob.argmax(axis=1)), 1)  # `counts[…] += 1` would count a repeated cell once
    return counts


def prior_prob(y_train: Ints, n_rows: int) -> Floats:
    """The majority baseline's answer for every row: the class shares of `y_train`, [n_rows, 3].

    >>> prior_prob(np.array([2, 2, 0, 1]), 1)
    array([[0.25, 0.25, 0.5 ]])
    """
    return np.tile(np.bincount(y_train, minlength=N_LABELS) / len(y_train), (n_rows, 1))


class Ranking(NamedTuple):
    """K scored items from the best score to the worst, and the G distinct scores at which there is a hit."""

    rows: Ints  # [K], whose weight each item carries
    at: Ints  # the positions of the hits
    first: Ints  # [G], where in `at` each such score begins
    begin: Ints  # [G], the position at which the items of each such score begin
    end: Ints  # [G], and the one after their last


class Ranked(NamedTuple):
    """The weights at the G scores at which there is a hit: [G, R] each."""

    hits: Floats  # of the hits with that score
    hits_to: Floats  # of the hits with that score or a better one
    items_above: Floats  # of all items with a better score
    items_to: Floats  # of all items with that score or a better one
    total: Floats  # of all items: [R]


def rank(hits: Bools, scores: Floats, rows: Ints) -> Ranking:
    """Sort scored items; items of equal score stay together.

    >>> rank(np.array([True, False, True, False]), np.array([0.5, 0.5, 0.5, 0.9]), np.arange(4))
    Ranking(rows=array([3, 0, 1, 2]), at=array([1, 3]), first=array([0]), begin=array([1]), end=array([4]))
    """
    order = np.argsort(-scores, kind="stable")
    ranked, at = scores[order], np.flatnonzero(hits[order])
    begins = np.append(0, 1 + np.flatnonzero(ranked[1:] != ranked[:-1]))  # of each run of equal scores
    run, first = np.unique(np.searchsorted(begins, at, side="right") - 1, return_index=True)
    return Ranking(rows[order], at, first, begins[run], np.append(begins, len(ranked))[run + 1])


def ratio(part: Floats, whole: Floats, otherwise: float) -> Floats:
    """`part / whole`, and `otherwise` where `whole` is 0."""
    quotient: Floats = np.divide(part, whole, out=np.full(np.shape(whole), otherwise), where=whole != 0)
    return quotient
