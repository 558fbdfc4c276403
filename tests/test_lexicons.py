"""Lexicons: what is shipped, what a user's file may look like, and the command that prints them."""

import json
import os
from collections import defaultdict
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvsent.cli import app, exit_code
from mvsent.errors import InputError
from mvsent.lexicons import (
    HEADER,
    Term,
    format_lexicon,
    load_anps,
    load_keywords,
    load_lexicon,
    parse_lexicon,
    select,
)

ROOT = Path(__file__).parents[1]
GOOD = b"word\tsentiment\nhappy\t2.7\ndead_tree\t-1.5\n"
TERMS = [Term("happy", 2.7), Term("dead_tree", -1.5)]

words = st.from_regex(r"[a-z]{1,8}(_[a-z]{1,8})?", fullmatch=True)
scores = st.floats(-4, 4, allow_nan=False).filter(bool)


def refusal(data: bytes) -> str:
    with pytest.raises(InputError) as refused:
        parse_lexicon(data, "my.tsv")
    return str(refused.value)


def run(*arguments: str) -> int:
    return exit_code(lambda: app(["lexicon", *arguments], standalone_mode=False))


# What is shipped


def test_the_1200_anps_are_738_positive_and_462_negative():
    anps = load_anps()
    assert len(anps) == 1200
    assert sum(term.sentiment > 0 for term in anps) == 738
    assert sum(term.sentiment < 0 for term in anps) == 462


def test_every_anp_is_an_adjective_a_noun_and_a_score_in_minus_2_to_2():
    for term in load_anps():
        assert len(term.word.split("_")) == len(term.query.split()) == 2
        assert term.word.islower()
        assert abs(term.sentiment) <= 2


def test_some_anps_have_the_scores_of_the_visual_sentiment_ontology():
    scores = dict(load_anps())
    assert (scores["cloudy_moon"], scores["super_moon"]) == (-0.29, 1.51)
    assert (scores["beautiful_flower"], scores["misty_woods"]) == (1.77, -1.0)


def test_the_101_keywords_are_51_positive_and_50_negative_single_words():
    keywords = load_keywords()
    assert len(keywords) == 101
    assert sum(term.sentiment > 0 for term in keywords) == 51
    assert all(term.word.isalpha() for term in keywords)


def test_the_keywords_are_what_their_rule_gives():
    """The rule stands in keywords.tsv: words of the ANPs, signs as VADER's, the strongest in VADER's lexicon."""
    package = pytest.importorskip("vaderSentiment")
    vader = {}
    for line in (
        (Path(package.__file__).parent / "vader_lexicon.txt").read_text(encoding="utf-8").splitlines()
    ):
        word, mean, deviation, _ = line.split("\t", 3)
        vader[word] = float(mean), float(deviation)
    anp_scores = defaultdict(list)
    for term in load_anps():
        for word in term.query.split():
            anp_scores[word].append(term.sentiment)
    candidates = [w for w, scores in anp_scores.items() if w in vader and vader[w][0] * sum(scores) > 0]
    strongest = sorted(candidates, key=lambda w: (-abs(vader[w][0]), vader[w][1], w))
    expected = [w for w in strongest if vader[w][0] > 0][:51] + [w for w in strongest if vader[w][0] < 0][:50]
    assert [term.word for term in load_keywords()] == expected
    assert all(term.sentiment == vader[term.word][0] for term in load_keywords())


def test_both_files_say_where_they_come_from():
    folder = files("mvsent.lexicons")
    anps = (folder / "anps.tsv").read_text(encoding="utf-8")
    keywords = (folder / "keywords.tsv").read_text(encoding="utf-8")
    assert "Borth" in anps.split(HEADER)[0]
    assert "2013" in anps.split(HEADER)[0]
    for said in ("reconstruction", "these are not them", "VADER", "MIT licence", "Hutto"):
        assert said in keywords.split(HEADER)[0]


def test_the_wheel_holds_both_files():
    wheel = pytest.importorskip("hatchling.builders.wheel")
    builder = wheel.WheelBuilder(str(ROOT))
    packed = {file.distribution_path for file in builder.recurse_included_files()}
    assert {"mvsent/lexicons/anps.tsv", "mvsent/lexicons/keywords.tsv"} <= packed


# A user's file


def test_a_users_file_takes_the_place_of_the_shipped_one(tmp_path):
    path = tmp_path / "my.tsv"
    path.write_bytes(GOOD)
    assert load_anps(path) == load_keywords(path) == load_lexicon(str(path)) == TERMS


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf" + GOOD,
        GOOD.replace(b"\n", b"\r\n"),
        GOOD.replace(b"\n", b"\r"),
        GOOD.rstrip(b"\n"),
        b"# mine\n\n" + GOOD + b"\n# the end\n",
        b"Word \t Sentiment\n happy \t +2.7 \ndead_tree\t-15e-1\n",
    ],
    ids=[
        "BOM",
        "CRLF",
        "CR",
        "no newline at the end",
        "comments and empty lines",
        "spaces, other ways to write a number",
    ],
)
def test_these_files_are_the_same_lexicon(data):
    assert parse_lexicon(data, "my.tsv") == TERMS


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"sad", "expected a word, a tab and a score"),
        (b"sad,-1", "expected a word, a tab and a score"),
        (b"sad\t-1\tmore", "expected a word, a tab and a score"),
        (b"\t-1", "is not a word"),
        (b"__\t-1", "is not a word"),
        (b"s\x00d\t-1", "is not a word"),
        (b"sad\t", "is not a number"),
        (b"sad\tlow", "is not a number"),
        (b"sad\t-1,5", "is not a number"),
        (b"sad\tnan", "is not a number"),
        (b"sad\t-inf", "is not a number"),
        (b"sad\t1e999", "is not a number"),
        (b"sad\t0", "neither positive nor negative"),
        (b"sad\t-0.0", "neither positive nor negative"),
        (b"happy\t-1", "is the same query as line 2"),
        (b"Happy\t2.7", "is the same query as line 2"),
        (b"dead tree\t1", "is the same query as line 3"),
        (b"caf\xe9\t1", "not UTF-8"),
    ],
)
def test_a_bad_line_is_refused_by_file_and_line(line, said):
    message = refusal(GOOD + line + b"\n")
    assert message.startswith("my.tsv:4: ")
    assert said in message


