"""How far annotators agree beyond chance."""

import krippendorff
import numpy as np

from mvsent.curate.labels import Labels, vote_counts
from mvsent.pairs import Label


def krippendorff_alpha(votes: Labels) -> float | None:
    """[N, K] votes → nominal alpha: 1 perfect agreement, 0 chance, below 0 systematic disagreement.

    None where it is undefined: no tweet with two votes, or all such votes the same.

    >>> krippendorff_alpha(np.array([[2, 2], [0, 0], [1, 1]], dtype=np.int8))
    1.0
    >>> krippendorff_alpha(np.array([[2], [0]], dtype=np.int8)) is None
    True

    Reference: Krippendorff 2011, "Computing Krippendorff's alpha-reliability".
    """
    counts = vote_counts(votes)
    pairable = counts.sum(axis=1) > 1
    if sum(np.any(counts[:, label].astype(bool) & pairable) for label in Label) < 2:
        return None
    return float(krippendorff.alpha(value_counts=counts, level_of_measurement="nominal"))
