"""Dawid-Skene: labels from annotators with different error rates, instead of a plain majority."""

import logging

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from mvsent.curate.labels import IMAGE, MISSING, TEXT, Decisions, Labels, from_modalities
from mvsent.pairs import Label

log = logging.getLogger("mvsent")

TOLERANCE, MAX_STEPS = 1e-9, 20_000
"""The estimate has converged if no label's probability changes by more in a step; and the most steps."""
_LEAST = 1e-10  # instead of a probability of 0, whose logarithm is infinite
_EQUAL = 6  # decimals: probabilities that differ by less are equal

Floats = npt.NDArray[np.float64]


def dawid_skene(votes: Labels, of: str = "votes", *, max_steps: int = MAX_STEPS) -> Labels:
    """The most probable label under the Dawid-Skene model: votes [N, K] → [N]; `MISSING` without votes.

    Column k of `votes` is assumed to be one annotator, whose confusion matrix is estimated by expectation
    maximisation, from the shares of votes on. The result is deterministic; labels of equal probability
    resolve to the lower one. A warning names `of` if the estimate does not converge.

    Reference: Dawid & Skene, Maximum likelihood estimation of observer error-rates using the EM algorithm.
    Applied Statistics 28, 1979, Eq. 2.3 to 2.5.
    """
    label = np.full(len(votes), MISSING, dtype=np.int8)
    voted = (votes != MISSING).any(axis=1)
    # Rows with the same votes have the same label: of three annotators there are only 27 kinds of votes.
    kinds, kind, n_rows = np.unique(votes[voted], axis=0, return_inverse=True, return_counts=True)
    if not len(kinds):
        return label
    probability, change = _estimate(kinds, n_rows.astype(np.float64), max_steps)
    if change > TOLERANCE:
        log.warning(
            "dawid-skene, %s: not converged after %d steps (probabilities still change by %.0e): some labels "
            "depend on where it stopped. --aggregate majority needs no estimate",
            of,
            max_steps,
            change,
        )
    label[voted] = probability.round(_EQUAL).argmax(axis=1).astype(np.int8)[kind.ravel()]
    return label


def _estimate(kinds: Labels, n_rows: Floats, max_steps: int) -> tuple[Floats, float]:
    """Probabilities [P, 3] of the labels for each kind of votes [P, K], and their change in the last step.

    `n_rows` [P] is the number of rows of each kind.
    """
    kind, annotator = np.nonzero(kinds != MISSING)
    n_labels, n_columns = len(Label), kinds.shape[1] * len(Label)
    column = annotator * n_labels + kinds[kind, annotator]  # annotator k said l: column 3k + l
    said = csr_array((np.ones(len(kind)), (kind, column)), shape=(len(kinds), n_columns))
    counts = np.stack([np.asarray(said[:, label::n_labels].sum(axis=1)).ravel() for label in Label], axis=1)
    probability: Floats = counts / counts.sum(axis=1, keepdims=True)
    change = np.inf
    for _ in range(max_steps):
        weighted = n_rows[:, None] * probability
        share = weighted.sum(axis=0) / n_rows.sum()  # [3]; Eq. 2.4
        errors = (said.T @ weighted).reshape(-1, n_labels, n_labels).clip(_LEAST)  # [K, said, true]; Eq. 2.3
        errors /= errors.sum(axis=1, keepdims=True)
        likelihood = said @ np.log(errors).reshape(n_columns, n_labels) + np.log(share.clip(_LEAST))
        likelihood = np.exp(likelihood - likelihood.max(axis=1, keepdims=True))
        better: Floats = likelihood / likelihood.sum(axis=1, keepdims=True)  # Eq. 2.5
        change, probability = float(np.abs(better - probability).max()), better
        if change <= TOLERANCE:
            break
    return probability, change


def decide_by_dawid_skene(votes: Labels) -> Decisions:
    """Decide each tweet from votes [N, K, 2]: Dawid-Skene per modality, then the paper's rule."""
    text, image = (dawid_skene(votes[:, :, half], of) for half, of in ((TEXT, "text"), (IMAGE, "image")))
    return from_modalities(text, image)
