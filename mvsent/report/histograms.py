"""How often each number occurs: an array that grows with the largest number, not with the rows."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

PERCENTILES = (0, 5, 50, 95, 100)

Counts = npt.NDArray[np.int64]
"""Index = number, value = how often."""


def word_counts(texts: pa.Array) -> pa.Array:
    """Whitespace-separated words in each text; null where there is no text."""
    trimmed = pc.utf8_trim_whitespace(texts)
    n_words = pc.list_value_length(pc.utf8_split_whitespace(trimmed))
    return pc.if_else(pc.equal(trimmed, ""), 0, n_words)


def added(histogram: Counts, values: pa.Array) -> Counts:
    """The histogram with `values` counted in; nulls are not counted."""
    more = np.bincount(values.drop_null().to_numpy(), minlength=len(histogram))
    more[: len(histogram)] += histogram
    return more


def percentiles(histogram: Counts) -> list[int]:
    """The smallest values that reach each share of `PERCENTILES`.

    >>> percentiles(np.array([0, 3, 0, 1]))
    [1, 1, 1, 3, 3]
    """
    reached = np.cumsum(histogram)
    if reached[-1] == 0:
        return []
    wanted = np.maximum(np.ceil(np.array(PERCENTILES) / 100 * reached[-1]), 1)
    return [int(value) for value in np.searchsorted(reached, wanted)]
