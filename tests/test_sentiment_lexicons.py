"""`--lexicon all`: scores by several lexicons, compared with those that their packages give themselves."""

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvsent.config import TrainSettings
from mvsent.errors import RunError, WeightsError
from mvsent.features import sentiment_lexicons
from mvsent.features.sentiment_lexicons import COLUMNS, OF_ENTRIES, all_scores, lexicons_sha256
from mvsent.features.tweet_words import spelled_out
from mvsent.inference.model import load
from mvsent.runs.inputs.lexicon import lexicon_scores
from mvsent.runs.train import train

afinn = pytest.importorskip("afinn")
textblob = pytest.importorskip("textblob")
vader = pytest.importorskip("vaderSentiment.vaderSentiment")
pytest.importorskip("wordsegment")

TWEETS = [
    "RT @NiceMan: sooo HAPPY today!!! #bestdayever #ThrowBack :-)) http://t.co/x1",
    "This is not good, it does not work and I don't like it :(",
    "an awful, horrible day … but a very nice evening",
    "table",
    "",
    "?? ??",
    "<3 </3 xD",
    "can't stand it, no fun #disgraced",
]
PHRASES = (
    "not good",
    "very",
    "happy",
    "sad",
    "GREAT",
    "!!!",
    "#lovemydog",
    "awful",
    "but",
    ":)",
    "<3",
    "the",
    "no",
    "n't",
)
tweets = st.lists(st.sampled_from(PHRASES) | st.text(max_size=8), max_size=12).map(" ".join)


def column(texts: list[str], name: str) -> list[float]:
    return all_scores(texts)[:, COLUMNS.index(name)].tolist()


def assert_as_the_packages_say(texts: list[str]) -> None:
    read = [spelled_out(text) for text in texts]
    analyzer, words = vader.SentimentIntensityAnalyzer(), afinn.Afinn(emoticons=True)
    for name in ("neg", "neu", "pos", "compound"):
        expected = [analyzer.polarity_scores(text)[name] for text in read]
        assert column(texts, f"vader_{name}") == pytest.approx(expected, abs=1e-6)
    assert column(texts, "afinn_sum") == pytest.approx([words.score(text) for text in read])
    most = [max(words.scores(text), default=0) for text in read]
    assert column(texts, "afinn_max") == pytest.approx(most)
    for name in ("polarity", "subjectivity"):
        expected = [getattr(textblob.TextBlob(text).sentiment, name) for text in read]
        assert column(texts, f"textblob_{name}") == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_scores_are_those_of_the_packages_on_the_same_texts() -> None:
    assert_as_the_packages_say(TWEETS)


@pytest.mark.slow
@given(st.lists(tweets, min_size=1, max_size=4))
def test_scores_are_those_of_the_packages_on_any_texts(texts: list[str]) -> None:
    assert_as_the_packages_say(texts)


@given(tweets)
def test_scores_are_finite_repeatable_and_those_of_each_text_alone(tweet: str) -> None:
    alone = all_scores([tweet])
    assert alone.shape == (1, len(COLUMNS)) and alone.dtype == np.float32
    assert np.isfinite(alone).all()
    assert (all_scores(["happy", tweet])[1] == alone[0]).all()


def test_every_column_has_a_name_of_its_own() -> None:
    assert len(set(COLUMNS)) == len(COLUMNS) == 24
    assert all_scores([]).shape == (0, 24)


def test_statistics_are_those_of_the_entries() -> None:
    found = dict(zip(COLUMNS, all_scores(["good bad awful"])[0].tolist(), strict=True))
    assert [found[f"afinn_{name}"] for name in OF_ENTRIES] == pytest.approx([-3, -1, 3, -3, 1, 2])
    assert found["vader_words_max"] == pytest.approx(1.9) and found["vader_words_n_negative"] == 2
    assert found["textblob_entries_n_positive"] == 1 and found["textblob_entries_min"] == -1


def test_a_text_without_an_entry_is_zeros() -> None:
    assert all_scores(["", "table"]).tolist() == [
        [0] * 24,
        [0, 1, *([0] * 22)],
    ]  # VADER: all of it is neutral


def test_a_negation_turns_the_scores_of_packages_that_know_it() -> None:
    for name in ("vader_compound", "afinn_sum", "textblob_polarity"):
        plain, negated = column(["this is good", "this is not good"], name)
        assert negated < 0 < plain


def test_a_hashtag_counts_as_its_words() -> None:
    assert all_scores(["#bestdayever"]).tolist() == all_scores(["best day ever"]).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("text", ["#" * 10**5, "good " * 20_000, "a" * 10**5, ":)" * 50_000, "not " * 25_000])
def test_long_texts_take_seconds_at_most(text: str) -> None:
    all_scores(["good"])
    began = time.process_time()
    all_scores([text])
    assert time.process_time() - began < 6


def test_missing_packages_are_named_with_the_way_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    find = sentiment_lexicons.util.find_spec
    monkeypatch.setattr(
        sentiment_lexicons.util,
        "find_spec",
        lambda name: None if name in ("afinn", "textblob") else find(name),
    )
    for call in (lambda: lexicon_scores(["good"], "all"), lexicons_sha256):
        with pytest.raises(
            WeightsError,
            match=r"--lexicon all: not installed: afinn, textblob\. pip install \"mvsent\[lexicons\]\"",
        ):
            call()


def test_the_hash_changes_with_a_lexicon_and_not_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    before = lexicons_sha256()
    assert lexicons_sha256() == before
    monkeypatch.setitem(sentiment_lexicons._afinn()[0], "good", 4)
    assert lexicons_sha256() != before


@pytest.mark.slow
def test_a_run_records_the_lexicons_and_refuses_others(
    small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = TrainSettings(
        dataset=str(small_dataset),
        model="logistic",
        weights="random",
        words="random",
        text_vector="none",
        lexicon="all",
        folds=[0],
        threads=1,
    )
    run = train(settings, out=tmp_path / "run", quiet=True).run
    config = (run / "config.toml").read_text()
    assert f'lexicon = "{lexicons_sha256()}"' in config
    assert "n_lexicon = 24" in config
    assert load(run).predict(texts=["what a wonderful day"]).errors == [""]
    monkeypatch.setitem(sentiment_lexicons._vader().lexicon, "good", 4.0)
    with pytest.raises(RunError, match="lexicon has changed since training"):
        load(run)
