"""Tweets are spelled out: hashtags, handles, emoticons, stretched words, links and what emoji left behind."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvsent.errors import WeightsError
from mvsent.features import tweet_words
from mvsent.features.tweet_words import _FORMS, MAX_JOINED, as_read, divided, spelled_out, unstretched
from mvsent.features.vocabulary import tokenize

pytest.importorskip("wordsegment")

PIECES = [
    *[
        "#",
        "＃",
        "##",
        "@",
        "@user",
        "#lovemydog",
        "#BestDay",
        "@NYC_party",
        "sooo",
        "gooood",
        "www",
        "don't",
        "http",
        "https://t.co/x1",
        "www.x.org",
        "htt…",
        "h…",
        "…",
        ":",
        ":)",
        ":-)",
        "(:",
        "</3",
        "<3",
        "xD",
        "^_^",
        "?",
        "??",
        "???",
        "&amp;",
        "&lt;",
        "&",
        ";",
        "1",
        "22",
        "_",
        "'",
        "é",
        "日本",
        "😀",
        "a",
    ],
    '"',
    " ",
    "  ",
    "\n",
]
tweets = st.lists(st.sampled_from(PIECES) | st.text(max_size=6), max_size=12).map("".join)
words = st.from_regex(r"(?!http|www)[a-z]{1,9}", fullmatch=True).filter(
    lambda word: not re.search(r"(.)\1\1", word)
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tweet", "text"),
    [
        ("#BestDay #best_day #Best2Day #NYCParty", "Best Day best day Best 2 Day NYC Party"),
        ("#lovemydog #THISISGREAT #throwbackthursday", "love my dog THIS IS GREAT throwback thursday"),
        ("#Lovemydog, #ilovemylife!", "Love my dog , i love my life !"),
        ("＃happy##day#lovemydog", "happy day love my dog"),
        ("@a@b@c@d@e@f#", "@user @user @user @user @user @user #"),
        ("#a#b@c#d#e#f#g", "a b @user d e f g"),
        ("#1 # 1 a#b C# &#nothing", "1 # 1 a#b C# &#nothing"),
        ("#日本語 #Café #été2015", "日本語 Café été 2015"),
        ("RT @LoveMyDog: hi @_anna_ @user", "RT @user : hi @user @user"),
        ("mail ana@example.org, @ 5", "mail ana@example.org, @ 5"),
        ("sooo Goooood, YESSS heyyy meeee!!!", "so Good, YES hey me!!!"),
        ("www xxx zzzzzz III", "www xxx zzz III"),
        ("qrrrrst 1000 bookkeeper", "qrrst 1000 bookkeeper"),
        ("#sooohappy #loveyouuuu", "so happy love you"),
        (":) :-) :-)) =] ^_^ (^-^) (: :}", ":) :) :) :) :) :) :) :)"),
        (":( :-( :'( =[ </3 T_T ):", ":( :( :( :( :( :( :("),
        (";-) ;D :D =DD xD X'D XD", ";) ;) :D :D :D :D :D"),
        (":-P ;p xP :-* :-/ :\\ <3333", ":P :P :P :* :/ :/ <3"),
        ("great:) see:( wow<3", "great :) see :( wow <3"),
        ("10:30 a:b f(x)=) 3:) C:/x (see: p)", "10:30 a:b f(x)=) 3:) C:/x (see: p)"),
        ("good day ????? ?? bye", "good day ?? ?? bye"),
        ("what?? (why ??) is it ?", "what?? (why ??) is it ?"),
        ("see https://t.co/a1?b=c#d, www.x.org http://… now", "see http http http now"),
        ("cut off htt… or h… or http", "cut off http or http or http"),
        ("Tom &amp;amp; Ana &lt;3 &#35;bestday", "Tom & Ana <3 best day"),
        ("don't rock'n'roll the U.S. 3.50", "don't rock'n'roll the U.S. 3.50"),
        ("", ""),
        (" \t\n", ""),
    ],
)
def test_a_tweet_is_spelled_out_by_the_table(tweet: str, text: str) -> None:
    assert spelled_out(tweet) == text


@pytest.mark.parametrize("face", _FORMS)
def test_an_emoticon_is_one_token(face: str) -> None:
    assert spelled_out(face) == face
    assert tokenize(face) == [face]
    assert tokenize(spelled_out(f"so {face}, {face}")) == ["so", face, ",", face]


@pytest.mark.slow
def test_the_tokens_of_a_tweet_are_words_users_links_and_emoticons() -> None:
    tweet = "RT @LoveMyDog: I don't care… #bestdayever :-)) http://t.co/x1"
    expected = "rt <user> : i do n't care ... best day ever :) <url>"
    assert tokenize(spelled_out(tweet)) == expected.split()


@pytest.mark.slow
@given(st.lists(words, max_size=8).map(" ".join))
def test_plain_words_keep_every_letter(text: str) -> None:
    assert spelled_out(text) == text


@given(tweets)
def test_spelling_out_twice_is_spelling_out_once_and_gives_single_spaces(tweet: str) -> None:
    text = spelled_out(tweet)
    assert spelled_out(text) == text == " ".join(text.split())


@given(tweets)
def test_the_answer_does_not_depend_on_earlier_ones(tweet: str) -> None:
    before = spelled_out(tweet)
    divided.cache_clear()
    unstretched.cache_clear()
    assert spelled_out(tweet) == before


def once(text: str) -> str:
    """`text` without underscores, in lower case, with every letter once where it is repeated."""
    return re.sub(r"(.)\1+", r"\1", text.replace("_", "").lower())


@given(st.from_regex(r"\w{0,30}", fullmatch=True) | st.text("abcdeABC12_", max_size=30))
def test_a_divided_hashtag_has_the_same_letters_and_digits_in_order(tag: str) -> None:
    assert once("".join(divided(tag))) == once(tag)
    assert all(divided(tag))


@given(words)
def test_only_three_equal_letters_are_shortened_and_to_one_or_two(word: str) -> None:
    assert unstretched(word) == word
    if len(stem := word.rstrip(word[-1])):
        assert unstretched(word + word[-1] * 2000) in {stem + word[-1], stem + word[-1] * 2}


def test_hashtags_are_divided_as_their_writers_capitals_divide_them() -> None:
    written = (
        "ThrowbackThursday BlackLivesMatter ThisIsGreat BestDayEver HappyBirthday MondayMotivation FeelingBlessed "
        "WeWantJustice StuckInATub RoundAndRound WreckedCar DirtyBoots InLove SelfEsteem OneDirection CountryInn"
    )
    for tag in written.split():
        by_capitals = [word.lower() for word in divided(tag)]
        assert list(divided(tag.lower())) == by_capitals, tag


def test_more_letters_than_the_maximum_stay_one_word() -> None:
    joined = ("lovemydog" * 20)[: MAX_JOINED + 1]
    assert divided(joined) == (joined,)
    assert len(divided(joined[:MAX_JOINED])) > 10


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        *(
            "#" * 10**5,
            "#" + "a" * 10**5,
            "#" + "lovemydog" * 11_112,
            "@" + "x" * 10**5,
            "a" * 10**5,
            "aaab" * 25_000,
        ),
        *(
            "#lovemydog" * 10**4,
            "#a" * 50_000,
            "<3" * 50_000,
            ":-" * 50_000,
            "(^" * 50_000,
            "^_" * 50_000,
            "= " * 50_000,
        ),
        *(
            "?? " * 33_333,
            "?" * 10**5,
            "ht" * 50_000,
            "htt…" * 25_000,
            "&amp;" * 20_000,
            "&" + "amp;" * 25_000,
            "_" * 10**5,
        ),
    ],
    ids=lambda text: text[:8],
)
def test_hostile_texts_of_a_hundred_thousand_characters_take_no_second(text: str) -> None:
    spelled_out("#loaded")
    began = time.process_time()
    spelled_out(text)
    assert time.process_time() - began < 1.5


def test_plain_texts_are_read_as_they_are_and_tweets_spelled_out() -> None:
    texts = ["#lovemydog  &amp; sooo", ""]
    assert as_read(texts, "plain") == texts
    assert as_read(texts, "tweets") == ["love my dog & so", ""]


def test_a_missing_segmenter_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tweet_words.util, "find_spec", lambda name: None)
    assert as_read(["a"], "plain") == ["a"]
    with pytest.raises(
        WeightsError, match=r"--tokens tweets: wordsegment is not installed.*mvsent\[lexicons\]"
    ):
        as_read(["a"], "tweets")
