"""Texts that are almost equal, such as cut retweets, by the cosine of their character n-grams."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

MIN_COSINE = 0.8
_CELLS = 1 << 24  # cosines in memory at a time: most texts share an n-gram


def near_text_pairs(texts: Sequence[str], some: Ints | None = None, min_cosine: float = MIN_COSINE) -> Ints:
    """Find the pairs of texts [P, 2] whose character TF-IDF has a cosine above `min_cosine`.

    Each pair begins with one of `some`; texts are not compared with themselves.

    Args:
        texts: [N], such as `normalised_text` makes; an empty one is near no other.
        some: indices of the texts to compare with all; None: every one.

    >>> near_text_pairs(["the cat sat on the mat", "the cat sat on the ma", "dogs"]).tolist()
    [[0, 1], [1, 0]]
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    some = np.arange(len(texts)) if some is None else some
    pairs = [np.zeros((0, 2), np.int64)]
    if not any(text.strip() for text in texts):
        return pairs[0]
    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), dtype=np.float32).fit_transform(texts)
    turned = vectors.T.tocsr()
    n_rows = max(1, _CELLS // len(texts))
    for start in range(0, len(some), n_rows):
        rows = some[start : start + n_rows]
        cosine = (vectors[rows] @ turned).tocoo()
        near = (cosine.data > min_cosine) & (rows[cosine.row] != cosine.col)
        pairs.append(np.stack([rows[cosine.row[near]], cosine.col[near]], axis=1).astype(np.int64))
    found = np.concatenate(pairs)
    return found[np.lexsort((found[:, 1], found[:, 0]))]
