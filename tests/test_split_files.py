"""Split files of other people: each layout gives the folds that it describes, and what does not fit is refused."""

import io
import json
import logging
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import PredefinedSplit
from typer.testing import CliRunner

from mvsent.cli import app
from mvsent.config import TrainSettings
from mvsent.datasets.carve import carve_validation
from mvsent.datasets.leaks import dataset_groups
from mvsent.datasets.split import ensure_split, find_split, split_dataset
from mvsent.datasets.split_files import FoundSplit, SplitFiles, read_split_files
from mvsent.datasets.split_tables import SUFFIXES, parse_split_table
from mvsent.datasets.validate import validate
from mvsent.errors import MvsentError, SplitError, UsageError
from mvsent.shards.reader import Dataset
from mvsent.splits import ABSENT, ROLES, TEST, TRAIN, VALIDATION, Split, read_split
from tests.drawing import draw_pairs

FILE_NAMES = ("train", "val", "test")


class Rows:
    """Nothing but the ids of a dataset."""

    def __init__(self, ids: list[str]) -> None:
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)


def names(n: int) -> list[str]:
    return [f"drawn:{i + 100}" for i in range(n)]


def read(paths: Path | list[Path], ids: list[str], /, **how: Any) -> FoundSplit:
    listed = tuple(paths) if isinstance(paths, list) else (paths,)
    return read_split_files(SplitFiles(listed, **how), Rows(ids))  # type: ignore[arg-type]


@st.composite
def role_tables(draw: st.DrawFn, folds: int | None = None) -> np.ndarray:
    """int8 [F, N]: every row has one role in every fold, and every fold all three."""
    n_rows = draw(st.integers(6, 30))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    n_folds = folds or draw(st.integers(1, 3))
    one = np.concatenate([[TRAIN, VALIDATION, TEST], rng.integers(0, 3, n_rows - 3)])
    return np.stack([rng.permutation(one) for _ in range(n_folds)]).astype(np.int8)


SPELLINGS: dict[str, Callable[[str], str]] = {
    "as they are": lambda id: id,
    "without the prefix": lambda id: id.partition(":")[2],
    "as pictures": lambda id: f"{id.partition(':')[2]}.jpg",
    "as texts in a folder": lambda id: f"data/{id.partition(':')[2]}.TXT",
    "with the prefix, as pictures": lambda id: f"{id}.png",
    "as pandas has a column with gaps": lambda id: f"{id.partition(':')[2]}.0",
}


@pytest.fixture
def folder() -> Iterator[Path]:
    with TemporaryDirectory() as made:
        yield Path(made)


def in_role(roles: np.ndarray, role: int) -> list[int]:
    return np.flatnonzero(roles == role).tolist()


def write_frames(
    folder: Path, roles: np.ndarray, ids: list[str], write: Callable[[pd.DataFrame, Path], Any], suffix: str
) -> Path:
    """One table for each role and fold, without a column that says so."""
    for fold, of_fold in enumerate(roles):
        for role, name in enumerate(FILE_NAMES):
            rows = in_role(of_fold, role)
            number = f"_{fold + 1}" if len(roles) > 1 else ""
            frame = pd.DataFrame({"label": [role] * len(rows), "id": [ids[row] for row in rows]})
            write(frame, folder / f"{name}{number}{suffix}")
    return folder


def write_long(
    path: Path, roles: np.ndarray, ids: list[str], write: Callable[[pd.DataFrame, Path], Any]
) -> Path:
    """One table of all folds, with columns for role and fold."""
    frames = [
        pd.DataFrame({"image_id": ids, "split": [ROLES[role] for role in of_fold], "fold": fold + 1})
        for fold, of_fold in enumerate(roles)
    ]
    write(pd.concat(frames).sample(frac=1, random_state=0), path)
    return path


WRITERS: dict[str, Callable[[pd.DataFrame, Path], Any]] = {
    ".csv": lambda frame, path: frame.to_csv(path, index=False),
    ".tsv": lambda frame, path: frame.to_csv(path, index=False, sep="\t"),
    ".txt": lambda frame, path: frame.to_csv(path, index=False, sep=";"),
    ".json": lambda frame, path: frame.to_json(path, orient="records"),
    ".jsonl": lambda frame, path: frame.to_json(path, orient="records", lines=True),
    ".parquet": lambda frame, path: frame.to_parquet(path),
}


