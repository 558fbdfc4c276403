"""Texts to word numbers."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvsent.errors import RunError
from mvsent.features.vocabulary import PAD, UNK, Vocabulary, tokenize

texts = st.lists(st.text(max_size=40), max_size=8)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("see https://t.co/a1?b=c#d now", ["see", "<url>", "now"]),
        ("pic.twitter.com/x9 www.x.org", ["<url>", "<url>"]),
        ("cut off http", ["cut", "off", "<url>"]),
        ("https is http2", ["<url>", "is", "http2"]),
        ("@Bob_1: hi me@x.org", ["<user>", ":", "hi", "me", "@", "x", ".", "org"]),
        (
            "#happy #BestDay #NYCParty #best_day #50shades",
            ["happy", "best", "day", "nyc", "party", "best", "day", "50", "shades"],
        ),
        ("# 1", ["#", "1"]),
        (
            "DON'T can’t I'm she'd 'quoted'",
            ["do", "n't", "ca", "n't", "i", "'m", "she", "'d", "'", "quoted", "'"],
        ),
        ("rock'n'roll o'clock", ["rock'n'roll", "o'clock"]),
        ("no!!! what??!", ["no", "!", "what", "?", "!"]),
        ("wait.... what…", ["wait", "...", "what", "..."]),
        (":) :-( ;D <3 <33 a:b 10:30", [":)", ":-(", ";D", "<3", "<33", "a", ":", "b", "10:30"]),
        ("❤️ 👍🏽 🇫🇷 ❤❤", ["❤", "👍", "🇫🇷", "❤", "❤"]),
        ("👨‍👩‍👧 family", ["👨‍👩‍👧", "family"]),
        (
            "3.50 1,000 1st 2nd 5k U.S. a.m. end.",
            ["3.50", "1,000", "1st", "2nd", "5k", "u.s.", "a.m.", "end", "."],
        ),
        ("well-known café Привет", ["well", "-", "known", "café", "привет"]),
        ("ｗｏｗ！？", ["ｗｏｗ", "!", "?"]),
        ("", []),
        (" \t\n ", []),
    ],
)
def test_tokens_are_those_of_the_table(text: str, tokens: list[str]) -> None:
    assert tokenize(text) == tokens


@given(st.text())
def test_no_token_is_empty_or_holds_white_space(text: str) -> None:
    assert all(token and token.split() == [token] for token in tokenize(text))


@given(st.text())
def test_every_letter_and_digit_outside_links_names_and_tags_survives(text: str) -> None:
    plain = "".join(char for char in text if char not in "@＠#＃/.").replace("http", "")
    kept = "".join(tokenize(plain))
    assert [c for c in kept.casefold() if c.isalnum()] == [c for c in plain.casefold() if c.isalnum()]


@given(texts, st.integers(1, 12))
def test_encoding_never_exceeds_max_words_and_pads_only_at_the_end(texts: list[str], max_words: int) -> None:
    encoded = Vocabulary.build(texts[::2]).encode(texts, max_words)
    assert encoded.shape[0] == len(texts)
    assert 1 <= encoded.shape[1] <= max_words
    for row, text in zip(encoded.tolist(), texts, strict=True):
        n_words = min(max_words, max(1, len(tokenize(text))))
        assert PAD not in row[:n_words]
        assert set(row[n_words:]) <= {PAD}


@given(texts)
def test_a_vocabulary_knows_every_word_that_it_was_built_from(texts: list[str]) -> None:
    vocabulary = Vocabulary.build(texts)
    for text in texts:
        numbers = vocabulary.encode([text], max_words=1000)[0]
        assert [vocabulary.words[n] for n in numbers] == (tokenize(text) or ["<unk>"])


@given(texts=texts)
def test_saving_and_loading_gives_the_same_vocabulary(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "vocabulary.txt"
    vocabulary = Vocabulary.build(texts)
    vocabulary.save(path)
    assert Vocabulary.load(path).words == vocabulary.words
    assert path.read_bytes().count(b"\n") == len(vocabulary)


def test_a_text_with_no_known_word_is_unknown_words() -> None:
    assert Vocabulary(["good"]).encode(["zzz yyy", ""], max_words=5).tolist() == [[UNK, UNK], [UNK, PAD]]


def test_words_are_ordered_by_frequency_then_alphabet_and_rare_ones_left_out() -> None:
    assert Vocabulary.build(["b a a", "c b a", "d"], min_count=2).words == ["<pad>", "<unk>", "a", "b"]
    assert Vocabulary.build(["b a"]).words[2:] == ["a", "b"]


def test_an_empty_vocabulary_has_two_words() -> None:
    assert len(Vocabulary([])) == 2


@pytest.mark.parametrize("content", [None, b"", b"good\nday\n", b"\xff\xfe"])
def test_a_file_that_is_no_vocabulary_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "vocabulary.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunError, match=r"vocabulary\.txt.*Train the fold again"):
        Vocabulary.load(path)
