"""Grouped protocols: nobody's copy on the other side, near copies included, and the leak that is left is told."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.model_selection import GroupKFold, PredefinedSplit
from typer.testing import CliRunner

from mvsent.cli import app
from mvsent.curate.text import normalised_text
from mvsent.datasets import leaks
from mvsent.datasets.leaks import Alike, NearCopies, count_near_leak, dataset_groups, find_near_copies
from mvsent.datasets.split import ensure_split, find_split, split_dataset
from mvsent.errors import MvsentError, SplitError, UsageError
from mvsent.pairs import pair_table
from mvsent.shards.reader import Dataset
from mvsent.splits import GROUPED_NEAR, N_FOLDS, PROTOCOLS, TEST, TRAIN, VALIDATION, Split, make_split
from tests.drawing import draw_pairs

NEAR = [name for name in PROTOCOLS if name.startswith(GROUPED_NEAR)]


def with_columns(pairs: pa.Table, **columns: list[Any]) -> pa.Table:
    for name, values in columns.items():
        place = pairs.schema.get_field_index(name)
        pairs = pairs.set_column(place, name, pa.array(values, pairs.schema.field(place).type))
    return pairs


@pytest.fixture
def retold(make_dataset: Callable[..., Path]) -> Dataset:
    """Ninety pairs with texts and hashes of their own, but for copies of three kinds.

    Rows 1, 2 and 3: a tweet, the same cut, and that cut again: 1 and 3 are too different to be near each other.
    Rows 4 and 5: hashes that differ in four bits; 6 and 7: in five. Rows 8 and 9: equal texts.
    """
    rng = np.random.default_rng(0)
    words = np.array([f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("n", "ring", "stal")])
    texts = [" ".join(rng.choice(words, 12)) for _ in range(90)]
    texts[1] = (
        "RT @x what a wonderful and sunny morning at the quiet lake with all my dear old friends from school"
    )
    texts[2] = "What a wonderful and sunny morning at the quiet lake with all my dear old frien"
    texts[3] = "What a wonderful and sunny morning at the quiet lake with"
    texts[9] = texts[8]
    hashes = [int(each) | 0xFFFFFFFF for each in rng.integers(0, 2**62, 90)]
    hashes[5], hashes[7] = hashes[4] ^ 0b1111, hashes[6] ^ 0b11111
    return Dataset.open(make_dataset(with_columns(draw_pairs(90, images=False), text=texts, phash=hashes)))


def sides_of(split: Split) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(split.rows(fold, TRAIN), split.rows(fold, TEST)) for fold in range(split.n_folds)]


# Groups


def test_near_copies_are_one_group_through_others(retold: Dataset) -> None:
    near = find_near_copies(retold)
    groups = dataset_groups(retold, near=near)
    assert groups[1] == groups[2] == groups[3] and groups[4] == groups[5] and groups[8] == groups[9]
    assert groups[6] != groups[7], "five bits are too many"
    assert len(set(groups)) == 90 - 2 - 1 - 1
    exact = dataset_groups(retold)
    assert len(set(exact)) == 89 and exact[8] == exact[9]


def near_by_comparing_all(dataset: Dataset) -> np.ndarray:
    """bool [N, N]: whether two rows have near texts or pictures, by scikit-learn and by Python's integers."""
    table = dataset.table(["text", "phash"])
    texts = [normalised_text(text) for text in table["text"].to_pylist()]
    distinct = sorted(set(texts))
    cosine = cosine_similarity(
        TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5)).fit_transform(distinct)
    )
    value = [distinct.index(text) for text in texts]
    near = (cosine > 0.8)[np.ix_(value, value)]
    hashes = table["phash"].to_pylist()
    for i, one in enumerate(hashes):
        for j, other in enumerate(hashes):
            near[i, j] |= None not in (one, other) and (one ^ other).bit_count() <= 4
    return near