# Layouts


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("suffix", WRITERS)
@settings(max_examples=5)
@given(roles=role_tables())
def test_a_table_for_each_role_and_fold_gives_the_folds_it_describes(
    suffix: str, spelling: str, roles: np.ndarray
) -> None:
    ids = names(roles.shape[1])
    with TemporaryDirectory() as made:
        folder = write_frames(Path(made), roles, list(map(SPELLINGS[spelling], ids)), WRITERS[suffix], suffix)
        found = read(folder, ids)
        in_any_order = read(sorted(folder.iterdir(), reverse=True), ids)
    assert found.split.roles.tolist() == in_any_order.split.roles.tolist() == roles.tolist()
    assert found.split.n_left_out == 0


@pytest.mark.parametrize("suffix", WRITERS)
@settings(max_examples=5)
@given(roles=role_tables())
def test_one_table_with_roles_and_folds_gives_the_folds_it_describes(suffix: str, roles: np.ndarray) -> None:
    ids = names(roles.shape[1])
    with TemporaryDirectory() as made:
        path = write_long(Path(made) / f"all{suffix}", roles, ids, WRITERS[suffix])
        assert read(path, ids).split.roles.tolist() == roles.tolist()


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("list_kind", ["plain", "csv", "csv with a header"])
@settings(max_examples=5)
@given(roles=role_tables(folds=10), shuffle=st.integers(0, 99))
def test_ten_folds_of_line_numbers_into_a_list_of_ids(
    list_kind: str, first: int, roles: np.ndarray, shuffle: int
) -> None:
    ids = names(roles.shape[1])
    order = np.random.default_rng(shuffle).permutation(len(ids))  # the list has an order of its own
    line_of = np.argsort(order)
    lines = [ids[row].partition(":")[2] for row in order]
    if list_kind != "plain":
        lines = ["ID,text,label"] * (list_kind != "csv") + [f"{line},positive,neutral" for line in lines]
    with TemporaryDirectory() as made:
        folder = Path(made)
        listed = folder / "pairs.txt"
        listed.write_text("\n".join(lines) + "\n")
        for fold, of_fold in enumerate(roles):
            for role, name in enumerate(FILE_NAMES):
                numbers = sorted(line_of[in_role(of_fold, role)] + first)
                (folder / f"{name}_{fold + 1}.txt").write_text("\n".join(map(str, numbers)) + "\n")
        found = read(folder, ids, ids=listed)
    assert found.split.roles.tolist() == roles.tolist()
    assert any(f"lines of pairs.txt, which count from {first}" in note for note in found.notes)


@settings(max_examples=10)
@given(roles=role_tables(folds=1))
def test_one_json_object_with_a_list_for_each_role(roles: np.ndarray) -> None:
    ids = names(roles.shape[1])
    by_role = {
        name: [int(ids[row][6:]) for row in in_role(roles[0], role)] for role, name in enumerate(ROLES)
    }
    with TemporaryDirectory() as made:
        path = Path(made) / "split.json"
        path.write_text(json.dumps(by_role))
        assert read(path, ids).split.roles.tolist() == roles.tolist()


def test_a_folder_for_each_fold_and_a_test_file_for_all(folder: Path) -> None:
    for fold, (train, dev) in enumerate([("100\n101", "102"), ("102\n101", "100")]):
        (folder / f"fold{fold}").mkdir()
        (folder / f"fold{fold}" / "train.txt").write_text(train)
        (folder / f"fold{fold}" / "dev.txt").write_text(dev)
    (folder / "test.txt").write_text("103\n")
    (folder / "README.txt").write_text("about")
    found = read(folder, names(4))
    assert found.split.roles.tolist() == [
        [TRAIN, TRAIN, VALIDATION, TEST],
        [VALIDATION, TRAIN, TRAIN, TEST],
    ]
    assert any("README.txt" in note for note in found.notes)


