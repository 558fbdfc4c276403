"""Texts that are almost equal, such as cut retweets, by the cosine of their character n-grams.

Not all pairs are compared. Texts are vectors of length one. The n-grams of a text are ordered by their
frequency, the rarest first, and cut into a prefix and a rest. If two texts share no n-gram of their prefixes,
their cosine is at most the length of a rest. Few texts share a rare n-gram, and only those that do are
compared. The result is the same as that of comparing all.

Reference: Bayardo, Ma, Srikant 2007, "Scaling up all pairs similarity search".
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

MIN_COSINE = 0.8
MAX_TEXTS = 500_000
"""Captions take 4 to 6 GB, and three to ten minutes of a core."""
MAX_COMPARED = 1 << 25
"""Pairs of texts that are compared, which takes five minutes; they are many if texts come from templates."""

_REST = 0.7  # length of a rest; with a smaller one more pairs share an n-gram, and fewer of them are compared
_ROWS = 1 << 14  # texts cut at a time
_PARTS = 8  # of the texts, each compared with itself and the later ones
_PRODUCTS = 1 << 23  # common n-grams in memory at a time
_COMPARED = 1 << 14  # pairs compared at a time
_SLACK = 1e-4  # sums in single precision are less exact than this


class TooManyPairs(Exception):
    """More pairs than MAX_COMPARED would have to be compared."""


def near_text_pairs(texts: Sequence[str], min_cosine: float = MIN_COSINE) -> Ints:
    """Find the pairs of texts [P, 2] whose character TF-IDF has a cosine above `min_cosine`.

    Each pair is listed once, the lower index first, in ascending order.

    Args:
        texts: [N], such as `normalised_text` makes; an empty one is near no other.
        min_cosine: above 0.7, the length of the rests.

    Raises: TooManyPairs if too many texts share their rare n-grams.

    >>> near_text_pairs(["the cat sat on the mat", "dogs", "the cat sat on the ma"]).tolist()
    [[0, 2]]
    """
    if min_cosine <= _REST:
        raise ValueError(f"a cosine of {min_cosine} is not above {_REST}")
    found = [np.zeros((0, 2), np.int64)]
    n_compared = 0
    if any(text.strip() for text in texts):
        vectors = _vectors(texts)
        for pairs in _sharing(*_prefixes(vectors), min_cosine):
            n_compared += len(pairs)
            if n_compared > MAX_COMPARED:
                raise TooManyPairs
            for start in range(0, len(pairs), _COMPARED):
                first, second = pairs[start : start + _COMPARED].T
                products = vectors[first].multiply(vectors[second])
                near = products.sum(axis=1, dtype=np.float64) > min_cosine
                found.append(pairs[start : start + _COMPARED][near])
    every = np.concatenate(found)
    return every[np.lexsort((every[:, 1], every[:, 0]))]


def _vectors(texts: Sequence[str]) -> csr_array:
    """TF-IDF [N, n-grams], rows of length one; columns in the order of their frequency, the rarest first."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    made = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), dtype=np.float32).fit_transform(texts)
    vectors = csr_array(made)
    frequency = np.bincount(vectors.indices, minlength=vectors.shape[1])
    rank = np.empty(len(frequency), vectors.indices.dtype)
    rank[np.argsort(frequency, kind="stable")] = np.arange(len(frequency))
    vectors.indices = rank[vectors.indices]
    vectors.has_sorted_indices = False
    vectors.sort_indices()
    return vectors


def _prefixes(vectors: csr_array) -> tuple[csr_array, Floats]:
    """The prefixes of all texts [N, n-grams], and the lengths of the rests [N]."""
    kept = np.zeros(vectors.nnz, dtype=bool)
    rest = np.zeros(vectors.shape[0], dtype=np.float32)
    begins = vectors.indptr
    for first in range(0, len(rest), _ROWS):
        last = min(first + _ROWS, len(rest))
        squares = vectors.data[begins[first] : begins[last]].astype(np.float64) ** 2
        text = np.repeat(np.arange(last - first), np.diff(begins[first : last + 1]))
        before = np.cumsum(squares) - squares
        totals = np.bincount(text, squares, minlength=last - first)
        before -= (np.cumsum(totals) - totals)[text]
        in_prefix = before < 1 - _REST**2 + _SLACK
        kept[begins[first] : begins[last]] = in_prefix
        rest[first:last] = np.sqrt(np.bincount(text, squares * ~in_prefix, minlength=last - first))
    begin = np.concatenate([[0], np.cumsum(kept)])[begins]
    return csr_array((vectors.data[kept], vectors.indices[kept], begin), shape=vectors.shape), rest


def _sharing(prefixes: csr_array, rest: Floats, min_cosine: float) -> Iterator[Ints]:
    """Pairs [P, 2] of texts, the lower index first, whose cosine may be above `min_cosine`: each once."""
    size = max(_ROWS, -(-len(rest) // _PARTS))
    for begin in range(0, len(rest), size):
        turned = prefixes[begin : begin + size].T.tocsr()
        products = np.cumsum(np.diff(turned.indptr).astype(np.int64)[prefixes.indices])
        so_far = np.concatenate([[0], products])[prefixes.indptr]  # [N + 1], of the texts before each
        first = begin
        while first < len(rest):
            last = int(np.searchsorted(so_far, so_far[first] + _PRODUCTS, side="right")) - 1
            last = min(max(last, first + 1), len(rest))
            shared = prefixes[first:last] @ turned
            likely = np.flatnonzero(shared.data > min_cosine - _REST - _SLACK)
            later = np.searchsorted(shared.indptr, likely, side="right") - 1 + first
            earlier = shared.indices[likely].astype(np.int64) + begin
            # The products of the prefixes, and at most the length of a rest for all that follows.
            bound = shared.data[likely] + np.maximum(rest[earlier], rest[later])
            possible = (earlier < later) & (bound > min_cosine - _SLACK)
            yield np.stack([earlier[possible], later[possible]], axis=1)
            first = last
