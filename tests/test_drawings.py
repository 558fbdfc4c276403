"""What the demonstration draws is the same every time, differs by mood, and shows every case of the rules."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mvsent.pairs import Label
from mvsent.standin import tweets
from mvsent.standin.drawings import draw_picture
from mvsent.standin.drawn_mvsa import CASES, Damage, draw_dataset, plan
from mvsent.standin.tweets import write_tweet

moods = st.sampled_from(list(Label))


@settings(max_examples=20, deadline=None)
@given(mood=moods, seed=st.integers(0, 10**6), width=st.integers(16, 90), height=st.integers(16, 90))
def test_a_picture_has_the_size_asked_for_and_is_the_same_again(
    mood: Label, seed: int, width: int, height: int
) -> None:
    picture = draw_picture(mood, seed, (width, height))
    assert (picture.mode, picture.size) == ("RGB", (width, height))
    assert picture.tobytes() == draw_picture(mood, seed, (width, height)).tobytes()


def test_pictures_of_different_seeds_and_moods_differ() -> None:
    drawn = {draw_picture(mood, seed, (64, 48)).tobytes() for mood in Label for seed in range(10)}
    assert len(drawn) == 30


def test_negative_pictures_are_mostly_darker_than_positive_ones() -> None:
    def brightness(mood: Label) -> float:
        return float(np.mean([np.asarray(draw_picture(mood, seed, (64, 48))).mean() for seed in range(30)]))

    assert brightness(Label.NEGATIVE) < brightness(Label.NEUTRAL) < brightness(Label.POSITIVE)


@given(mood=moods, seed=st.integers())
def test_a_tweet_is_the_same_again_and_carries_a_word_of_its_mood(mood: Label, seed: int) -> None:
    tweet = write_tweet(mood, seed)
    assert tweet == write_tweet(mood, seed)
    assert any(word in tweet for word in tweets.MOOD_WORDS[mood])


def test_the_first_rows_show_every_case_and_every_damage() -> None:
    rows = plan(60, seed=4)
    assert [(row.votes, row.damage) for row in rows[: len(CASES)]] == list(CASES)
    assert {row.damage for row in rows[: len(CASES)]} == set(Damage)


def test_ids_are_unique_and_both_encodings_and_retweets_occur() -> None:
    rows = plan(200, seed=0)
    assert len({row.id for row in rows}) == 200
    assert {row.encoding for row in rows} == {"utf-8", "gb18030"}
    assert any(row.retweet for row in rows)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawn") / "MVSA"
    draw_dataset(root, n_rows=40, seed=0)
    return root


def test_the_folder_has_the_published_layout(drawn: Path) -> None:
    lines = (drawn / "labelResultAll.txt").read_bytes().split(b"\r\n")
    assert lines[0] == b"ID\ttext,image\ttext,image\ttext,image"
    assert lines[1] == b"1\tpositive,positive\tpositive,positive\tpositive,positive"
    assert len(lines) == 42 and lines[-1] == b""
    with Image.open(drawn / "data" / "1.jpg") as picture:
        assert (picture.format, picture.size) == ("JPEG", (320, 240))


def test_each_damage_leaves_its_mark(drawn: Path) -> None:
    by_damage = {row.damage: row.id for row in plan(40, seed=0) if row.damage is not Damage.NONE}
    file = {damage: drawn / "data" / f"{id}.jpg" for damage, id in by_damage.items()}
    assert not file[Damage.PICTURE_MISSING].exists()
    assert file[Damage.PICTURE_EMPTY].read_bytes() == b""
    assert file[Damage.PICTURE_IS_HTML].read_bytes().startswith(b"<!DOCTYPE html>")
    with Image.open(file[Damage.PICTURE_TRUNCATED]) as picture, pytest.raises(OSError, match="truncated"):
        picture.load()
    assert not file[Damage.TEXT_MISSING].with_suffix(".txt").exists()


def test_gb18030_texts_are_not_valid_utf_8(drawn: Path) -> None:
    chinese = [row.id for row in plan(40, seed=0) if row.encoding == "gb18030" and row.damage is Damage.NONE]
    assert chinese
    for id in chinese:
        data = (drawn / "data" / f"{id}.txt").read_bytes()
        assert data.decode("gb18030").endswith("…\r\n")
        with pytest.raises(UnicodeDecodeError):
            data.decode("utf-8")


def test_one_annotator_makes_the_layout_of_mvsa_single(tmp_path: Path) -> None:
    draw_dataset(tmp_path, n_rows=3, seed=0, n_annotators=1)
    assert (tmp_path / "labelResultAll.txt").read_text().splitlines()[:2] == [
        "ID\ttext,image",
        "1\tpositive,positive",
    ]


def test_drawing_over_a_dataset_is_refused(tmp_path: Path) -> None:
    draw_dataset(tmp_path, n_rows=2, seed=0)
    with pytest.raises(FileExistsError):
        draw_dataset(tmp_path, n_rows=2, seed=0)
