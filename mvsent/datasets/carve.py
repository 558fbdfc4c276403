"""Validation rows for folds that have none, taken from their training rows."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from mvsent.errors import SplitError
from mvsent.splits import TRAIN, VALIDATION, Split

Ints = npt.NDArray[np.int64]


def carve_validation(
    split: Split, labels: npt.NDArray[np.int8], groups: Ints, share: float, seed: int
) -> Split:
    """Make a `share` of the training rows validation rows, in every fold that has no validation rows.

    Each class gives the same share of its rows, and keeps at least one. Rows of a group stay together.

    Args:
        labels: int8 [N].
        groups: int [N], the groups of duplicates.
        share: of the training rows, between 0 and 1.

    Raises: SplitError if a fold has too few training rows to give one.
    """
    roles = split.roles.copy()
    for fold in range(split.n_folds):
        train = split.rows(fold, TRAIN)
        if len(split.rows(fold, VALIDATION)) or not len(train):
            continue
        rng = np.random.default_rng((seed, fold))
        taken = train[chosen_rows(labels[train].astype(np.int64), groups[train], share, rng)]
        if not len(taken):
            raise SplitError(
                f"{split.protocol}: fold {fold} has only {len(train)} training rows for a share of {share:g}",
                "Give a larger --validation-share",
            )
        roles[fold, taken] = VALIDATION
    return replace(split, roles=roles)


def chosen_rows(labels: Ints, groups: Ints, share: float, rng: np.random.Generator) -> Ints:
    """Indices of about a `share` of the rows of each class, with all rows of a group or none of them."""
    counts = np.bincount(labels)
    wanted = np.minimum(np.rint(share * counts).astype(np.int64), np.maximum(counts - 1, 0))
    _, group = np.unique(groups, return_inverse=True)
    size = np.bincount(group)
    # Groups of several rows first: a share of them, in random order, as far as no class gets too many.
    shared = rng.permutation(np.flatnonzero(size > 1))
    chosen = np.zeros(len(labels), dtype=bool)
    n_groups = round(share * len(shared))
    by_group = np.argsort(group, kind="stable")
    starts = np.cumsum(size) - size
    for number in shared.tolist():
        if n_groups == 0:
            break
        rows = by_group[starts[number] : starts[number] + size[number]]
        in_group = np.bincount(labels[rows], minlength=len(counts))
        if (in_group <= wanted).all():
            chosen[rows] = True
            wanted -= in_group
            n_groups -= 1
    single = rng.permutation(np.flatnonzero(size[group] == 1))
    for label in range(len(counts)):
        chosen[single[labels[single] == label][: wanted[label]]] = True
    return np.flatnonzero(chosen)
