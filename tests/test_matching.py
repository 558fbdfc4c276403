"""A query is found in titles, descriptions and tags by one rule, and the sieve loses none of what it finds."""

import unicodedata
from urllib.parse import quote, unquote_plus

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mvsent.curate.matching import Field, PairMatcher, contains
from mvsent.curate.sieve import CHANGED, Sieve, url_decoded
from mvsent.curate.text import mask_query
from mvsent.lexicons import load_anps
from mvsent.sources.flickr_rows import row_texts

FIELDS: tuple[Field, ...] = ("title", "description", "tags")
QUERIES = ["happy dog", "sunny day", "happy baby", "tiny bus", "old_man", "sky", "clear_blue_sky", "don't go"]
QUERIES += ["süße katze", "ski day"]

PIECES = [
    *(
        "happy",
        "dog",
        "dogs",
        "dog's",
        "dog’s",
        "HAPPY",
        "Dog",
        "sunny",
        "day",
        "days",
        "happydog",
        "happydogs",
    ),
    *(
        "baby",
        "babies",
        "happybabies",
        "tiny",
        "buses",
        "old",
        "man",
        "men",
        "blue",
        "clear",
        "sky",
        "skydive",
    ),
    *("don't", "go", "don", "t", "süße", "SÜSSE", "Katze", "é", "1", "hot"),
    *(
        " ",
        " ",
        " ",
        "-",
        "_",
        ", ",
        ". ",
        "\n",
        "\t",
        "&amp;",
        "&nbsp;",
        "&#111;",
        "<b>",
        "</b>",
        "<br>",
        "\u200b",
    ),
    *("\u00ad", "“", "”", "#", "\u0336", "s\u212ai", "SK\u0130", "%", "+", "&fjlig;", "\x07", "\U000e0064"),
]
texts = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)
tags = st.lists(texts.map(lambda text: text.replace(",", " ")), max_size=5)


@pytest.mark.parametrize(
    ("title", "found"),
    [
        ("A Happy dog!", True),
        ("happy-dogs of 2010", True),
        ("happy_dog", True),
        ("#happydog", True),
        ("the happy dog’s bowl", True),
        ("happy &amp; dog", False),
        ("happy, dog", False),
        ("unhappy dog", False),
        ("happy doghouse", False),
        ("dog happy", False),
        ("happy big dog", False),
    ],
)
def test_the_words_of_a_pair_stand_side_by_side_in_a_text(title: str, found: bool) -> None:
    assert contains(title, "", [], "happy dog", ["title"]) is found
    assert contains("", title, [], "happy dog", ["description"]) is found
    assert contains("", "", [title], "happy dog", ["tags"]) is found


def test_a_pair_of_tags_counts_in_any_order_and_a_word_of_a_longer_tag_does_not() -> None:
    assert contains("", "", ["Dogs", "park", "HAPPY"], "happy dog", ["tags"])
    assert not contains("", "", ["dogs", "happy people"], "happy dog", ["tags"])
    assert not contains("happy", "", ["dog"], "happy dog", ["tags", "title"])


def test_only_the_named_fields_are_looked_at() -> None:
    assert not contains("happy dog", "happy dog", [], "happy dog", ["tags"])
    assert contains("", "a <b>happy</b> dog", [], "happy dog", ["description"])
    assert not contains("", '<a href="happy-dog.html">here</a>', [], "happy dog", ["description"])


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(texts, texts, tags)
def test_all_queries_at_once_give_what_each_gives_alone(
    title: str, description: str, tags: list[str]
) -> None:
    together = PairMatcher(QUERIES, FIELDS).find(title, description, tags)
    alone = [n for n, one in enumerate(QUERIES) if contains(title, description, tags, one, FIELDS)]
    assert together == alone


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(texts, st.sampled_from(QUERIES))
@example("SK\u0130happydog", "happy dog")
def test_masking_removes_what_was_found(title: str, query: str) -> None:
    assert not contains(mask_query(title, query), "", [], query, ["title"]) or "&" in title or "<" in title


