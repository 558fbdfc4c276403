"""What comes beside pictures and words: links between rows, adjective-noun pairs, captions."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvsent.errors import InputError, WeightsError
from mvsent.features import anps
from mvsent.features.anps import AnpDetectors, read_scores, train_detectors
from mvsent.runs.inputs.captions import read_captions
from mvsent.runs.inputs.links import MOST_COMMON, NO_ROW, linked_rows
from mvsent.shards.reader import Dataset

KEYS = st.lists(st.lists(st.sampled_from("abcdef"), max_size=4), min_size=1, max_size=12)


@given(KEYS, st.sets(st.integers(0, 11)), st.integers(1, 4))
def test_only_training_rows_are_linked_never_the_row_itself_and_the_closest_first(
    keys: list[list[str]], train: set[int], n_links: int
) -> None:
    rows = np.array(sorted(row for row in train if row < len(keys)), dtype=np.int64)
    linked = linked_rows(keys, rows, n_links)
    assert linked.shape == (len(keys), n_links)
    for row, found in enumerate(linked.tolist()):
        real = [other for other in found if other != NO_ROW]
        assert found == real + [NO_ROW] * (n_links - len(real))
        assert row not in real
        assert len(set(real)) == len(real)
        assert set(real) <= set(rows.tolist())
        shared = [len(set(keys[row]) & set(keys[other])) for other in real]
        assert shared == sorted(shared, reverse=True)
        assert 0 not in shared


@given(KEYS)
def test_two_training_rows_are_linked_both_ways_or_not_at_all(keys: list[list[str]]) -> None:
    linked = linked_rows(keys, np.arange(len(keys)), n_links=len(keys))
    pairs = {(row, other) for row, found in enumerate(linked.tolist()) for other in found if other != NO_ROW}
    assert pairs == {(other, row) for row, other in pairs}


@given(KEYS, st.integers(0, 11))
def test_a_rows_links_do_not_depend_on_the_other_test_rows(keys: list[list[str]], n_train: int) -> None:
    train = np.arange(min(n_train, len(keys) - 1))
    others = [key if row in train or row == len(keys) - 1 else ["a"] for row, key in enumerate(keys)]
    assert (linked_rows(keys, train, 3)[-1] == linked_rows(others, train, 3)[-1]).all()


def test_a_key_that_all_share_links_nothing() -> None:
    keys = [["photo", "mine"] if row < 2 else ["photo"] for row in range(MOST_COMMON + 1)]
    linked = linked_rows(keys, np.arange(len(keys)), n_links=2)
    assert linked[:3].tolist() == [[1, NO_ROW], [0, NO_ROW], [NO_ROW, NO_ROW]]


def detectors(n_queries: int = 3) -> tuple[AnpDetectors, np.ndarray, list[str]]:
    """Detectors of rows whose query is written in one of their features."""
    random = np.random.default_rng(0)
    queries = [f"query {i % n_queries}" for i in range(60)]
    features = random.normal(0, 0.3, (60, 5)).astype(np.float32)
    features[np.arange(60), np.arange(60) % n_queries] += 2
    features[:, 4] = 7  # says nothing
    return train_detectors(features, queries, np.arange(40), "hash"), features, queries


@pytest.mark.parametrize("n_queries", [2, 3])
def test_a_detectors_scores_are_shares_and_the_highest_is_the_rows_query(n_queries: int) -> None:
    found, features, queries = detectors(n_queries)
    scores = found.scores(features)
    assert scores.shape == (60, n_queries)
    assert scores.dtype == np.float32
    assert np.allclose(scores.sum(axis=1), 1, atol=1e-5)
    assert [found.names[i] for i in scores[40:].argmax(axis=1)] == queries[40:]


def test_two_detectors_say_what_scikit_learn_says() -> None:
    from sklearn.linear_model import LogisticRegression

    found, features, queries = detectors(2)
    scaled = (features - found.mean) / found.std
    expected = LogisticRegression(C=0.01, max_iter=200).fit(scaled[:40], queries[:40]).predict_proba(scaled)
    assert np.allclose(found.scores(features), expected, atol=1e-4)


def test_only_training_rows_shape_the_detectors() -> None:
    found, features, queries = detectors()
    changed = features.copy()
    changed[40:] = 100
    again = train_detectors(changed, [*queries[:40], *["other"] * 20], np.arange(40), "hash")
    assert again.names == found.names
    assert (again.weight == found.weight).all()
    assert (again.mean == found.mean).all()


def test_saved_detectors_are_loaded_as_they_were(tmp_path: Path) -> None:
    found, features, _ = detectors()
    found.save(tmp_path / "anps.safetensors")
    loaded = AnpDetectors.load(tmp_path / "anps.safetensors")
    assert (loaded.names, loaded.backbone_sha256) == (found.names, "hash")
    assert (loaded.scores(features) == found.scores(features)).all()


def test_a_file_of_something_else_holds_no_detectors(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    with pytest.raises(WeightsError, match=r"none\.safetensors: no such file.*mvsent train-anps"):
        AnpDetectors.load(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("good")
    save_file({"weight": np.zeros(3)}, tmp_path / "model.safetensors")
    for name in ("text.safetensors", "model.safetensors"):
        with pytest.raises(WeightsError, match=r"holds no ANP detectors.*mvsent train-anps"):
            AnpDetectors.load(tmp_path / name)


def test_scores_of_a_file_are_in_the_order_of_the_ids(tmp_path: Path) -> None:
    table = pa.table({"id": ["b", "c", "a"], "anp_scores": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]})
    pq.write_table(table, tmp_path / "scores.parquet")
    scores = read_scores(tmp_path / "scores.parquet", ["a", "b"])
    assert scores.tolist() == [[5, 6], [1, 2]]
    assert scores.dtype == np.float32


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"id": ["a"], "anp_scores": [[1.0]]}, "has no row for 1 of 2 pairs, such as b"),
        ({"id": ["a", "b"]}, "not readable .*anp_scores"),
        ({"id": ["a", "b"], "anp_scores": [[1.0], [1.0, 2.0]]}, "differ in length"),
        ({"id": ["a", "b"], "anp_scores": [[1.0], None]}, "differ in length, or do not hold numbers"),
        ({"id": ["a", "b"], "anp_scores": [["x"], ["y"]]}, "do not hold numbers"),
        ({"id": ["a", "b"], "anp_scores": [1.0, 2.0]}, "must be lists"),
        ({"id": ["a", "b"], "anp_scores": [[1.0], [float("nan")]]}, "must be lists of finite"),
    ],
)
def test_a_file_of_scores_that_is_amiss_says_what_is_wanted(
    tmp_path: Path, columns: dict[str, list], said: str
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "scores.parquet")
    with pytest.raises(
        InputError, match=rf"scores\.parquet: .*{said}.*(columns id and anp_scores|file of --anps)"
    ):
        read_scores(tmp_path / "scores.parquet", ["a", "b"])


def test_a_file_of_scores_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scores.parquet").write_text("id,anp_scores")
    with pytest.raises(InputError, match="not readable"):
        read_scores(tmp_path / "scores.parquet", ["a"])


def write_captions(path: Path) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"id": ["drawn:1", "drawn:0"], "caption": [None, "a dog, asleep"]}), path)
    elif path.suffix == ".csv":
        path.write_text('id,caption\ndrawn:1,\ndrawn:0,"a dog, asleep"\n')
    else:
        path.write_text("\ufeffcaption\tid\n\tdrawn:1\na dog, asleep\tdrawn:0\n")
    return path


@pytest.mark.parametrize("name", ["c.parquet", "c.csv", "c.tsv"])
def test_captions_are_found_by_id_and_empty_where_there_is_none(
    tmp_path: Path, small_dataset: Path, name: str
) -> None:
    captions = read_captions(write_captions(tmp_path / name), Dataset.open(small_dataset))
    assert captions[:3] == ["a dog, asleep", "", ""]
    assert len(captions) == 60


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("c.csv", b"id,text\ndrawn:0,a dog\n", "has no column 'caption'"),
        ("c.tsv", b"id,caption\ndrawn:0,a dog\n", "has no column 'id'"),
        ("c.csv", b"id,caption\nflickr:1,a dog\n", "has no caption for any row"),
        ("c.csv", b"id,caption\ndrawn:0,\xff\xfe\n", "not readable"),
        ("c.parquet", b"id,caption\ndrawn:0,a dog\n", "not readable"),
        ("c.csv", None, "not readable"),
    ],
)
def test_a_file_of_captions_that_is_amiss_is_one_error(
    tmp_path: Path, small_dataset: Path, name: str, content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: {said}"):
        read_captions(tmp_path / name, Dataset.open(small_dataset))


def test_captions_of_other_ids_are_told_what_ids_look_like(tmp_path: Path, small_dataset: Path) -> None:
    (tmp_path / "c.csv").write_text("id,caption\nimages/7.jpg,a dog\n")
    with pytest.raises(InputError, match=r"ids look like 'drawn:0', those of the file like 'images/7\.jpg'"):
        read_captions(tmp_path / "c.csv", Dataset.open(small_dataset))


def test_detectors_of_rare_pairs_are_one_clear_line_and_no_library_s_warning(
    caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    features = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    queries = [f"happy {i % 10}" for i in range(12)]
    train_detectors(features, queries, np.arange(12), "hash")
    assert [record.getMessage() for record in caplog.records] == [
        "10 adjective-noun pairs have 12 training pictures, fewer than two each: expect poor detectors"
    ]
    assert not recwarn.list


def test_detectors_that_did_not_settle_say_so_in_one_line(
    caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anps, "MAX_STEPS", 1)
    features = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    train_detectors(features, [f"happy {i % 3}" for i in range(40)], np.arange(40), "hash")
    assert ["had not converged after 1 steps" in record.getMessage() for record in caplog.records] == [True]
    assert not recwarn.list