def test_the_near_copies_are_those_that_comparing_all_rows_finds(retold: Dataset) -> None:
    near = near_by_comparing_all(retold)
    assert sorted((int(i), int(j)) for i, j in np.argwhere(np.triu(near, 1))) == [
        (1, 2),
        (2, 3),
        (4, 5),
        (8, 9),
    ]
    found = find_near_copies(retold)
    rows = {tuple(sorted(pair)) for each in found.rows for pair in each.tolist()}
    assert rows == {(1, 2), (2, 3), (4, 5)}, "equal rows are no pair"


@pytest.mark.slow
@pytest.mark.parametrize("protocol", NEAR)
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000))
def test_no_near_pair_is_ever_on_two_sides(retold: Dataset, protocol: str, seed: int) -> None:
    split = find_split(retold, protocol, seed)
    near = near_by_comparing_all(retold)
    for fold in range(split.n_folds):
        of_role = [split.rows(fold, role) for role in (TRAIN, VALIDATION, TEST)]
        for i, one in enumerate(of_role):
            for other in of_role[:i]:
                assert not near[np.ix_(one, other)].any()


WORDS = ("rain again", "so happy", "monday", "the river walk", "love", "at nine", "in town", "with friends")


@pytest.mark.slow
@settings(max_examples=25)
@given(
    texts=st.lists(
        st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join), min_size=40, max_size=60
    ),
    bits=st.lists(st.sets(st.integers(0, 63), max_size=3), min_size=60, max_size=60),
    seed=st.integers(0, 99),
)
def test_no_near_pair_of_any_rows_is_on_two_sides(
    texts: list[str], bits: list[set[int]], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from mvsent.shards.writer import DatasetWriter

    base = [0x0F1E2D3C4B5A6978, 0xF0F0F0F0F0F0F0F0]
    hashes = [base[i % 2] ^ sum(1 << bit for bit in flipped) for i, flipped in enumerate(bits[: len(texts)])]
    folder = tmp_path_factory.mktemp("rows") / "d"
    with DatasetWriter(folder, "d", settings={}, shard_size=100) as writer:
        ids = [f"d:{i}" for i in range(len(texts))]
        writer.write(pair_table({"id": ids, "text": texts, "phash": hashes, "label": [0] * len(texts)}))
        writer.finish(len(texts))
    dataset = Dataset.open(folder)
    try:
        split = find_split(dataset, "grouped-near-kfold-5", seed)
    except SplitError as error:
        assert "more than half" in str(error)
        return
    near = near_by_comparing_all(dataset)
    for train, test in sides_of(split):
        assert not near[np.ix_(train, test)].any()


@pytest.mark.parametrize("protocol", ["grouped-kfold-10", "grouped-near-kfold-10"])
def test_the_folds_are_those_of_group_k_fold_in_kind(retold: Dataset, protocol: str) -> None:
    """As scikit-learn's GroupKFold: every row is tested once, every group in one fold, folds are as level."""
    near = find_near_copies(retold) if protocol.startswith(GROUPED_NEAR) else None
    groups = dataset_groups(retold, owners=True, near=near)
    split = find_split(retold, protocol, 3)
    fold_of = (split.roles == TEST).argmax(axis=0)
    theirs = [test for _, test in GroupKFold(10).split(groups, groups=groups)]
    ours = [test for _, test in PredefinedSplit(fold_of).split()]
    for folds in (theirs, ours):
        assert sorted(np.concatenate(folds)) == list(range(90))
        assert sum(len(set(groups[test])) for test in folds) == len(set(groups))
    assert max(map(len, ours)) - min(map(len, ours)) <= max(map(len, theirs)) - min(map(len, theirs)) + 3


@pytest.mark.parametrize("protocol", NEAR)
def test_the_same_seed_gives_the_same_folds(retold: Dataset, protocol: str) -> None:
    first, again, other = (find_split(retold, protocol, seed) for seed in (0, 0, 1))
    assert first.sha256 == again.sha256 != other.sha256
    assert first.n_folds == N_FOLDS[protocol]


# A group larger than a fold


def test_a_group_larger_than_a_fold_is_told_with_its_size(caplog: pytest.LogCaptureFixture) -> None:
    labels = np.repeat([0, 1], 50).astype(np.int8)
    groups = np.where(np.arange(100) % 4 == 1, -1, np.arange(100))
    ids = [f"d:{i}" for i in range(100)]
    with caplog.at_level(logging.WARNING, "mvsent"):
        split = make_split(ids, labels, "grouped-near-kfold-10", 0, groups)
        make_split(ids, labels, "kfold-10", 0, groups)
    [message] = caplog.messages
    assert message.startswith(
        "grouped-near-kfold-10: 25 of 100 rows are one group that stays on one side, such as d:1 "
    )
    assert "a fold has 10 test rows, but the one with this group has at least 25" in message
    assert "use grouped-kfold-10" in message
    sizes = sorted(len(test) for _, test in sides_of(split))
    assert sizes[-1] == 25 and sizes[0] >= 8, "the other folds are level"
    caplog.clear()
    make_split(ids, labels, "grouped-kfold-5", 0, np.where(np.arange(100) < 20, -1, np.arange(100)))
    assert caplog.messages == [], "twenty rows are a fold of five"


def test_a_group_of_most_rows_is_an_error(make_dataset: Callable[..., Path]) -> None:
    labels = (np.arange(100) % 2).astype(np.int8)
    groups = np.maximum(np.arange(100), 49)
    ids = [f"d:{i}" for i in range(100)]
    make_split(ids, labels, "grouped-kfold-10", 0, groups)
    with pytest.raises(
        SplitError, match=r"51 of 100 rows are one group .* such as d:0 and d:1: that is more than h"
    ):
        make_split(ids, labels, "grouped-kfold-10", 0, np.where(np.arange(100) < 51, -1, np.arange(100)))
    alike = [
        f"a photo of the same quiet lake in the morning sun {chr(97 + i % 26) * (1 + i // 26)}"
        for i in range(60)
    ]
    folder = make_dataset(with_columns(draw_pairs(60), text=alike))
    result = CliRunner().invoke(app, ["split", str(folder), "--protocol", "grouped-near-paper-5x"])
    assert isinstance(result.exception, SplitError)
    assert str(result.exception).endswith("or use grouped-paper-5x, which joins exact copies only")
    assert not (folder / "splits").exists()


def test_too_many_rows_to_compare_are_refused_by_near_and_told_by_exact(
    retold: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaks, "MAX_TEXTS", 89)
    with pytest.raises(
        SplitError, match=r"has 90 rows; near copies are found among at most 89\. Use a protocol"
    ):
        find_split(retold, "grouped-near-paper-5x", 0)
    result = split_dataset(retold.folder, "grouped-paper-5x")
    assert result.left is not None and result.near is result.left.near is None
    said = CliRunner().invoke(app, ["split", str(retold.folder), "--protocol", "grouped-paper-5x"]).stdout
    assert "Near copies are not counted: more than" in said


# What is left


def told(dataset: Dataset, protocol: str) -> tuple[str, dict[str, Any]]:
    said, document = (
        CliRunner().invoke(app, ["split", str(dataset.folder), "--protocol", protocol, *more]).stdout
        for more in ([], ["--json"])
    )
    return said, json.loads(document)


def test_every_grouped_protocol_tells_the_leak_that_is_left(retold: Dataset) -> None:
    said, document = told(retold, "grouped-kfold-10")
    near = document["left"]["near"]
    split = find_split(retold, "grouped-kfold-10", 0)
    pairs = near_by_comparing_all(retold)
    equal = dataset_groups(retold)
    expected = sum(
        pairs[row, train].any() and not (equal[train] == equal[row]).any()
        for train, test in sides_of(split)
        for row in test
    )
    assert near["n_leaked"] == expected > 0 and near["n_compared"] == 90
    assert document["near_copies"] == near
    assert (document["left"]["n_leaked"], document["left"]["n_owners"]) == (0, 0)
    assert "2 rows in 1 group, each kept on one side here; the largest has 2 rows." in said
    share = f"{expected} of 90 ({expected / 0.9:.2f}%) test rows have a near copy in training"
    assert f"What is left: {share} ({near['n_texts']} by text, {near['n_pictures']} by picture)" in said
    assert "; grouped-near-kfold-10 keeps these apart." in said


def test_near_protocols_leave_nothing(retold: Dataset) -> None:
    said, document = told(retold, "grouped-near-kfold-10")
    left = document["left"]
    assert left["near"] == {"n_compared": 90, "n_texts": 0, "n_pictures": 0, "n_leaked": 0}
    assert (left["n_rows"], left["n_groups"], left["n_largest"]) == (7, 3, 3)
    assert "No test row shares a text, picture or owner with training rows, or has a near copy there." in said
    assert document["leak"] == told(retold, "kfold-10")[1]["leak"], "that of the plain protocol"
    assert told(retold, "kfold-10")[1]["left"] is None


def test_the_leak_is_measured_once_and_kept_beside_the_split(
    retold: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = split_dataset(retold.folder, "grouped-paper-5x", 4)
    assert json.loads(pq.read_schema(first.path).metadata[b"mvsent.leak"])["near"]["n_compared"] == 45
    measured = monkeypatch.undo
    monkeypatch.setattr("mvsent.datasets.split.find_near_copies", None)
    again = split_dataset(retold.folder, "grouped-paper-5x", 4)
    assert again.left == first.left and again.split.sha256 == first.split.sha256
    measured()
    table = pq.read_table(first.path)
    older = {key: value for key, value in table.schema.metadata.items() if key != b"mvsent.leak"}
    pq.write_table(table.replace_schema_metadata(older), first.path)
    assert split_dataset(retold.folder, "grouped-paper-5x", 4).left == first.left, "of an earlier version"


def test_training_tells_the_leak_that_is_left(retold: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "mvsent"):
        for _ in range(2):
            ensure_split(retold, "grouped-kfold-10", 0)
            ensure_split(retold, "grouped-near-kfold-10", 0)
    assert len(caplog.messages) == 4, "each once"
    assert caplog.messages[1].startswith("grouped-kfold-10: what is left: ")
    assert caplog.messages[3].startswith("grouped-near-kfold-10: no test row shares a text, picture or owner")


def test_a_near_copy_counts_once_whichever_of_the_two_is_tested() -> None:
    roles = np.array([[TRAIN, TEST, TEST, TRAIN, TEST, VALIDATION]], dtype=np.int8)
    texts = Alike(np.array([0, 1, 2, 2, -1, 3]), np.array([[0, 1], [1, 3]]))
    pictures = Alike(np.array([-1, 0, 2, -1, 1, -1]), np.array([[1, 2]]))
    split = Split("p", 0, [f"d:{i}" for i in range(6)], roles)
    groups = np.array([0, 1, 2, 2, 3, 4])  # rows 2 and 3 are equal: row 2 is no near copy
    found = count_near_leak(split, groups, NearCopies(texts, pictures))
    assert vars(found) == {"n_compared": 3, "n_texts": 1, "n_pictures": 0, "n_leaked": 1}
    assert texts.rows.tolist() == [[0, 1], [1, 5]], "row 4 has no text"


def test_an_unknown_protocol_names_the_nearest(retold: Dataset) -> None:
    for wrong, meant in (
        ("grouped-neer-kfold-10", "grouped-near-kfold-10"),
        ("near-paper-5x", "grouped-near-paper-5x"),
    ):
        result = CliRunner().invoke(app, ["split", str(retold.folder), "--protocol", wrong])
        assert isinstance(result.exception, UsageError) and isinstance(result.exception, MvsentError)
        assert f"Did you mean '{meant}'?" in str(result.exception)