@pytest.mark.slow
@settings(max_examples=600, deadline=None)
@given(st.lists(texts, min_size=1, max_size=6), st.sampled_from(FIELDS))
@example(["happy", "dog"], "title")
@example(["s\u212ai day"], "title")
@example(["“happy dog”"], "title")
@example(["happy&nbsp;dog"], "title")
@example(["happy<b> dog</b>"], "description")
def test_the_sieve_passes_every_row_in_which_a_query_is_found(cells: list[str], field: Field) -> None:
    queries = [query for query in QUERIES if query.isascii()]
    array = pa.array([cell.encode() for cell in cells], pa.binary())
    passed = Sieve(queries).may_contain(field, array)
    for cell, may in zip(cells, passed, strict=True):
        row = {"title": "", "description": "", "tags": []} | {
            field: cell.split("\n") if field == "tags" else cell
        }
        if PairMatcher(queries, [field]).find(**row):  # type: ignore[arg-type]
            assert may, cell


def test_the_sieve_stops_most_rows() -> None:
    words = [
        "the",
        "of",
        "and",
        "a",
        "to",
        "in",
        "is",
        "you",
        "that",
        "it",
        "he",
        "was",
        "for",
        "on",
        "are",
        "as",
        "with",
        "his",
        "they",
        "at",
        "be",
        "this",
        "have",
        "from",
    ]
    cells = pa.array([f"{a} {b} dog".encode() for a in words for b in words], pa.binary())
    anps = [term.query for term in load_anps()]
    assert Sieve(anps).may_contain("title", cells).sum() == 0
    apart = pa.array([b"misty", b"woods", b"misty green woods"], pa.binary())
    assert Sieve(anps).may_contain("title", apart).sum() == 0
    assert Sieve(anps).may_contain("title", pa.array([b"misty woods", b"misty"], pa.binary())).tolist() == [
        True,
        False,
    ]


def test_every_character_that_cleaning_removes_passes_the_sieve() -> None:
    removed = [chr(n) for n in range(0x110000) if unicodedata.category(chr(n)) in ("Cc", "Cf")]
    spaces = {"\t", "\n", "\v", "\f", "\r"}
    cells = pa.array([c for c in removed if c not in spaces])
    missed = cells.filter(pc.invert(pc.match_substring_regex(cells, CHANGED)))
    assert missed.to_pylist() == []
    assert Sieve(["happy dog"]).may_contain("title", cells.cast(pa.binary())).all()


def test_of_texts_without_a_word_the_sieve_passes_those_that_cleaning_may_change() -> None:
    cells = [b"a%cb" % bytes([n]) for n in range(256)] + [chr(n).encode() for n in range(0x80, 0xD800)]
    array = pa.array([b"", *cells, b""], pa.binary())
    texts = pa.Array.from_buffers(pa.utf8(), len(array), array.buffers())
    expected = pc.match_substring_regex(texts, CHANGED).to_pylist()
    assert Sieve(["happy dog"]).may_contain("tags", array).tolist() == expected


@settings(max_examples=300, deadline=None)
@given(st.binary() | st.text(st.sampled_from("abA+%24cCeE 9é€,\0"), max_size=12).map(str.encode))
def test_the_texts_of_a_row_are_what_urllib_gives(cell: bytes) -> None:
    texts = row_texts({"title": cell, "tags": cell}, encoded=True)
    raw = cell.decode("utf-8", "replace")
    assert texts.title == unquote_plus(raw).replace("\0", "")
    parts = raw.replace("\0", "").split("\n" if b"\n" in cell else ",")
    tags = (unquote_plus(part).replace("\0", "").strip() for part in parts)
    assert texts.tags == tuple(filter(None, tags))


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(st.sampled_from("abA+%24cCeE 9é€,"), max_size=12) | st.text().map(quote)))
def test_decoding_a_column_gives_what_urllib_gives(cells: list[str]) -> None:
    array = pa.array([cell.encode("utf-8", "replace") for cell in ["x", *cells]], pa.binary()).slice(1)
    decoded = [cell.decode("utf-8", "replace") for cell in url_decoded(array).to_pylist()]
    assert decoded == [unquote_plus(cell) for cell in cells]
