"""Table I of the paper: number of pairs by label in its four datasets."""

from collections.abc import Mapping
from types import MappingProxyType

from mvsent.pairs import LABEL_NAMES


def _counts(negative: int, neutral: int, positive: int) -> Mapping[str, int]:
    return MappingProxyType(dict(zip(LABEL_NAMES, (negative, neutral, positive), strict=True)))


PAPER_TABLE_I: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "mvsa-single": _counts(negative=1358, neutral=470, positive=2683),  # 4511
        "mvsa-multiple": _counts(negative=1298, neutral=4408, positive=11318),  # 17024
        "flickr": _counts(negative=147254, neutral=0, positive=129317),  # 276571
        "getty": _counts(negative=217557, neutral=0, positive=235732),  # 453289
    }
)
"""Dataset name → label name → number of pairs, as printed in arXiv 2012.08256."""
