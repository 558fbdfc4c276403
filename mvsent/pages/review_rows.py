"""Suspicion scores of the rows of a dataset, and the reasons of listed rows in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mvsent.curate.duplicates import duplicate_groups
from mvsent.curate.quality import (
    WEIGHTS,
    Scores,
    combined,
    contradiction,
    disagreement,
    distance,
    label_counts,
    label_errors,
)
from mvsent.errors import RunError
from mvsent.pairs import LABEL_NAMES
from mvsent.shards.reader import Dataset

if TYPE_CHECKING:
    from mvsent.runs.trial import Trial

Rows = npt.NDArray[np.int64]
_CALLED = {"text": "text", "image": "picture"}
_COLUMNS = ["text", "sha256", "phash", "text_label", "image_label", "votes"]


@dataclass(frozen=True)
class Twins:
    """Groups of rows that repeat each other.

    Attributes:
        text, picture: [N], the group of rows with the same text, and of those with the same picture.
        either: [N], the group of rows connected by either.
    """

    text: Rows
    picture: Rows
    either: Rows

    @cached_property
    def _by_group(self) -> tuple[Rows, Rows]:
        """The rows sorted by group, and their groups."""
        order = np.argsort(self.either, kind="stable")
        return order, self.either[order]

    def of(self, row: int) -> dict[str, Rows]:
        """The other rows with the text or picture of `row`, by shared modality, each once, in row order."""
        order, groups = self._by_group
        first, last = np.searchsorted(groups, [self.either[row], self.either[row] + 1])
        others = order[first:last][order[first:last] != row]
        text, picture = self.text[others] == self.text[row], self.picture[others] == self.picture[row]
        shared = {"text and picture": text & picture, "text": text & ~picture, "picture": picture & ~text}
        return {name: others[rows] for name, rows in shared.items() if rows.any()}


@dataclass(frozen=True)
class OutOfFold:
    """Answers of a run's networks for rows that they were not trained on.

    Attributes:
        rows: [T], sorted row numbers.
        y_prob: [T, 3], probabilities, the mean over the folds that tested the row.
    """

    rows: Rows
    y_prob: Scores


@dataclass(frozen=True)
class Findings:
    """Suspicion of each row, and its reasons.

    Attributes:
        scores: kind (a key of `WEIGHTS`) → [N], from 0 to 1.
        score: [N], the combination of all kinds.
        suggested: [N], the label that the row should perhaps have; -1 without a suggestion.
        twins: groups of rows that repeat each other.
        y_prob: [N, 3], probabilities; NaN in rows that no network judged.
        labels, text_label, image_label: [N], -1 if absent.
        votes: modality → [N, 3], number of annotators by label.
    """

    scores: dict[str, Scores]
    score: Scores
    suggested: Rows
    twins: Twins
    y_prob: Scores
    labels: Rows
    text_label: Rows
    image_label: Rows
    votes: dict[str, Rows]

    def reasons(self, row: int) -> dict[str, str]:
        """Kind → words, for each reason to suspect `row`; the strongest comes first."""
        kinds = [kind for kind in self.scores if self.scores[kind][row] > 0]
        kinds.sort(key=lambda kind: -WEIGHTS[kind] * self.scores[kind][row])
        return {kind: self._words(kind, row) for kind in kinds}

    def _words(self, kind: str, row: int) -> str:
        if kind == "label-error":
            shares = zip(LABEL_NAMES, self.y_prob[row], strict=True)
            return f"a network predicts {', '.join(f'{name} {100 * p:.0f} %' for name, p in shares)}"
        if kind == "modalities":
            text, image = LABEL_NAMES[self.text_label[row]], LABEL_NAMES[self.image_label[row]]
            return f"the text is {text}, the picture {image}"
        if kind == "annotators":
            split = {of: votes[row] for of, votes in self.votes.items() if (votes[row] > 0).sum() > 1}
            return "; ".join(f"votes on the {_CALLED[of]}: {_counted(v)}" for of, v in split.items())
        return "; ".join(
            _others(np.bincount(self.labels[rows], minlength=3), shared)
            for shared, rows in self.twins.of(row).items()
        )


def _counted(counts: Rows) -> str:
    """
    >>> _counted(np.array([0, 1, 2]))
    '1 neutral, 2 positive'
    """
    return ", ".join(f"{n} {name}" for name, n in zip(LABEL_NAMES, counts.tolist(), strict=True) if n)


def _others(counts: Rows, shared: str) -> str:
    """
    >>> _others(np.array([0, 2, 0]), "text")
    '2 other rows with the same text, labelled neutral'
    >>> _others(np.array([0, 1, 2]), "picture")
    '3 other rows with the same picture: 1 neutral, 2 positive'
    """
    n, names = int(counts.sum()), [name for name, n in zip(LABEL_NAMES, counts, strict=True) if n]
    rows = f"{n} other {'row' if n == 1 else 'rows'} with the same {shared}"
    return f"{rows}, labelled {names[0]}" if len(names) == 1 else f"{rows}: {_counted(counts)}"


def find(dataset: Dataset, answers: OutOfFold | None) -> Findings:
    """Score the rows of `dataset`; label errors are scored only if there are `answers`.

    Raises: DatasetError if a shard cannot be read; UsageError if cleanlab is needed and not installed.
    """
    table, labels = dataset.table(_COLUMNS), dataset.labels.astype(np.int64)
    text, sha256, phash = (table[name].to_pylist() for name in ("text", "sha256", "phash"))
    nothing = [None] * len(text)
    twins = Twins(
        duplicate_groups(text, nothing, nothing),
        duplicate_groups(nothing, sha256, phash),
        duplicate_groups(text, sha256, phash),
    )
    text_label, image_label = (
        pc.fill_null(table[name], -1).to_numpy().astype(np.int64) for name in ("text_label", "image_label")
    )
    votes = {of: vote_table(table["votes"], of) for of in ("text", "image")}
    # Sharing both text and picture counts twice as much as sharing one.
    contradicted = (contradiction(twins.text, labels) + contradiction(twins.picture, labels)) / 2
    repeated = (np.bincount(twins.either)[twins.either] > 1) & (contradicted == 0)
    scores = {
        "contradiction": contradicted,
        "annotators": (disagreement(votes["text"]) + disagreement(votes["image"])) / 2,
        "modalities": distance(text_label, image_label),
        "duplicate": repeated.astype(np.float64),
    }
    # The label of most twins is suggested, if it is another one and there is no tie.
    counts = label_counts(twins.either, labels)[twins.either]
    majority = counts.argmax(axis=1)
    is_unique = (counts == counts.max(axis=1, initial=0)[:, None]).sum(axis=1) == 1
    suggested = np.where((contradicted > 0) & is_unique & (majority != labels), majority, -1)
    y_prob = np.full((len(labels), 3), np.nan)
    if answers is not None:
        errors = label_errors(labels[answers.rows], answers.y_prob)
        scores["label-error"] = np.zeros(len(labels))
        scores["label-error"][answers.rows] = np.where(errors.flagged, errors.score, 0)
        suggested[answers.rows[errors.flagged]] = errors.suggested[errors.flagged]
        y_prob[answers.rows] = answers.y_prob
    return Findings(
        scores, combined(scores), suggested, twins, y_prob, labels, text_label, image_label, votes
    )


def out_of_fold(trial: "Trial", ids: Sequence[str]) -> OutOfFold:
    """Average the answers of a run's finished folds on their own test rows; row numbers are those of `ids`.

    Raises: RunError if the run names a row that is not in `ids`.
    """
    row_of = {name: row for row, name in enumerate(ids)}
    total, times = np.zeros((len(ids), 3)), np.zeros(len(ids), dtype=np.int64)
    for tested in trial.tested:
        if stray := next((name for name in tested.answers.ids if name not in row_of), None):
            raise RunError(
                f"{trial.run.path}: fold {tested.fold} tested {stray}, which is not in the dataset",
                "Train that fold again",
            )
        rows = np.array([row_of[name] for name in tested.answers.ids], dtype=np.int64)
        np.add.at(total, rows, tested.answers.y_prob)  # `+=` would count a repeated row once
        np.add.at(times, rows, 1)
    judged = np.flatnonzero(times)
    return OutOfFold(judged, total[judged] / times[judged, None])


def vote_table(votes: pa.ChunkedArray, modality: str) -> Rows:
    """Number of annotators of each row by the label that they gave the text or the image: [N, 3]."""
    counts = np.zeros((len(votes), 3), dtype=np.int64)
    whole = votes.combine_chunks()
    cast = pc.fill_null(pc.struct_field(pc.list_flatten(whole), modality), -1).to_numpy(zero_copy_only=False)
    rows = pc.list_parent_indices(whole).to_numpy(zero_copy_only=False)
    np.add.at(counts, (rows[cast >= 0], cast[cast >= 0]), 1)
    return counts
