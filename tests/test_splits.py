"""Splits: every row where it belongs, the same every time, and nobody's twin on the other side."""

import io
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from mvsent.cli import app, exit_code
from mvsent.curate.tenths import tenths
from mvsent.datasets import split as split_pipeline
from mvsent.datasets.leaks import count_leak
from mvsent.datasets.split import ensure_split, split_dataset
from mvsent.errors import SplitError, UsageError
from mvsent.shards.reader import Dataset
from mvsent.splits import (
    ABSENT,
    PROTOCOLS,
    ROLES,
    TEST,
    TRAIN,
    VALIDATION,
    Split,
    make_split,
    read_split,
    write_split,
)

GROUPED = [name for name in PROTOCOLS if name.startswith("grouped-")]
KFOLD = [name for name in PROTOCOLS if "kfold" in name]


def names(n: int) -> list[str]:
    return [f"drawn:{i}" for i in range(n)]


@st.composite
def labelled(draw: st.DrawFn, least: int = 20) -> np.ndarray:
    """int8 [N] with two or three labels, each with at least `least` rows."""
    counts = draw(st.lists(st.integers(least, 90), min_size=2, max_size=3))
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int8)
    return np.random.default_rng(draw(st.integers(0, 99))).permutation(labels)


@st.composite
def grouped(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and groups of which few are large and most hold one row."""
    labels = draw(labelled(least=40))
    groups = np.arange(len(labels))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    for number, size in enumerate(draw(st.lists(st.integers(2, 8), max_size=12))):
        groups[rng.choice(len(labels), size, replace=False)] = -1 - number
    return labels, groups


seeds = st.integers(0, 1000)


# The protocols


@given(labels=labelled(), seed=seeds)
def test_tenths_have_every_class_within_one_row(labels: np.ndarray, seed: int) -> None:
    part = tenths(labels, None, seed)
    assert set(part.tolist()) == set(range(10))
    for label in np.unique(labels):
        counts = np.bincount(part[labels == label], minlength=10)
        assert counts.max() - counts.min() <= 1


@given(rows=grouped(), seed=seeds)
def test_grouped_tenths_are_as_level_as_their_groups_allow(
    rows: tuple[np.ndarray, np.ndarray], seed: int
) -> None:
    labels, groups = rows
    part = tenths(labels, groups, seed)
    _, group, size = np.unique(groups, return_inverse=True, return_counts=True)
    for label in np.unique(labels):
        of_label = labels == label
        counts = np.bincount(part[of_label], minlength=10)
        in_groups = np.bincount(part[of_label & (size[group] > 1)], minlength=10)
        raised = counts > in_groups  # single rows were put here, so nowhere else may be lower than that
        assert not raised.any() or counts[raised].max() - counts.min() <= 1


def test_groups_alone_are_dealt_evenly() -> None:
    labels = np.repeat([0, 0, 0, 1], 50).astype(np.int8)
    part = tenths(labels, np.arange(200) // 2, 0)
    assert sorted(np.bincount(part[labels == 0]).tolist()) == [14] * 5 + [16] * 5
    assert sorted(np.bincount(part[labels == 1], minlength=10).tolist()) == [4] * 5 + [6] * 5


@pytest.mark.parametrize("protocol", KFOLD)
@given(rows=grouped(), seed=seeds)
def test_kfold_tests_every_row_once_and_validates_it_once(
    protocol: str, rows: tuple[np.ndarray, np.ndarray], seed: int
) -> None:
    labels, groups = rows
    split = make_split(names(len(labels)), labels, protocol, seed, groups)
    assert split.n_folds == int(protocol.rpartition("-")[2])
    assert ((split.roles == TEST).sum(axis=0) == 1).all()
    assert ((split.roles == VALIDATION).sum(axis=0) <= 1).all()


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
@given(rows=grouped(), seed=seeds)
def test_every_row_has_one_role_in_every_fold(
    protocol: str, rows: tuple[np.ndarray, np.ndarray], seed: int
) -> None:
    labels, groups = rows
    split = make_split(names(len(labels)), labels, protocol, seed, groups)
    for fold in range(split.n_folds):
        parts = [split.rows(fold, role) for role in (TRAIN, VALIDATION, TEST)]
        assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
        assert all(np.array_equal(part, np.sort(part)) for part in parts)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", GROUPED)
@given(rows=grouped(), seed=seeds)
def test_a_group_never_straddles_two_roles(
    protocol: str, rows: tuple[np.ndarray, np.ndarray], seed: int
) -> None:
    labels, groups = rows
    split = make_split(names(len(labels)), labels, protocol, seed, groups)
    for number in np.unique(groups):
        assert (np.ptp(split.roles[:, groups == number], axis=1) == 0).all()
    assert count_leak(split, groups).n_leaked == 0


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
@given(rows=grouped(), seed=seeds)
def test_the_same_seed_gives_the_same_split(
    protocol: str, rows: tuple[np.ndarray, np.ndarray], seed: int
) -> None:
    labels, groups = rows
    one, two, other = (
        make_split(names(len(labels)), labels, protocol, s, groups) for s in (seed, seed, seed + 5)
    )
    assert one.sha256 == two.sha256
    assert one.sha256 != other.sha256


def test_paper_5x_is_five_different_80_10_10_repeats(sixty_pairs: pa.Table) -> None:
    labels = np.repeat([0, 1, 2], [300, 100, 600]).astype(np.int8)
    split = make_split(names(1000), labels, "paper-5x", 0)
    for fold in range(5):
        for role, rows in ((TRAIN, (240, 80, 480)), (VALIDATION, (30, 10, 60)), (TEST, (30, 10, 60))):
            assert tuple(np.bincount(labels[split.rows(fold, role)])) == rows
    assert len({split.rows(fold, TEST).tobytes() for fold in range(5)}) == 5


def test_paper_5x_repeats_with_the_seeds_that_follow() -> None:
    labels = np.repeat([0, 1], 50).astype(np.int8)
    first, second = (make_split(names(100), labels, "paper-5x", seed) for seed in (0, 1))
    assert np.array_equal(first.roles[1:], second.roles[:4])


def test_kfold_5_tests_two_tenths_and_validates_on_the_next() -> None:
    labels = np.repeat([0, 1], 50).astype(np.int8)
    tenth = tenths(labels, None, 3)
    split = make_split(names(100), labels, "kfold-5", 3)
    for fold in range(5):
        assert set(tenth[split.rows(fold, TEST)]) == {2 * fold, 2 * fold + 1}
        assert set(tenth[split.rows(fold, VALIDATION)]) == {(2 * fold + 2) % 10}


def test_the_largest_group_is_not_always_tested() -> None:
    labels = np.repeat([0, 1], 100).astype(np.int8)
    groups = np.maximum(np.arange(200), 9)
    split = make_split(names(200), labels, "grouped-paper-5x", 0, groups)
    assert len(set(split.roles[:, 0].tolist())) > 1


def test_an_unknown_protocol_lists_the_known() -> None:
    with pytest.raises(
        UsageError,
        match=r"'paper-6x'. Did you mean 'paper-5x'\? Choose from paper-5x, kfold-5, kfold-10, grouped-paper-5x",
    ):
        make_split(names(4), np.zeros(4, dtype=np.int8), "paper-6x", 0)


# Too few rows


def test_a_class_that_training_would_lack_is_an_error() -> None:
    labels = np.repeat([0, 1, 2], [50, 1, 50]).astype(np.int8)
    with pytest.raises(SplitError, match=r"class neutral \(1 row in all\) is missing from training in fold"):
        make_split(names(101), labels, "kfold-10", 0)


def test_a_class_that_only_tests_lack_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    labels = np.repeat([0, 1, 2], [50, 4, 50]).astype(np.int8)
    with caplog.at_level(logging.WARNING, "mvsent"):
        make_split(names(104), labels, "kfold-10", 0)
    [message] = caplog.messages
    assert "class neutral (4 rows in all) is missing from validation or test in " in message


@pytest.mark.parametrize("groups", [None, np.arange(18)])
def test_too_few_rows_for_tenths_is_an_error(groups: np.ndarray | None) -> None:
    with pytest.raises(SplitError, match="18 rows are too few for tenths"):
        tenths(np.repeat([0, 1], 9).astype(np.int8), groups, 0)


# The leak


def test_the_leak_counts_test_rows_with_a_twin_in_training() -> None:
    roles = np.array([[TRAIN, TEST, TEST, VALIDATION, TEST, TEST]], dtype=np.int8)
    groups = np.array([7, 7, 7, 2, 2, 5])
    leak = count_leak(Split("p", 0, names(6), roles), groups)
    assert (leak.n_groups, leak.n_rows, leak.n_test, leak.n_leaked) == (2, 5, 4, 2)


# Files


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
@settings(max_examples=25)
@given(rows=grouped(), seed=seeds, shuffle=seeds)
def test_a_written_split_is_read_back_whatever_the_order_of_its_lines(
    protocol: str,
    rows: tuple[np.ndarray, np.ndarray],
    seed: int,
    shuffle: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    labels, groups = rows
    split = make_split(names(len(labels)), labels, protocol, seed, groups)
    path = tmp_path_factory.getbasetemp() / "split.parquet"
    write_split(split, path)
    table = pq.read_table(path)
    assert table.column_names == ["id", "fold", "role"]
    assert set(table["role"].to_pylist()) == set(ROLES)
    order = np.random.default_rng(shuffle).permutation(len(table))
    pq.write_table(table.take(pa.array(order)), path)
    again = read_split(path, split.ids)
    assert (again.sha256, again.protocol, again.seed) == (split.sha256, protocol, seed)


def test_a_row_absent_from_a_fold_stays_absent() -> None:
    roles = np.array([[TRAIN, TEST, ABSENT], [ABSENT, TRAIN, TEST]], dtype=np.int8)
    stream = io.BytesIO()
    write_split(Split("mine", 0, names(3), roles), stream)
    assert np.array_equal(read_split_bytes(stream.getvalue()).roles, roles)


def read_split_bytes(data: bytes) -> Split:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        path = Path(folder, "mine.parquet")
        path.write_bytes(data)
        return read_split(path, names(3))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": ["drawn:0", "drawn:1"], "role": ["train", "test"]}, "1 of 3 ids of the dataset have no role"),
        ({"id": ["drawn:0", "mvsa:9"], "role": ["train", "test"]}, "1 of 2 ids are not in the dataset, e.g"),
        ({"id": names(3), "role": ["train", "test", "holdout"]}, "unknown role 'holdout'"),
        ({"id": [*names(3), "drawn:0"], "role": ["train"] * 3 + ["test"]}, "drawn:0 has two roles in fold 0"),
        ({"id": names(3), "fold": [0, 0, 1]}, "has no column role"),
        ({"name": ["x"]}, "has no column id and no column role"),
        ({"id": pa.array([], pa.string()), "role": pa.array([], pa.string())}, "has no rows"),
        ({"id": names(3), "role": ["train"] * 3, "fold": [0, 0, None]}, "a fold is not a number"),
    ],
)
def test_a_stored_split_that_does_not_fit_says_why(
    tmp_path: Path, columns: dict[str, list[object]], message: str
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "s.parquet")
    with pytest.raises(SplitError, match=message):
        read_split(tmp_path / "s.parquet", names(3))


def test_a_missing_or_broken_stored_split_says_so(tmp_path: Path) -> None:
    with pytest.raises(SplitError, match="no such split file"):
        read_split(tmp_path / "s.parquet", names(3))
    (tmp_path / "s.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(SplitError, match="not a readable split"):
        read_split(tmp_path / "s.parquet", names(3))


def test_a_split_that_leaves_rows_out_is_read_again_but_not_one_that_lost_some(tmp_path: Path) -> None:
    roles = np.array([[TRAIN, TEST, ABSENT], [TEST, TRAIN, ABSENT]], dtype=np.int8)
    path = tmp_path / "mine.parquet"
    write_split(Split("mine", 0, names(3), roles), path)
    again = read_split(path, names(3))
    assert (again.roles.tolist(), again.n_left_out) == (roles.tolist(), 1)
    table = pq.read_table(path)
    pq.write_table(table.filter(pa.array([id != "drawn:1" for id in table["id"].to_pylist()])), path)
    with pytest.raises(SplitError, match=r"2 of 3 ids of the dataset have no role, e.g. 'drawn:1'"):
        read_split(path, names(3))


# In a dataset's folder


def test_a_split_is_kept_and_never_made_twice(
    make_dataset: Callable[..., Path], sixty_pairs: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_dataset(sixty_pairs)
    first = split_dataset(folder, "kfold-5", 7)
    assert first.path == folder / "splits" / "kfold-5-seed7.parquet"
    before = (first.path.stat().st_mtime_ns, first.path.read_bytes())
    monkeypatch.delattr(split_pipeline, "make_split")
    again = split_dataset(folder, "kfold-5", 7)
    assert again.split.sha256 == first.split.sha256
    assert (first.path.stat().st_mtime_ns, first.path.read_bytes()) == before


def test_twins_are_found_and_the_leak_is_told(
    make_dataset: Callable[..., Path], sixty_pairs: pa.Table, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_dataset(sixty_pairs)
    split = split_dataset(folder, "grouped-kfold-10").split
    for one, other in ((3, 9), (4, 10)):  # rows with the same text
        assert np.array_equal(split.roles[:, one], split.roles[:, other])
    assert (
        exit_code(
            lambda: app(["split", str(folder), "--protocol", "grouped-kfold-10"], standalone_mode=False)
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert "4 rows in 2 groups, each kept on one side here; the largest has 2 rows." in printed
    assert "In kfold-10, " in printed
    assert f"grouped-kfold-10 → {folder}/splits/grouped-kfold-10.parquet" in printed


def test_the_leak_of_the_plain_protocol_is_counted_on_the_plain_split(
    make_dataset: Callable[..., Path], sixty_pairs: pa.Table
) -> None:
    folder = make_dataset(sixty_pairs)
    leak = split_dataset(folder, "grouped-kfold-10").leak
    plain = split_dataset(folder, "kfold-10")
    expected = sum(
        plain.split.roles[fold, one] == TEST and plain.split.roles[fold, other] == TRAIN
        for fold in range(10)
        for one, other in ((3, 9), (9, 3), (4, 10), (10, 4))
    )
    assert plain.leak == leak
    assert (leak.n_groups, leak.n_rows, leak.n_test, leak.n_leaked) == (2, 4, 60, expected)


def test_every_split_tells_what_its_test_rows_share_with_training(
    make_dataset: Callable[..., Path], sixty_pairs: pa.Table, tmp_path: Path
) -> None:
    """Owners as well as duplicates; a source without owners has no line on them."""
    owners = [f"owner {row % 20}" for row in range(60)]
    place = sixty_pairs.schema.get_field_index("owner")
    owned = make_dataset(sixty_pairs.set_column(place, "owner", pa.array(owners, pa.string())), name="owned")

    def told(folder: Path, *flags: str) -> tuple[str, dict[str, Any]]:
        said, document = (
            CliRunner().invoke(app, ["split", str(folder), *flags, *more], standalone_mode=False).stdout
            for more in ([], ["--json"])
        )
        return said, json.loads(document)

    said, plain = told(owned, "--protocol", "kfold-10")
    roles = split_dataset(owned, "kfold-10").split.roles
    expected = sum(
        roles[fold, row] == TEST and any(roles[fold, other] == TRAIN for other in range(row % 20, 60, 20))
        for fold in range(10)
        for row in range(60)
    )
    assert plain["owners"] == {"n_groups": 20, "n_rows": 60, "n_test": 60, "n_leaked": expected}
    line = "test rows share an owner with training rows; grouped-kfold-10 keeps them apart."
    assert f"{expected} of 60 ({expected / 0.6:.2f}%) {line}" in said
    assert (
        f"{plain['leak']['n_leaked']} of 60" in said and "share a text or picture with training rows" in said
    )
    said, grouped = told(owned, "--protocol", "grouped-kfold-10")
    assert grouped["owners"] == plain["owners"] and f"{expected} of 60" in said and "share an owner" in said
    parts = ["test"] * 5 + ["validation"] * 5 + ["train"] * 50
    rows = [f"{id},{role}\n" for id, role in zip(sixty_pairs["id"].to_pylist(), parts, strict=True)]
    (tmp_path / "s.csv").write_text("id,role\n" + "".join(rows))
    said, of_files = told(owned, "--split-file", str(tmp_path / "s.csv"))
    assert of_files["owners"]["n_leaked"] == 5
    assert "5 of 5 (100.00%) test rows share an owner with training rows." in said
    said, without = told(make_dataset(sixty_pairs, name="nobody"), "--protocol", "kfold-10")
    assert without["owners"]["n_leaked"] == 0 and "owner" not in said


def test_a_split_file_is_kept_under_its_own_name(
    make_dataset: Callable[..., Path], sixty_pairs: pa.Table, tmp_path: Path
) -> None:
    folder = make_dataset(sixty_pairs)
    roles = ["test", "validation", *["train"] * 58]
    file = tmp_path / "paper-5x.csv"  # a name that must not pass for the protocol
    pa.csv.write_csv(pa.table({"id": sixty_pairs["id"], "role": roles}), file)
    result = split_dataset(folder, split_file=file)
    assert result.split.protocol == "file-paper-5x"
    assert result.path == folder / "splits" / "file-paper-5x.parquet"
    assert result.split.rows(0, TEST).tolist() == [0]
    assert split_dataset(folder, "paper-5x").split.n_folds == 5
    roles[2] = "test"
    pa.csv.write_csv(pa.table({"id": sixty_pairs["id"], "role": roles}), file)
    assert split_dataset(folder, split_file=file).split.rows(0, TEST).tolist() == [0, 2]
    assert read_split(result.path, sixty_pairs["id"].to_pylist()).rows(0, TEST).tolist() == [0, 2]


def test_the_datasets_own_split_file_keeps_its_protocol(
    make_dataset: Callable[..., Path], sixty_pairs: pa.Table
) -> None:
    folder = make_dataset(sixty_pairs)
    made = split_dataset(folder, "kfold-5")
    given = ensure_split(Dataset.open(folder), "paper-5x", 0, made.path)
    assert (given.protocol, given.sha256) == ("kfold-5", made.split.sha256)


def test_a_folder_that_cannot_be_written_still_gives_a_split(
    make_dataset: Callable[..., Path], sixty_pairs: pa.Table, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    folder = make_dataset(sixty_pairs)

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(split_pipeline, "atomic_write", refuse)
    assert ensure_split(Dataset.open(folder), "kfold-5", 0).n_folds == 5
    assert "Permission denied, so the split is not stored there" in caplog.text
    with pytest.raises(PermissionError):
        split_dataset(folder, "kfold-5", 0)


def test_split_prints_json(
    make_dataset: Callable[..., Path], sixty_pairs: pa.Table, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_dataset(sixty_pairs)
    assert exit_code(lambda: app(["split", str(folder), "--json", "--seed", "2"], standalone_mode=False)) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["protocol"], document["seed"], len(document["folds"])) == ("paper-5x", 2, 5)
    assert document["folds"][0]["test"] == {"negative": 2, "neutral": 2, "positive": 2}


def test_a_bad_protocol_is_bad_usage(small_dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        exit_code(lambda: app(["split", str(small_dataset), "--protocol", "x"], standalone_mode=False)) == 2
    )
    assert capsys.readouterr().err.startswith("mvsent: unknown protocol 'x'. Choose from paper-5x")
