"""Agreement of annotators beyond chance."""

import numpy as np

from mvsent.curate.labels import Labels, vote_counts


def krippendorff_alpha(votes: Labels) -> float | None:
    """Krippendorff's nominal alpha of votes [N, K]: 1 is perfect agreement, 0 chance, below 0 disagreement.

    None if undefined: no tweet has two votes, or all such votes are the same.

    >>> krippendorff_alpha(np.array([[2, 2], [0, 0], [1, 1]], dtype=np.int8))
    1.0
    >>> krippendorff_alpha(np.array([[2], [0]], dtype=np.int8)) is None
    True

    Reference: Krippendorff 2011, "Computing Krippendorff's alpha-reliability", section C. The package
    krippendorff gives the same value (tested), but is too slow for a million tweets.
    """
    counts = vote_counts(votes).T  # [3, N]
    n_votes = counts.sum(axis=0)
    counts = counts * (n_votes > 1)  # a vote without a second one cannot be compared
    totals = counts.sum(axis=1).astype(np.float64)
    n = totals.sum()
    if np.count_nonzero(totals) < 2:
        return None
    agreeing_pairs = ((counts * (counts - 1)).sum(axis=0) / np.maximum(n_votes - 1, 1)).sum()
    agreeing_by_chance = (totals * (totals - 1)).sum() / (n - 1)
    return float((agreeing_pairs - agreeing_by_chance) / (n - agreeing_by_chance))
