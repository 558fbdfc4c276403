"""Near texts without comparing all pairs: the pairs that scikit-learn finds by comparing all."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics.pairwise import cosine_similarity

from mvsent.curate import near_texts
from mvsent.curate.near_texts import TooManyPairs, near_text_pairs

WORDS = ("rain", "again", "so happy", "monday", "the", "river walk", "x", "ünï", "love love", "at nine", "42")

drawn_texts = st.lists(st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join), max_size=12)
"""Few words, so that many texts are near each other, and as many that are nearly so."""


def by_comparing_all(texts: list[str], min_cosine: float) -> list[list[int]]:
    try:
        vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5)).fit_transform(texts)
    except ValueError:  # no n-gram in any text
        return []
    cosine = cosine_similarity(vectors)
    return np.argwhere(np.triu(cosine, 1) > min_cosine).tolist()


@pytest.mark.slow
@settings(max_examples=200)
@given(drawn_texts, st.sampled_from([0.71, 0.8, 0.95]))
def test_the_pairs_are_those_that_scikit_learn_finds_among_all(texts: list[str], min_cosine: float) -> None:
    texts = list(dict.fromkeys(texts))
    at_threshold = [by_comparing_all(texts, min_cosine + shift) for shift in (-1e-5, 1e-5)]
    assume(at_threshold[0] == at_threshold[1])  # the vectors are in single precision
    assert near_text_pairs(texts, min_cosine).tolist() == at_threshold[0]


@pytest.mark.slow
@given(drawn_texts, st.integers(1, 4), st.integers(1, 5), st.integers(1, 40), st.integers(1, 3))
def test_they_are_the_same_however_the_texts_are_cut(
    texts: list[str], rows: int, parts: int, products: int, compared: int
) -> None:
    texts = list(dict.fromkeys(texts))
    expected = near_text_pairs(texts).tolist()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("ROWS", rows), ("PARTS", parts), ("PRODUCTS", products), ("COMPARED", compared)):
            patch.setattr(near_texts, f"_{name}", value)
        assert near_text_pairs(texts).tolist() == expected


@pytest.mark.slow
def test_copies_are_found_among_thousands_of_texts_that_share_words() -> None:
    rng = np.random.default_rng(0)
    words = np.array(
        [f"{a}{b}{c}" for a in "bcdfgklmnprst" for b in "aeiou" for c in ("n", "ring", "ster", "d")]
    )
    texts = [" ".join(rng.choice(words, 14)) for _ in range(3000)]
    copies = [" ".join(text.split()[:-1]) for text in texts[:50]]
    found = near_text_pairs([*texts, *copies])
    assert found.tolist() == by_comparing_all([*texts, *copies], 0.8)
    assert {(i, 3000 + i) for i in range(50)} <= set(map(tuple, found.tolist()))


def test_texts_from_a_template_are_too_many_to_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_texts, "MAX_COMPARED", 100)
    texts = [f"the photo of the day, number {number}, by the same studio in town" for number in range(40)]
    assert near_text_pairs(texts[:12]).tolist() == by_comparing_all(texts[:12], 0.8) != []
    with pytest.raises(TooManyPairs):
        near_text_pairs(texts)


def test_texts_without_letters_are_near_nothing() -> None:
    assert near_text_pairs([]).tolist() == near_text_pairs(["", " "]).tolist() == []
    long = "some text that goes on and on"
    assert near_text_pairs(["", long, f"{long} and on", " "]).tolist() == [[1, 2]]


def test_a_cosine_that_prefixes_do_not_tell_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.7 is not above"):
        near_text_pairs(["a", "b"], 0.7)