def test_a_file_without_the_header_is_refused():
    assert refusal(b"# mine\nhappy\t2.7\n").startswith("my.tsv:2: expected the header")


@pytest.mark.parametrize("data", [b"", b"\n# only comments\n", b"word\tsentiment\n"])
def test_a_file_without_a_word_is_refused(data):
    assert "my.tsv: contains no word" in refusal(data)


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path):
    for path in (tmp_path / "none.tsv", tmp_path):
        with pytest.raises(InputError, match=str(path)):
            load_anps(path)


def test_a_word_without_end_is_refused_by_file_and_line():
    said = refusal(b"word\tsentiment\nhappy\t1\n" + b"w" * 10**6 + b"\t1\n")
    assert said.startswith("my.tsv:3: a word of 1000000 characters, more than 200")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.tsv")
    with pytest.raises(InputError, match=r"pipe\.tsv: not a regular file"):
        load_anps(tmp_path / "pipe.tsv")


@given(st.binary(max_size=80))
def test_any_bytes_are_a_lexicon_or_refused_with_the_file(data):
    try:
        terms = parse_lexicon(data, "my.tsv")
    except InputError as error:
        assert str(error).startswith("my.tsv:")
    else:
        assert terms


@pytest.mark.slow
@given(st.dictionaries(words, scores, min_size=1, max_size=8))
def test_what_is_written_is_read_back(found):
    terms = [Term(word, score) for word, score in found.items()]
    assert parse_lexicon(format_lexicon(terms, "of two\nlines").encode(), "my.tsv") == terms


# Selecting and the command


def test_selection_is_by_sign_strength_and_pattern_together():
    terms = [Term("sad_dog", -1.5), Term("wet_dog", -0.4), Term("cute_dog", 1.8), Term("sad_cat", -1.9)]
    assert select(terms, "negative", 1.5, "*DOG") == terms[:1]
    assert select(terms, "positive") == terms[2:3]
    assert select(terms, min_sentiment=1.8) == terms[2:]
    assert select(terms, pattern="sad ?at") == terms[3:]
    assert select(terms) == terms


@pytest.mark.slow
@given(st.lists(st.builds(Term, words, scores), max_size=12), st.floats(0, 4))
def test_positive_and_negative_selections_make_up_all_that_is_strong(terms, strength):
    parts = [*select(terms, "positive", strength), *select(terms, "negative", strength)]
    assert sorted(parts) == sorted(select(terms, min_sentiment=strength))
    assert all(abs(term.sentiment) >= strength for term in parts)


def test_the_command_prints_a_lexicon(capsys):
    assert run() == 0
    assert parse_lexicon(capsys.readouterr().out.encode(), "printed") == load_anps()


def test_the_command_exports_what_it_selects(tmp_path, capsys):
    out = tmp_path / "sad.tsv"
    assert run("keywords", "--polarity", "negative", "--min-sentiment", "2.5", "--out", str(out)) == 0
    assert load_keywords(out) == select(load_keywords(), "negative", 2.5)
    assert f"{out}: 0 positive, 8 negative" in capsys.readouterr().out


def test_an_export_is_replaced_only_when_told(tmp_path, capsys):
    out = tmp_path / "my.tsv"
    out.write_bytes(GOOD)
    assert run("keywords", "--out", str(out)) == 2
    assert out.read_bytes() == GOOD
    assert "--overwrite" in capsys.readouterr().err
    assert run("keywords", "--out", str(out), "--overwrite") == 0
    assert load_lexicon(str(out)) == load_keywords()


def test_json_is_one_document_with_the_queries(capsys):
    assert run("anps", "--pattern", "misty_w*", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["lexicon"] == "anps"
    assert {"word": "misty_woods", "query": "misty woods", "sentiment": -1.0} in document["terms"]
    assert document["positive"] + document["negative"] == len(document["terms"])


def test_a_filter_that_nothing_fits_says_so(capsys):
    assert run("keywords", "--pattern", "zzz*") == 2
    assert "no word fits" in capsys.readouterr().err


def test_a_malformed_file_is_one_line_with_its_place(tmp_path, capsys):
    path = tmp_path / "bad.tsv"
    path.write_bytes(GOOD + b"sad\n")
    assert run(str(path)) == 1
    assert capsys.readouterr().err.startswith(f"mvsent: {path}:4: expected a word")
