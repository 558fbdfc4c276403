"""From annotations to one label: a vote per modality, then the paper's rule (§4.1 A) between the two.

Everything here is numpy, a row per tweet: `N` tweets, `K` annotators, modality 0 is the text and 1 the image.
A vote or label is a `Label` as int8, or `MISSING`.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mvsent.pairs import Label, Reason

Labels = npt.NDArray[np.int8]
Ties = Literal["drop", "neutral"]

MISSING = np.int8(-1)
"""No vote, or no label that the votes agree on."""

TEXT, IMAGE = 0, 1

QUESTIONS = ("text_sentiment", "image_sentiment")
"""What an annotator is asked, index = modality: the names in a labelling tool."""

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
    """What the annotations of N tweets come to; a tweet has a label exactly when it has no reason."""

    label: Labels  # [N]
    text_label: Labels  # [N]
    image_label: Labels  # [N]
    reason: npt.NDArray[np.object_]  # [N] of Reason (no-majority, label-conflict) or None

    @property
    def kept(self) -> npt.NDArray[np.bool_]:
        """[N]: the tweets that have a label."""
        kept: npt.NDArray[np.bool_] = self.label != MISSING
        return kept


def vote_counts(votes: Labels) -> npt.NDArray[np.signedinteger[Any]]:
    """[N, K] votes → [N, 3]: how many annotators chose each label.

    >>> vote_counts(np.array([[2, 2, 0], [1, -1, 1]], dtype=np.int8)).tolist()
    [[1, 0, 2], [0, 2, 0]]
    """
    n_rows, n_annotators = votes.shape
    # Label by label, so that columns are added up in one go, and in the smallest type that holds K².
    counts = np.zeros((len(Label), n_rows), dtype=np.min_scalar_type(-(n_annotators**2)))
    for label in Label:
        for annotator in range(n_annotators):
            counts[label] += votes[:, annotator] == label
    return counts.T


def majority(votes: Labels, ties: Ties = "drop") -> Labels:
    """[N, K] votes → [N]: the label that more annotators chose than any other.

    Where several labels share the most votes it is `MISSING`, or neutral with `ties="neutral"`;
    where nobody voted it is `MISSING`.

    >>> majority(np.array([[2, 2, 0], [0, 1, 2]], dtype=np.int8)).tolist()
    [2, -1]
    """
    counts = vote_counts(votes).T  # [3, N]
    label = np.full(len(votes), Label.NEUTRAL if ties == "neutral" else MISSING, dtype=np.int8)
    for one in Label:
        one_other, another = (counts[other] for other in Label if other != one)
        label[counts[one] > np.maximum(one_other, another)] = one
    label[~counts.any(axis=0)] = MISSING
    return label


def combine(text: Labels, image: Labels) -> Labels:
    """[N], [N] → [N]: the tweet's label by the paper's rule, `MISSING` where the two contradict each other.

    Equal labels stay; a polar and a neutral one make the polar one; positive with negative is a conflict,
    and so is anything with `MISSING`.

    >>> combine(np.array([2, 1, 1, 2], np.int8), np.array([2, 0, 1, 0], np.int8)).tolist()
    [2, 0, 1, -1]
    """
    known = (text != MISSING) & (image != MISSING)
    both = np.where(known, len(Label) * text + image, 0)
    return np.where(known, _COMBINED.take(both), MISSING)


def decide(votes: Labels, ties: Ties = "drop") -> Decisions:
    """[N, K, 2] votes → one decision per tweet: majority per modality, then `combine`.

    >>> decide(np.array([[[2, 2]], [[2, 1]], [[2, 0]]], dtype=np.int8)).reason.tolist()
    [None, None, <Reason.LABEL_CONFLICT: 'label-conflict'>]
    """
    return from_modalities(majority(votes[:, :, TEXT], ties), majority(votes[:, :, IMAGE], ties))


def from_modalities(text: Labels, image: Labels) -> Decisions:
    """[N], [N] → one decision per tweet, from a label per modality however it was found."""
    label = combine(text, image)
    reason = np.full(len(label), None, dtype=object)
    reason[label == MISSING] = Reason.LABEL_CONFLICT
    reason[(text == MISSING) | (image == MISSING)] = Reason.NO_MAJORITY
    return Decisions(label, text, image, reason)