@pytest.mark.parametrize("layout", ["a table", "a file for each", "a folder of files"])
def test_folds_without_roles_are_held_out_one_after_the_other(folder: Path, layout: str) -> None:
    """As scikit-learn's PredefinedSplit reads a column of folds."""
    ids = names(30)
    test_fold = np.random.default_rng(0).permutation(np.arange(30) % 5)
    paths = [folder / f"fold{number}.txt" for number in range(1, 6)]
    for number, path in enumerate(paths):
        path.write_text("\n".join(np.array(ids)[test_fold == number]))
    pd.DataFrame({"id": ids, "fold": test_fold + 1}).to_csv(folder / "folds.csv", index=False)
    if layout == "a folder of files":
        (folder / "folds.csv").unlink()
    given = {"a table": folder / "folds.csv", "a file for each": paths, "a folder of files": folder}
    found = read(given[layout], ids)
    expected = list(PredefinedSplit(test_fold).split())
    for fold, (train, test) in enumerate(expected):
        assert found.split.rows(fold, TRAIN).tolist() == train.tolist()
        assert found.split.rows(fold, TEST).tolist() == test.tolist()
    assert found.split.n_folds == len(expected) and "test rows, all others train" in found.notes[-1]


def test_line_ends_of_any_kind_and_blanks_are_read(tmp_path: Path) -> None:
    for ends in ("\n", "\r\n", "\r"):
        (tmp_path / "all.csv").write_text(
            "id,role,fold\n100,train,0 \n101,val, 0\n102,test,0".replace("\n", ends), newline=""
        )
        assert read(tmp_path / "all.csv", names(3)).split.roles.tolist() == [[TRAIN, VALIDATION, TEST]]


def test_a_row_of_two_folds_without_roles_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cv.csv").write_text("id,fold\n100,0\n101,1\n100,1\n")
    with pytest.raises(SplitError, match="id drawn:100 is in two folds, and nothing tells its role in them"):
        read(tmp_path / "cv.csv", names(2))


