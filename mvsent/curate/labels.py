"""From annotations to one label: a vote in each modality, then the paper's rule (§4.1 A) between the two.

Part of the literature keeps other pairs of MVSA: only those whose two labels agree, or all with the label of
one modality.

Arrays have a row per tweet: `N` tweets, `K` annotators; modality 0 is the text, 1 the image. A vote or label
is a `Label` as int8, or `MISSING`.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mvsent.pairs import Label
from mvsent.reasons import Reason

Labels = npt.NDArray[np.int8]
Ties = Literal["drop", "neutral"]
Pairs = Literal["paper", "consistent", "text", "image"]
"""The rule that makes one label of two; it decides which pairs are kept."""

MISSING = np.int8(-1)
"""No vote, or no label that the votes agree on."""

TEXT, IMAGE = 0, 1

QUESTIONS = ("text_sentiment", "image_sentiment")
"""Names of the questions in a labelling tool, by modality."""

_NEG, _NEU, _POS = (np.int8(label) for label in Label)
_COMBINED = np.array(
    #  image: negative, neutral, positive
    [
        [_NEG, _NEG, MISSING],  # text negative
        [_NEG, _NEU, _POS],  # text neutral
        [MISSING, _POS, _POS],  # text positive
    ],
    dtype=np.int8,
)


@dataclass(frozen=True, slots=True)
class Decisions:
    """Labels of N tweets, or reasons why they have none: a tweet has either a label or a reason."""

    label: Labels  # [N]
    text_label: Labels  # [N]
    image_label: Labels  # [N]
    reason: npt.NDArray[np.object_]  # [N] of Reason (no-majority, label-conflict, labels-differ) or None

    @property
    def kept(self) -> npt.NDArray[np.bool_]:
        """Whether each tweet [N] has a label."""
        kept: npt.NDArray[np.bool_] = self.label != MISSING
        return kept


def vote_counts(votes: Labels) -> npt.NDArray[np.signedinteger[Any]]:
    """Count the annotators that chose each label: votes [N, K] → [N, 3].

    >>> vote_counts(np.array([[2, 2, 0], [1, -1, 1]], dtype=np.int8)).tolist()
    [[1, 0, 2], [0, 2, 0]]
    """
    n_rows, n_annotators = votes.shape
    # Label by label, which adds whole columns, in the smallest type that holds K² (needed for alpha).
    counts = np.zeros((len(Label), n_rows), dtype=np.min_scalar_type(-(n_annotators**2)))
    for label in Label:
        for annotator in range(n_annotators):
            counts[label] += votes[:, annotator] == label
    return counts.T


def majority(votes: Labels, ties: Ties = "drop") -> Labels:
    """The label that more annotators chose than any other: votes [N, K] → [N].

    A tie for the most votes gives `MISSING`, or neutral with `ties="neutral"`; no votes give `MISSING`.

    >>> majority(np.array([[2, 2, 0], [0, 1, 2]], dtype=np.int8)).tolist()
    [2, -1]
    """
    counts = vote_counts(votes).T  # [3, N]
    label = np.full(len(votes), Label.NEUTRAL if ties == "neutral" else MISSING, dtype=np.int8)
    for one in Label:
        one_other, another = (counts[other] for other in Label if other != one)
        label[counts[one] > np.maximum(one_other, another)] = one
    label[~counts.any(axis=0)] = MISSING  # no votes are no tie
    return label


def combine(text: Labels, image: Labels) -> Labels:
    """Combine the labels of text and image by the paper's rule: [N], [N] → [N]; `MISSING` for a conflict.

    Equal labels stay. A polar and a neutral label give the polar one. Positive and negative are a conflict,
    as is anything with `MISSING`.

    >>> combine(np.array([2, 1, 1, 2], np.int8), np.array([2, 0, 1, 0], np.int8)).tolist()
    [2, 0, 1, -1]
    """
    known = (text != MISSING) & (image != MISSING)
    both = np.where(known, len(Label) * text + image, 0)  # 0: any place in the table
    return np.where(known, _COMBINED.take(both), MISSING)


def decide(votes: Labels, ties: Ties = "drop") -> Decisions:
    """Decide each tweet from votes [N, K, 2]: majority per modality, then `combine`.

    >>> decide(np.array([[[2, 2]], [[2, 1]], [[2, 0]]], dtype=np.int8)).reason.tolist()
    [None, None, <Reason.LABEL_CONFLICT: 'label-conflict'>]
    """
    return from_modalities(majority(votes[:, :, TEXT], ties), majority(votes[:, :, IMAGE], ties))


def from_modalities(text: Labels, image: Labels, pairs: Pairs = "paper") -> Decisions:
    """Decide each tweet from the labels of its text [N] and image [N].

    Args:
        pairs: `paper`: by `combine`. `consistent`: the label that both have. `text`, `image`: its label,
            whatever the other.

    >>> text, image = np.array([2, 1, 2], np.int8), np.array([2, 2, 0], np.int8)
    >>> [from_modalities(text, image, pairs).label.tolist() for pairs in ("paper", "consistent", "image")]
    [[2, 2, -1], [2, -1, -1], [2, 2, 0]]
    """
    by_paper = combine(text, image)
    consistent = np.where(text == image, text, MISSING)
    label = {"paper": by_paper, "consistent": consistent, "text": text, "image": image}[pairs]
    dropped = label == MISSING
    reason = np.full(len(label), None, dtype=object)
    reason[dropped] = Reason.LABELS_DIFFER
    reason[dropped & (by_paper == MISSING)] = Reason.LABEL_CONFLICT
    # Last, because a row without a majority cannot be in conflict.
    reason[dropped & ((text == MISSING) | (image == MISSING))] = Reason.NO_MAJORITY
    return Decisions(label, text, image, reason)
