"""Ten parts of the rows with equal shares of every class, of which every protocol is made."""

import warnings

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedKFold

from mvsent.errors import SplitError

Ints = npt.NDArray[np.int64]


def tenths(labels: npt.NDArray[np.int8], groups: Ints | None, seed: int) -> Ints:
    """Divide rows into ten parts with equal shares of every class: [N], 0 … 9; a group stays in one part.

    Raises: SplitError if no class has ten rows.
    """
    counts = np.bincount(labels)
    # StratifiedKFold needs one class with as many rows as folds; about smaller classes it only warns.
    if len(labels) == 0 or counts.max() < 10:
        raise SplitError(f"{len(labels)} rows are too few for tenths", "At least one class needs ten rows")
    if groups is not None:
        return _grouped_tenths(labels, groups, seed)
    part = np.empty(len(labels), dtype=np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # `make_split` warns once, naming the class
        folds = StratifiedKFold(10, shuffle=True, random_state=seed).split(np.zeros(len(labels)), labels)
        for number, (_, test) in enumerate(folds):
            part[test] = number
    return part


def _grouped_tenths(labels: npt.NDArray[np.int8], groups: Ints, seed: int) -> Ints:
    """Assign groups, the largest first, to the part with fewest rows of their classes; single rows fill up.

    scikit-learn's StratifiedGroupKFold has no shortcut for single rows: it takes seconds for the 4511 rows of
    MVSA-Single, and balances the classes less well.
    """
    rng = np.random.default_rng(seed)
    class_size = np.maximum(np.bincount(labels), 1)
    part = np.full(len(labels), -1, dtype=np.int64)
    filled = np.zeros((10, len(class_size)), dtype=np.int64)
    # The rows of each group of two or more, the largest first, groups of equal size in random order.
    _, group = np.unique(groups, return_inverse=True)
    group = rng.permutation(group.max() + 1)[group]
    size = np.bincount(group)
    members = np.lexsort((group, -size[group]))
    members = members[size[group[members]] > 1]
    starts = np.flatnonzero(np.diff(group[members])) + 1
    for rows in np.split(members, starts) if len(members) else []:
        in_group = np.bincount(labels[rows], minlength=len(class_size))
        # Both counts as shares of their class, so that a rare class weighs as much as a frequent one.
        part[rows] = chosen = int(np.argmin(filled @ (in_group / class_size**2)))
        filled[chosen] += in_group
    order = rng.permutation(len(labels))
    for label in range(len(class_size)):
        single = order[(part[order] < 0) & (labels[order] == label)]
        part[single] = np.repeat(np.arange(10), _top_up(filled[:, label], len(single)))
    numbers: Ints = rng.permutation(10)[part]  # otherwise the largest group would always be in part 0
    return numbers


def _top_up(filled: Ints, n: int) -> Ints:
    """The number of further rows that each part gets of `n`, so that the parts are as equal as possible.

    >>> _top_up(np.array([4, 0, 1]), 4).tolist()
    [0, 3, 1]
    """
    order = np.argsort(filled, kind="stable")
    level = filled[order]
    needed = level * np.arange(len(level)) - (np.cumsum(level) - level)  # raises all lower parts to this one
    low = order[: np.searchsorted(needed, n, side="right")]
    height, rest = divmod(int(filled[low].sum()) + n, len(low))
    extra = np.zeros_like(filled)
    extra[low] = height - filled[low]
    extra[low[:rest]] += 1
    return extra
