"""Weak labels: a pair gets the sentiment of the query that found it."""

import math
from collections.abc import Sequence
from typing import Literal

from mvsent.pairs import Label
from mvsent.reasons import Reason

Conflict = Literal["drop", "first", "mean"]


def weak_label(
    sentiments: Sequence[float], conflict: Conflict = "drop", min_sentiment: float = 0.0
) -> Label | Reason:
    """The label of a pair found by queries with these sentiments, in that order; or the reason to drop it.

    The sign decides. If signs differ, "drop" gives `DUPLICATE_QUERY_CONFLICT`, "first" uses the first query,
    and "mean" the mean, which must not be zero and must reach `min_sentiment`, as every query does; otherwise
    the result is `DUPLICATE_QUERY_CONFLICT`.

    >>> weak_label([1.5, 0.4]), weak_label([-0.3])
    (<Label.POSITIVE: 2>, <Label.NEGATIVE: 0>)
    >>> weak_label([1.5, -0.4])
    <Reason.DUPLICATE_QUERY_CONFLICT: 'duplicate-query-conflict'>
    >>> weak_label([-0.4, 1.5], "first"), weak_label([-0.4, 1.5], "mean")
    (<Label.NEGATIVE: 0>, <Label.POSITIVE: 2>)

    Raises: ValueError if there are no sentiments, or one is zero or not finite, which no lexicon allows.
    """
    if not sentiments or not all(map(math.isfinite, sentiments)) or 0 in sentiments:
        raise ValueError(f"not the sentiments of queries: {list(sentiments)}")
    if len({sentiment > 0 for sentiment in sentiments}) == 1 or conflict == "first":
        return _sign(sentiments[0])
    mean = math.fsum(sentiments) / len(sentiments)  # exact in any order
    if conflict == "mean" and mean != 0 and abs(mean) >= min_sentiment:
        return _sign(mean)
    return Reason.DUPLICATE_QUERY_CONFLICT


def _sign(sentiment: float) -> Label:
    return Label.POSITIVE if sentiment > 0 else Label.NEGATIVE
