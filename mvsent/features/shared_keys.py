"""Links between rows: by owner, or by tags that few rows share."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

NO_ROW = -1
MOST_COMMON = 200
"""A key that more training rows than this share is ignored: it says little and costs much."""

Ints = npt.NDArray[np.int64]


def linked_rows(keys: Sequence[Iterable[str]], train: Ints, n_links: int) -> Ints:
    """For each row the training rows that share most keys with it: `[N, n_links]`, filled up with `NO_ROW`.

    Only training rows are linked to, so that an answer depends on no other test row. A row is not linked to
    itself. Ties go to the earlier row.

    >>> linked_rows([["a"], ["a", "b"], ["b"], []], np.array([0, 1]), n_links=2).tolist()
    [[1, -1], [0, -1], [1, -1], [-1, -1]]
    """
    holders: dict[str, list[int]] = defaultdict(list)
    for row in train.tolist():
        for key in set(keys[row]):
            holders[key].append(row)
    linked = np.full((len(keys), n_links), NO_ROW, dtype=np.int64)
    for row, own in enumerate(keys):
        shared: dict[int, int] = defaultdict(int)
        for key in set(own):
            if len(holders.get(key, ())) <= MOST_COMMON:
                for other in holders.get(key, ()):
                    shared[other] += other != row
        best = sorted((other for other, n in shared.items() if n), key=lambda other: (-shared[other], other))
        linked[row, : len(best[:n_links])] = best[:n_links]
    return linked
