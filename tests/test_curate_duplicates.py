"""Groups of the same tweet: what joins two rows, and what must not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvsent.curate.duplicates import duplicate_groups

HASH = 0x0F0F_0F0F_F0F0_F0F0  # 32 bits, as a real picture's


def groups(*rows):
    texts, shas, hashes = zip(*rows, strict=True)
    return duplicate_groups(texts, shas, hashes).tolist()


def test_a_retweet_joins_its_original():
    assert groups(("So happy!", "a", 1), ("RT @ana: so happy http://t.co/1", "b", 2)) == [0, 0]


def test_the_same_bytes_join_two_texts():
    assert groups(("one", "a", None), ("two", "b", None), ("three", "a", None)) == [0, 1, 0]


def test_the_same_perceptual_hash_joins_two_files():
    assert groups(("one", "a", HASH), ("two", "b", HASH)) == [0, 0]


def test_a_flat_pictures_hash_joins_nobody():
    assert groups(("one", "a", 1 << 63), ("two", "b", 1 << 63), ("three", "c", 0), ("four", "d", 0)) == [
        0,
        1,
        2,
        3,
    ]


def test_nothing_known_joins_nobody():
    assert groups((None, None, None), (None, None, None), ("", None, None), ("@you http://t.co", None, None)) == [
        0, 1, 2, 3,
    ]  # fmt: skip


def test_joining_is_transitive_across_kinds():
    assert groups(("x", "a", HASH), ("lonely", "z", None), ("y", "b", HASH), ("Y!", "c", None)) == [
        0,
        1,
        0,
        0,
    ]


def test_no_rows_have_no_groups():
    assert duplicate_groups([], [], []).tolist() == []


few = st.one_of(st.none(), st.sampled_from("abcdef"))
rows = st.lists(
    st.tuples(few, few, st.one_of(st.none(), st.sampled_from([HASH, ~HASH & (2**64 - 1)]))), max_size=12
)


@pytest.mark.slow
@given(rows)
def test_groups_are_the_transitive_closure_of_sharing(rows):
    found = duplicate_groups(*(list(column) for column in zip(*rows, strict=True))) if rows else np.array([])
    linked = [
        [any(a is not None and a == b for a, b in zip(r, s, strict=True)) or r is s for s in rows]
        for r in rows
    ]
    reach = np.array(linked, dtype=bool).reshape(len(rows), len(rows))
    for _ in rows:
        reach = reach @ reach
    assert (reach == (found[:, None] == found[None, :])).all()


@given(rows)
def test_groups_are_numbered_by_first_row(rows):
    found = groups(*rows) if rows else []
    assert list(dict.fromkeys(found)) == list(range(len(set(found))))