def test_folds_are_in_the_order_of_their_numbers_and_not_of_their_names(folder: Path) -> None:
    for fold in (2, 10, 1):
        for name, row in zip(FILE_NAMES, np.roll([100, 101, 102], fold), strict=True):
            (folder / f"{name}_{fold}.txt").write_text(f"{row}\n")
    expected = [np.argsort(np.roll([0, 1, 2], fold)).tolist() for fold in (1, 2, 10)]
    assert read(folder, names(3)).split.roles.tolist() == expected


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("s.csv", "id,role\ndrawn:102,test\ndrawn:100,train\ndrawn:101,val\n"),
        ("s.tsv", "ID\tRole\tfold\ndrawn:102\tTEST\t1\ndrawn:100\ttraining\t1\ndrawn:101\tdev\t1\n"),
        ("s.csv", "\ufeffid,role\r\n102,test\r\n100,train\r\n101,validation\r\n"),
        ("s.json", '[{"ID": 102, "Set": "test"}, {"ID": 100, "Set": "train"}, {"ID": 101, "Set": "dev"}]'),
    ],
)
def test_somebody_elses_split_is_understood(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_bytes(content.encode())
    assert read(tmp_path / name, names(3)).split.roles.tolist() == [[TRAIN, VALIDATION, TEST]]


def test_an_id_that_begins_with_zeros_stays_text(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("id,role\n007,train\n7,val\n07,test\n")
    assert read(tmp_path / "s.csv", ["7", "07", "007"]).split.roles.tolist() == [[VALIDATION, TEST, TRAIN]]


@settings(max_examples=200)
@given(content=st.binary(max_size=60) | st.text("[]{}\",:id0123456789trainest\n\t", max_size=60).map(str.encode),
       suffix=st.sampled_from(SUFFIXES))  # fmt: skip
def test_whatever_a_file_holds_it_is_entries_or_a_split_error(content: bytes, suffix: str) -> None:
    try:
        table = parse_split_table(f"train{suffix}", content)
    except SplitError as error:
        assert str(error).startswith(f"train{suffix}")
    else:
        assert len(table) > 0 and not table.ids.null_count


# What does not fit


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"s.csv": "id,role\n100,train\n101,test\n102,val\nmvsa:9,test\n"}, r"s.csv: 1 of 4 ids are not in the dataset: 'mvsa:9'. Use the split of this dataset; or leave them out: --split-unknown drop"),
        ({"s.csv": "id,role\n1,train\n2,test\n3,val\n4,test\n"}, r"4 of 4 ids are not in the dataset: '1', '2', '3' …. Use the split of this dataset; for line numbers, give the list: --split-ids$"),
        ({"s.csv": "id,role\n100,train\n101,holdout\n102,test\n"}, r"unknown role 'holdout' \(row 2\)"),
        ({"s.csv": "id,role\n100,train\n100,test\n101,test\n"}, "id drawn:100 has two roles in fold 0: train and test"),
        ({"train.txt": "100\n101\n", "test.txt": "102\n101.jpg\n"}, "train.txt, test.txt: id drawn:101 has two roles in fold 0"),
        ({"s.csv": "id,fold\n100,1\n"}, "s.csv: neither its name nor a column role tells the role"),
        ({"train.csv": "words,label\nx,1\n"}, "train.csv: has no column of ids, only words, label"),
        ({"train.csv": "id,label,id\n1,2,3\n"}, "train.csv: has more than one column id"),
        ({"train.csv": "id,label\n,2\n"}, "train.csv: row 1 has no id"),
        ({"train.csv": "id,label\n"}, "train.csv: has no rows"),
        ({"train.txt": ""}, "train.txt: has no rows"),
        ({"train.json": "{"}, "train.json: not a readable split"),
        ({"train.json": '[{"label": 1}]'}, "train.json: its objects have no id, only label"),
        ({"train.json": "[[1]]"}, r"train.json: the id of entry 1 is '\[1\]'"),
        ({"train.json": '{"a": [1]}'}, "an object with the keys a, not train, val and test"),
        ({"train.json": "[" * 99_999}, "train.json: not a readable split"),
        ({"train.json": '["\\ud800"]'}, "train.json: not a readable split"),
        ({"train.csv": "id,fold\n100,first\n"}, "a fold is not a number"),
        ({"train.parquet": "PAR1"}, "train.parquet: not a readable split"),
        ({"train.xlsx": "PK"}, "its suffix .xlsx is none of a split file"),
        ({"train_1.txt": "100", "test_1.txt": "101", "train_2.txt": "100"}, "fold 2 has no test rows"),
        ({"train_1.txt": "100", "val_1.txt": "102", "test_1.txt": "101", "train_2.txt": "100", "test_2.txt": "101"}, "fold 2 has no validation rows"),
        ({"train.txt": "100", "val.txt": "101"}, "train.txt, val.txt: the split has no test rows"),
    ],
)  # fmt: skip
def test_a_split_that_does_not_fit_says_why(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(SplitError, match=message):
        read([tmp_path / name for name in files], names(3))


def test_a_file_that_is_not_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_bytes(b"id,label\n100,x\n\xff,y\n")
    with pytest.raises(SplitError, match=r"train.csv:3: not UTF-8"):
        read(tmp_path / "train.csv", names(3))


def test_a_folder_without_a_file_of_a_role_lists_what_it_has(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("id\n1\n")
    with pytest.raises(
        SplitError, match=r"called train, val or test, and not all have numbers: a.csv, b.csv"
    ):
        read(tmp_path, names(3))
    with pytest.raises(SplitError, match="no such split file"):
        read(tmp_path / "none", names(3))


def test_unknown_ids_are_dropped_on_request_and_counted(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("id,role\n100,train\n101,test\nx,val\ny,test\n")
    found = read(tmp_path / "s.csv", names(3), unknown="drop")
    assert found.split.roles.tolist() == [[TRAIN, TEST, ABSENT]]
    assert "2 ids of the split that are not in the dataset are dropped" in found.notes
    assert "1 of 3 rows are not in the split and are left out" in found.notes


def test_a_number_of_two_sources_names_no_row(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("id,role\na:1,train\nb:1,test\n")
    assert read(tmp_path / "s.csv", ["a:1", "b:1"]).split.roles.tolist() == [[TRAIN, TEST]]
    (tmp_path / "s.csv").write_text("id,role\n1,train\nb:1,test\n")
    with pytest.raises(SplitError, match="1 of 2 ids are not in the dataset: '1'"):
        read(tmp_path / "s.csv", ["a:1", "b:1"])


# Line numbers


def lines(folder: Path, train: str, test: str, listed: str = "100\n101\n102\n103\n104\n") -> list[Path]:
    (folder / "list").write_text(listed)
    (folder / "train.txt").write_text(train)
    (folder / "test.txt").write_text(test)
    return [folder / "train.txt", folder / "test.txt"]


def test_lines_that_may_count_from_either_are_refused_until_it_is_said(tmp_path: Path) -> None:
    paths, ids = lines(tmp_path, "1\n2\n", "3\n"), names(5)
    with pytest.raises(
        SplitError, match=r"lines 1 to 3 may count from 0 or 1, as neither 0 nor 5 occurs. Say"
    ):
        read(paths, ids, ids=tmp_path / "list")
    zero, one = (read(paths, ids, ids=tmp_path / "list", first_line=first).split for first in ("0", "1"))
    assert zero.rows(0, TRAIN).tolist() == [1, 2] and one.rows(0, TRAIN).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("train", "first", "message"),
    [
        ("0\n5\n", "auto", "line 5 is not in --split-ids, which has 5 lines"),
        ("7\n", "auto", "line 7 is not in --split-ids, which has 5 lines"),
        ("0\n", "1", "line 0 is not in --split-ids, which has the lines 1 to 5"),
        ("5\n", "0", "line 5 is not in --split-ids, which has the lines 0 to 4"),
        ("-1\n", "auto", "'-1' is no line number of --split-ids"),
        (
            "drawn:100\n",
            "auto",
            "'drawn:100' is no line number of --split-ids. Leave --split-ids out for ids",
        ),
    ],
)
def test_a_line_that_the_list_does_not_have_is_refused(
    tmp_path: Path, train: str, first: Any, message: str
) -> None:
    paths = lines(tmp_path, train, "3\n")
    with pytest.raises(SplitError, match=message):
        read(paths, names(5), ids=tmp_path / "list", first_line=first)


def test_a_list_that_names_an_unknown_row_is_refused_or_shortened(tmp_path: Path) -> None:
    paths = lines(tmp_path, "0\n1\n", "2\n", "100\n999\n102\n")
    with pytest.raises(SplitError, match="list: 1 of 3 ids are not in the dataset: '999'"):
        read(paths, names(3), ids=tmp_path / "list")
    found = read(paths, names(3), ids=tmp_path / "list", unknown="drop")
    assert found.split.roles.tolist() == [[TRAIN, ABSENT, TEST]]


def test_numbers_without_a_list_are_ids_and_it_is_said(tmp_path: Path) -> None:
    paths = lines(tmp_path, "100\n101\n", "102\n")
    assert any("taken for ids" in note for note in read(paths, names(3)).notes)


# Validation rows


@settings(max_examples=50)
@given(n=st.integers(60, 120), share=st.floats(0.05, 0.5), seed=st.integers(0, 99), pairs=st.integers(0, 12))
def test_carved_rows_are_stratified_and_groups_stay_together(
    n: int, share: float, seed: int, pairs: int
) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % 3).astype(np.int8)
    groups = np.arange(n)
    twins = rng.permutation(n)[: 2 * pairs].reshape(-1, 2)
    groups[twins[:, 1]] = groups[twins[:, 0]]
    roles = np.where(rng.random(n) < 0.2, TEST, TRAIN).astype(np.int8)[None]
    split = Split("file-x", 0, names(n), roles)
    carved = carve_validation(split, labels, groups, share, seed)
    train, taken = split.rows(0, TRAIN), carved.rows(0, VALIDATION)
    assert np.array_equal(carved.rows(0, TEST), split.rows(0, TEST))
    for label in range(3):
        wanted = min(round(share * (labels[train] == label).sum()), (labels[train] == label).sum() - 1)
        n_taken = (labels[taken] == label).sum()
        assert n_taken <= wanted and n_taken >= wanted - 2 * pairs
        assert pairs or n_taken == wanted
    for one, other in twins.tolist():
        if roles[0, one] == roles[0, other] == TRAIN:
            assert carved.roles[0, one] == carved.roles[0, other]
    assert carve_validation(split, labels, groups, share, seed).sha256 == carved.sha256


def test_pairs_of_twins_give_their_share_too() -> None:
    roles = np.array([[TRAIN] * 40 + [TEST] * 4], dtype=np.int8)
    labels = (np.arange(44) // 2 % 2).astype(np.int8)
    carved = carve_validation(Split("x", 0, names(44), roles), labels, np.arange(44) // 2, 0.2, 0)
    assert np.bincount(labels[carved.rows(0, VALIDATION)]).tolist() == [4, 4]
    assert (carved.roles[0, ::2] == carved.roles[0, 1::2]).all()


def test_folds_that_have_validation_rows_keep_them() -> None:
    roles = np.array([[TRAIN] * 8 + [VALIDATION, TEST], [TRAIN] * 9 + [TEST]], dtype=np.int8)
    labels = np.array([0, 1] * 5, dtype=np.int8)
    carved = carve_validation(Split("x", 0, names(10), roles), labels, np.arange(10), 0.3, 0)
    assert carved.roles[0].tolist() == roles[0].tolist()
    assert len(carved.rows(1, VALIDATION)) == 3  # 30 % of 5 and of 4 rows, rounded


# In a dataset's folder


def write_three(folder: Path, pairs: pa.Table, n_train: int = 40, n_val: int = 10, n_test: int = 8) -> Path:
    folder.mkdir(exist_ok=True)
    numbers = [id.partition(":")[2] for id in pairs["id"].to_pylist()]
    starts = np.cumsum([0, n_train, n_val, n_test])
    for name, start, stop in zip(FILE_NAMES, starts, starts[1:], strict=False):
        if stop > start:
            pd.DataFrame({"id": numbers[start:stop]}).to_csv(folder / f"{name}.csv", index=False)
    return folder


def test_a_partial_split_is_stored_read_again_and_valid(
    make_dataset: Callable[..., Path], sixty_pairs: pa.Table, tmp_path: Path
) -> None:
    dataset = make_dataset(sixty_pairs)
    given = write_three(tmp_path / "published", sixty_pairs)
    result = split_dataset(dataset, split_file=SplitFiles((given,)))
    assert result.path == dataset / "splits" / "file-published.parquet"
    assert (result.split.n_left_out, result.document()["left_out"]) == (2, 2)
    again = read_split(result.path, Dataset.open(dataset).ids)
    assert again.sha256 == result.split.sha256
    assert ensure_split(Dataset.open(dataset), "", 0, result.path).sha256 == result.split.sha256
    assert validate(dataset).problems == []


def run(*words: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, list(map(str, words)), standalone_mode=False)
    assert (result.return_value or 0) == code or isinstance(result.exception, MvsentError), result.output
    return result


def test_split_prints_what_was_assumed_what_is_left_out_and_what_leaks(
    make_dataset: Callable[..., Path], sixty_pairs: pa.Table, tmp_path: Path
) -> None:
    dataset = make_dataset(sixty_pairs)
    given = write_three(tmp_path / "published", sixty_pairs, 4, 2, 10)  # rows 9 and 10 repeat 3 and 4
    said = run("split", dataset, "--split-file", given).stdout
    assert "file-published → " in said
    assert "Its numbers are taken for ids" in said
    assert "44 of 60 rows are not in the split and are left out." in said
    assert "1 of 10 (10.00%) test rows have an equal text or picture in training." in said
    given = write_three(tmp_path / "more", sixty_pairs, 21, 0, 10)
    document = json.loads(
        run("split", dataset, "--split-file", given / "train.csv", "--split-file", given / "test.csv",
            "--validation-share", "0.25", "--json").stdout
    )  # fmt: skip
    assert document["left_out"] == 29
    assert [sum(document["folds"][0][role].values()) for role in ROLES] == [15, 6, 10]
    assert any("0.25 of the training rows are now validation rows (seed 0)" in n for n in document["notes"])


def test_near_copies_are_counted_apart_from_equal_rows(
    make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    drawn = draw_pairs(30)
    texts = drawn["text"].to_pylist()
    texts[20] = "RT @x what a wonderful sunny morning at the lake with all my friends"
    texts[21] = "What a wonderful sunny morning at the lake with all my frien"  # cut, and in training
    texts[22] = texts[5]
    hashes = [int(each) for each in np.random.default_rng(0).integers(2**62, 2**63, 30)]
    hashes[23] = hashes[6] ^ 0b101
    changed = drawn.set_column(drawn.schema.get_field_index("text"), "text", pa.array(texts))
    place = changed.schema.get_field_index("phash")
    changed = changed.set_column(place, changed.schema.field(place), pa.array(hashes, pa.uint64()))
    dataset = make_dataset(changed)
    roles = ["train"] * 20 + ["test", "train", "test", "test", *["validation"] * 6]
    pd.DataFrame({"id": drawn["id"].to_pylist(), "role": roles}).to_csv(tmp_path / "s.csv", index=False)
    result = split_dataset(dataset, split_file=tmp_path / "s.csv")
    assert result.leak is not None and (result.leak.n_test, result.leak.n_leaked) == (3, 1)
    assert vars(result.near) == {"n_compared": 3, "n_texts": 1, "n_pictures": 1, "n_leaked": 2}


def test_validation_rows_are_carved_out_of_training_with_their_twins(
    make_dataset: Callable[..., Path], sixty_pairs: pa.Table, tmp_path: Path
) -> None:
    dataset = make_dataset(sixty_pairs)
    given = write_three(tmp_path / "two", sixty_pairs, 50, 0, 10)
    files = SplitFiles((given,), validation_share=0.2)
    split = find_split(Dataset.open(dataset), "", 0, files)
    assert [len(split.rows(0, role)) for role in (TRAIN, VALIDATION, TEST)] == [
        41,
        9,
        10,
    ]  # a fifth of 17, 17 and 16
    groups = dataset_groups(Dataset.open(dataset))
    assert not set(groups[split.rows(0, TRAIN)]) & set(groups[split.rows(0, VALIDATION)])
    other = find_split(Dataset.open(dataset), "", 5, files)
    assert other.sha256 != split.sha256 and (other.protocol, other.seed) == ("file-two", 5)
    said = run("split", dataset, "--split-file", given).stdout
    assert "no validation rows; train needs some: --validation-share 0.1" in said


def test_a_split_file_and_a_protocol_contradict_each_other(
    make_dataset: Callable[..., Path], sixty_pairs: pa.Table, tmp_path: Path
) -> None:
    dataset = make_dataset(sixty_pairs)
    given = write_three(tmp_path / "published", sixty_pairs)
    for command in (["split"], ["train"], ["benchmark", "--table", "2"]):
        both = [command[0], dataset, *command[1:], "--split-file", given, "--protocol", "paper-5x"]
        error = run(*both).exception
        assert isinstance(error, UsageError) and "contradict each other" in str(error), (command, error)
    with pytest.raises(UsageError, match="contradict"):
        split_dataset(dataset, "kfold-5", split_file=SplitFiles((given,)))
    error = run("split", dataset, "--validation-share", "0.1").exception
    assert str(error).startswith("--validation-share: only for --split-file")
    assert not (dataset / "splits").exists()


def test_runs_of_0_1_state_their_split_file_as_one_path(tmp_path: Path) -> None:
    assert TrainSettings(split_file="").split_file == []
    assert TrainSettings(split_file="/a/b.csv").split_file == ["/a/b.csv"]
    assert TrainSettings(split_file="a.csv, b.csv").split_file == ["a.csv", "b.csv"]
    (tmp_path / "one, two.csv").touch()
    assert TrainSettings(split_file=str(tmp_path / "one, two.csv")).split_file == [
        str(tmp_path / "one, two.csv")
    ]


def test_a_run_tells_once_what_its_split_files_leak(
    make_dataset: Callable[..., Path], sixty_pairs: pa.Table, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = Dataset.open(make_dataset(sixty_pairs))
    files = SplitFiles((write_three(tmp_path / "published", sixty_pairs),))
    with caplog.at_level(logging.INFO, "mvsent"):
        for _ in range(2):
            ensure_split(dataset, "", 0, files)
    told = [message for message in caplog.messages if "have an equal text or picture in training" in message]
    assert len(told) == 1 and told[0].startswith("file-published: ")


@pytest.mark.slow
def test_split_files_in_object_storage(
    bucket: Path, make_dataset: Callable[..., Path], sixty_pairs: pa.Table, tmp_path: Path
) -> None:
    local = write_three(tmp_path / "published", sixty_pairs)
    for path in local.iterdir():
        (bucket / "published" / path.name).write_bytes(path.read_bytes())
    dataset = Dataset.open(make_dataset(sixty_pairs))
    there = find_split(dataset, "", 0, SplitFiles((bucket / "published",)))
    assert there.sha256 == find_split(dataset, "", 0, SplitFiles((local,))).sha256


def test_parquet_ids_of_any_type() -> None:
    for column in (pa.array([1, 2]), pa.array([1.0, 2.0]), pa.array(["1", "2"]).dictionary_encode()):
        stream = io.BytesIO()
        pq.write_table(pa.table({"tweet_id": column}), stream)
        assert parse_split_table("train.parquet", stream.getvalue()).ids.to_pylist() == ["1", "2"]


# In a benchmark


def three_tables(folder: Path, numbers: list[str]) -> list[object]:
    for name, rows in (("train", numbers[:40]), ("val", numbers[40:50]), ("test", numbers[50:])):
        pd.DataFrame({"id": [f"{row}.jpg" for row in rows], "label": "x"}).to_csv(folder / f"{name}.csv")
    return ["--split-file", folder]


def three_lists_of_objects(folder: Path, numbers: list[str]) -> list[object]:
    for name, rows in (("train", numbers[:40]), ("val", numbers[40:50]), ("test", numbers[50:])):
        (folder / f"{name}.json").write_text(json.dumps([{"id": int(row), "label": 0} for row in rows]))
    return ["--split-file", ",".join(str(folder / f"{name}.json") for name in FILE_NAMES)]


def folds_of_line_numbers(folder: Path, numbers: list[str]) -> list[object]:
    for fold in range(10):
        order = [(row + 6 * fold) % 60 for row in range(60)]
        for name, rows in (("train", order[:40]), ("val", order[40:50]), ("test", order[50:])):
            (folder / f"{name}_{fold + 1}.txt").write_text("\n".join(map(str, rows)))
    (folder / "list.csv").write_text("ID,text,image\n" + "".join(f"{row},x,x\n" for row in numbers))
    return ["--split-file", folder, "--split-ids", folder / "list.csv", "--folds", "0,9"]


def one_object_of_roles(folder: Path, numbers: list[str]) -> list[object]:
    roles = {"train": numbers[:40], "dev": numbers[40:50], "test": numbers[50:]}
    (folder / "split.json").write_text(json.dumps(roles))
    return ["--split-file", folder / "split.json"]


def folds_held_out(folder: Path, numbers: list[str]) -> list[object]:
    pd.DataFrame({"id": numbers, "fold": [row % 5 + 1 for row in range(60)]}).to_csv(folder / "folds.csv")
    return ["--split-file", folder / "folds.csv", "--validation-share", "0.2", "--folds", "4"]


LAYOUTS = {
    three_tables: ("file-published", [10]),
    three_lists_of_objects: ("file-published", [10]),
    folds_of_line_numbers: ("file-published", [10, 10]),
    one_object_of_roles: ("file-split", [10]),
    folds_held_out: ("file-folds", [12]),
}
SHORT = shlex.split(
    "--models logistic --table 2 --weights random --words random --text-vector none --threads 1"
)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_a_benchmark_runs_on_a_public_split_of_every_layout(
    layout: Callable[[Path, list[str]], list[object]],
    make_dataset: Callable[..., Path],
    sixty_pairs: pa.Table,
    tmp_path: Path,
) -> None:
    (tmp_path / "published").mkdir()
    numbers = [id.partition(":")[2] for id in sixty_pairs["id"].to_pylist()]
    given = layout(tmp_path / "published", numbers)
    done = run("benchmark", make_dataset(sixty_pairs), *given, *SHORT, "--out", tmp_path / "out", "--json")
    rows = {row["system"]: row for row in json.loads(done.stdout)["tables"][0]["rows"]}
    name, n_test = LAYOUTS[layout]
    assert (rows["logistic"]["protocol"], rows["logistic"]["failure"]) == (name, ""), rows["logistic"]
    assert [fold["n_test"] for fold in rows["logistic"]["folds"]] == n_test
