"""From an HTML description to the text of a pair: docs/text-rules.md as examples."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvsent.curate.text import (
    MAX_MARKUP,
    check_length,
    clean_text,
    count_words,
    html_to_text,
    mask_query,
    plain_words,
)
from mvsent.reasons import Reason

DOCS = (Path(__file__).parents[1] / "docs/text-rules.md").read_text(encoding="utf-8")

texts = st.text(max_size=60)
# What the rules look at, in any order.
signs = st.sampled_from("aBé9 .-'_@#&/:木か😀\ufe0f\u20e3\u0301<>")
marks = st.sampled_from(["http://", "www.", ".com", "x.org", "<b>", "</p>", "<br>", "&amp;", "&#64;"])
pieces = st.lists(signs | marks, max_size=14).map("".join)


# HTML


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("Just a line\nand another", "Just a line and another"),
        ("Lake<br>Sky<br/>Sea<BR />Sun", "Lake Sky Sea Sun"),
        ("<p>One.</p><p>Two.</p>Three<div>Four</div>five", "One. Two. Three Four five"),
        ("<table><tr><td>a</td><td>b</td></tr></table><ul><li>c<li>d</ul>", "a b c d"),
        ("bold <b>ma</b>gic and <i>more</i>!", "bold magic and more!"),
        ('<a href="http://example.org/?a=1&b=2" rel="nofollow">my site</a>, look', "my site, look"),
        ("a<img src='x.jpg' alt='y'>b", "a b"),
        ("hi<script>alert('1 < 2')</script> there<style>p { color: red }</style>", "hi there"),
        ("be<!-- not said -->fore", "before"),
        (
            "<svg><text>no</text></svg>yes<iframe>no</iframe><template>no</template><noscript>no</noscript>",
            "yes",
        ),
        ("Tom &amp; Ana &quot;hi&quot; &eacute; &#128512; &nbsp;&nbsp;x", 'Tom & Ana "hi" é 😀 x'),
        ("&amp;lt;b&amp;gt;", "&lt;b&gt;"),
        ("I <3 you, 5 < 6 > 4, Q&A, AT&T", "I <3 you, 5 < 6 > 4, Q&A, AT&T"),
        ("an <b>unclosed <i>tag", "an unclosed tag"),
        ("and </b>closed</p> twice", "and closed twice"),
        ("so\u200b ha&#8203;p\u2060py\ufeff\x00\x07\u202e!", "so happy!"),
        ("cafe\u0301&#769;", "caf\u00e9\u0301"),
        ("bad &#xD800; \ud800 end", "bad \ufffd end"),
        ("<frameset>still here", "still here"),
        ("", ""),
        (" \n\t ", ""),
        ("<br><p></p>", ""),
    ],
)
def test_this_markup_is_this_text(markup, text):
    assert html_to_text(markup) == text


def test_a_description_longer_than_the_limit_is_cut():
    assert html_to_text("a" * (MAX_MARKUP + 5)) == "a" * MAX_MARKUP


def test_tags_nested_without_end_are_cut_before_they_cost_minutes():
    assert html_to_text("<div>" * 100_000 + "deep") == ""


@given(texts | pieces)
def test_any_markup_becomes_clean_storable_text(markup):
    text = html_to_text(markup)
    text.encode("utf-8")
    assert text == " ".join(text.split())
    assert text == clean_text(text.replace("&", "&amp;"))


@given(st.text(st.characters(categories=["L", "N", "P", "Zs"], exclude_characters="<&"), max_size=60))
def test_text_that_holds_no_markup_is_only_cleaned(text):
    assert html_to_text(text) == clean_text(text)


# Links, @names and hashtags


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("see http://example.org/a?b=1#c now", "see now"),
        ("HTTPS://EXAMPLE.ORG and ftp://x.y/z", "and"),
        ("www.example.org or example.org/gallery or mail.example.com.", "or or ."),
        ("write to a.b+c@mail.example.org please", "write to please"),
        ("with @ana_b and @@bob!", "with and !"),
        ("meet @ noon, a@b", "meet @ noon, a@b"),
        ("#sunset ##Golden_Gate #2 C# # alone", "sunset Golden_Gate 2 C# # alone"),
        ("#www.example.org @#ana", ""),
        ("the end.So it goes, p.m.orning, e.g. this", "the end.So it goes, p.m.orning, e.g. this"),
        ("shttp://x is none, https too", "shttp://x is none, https too"),
    ],
)
def test_links_and_names_go_and_hashtags_are_words(text, words):
    assert plain_words(text) == words


@given(texts | pieces)
def test_doing_it_twice_changes_nothing(text):
    assert plain_words(plain_words(text)) == plain_words(text)


# Words


@pytest.mark.parametrize(
    ("text", "n_words"),
    [
        ("", 0),
        ("sun", 1),
        ("the sun,the sea;the sky.The end", 8),
        # contractions and possessives
        ("don't it’s ana's o'clock rock'n'roll", 5),
        ("the dogs' dinner 'quoted'", 4),
        # hyphens and dashes
        ("a well-known black-and-white photo", 4),
        ("day - night -- dawn—dusk…noon", 5),
        ("snow_white _emphasis_", 2),
        ("and/or mother&child", 4),
        # numbers and abbreviations
        ("3.50 1,000 10:30 24-70mm 50% $5 1st", 7),
        ("f/2.8 1/250s", 4),
        ("the U.S. and e.g. J.R.R. Tolkien", 6),
        # emoji and signs
        ("😀 ☀️ 👨‍👩‍👧 👍🏽 🇫🇷 ❤", 0),
        ("1️⃣ 2️⃣ #️⃣ ℹ️", 0),
        ("wow😀wow", 2),
        ("!!! ... — :) <3 *** ___", 1),
        # links, names, hashtags
        ("see https://example.org/a-b-c and example.org/x", 2),
        ("thanks @ana_b mail a@example.org", 2),
        ("#sunset #GoldenGate #golden_gate", 3),
        # Chinese and Japanese by the character, Korean by the space
        ("早晨的公园", 5),
        ("夕焼けの海", 5),
        ("カメラ", 3),
        ("Tokyo 東京 2010", 4),
        ("아름다운 바다의 일몰", 3),
        # other scripts: vowel signs and accents are no borders
        ("हिन्दी में लिखा", 3),
        ("cafe\u0301 nai\u0308ve Größe Ελλάδα привет", 5),
        ("שלום עולם السلام عليكم", 4),
    ],
)
def test_this_text_has_so_many_words(text, n_words):
    assert count_words(text) == n_words


@given(texts | pieces)
def test_the_count_is_that_of_the_plain_words(text):
    assert count_words(text) == count_words(plain_words(text))


@pytest.mark.slow
@given(st.lists(st.from_regex(r"[a-z]{1,9}('[a-z]{1,3})?", fullmatch=True), max_size=30))
def test_spaced_words_are_counted_one_by_one(words):
    assert count_words(" ".join(words)) == len(words)
    assert count_words(" 😀, ".join(words)) == len(words)


@given(texts, texts)
def test_texts_side_by_side_have_the_words_of_both(left, right):
    assert count_words(f"{left} | {right}") == count_words(left) + count_words(right)


# The paper's filter


@pytest.mark.parametrize(
    ("n_words", "reason"),
    [
        (1, Reason.TEXT_TOO_SHORT),
        (4, Reason.TEXT_TOO_SHORT),
        (5, None),
        (100, None),
        (101, Reason.TEXT_TOO_LONG),
        (5000, Reason.TEXT_TOO_LONG),
    ],
)
def test_5_and_100_words_are_in_and_what_is_beyond_is_out(n_words, reason):
    assert check_length("word " * n_words) == reason


def test_the_limits_can_be_others():
    assert check_length("two words", low=2, high=2) is None
    assert check_length("two words", low=3) == Reason.TEXT_TOO_SHORT
    assert check_length("two words", low=0, high=1) == Reason.TEXT_TOO_LONG


def test_no_text_is_missing_and_nothing_but_emoji_is_too_short():
    assert check_length("") == check_length("  ") == Reason.TEXT_MISSING
    assert check_length("😀 😀 😀 😀 😀 😀") == Reason.TEXT_TOO_SHORT


def test_links_and_names_do_not_help_a_short_text_over_the_limit():
    assert check_length("only four words here http://example.org @ana") == Reason.TEXT_TOO_SHORT


# Masking


@pytest.mark.parametrize(
    ("text", "query", "masked"),
    [
        ("A beautiful flower in my garden", "beautiful_flower", "A in my garden"),
        ("FLOWER, Beautiful: flowers and the flower’s scent", "beautiful flower", ", : and the scent"),
        ("beautifulflowers beautiful-flower beautiful_flower", "beautiful_flower", ""),
        ("a flowerpot, wallflower and beauty", "beautiful_flower", "a flowerpot, wallflower and beauty"),
        ("crying baby, two babies, the baby's toy", "crying_baby", ", two , the toy"),
        ("churches and a church", "old_church", "and a"),
        ("happy days on happy day", "happy_day", "on"),
        ("what (a) c++ day", "c++", "what (a) day"),
        ("nothing of it here", "dead_tree", "nothing of it here"),
        ("an empty query", "", "an empty query"),
    ],
)
def test_the_querys_own_words_go(text, query, masked):
    assert mask_query(text, query) == masked


@pytest.mark.slow
@given(pieces, st.from_regex(r"[a-z]{2,6}_[a-z]{2,6}", fullmatch=True))
def test_no_word_of_the_query_is_left(text, query):
    adjective, noun = query.split("_")
    masked = mask_query(f"{text} {query} {adjective} {text} {noun}s, {noun}", query)
    assert not {adjective, noun, f"{noun}s"} & set(re.findall(r"[^\W_]+", masked.lower()))


# The page that explains it all


def test_the_table_of_the_page_is_true():
    rows = re.findall(r"^\| `(.+?)` \| (\d+) \|", DOCS, re.MULTILINE)
    assert len(rows) >= 12
    for text, n_words in rows:
        assert count_words(text) == int(n_words), text
