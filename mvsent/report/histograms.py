"""Counts by value: arrays that grow with the largest value, not with the number of rows."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

PERCENTILES = (0, 5, 50, 95, 100)

Counts = npt.NDArray[np.int64]
"""Element n is the number of rows with value n."""


def word_counts(texts: pa.Array) -> pa.Array:
    """Number of whitespace-separated words in each text; null if the text is null."""
    trimmed = pc.utf8_trim_whitespace(texts)
    n_words = pc.list_value_length(pc.utf8_split_whitespace(trimmed))
    return pc.if_else(pc.equal(trimmed, ""), 0, n_words)  # splitting "" gives one empty word


def added(histogram: Counts, values: pa.Array) -> Counts:
    """The histogram with `values` added; nulls are not counted."""
    more = np.bincount(values.drop_null().to_numpy(), minlength=len(histogram))
    more[: len(histogram)] += histogram
    return more


def percentiles(histogram: Counts) -> list[int]:
    """The smallest value that reaches each share of `PERCENTILES`; empty if there are no values.

    >>> percentiles(np.array([0, 3, 0, 1]))
    [1, 1, 1, 3, 3]
    """
    reached = np.cumsum(histogram)
    if reached[-1] == 0:
        return []
    wanted = np.maximum(np.ceil(np.array(PERCENTILES) / 100 * reached[-1]), 1)  # 1 row for share 0
    return [int(value) for value in np.searchsorted(reached, wanted)]
