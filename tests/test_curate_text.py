"""Texts: decoded from what MVSA holds, cleaned, and compared."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from mvsent.curate.text import clean_text, decode_text, normalised_text

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)


def test_utf8_is_read_as_utf8():
    assert decode_text("café 😀 …".encode()) == "café 😀 …"


def test_gb18030_ellipsis_is_not_mojibake():
    assert decode_text(b"so sad\xa1\xad") == "so sad…"


@given(st.text(st.characters(min_codepoint=0x4E00, max_codepoint=0x9FA5), min_size=3))
def test_chinese_in_gb18030_is_read_unless_its_bytes_are_utf8_too(text):
    data = text.encode("gb18030")
    try:
        expected = data.decode("utf-8")
    except UnicodeDecodeError:
        expected = text
    assert decode_text(data) == expected


def test_byte_order_marks_decide_and_go():
    for encoding in ("utf-8-sig", "utf-16"):
        assert decode_text("naïve ☀".encode(encoding)) == "naïve ☀"


def test_bytes_in_no_encoding_lose_only_themselves():
    assert decode_text(b"good \xff\xff day") == "good \ufffd\ufffd day"


@given(texts.filter(lambda text: not text.startswith("\ufeff")))
def test_any_utf8_text_comes_back(text):
    assert decode_text(text.encode()) == text


@given(st.binary(max_size=200))
def test_any_bytes_decode_to_storable_text(data):
    text = decode_text(data)
    assert text.encode("utf-8").decode("utf-8") == text


def test_entities_are_resolved_once():
    assert clean_text("Tom &amp; Jerry &lt;3 &#128512; &amp;lt;") == "Tom & Jerry <3 😀 &lt;"


def test_combining_accents_are_composed():
    assert clean_text("cafe\u0301") == "caf\u00e9"


def test_white_space_of_every_kind_becomes_one_space():
    assert clean_text(" a\t\u00a0\u3000b\r\n\u2028c ") == "a b c"


def test_zero_width_control_and_direction_characters_go():
    assert clean_text("so\u200b ha\u200cp\u2060py\ufeff\x00\x07\u202e!") == "so happy!"


def test_joined_emoji_stay_one_emoji():
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    assert clean_text(f"my {family} ok\u200d") == f"my {family} ok"


def test_case_urls_names_and_hashtags_stay():
    text = "RT @Ana: So HAPPY #sun http://t.co/Xy"
    assert clean_text(text) == text


@given(texts)
def test_clean_text_is_single_spaced_composed_and_visible(text):
    clean = clean_text(text)
    assert clean == " ".join(clean.split())
    assert clean == unicodedata.normalize("NFC", clean)
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs") and c != "\u200d" for c in clean)


@given(texts.filter(lambda text: "&" not in text))
def test_cleaning_twice_changes_nothing(text):
    assert clean_text(clean_text(text)) == clean_text(text)


def test_a_retweet_is_the_same_text():
    original = "What a DAY! #beach http://t.co/abc"
    assert normalised_text(f"RT @friend: {original}") == normalised_text(original) == "what a day beach"
    assert normalised_text("what a day — beach… https://t.co/other") == "what a day beach"


def test_words_that_only_begin_with_rt_stay():
    assert normalised_text("RTfm please") == "rtfm please"


def test_emoji_tell_texts_apart():
    assert normalised_text("monday 😀") != normalised_text("monday 😡")


def test_nothing_but_links_and_names_is_nothing():
    assert normalised_text("@ana @bob http://t.co/1 !!!") == ""


@given(texts)
def test_case_and_punctuation_at_the_end_do_not_matter(text):
    assert normalised_text(text + " !!") == normalised_text(text)
