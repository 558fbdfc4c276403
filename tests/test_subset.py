"""Subsets: the rows that are asked for, with a funnel of their own, and an expression that can do nothing else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from mvsent.cli import app
from mvsent.datasets import conditions
from mvsent.datasets.conditions import evaluated_rows, matching_rows
from mvsent.datasets.merge import merge
from mvsent.datasets.split import find_split, split_dataset
from mvsent.datasets.split_files import SplitFiles
from mvsent.datasets.subset import Selection, share_of_labels, subset
from mvsent.datasets.validate import validate
from mvsent.errors import DatasetError, MvsentError, OutputExistsError, SplitError, UsageError
from mvsent.pairs import LABEL_NAMES, pair_table
from mvsent.shards.reader import Dataset
from mvsent.shards.writer import DatasetWriter
from mvsent.splits import ROLES, TEST, VALIDATION
from tests.conftest import write_dataset
from tests.drawing import draw_pairs

EXTRA = {"shop": "int64", "Opening hours": "string", "mvsent row number": "int64"}


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 pairs with licences, times, columns of their own, and a third of them without labels."""
    drawn = draw_pairs(40, prefix="flickr")
    licences = ["CC BY 2.0", "CC0", None, "4"] * 10
    columns = dict(zip(drawn.column_names, drawn.columns, strict=True)) | {
        "label": pa.array([None if i % 3 == 0 else i % 3 for i in range(40)], pa.int8()),
        "license": licences,
        "tags": [["sky", "blue"] if i % 2 else None for i in range(40)],
        "posted_at": pa.array([i * 86_400_000_000 for i in range(40)], pa.timestamp("us", tz="UTC")),
        "shop": list(range(40)),
        "Opening hours": ["9-5"] * 40,
        "mvsent row number": [1] * 40,
    }
    folder = tmp_path_factory.mktemp("data") / "flickr"
    with DatasetWriter(
        folder,
        "flickr",
        settings={},
        shard_size=16,
        labelled=False,
        text_kind="captions",
        extra_columns=EXTRA,
    ) as writer:
        writer.write(pair_table(columns, EXTRA))
        writer.finish(40)
    return folder


def run(*words: object) -> Any:
    return CliRunner().invoke(app, list(map(str, words)), standalone_mode=False)


# Each way to choose rows


def test_a_list_of_ids_keeps_their_rows_in_the_order_of_the_dataset(
    small_dataset: Path, tmp_path: Path
) -> None:
    (tmp_path / "ids.txt").write_text("7.jpg\ndrawn:3\n12\n")
    result = subset(small_dataset, Selection(ids=tmp_path / "ids.txt"), tmp_path / "few", shard_size=2)
    made, parent = Dataset.open(result.folder), Dataset.open(small_dataset)
    assert list(made.ids) == ["drawn:3", "drawn:7", "drawn:12"] and len(made.manifest.shards) == 2
    pairs = pa.concat_tables(made.pairs(10))
    assert pairs.equals(pa.concat_tables(parent.pairs(60)).take([3, 7, 12]))
    assert result.manifest.funnel.model_dump() == {
        "input": 62, "kept": 3, "dropped": {"label-conflict": 2, "not-selected": 57}
    }  # fmt: skip
    rejected = pq.read_table(result.folder / "rejected.parquet").to_pylist()
    assert [row["reason"] for row in rejected[:3]] == ["label-conflict"] * 2 + ["not-selected"]
    assert rejected[2] == {"id": "drawn:0", "reason": "not-selected", "detail": "not in ids.txt"}
    assert {row["id"] for row in rejected[2:]} | set(made.ids) == set(parent.ids)
    assert validate(result.folder).problems == []


@pytest.mark.slow
def test_hugging_face_reads_a_subset(small_dataset: Path, tmp_path: Path) -> None:
    folder = subset(small_dataset, Selection(where="label = 'positive'"), tmp_path / "positive").folder
    loaded = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert set(loaded["label"]) == {2} and len(loaded) == 20 and loaded[0]["image"].size == (96, 72)


def test_a_share_takes_the_same_part_of_every_label(small_dataset: Path, tmp_path: Path) -> None:
    one, again, other = (
        subset(small_dataset, Selection(share=0.2, seed=seed), tmp_path / name)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert one.manifest.labels == {"negative": 4, "neutral": 4, "positive": 4}
    assert one.manifest.sha256 == again.manifest.sha256 != other.manifest.sha256
    assert (one.manifest.settings["share"], one.manifest.settings["seed"]) == (0.2, 1)


@given(
    labels=st.lists(st.integers(-1, 2), min_size=1, max_size=80),
    share=st.floats(0.01, 1),
    seed=st.integers(0, 9),
)
def test_the_share_of_a_label_is_rounded_and_never_none(labels: list[int], share: float, seed: int) -> None:
    array = np.array(labels, dtype=np.int8)
    left = np.arange(len(labels)) % 4 > 0
    chosen = share_of_labels(array, left, share, seed)
    assert not (chosen & ~left).any()
    for label in np.unique(array[left]):
        n = int((left & (array == label)).sum())
        assert (chosen & (array == label)).sum() == max(1, round(share * n))


def test_the_rows_of_a_role(make_dataset: Callable[..., Path], sixty_pairs: pa.Table, tmp_path: Path) -> None:
    folder = make_dataset(sixty_pairs)
    split = split_dataset(folder, "kfold-5").split
    result = subset(folder, Selection(role="test", fold=3, protocol="kfold-5"), tmp_path / "held-out")
    assert list(Dataset.open(result.folder).ids) == [split.ids[row] for row in split.rows(3, TEST)]
    detail = pq.read_table(result.folder / "rejected.parquet")["detail"][2].as_py()
    assert detail in ("not test in fold 3 of kfold-5", "drawn")
    with pytest.raises(UsageError, match=r"--fold: kfold-5 has 5 folds. Choose from 0 to 4"):
        subset(folder, Selection(role="test", protocol="kfold-5"), tmp_path / "x")
    with pytest.raises(UsageError, match="--fold: there is no fold 5"):
        subset(folder, Selection(role="test", fold=5, protocol="kfold-5"), tmp_path / "x")
    with pytest.raises(UsageError, match=r"--role held-out: is no role. Choose from train, validation, test"):
        subset(folder, Selection(role="held-out", fold=0), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_the_rows_of_a_role_of_split_files(small_dataset: Path, tmp_path: Path) -> None:
    for name, numbers in (("train", range(40)), ("val", range(40, 45)), ("test", range(45, 60))):
        (tmp_path / f"{name}.txt").write_text("\n".join(map(str, numbers)))
    files = SplitFiles((tmp_path / "train.txt", tmp_path / "val.txt", tmp_path / "test.txt"))
    result = subset(small_dataset, Selection(role="validation", split_file=files), tmp_path / "dev")
    assert list(Dataset.open(result.folder).ids) == [f"drawn:{i}" for i in range(40, 45)]
    split = find_split(Dataset.open(small_dataset), "", 0, files)
    assert len(split.rows(0, VALIDATION)) == 5 and ROLES[VALIDATION] == result.manifest.settings["role"]


def test_a_role_needs_labels(varied: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="have no label"):
        subset(varied, Selection(role="test", fold=0), tmp_path / "x")


@pytest.mark.slow
def test_all_criteria_must_be_fulfilled_and_the_share_is_of_the_rest(
    small_dataset: Path, tmp_path: Path
) -> None:
    (tmp_path / "ids.csv").write_text("id\n" + "\n".join(map(str, range(30))))
    chosen = Selection(ids=tmp_path / "ids.csv", where="label = 'neutral'", share=0.5)
    result = subset(small_dataset, chosen, tmp_path / "some")
    assert result.manifest.labels == {"negative": 0, "neutral": 5, "positive": 0}
    details = pq.read_table(result.folder / "rejected.parquet")["detail"].to_pylist()
    assert [
        details.count(d)
        for d in ("not in ids.csv", "not: label = 'neutral'", "not in the share of 0.5, seed 0")
    ] == [30, 20, 5]
    assert result.notes == ["5 of 10 rows, the same share of each label"]


# Conditions


@pytest.mark.parametrize(
    ("expression", "rows"),
    [
        ("label = 'positive'", lambda row: row["label"] == 2),
        ("label is not null", lambda row: row["label"] is not None),
        ("LABEL IN ('positive', 'neutral') and license in ('CC0', 'CC BY 2.0')", lambda row: row["label"] in (1, 2) and row["license"] in ("CC0", "CC BY 2.0")),
        ("label = 'positive' and license in (4, 5)", lambda row: row["label"] == 2 and row["license"] == "CC BY 2.0"),
        ("label = 'positive' and license in ('4', '5')", lambda row: row["label"] == 2 and row["license"] == "4"),
        ("posted_at >= '1970-01-11' and year(posted_at) = 1970", lambda row: row["posted_at"].day > 10 or row["posted_at"].month > 1),
        ("list_contains(tags, 'blue')", lambda row: row["tags"] is not None),
        ("shop % 7 = 0 or \"opening hours\" = 'never'", lambda row: row["shop"] % 7 == 0),
        ("\"mvsent row number\" = 1 and shop < 3", lambda row: row["shop"] < 3),
        ("text like '%happy%'", lambda row: "happy" in row["text"]),
        ("width > 90 and height < 100", lambda row: True),
        ("random() >= 0", lambda row: True),
        ("true -- and nothing else", lambda row: True),
    ],
)  # fmt: skip
def test_a_condition_chooses_the_rows_that_python_would(
    varied: Path, expression: str, rows: Callable[[dict[str, Any]], bool]
) -> None:
    dataset = Dataset.open(varied)
    table = dataset.table([name for name in dataset.schema.names if name != "image"]).to_pylist()
    assert evaluated_rows(dataset, expression).tolist() == list(map(rows, table))


def test_a_condition_chooses_the_rows_that_duckdb_reads_from_the_shards(small_dataset: Path) -> None:
    query = (
        f"select id from '{small_dataset}/data/*.parquet' where label = 2 and length(text) > 45 order by 1"
    )
    dataset = Dataset.open(small_dataset)
    found = evaluated_rows(dataset, "label = 'positive' and length(text) > 45")
    assert sorted(np.array(dataset.ids)[found]) == [id for (id,) in duckdb.sql(query).fetchall()] != []


def test_pictures_are_not_read_for_a_condition(small_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, whole = [], Dataset.batches

    def watched(self: Dataset, columns: list[str], *rest: Any) -> Any:
        read.append(list(columns))
        return whole(self, columns, *rest)

    monkeypatch.setattr(Dataset, "batches", watched)
    evaluated_rows(Dataset.open(small_dataset), "label = 'positive' and width > 3")
    assert read == [["label", "width"]]


def test_row_groups_without_a_selected_row_are_not_read(
    small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, whole = [], Dataset.read_group

    def watched(self: Dataset, group: Any, columns: list[str]) -> pa.Table:
        read.append(group.first)
        return whole(self, group, columns)

    monkeypatch.setattr(Dataset, "read_group", watched)
    (tmp_path / "ids").write_text("drawn:30\n")
    subset(small_dataset, Selection(ids=tmp_path / "ids"), tmp_path / "one")
    assert read == [25]  # the second shard of 25 rows


HOSTILE = [
    "1; drop table x", "true; copy (select 1) to '{out}'", "true) union (select 1", "true limit 1", "true order by 1",
    "exists (select * from read_text('{secret}'))", "exists (select * from '{secret}')", "exists (select * from glob('/*'))",
    "exists (select * from read_csv('http://127.0.0.1:9/x'))", "exists (from query('copy (select 1) to ''{out}'''))",
    "exists (select * from secret)", "getenv('HOME') is not null", "$1", "?", "true, false",
    "exists (select * from duckdb_secrets(), read_blob('{secret}'))", "exists (from read_parquet('{shard}'))",
    "label", "1", "text", "count(*) > 1", "rank() over () = 1", "", "  ", "label = ", "label = 2", "nope = 1",
    "image is not null", "*", "x" * 20_000, "\x00", "label = '\ud800'", "(" * 2000,
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("expression", HOSTILE, ids=range(len(HOSTILE)))
def test_an_expression_that_is_no_condition_is_refused_and_does_nothing(
    varied: Path, tmp_path: Path, expression: str
) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    out, shard = tmp_path / "out.csv", varied / "data" / "shard-00000.parquet"
    asked = (
        expression.replace("{secret}", str(secret)).replace("{out}", str(out)).replace("{shard}", str(shard))
    )
    with pytest.raises(UsageError) as caught:
        evaluated_rows(Dataset.open(varied), asked)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 900
    assert {path.name for path in tmp_path.iterdir()} == {"secret.csv"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("len(range(1000000000)) > 1", "--where: Failed to allocate block of 8589934592 bytes"),
        ("nope = 1", '--where: Referenced column "nope" not found'),
    ],
)
def test_a_condition_is_evaluated_in_a_process_with_limits(
    varied: Path, tmp_path: Path, expression: str, message: str
) -> None:
    with pytest.raises(MvsentError, match=message) as caught:
        subset(varied, Selection(where=expression), tmp_path / "made")
    assert caught.value.exit_code == UsageError.exit_code and list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_process_that_needs_too_much_time_is_killed(varied: Path) -> None:
    with pytest.raises(UsageError, match="its evaluation was killed by signal 24"):
        matching_rows(Dataset.open(varied), "len(range(100000)) > width", max_seconds=0)


def test_messages_say_what_to_write_instead(varied: Path) -> None:
    dataset = Dataset.open(varied)
    for expression, message in (
        ("nope = 1", '--where: Referenced column "nope" not found in FROM clause. The columns are id, text'),
        ("text in (4, 5)", "Compare text with quoted text"),
        ("width", "'width' is no condition. Write one such as label = 'positive'"),
        ("label = ", "--where: syntax error"),
    ):
        with pytest.raises(UsageError) as caught:
            evaluated_rows(dataset, expression)
        assert message in str(caught.value)


def test_without_duckdb_the_extra_is_named(varied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "duckdb", None)
    with pytest.raises(UsageError, match=r'pip install "mvsent\[sql\]"'):
        evaluated_rows(Dataset.open(varied), "true")
    assert conditions.MAX_LENGTH == 10_000


# The new dataset


@pytest.mark.slow
def test_layout_and_sources_are_those_of_the_dataset(varied: Path, tmp_path: Path) -> None:
    result = subset(varied, Selection(where="label is not null"), tmp_path / "labelled")
    manifest = result.manifest
    assert (manifest.text_kind, manifest.extra_columns) == ("captions", EXTRA)
    assert (manifest.name, manifest.sources, manifest.n_unlabelled) == ("labelled", ["flickr"], 0)
    assert Dataset.open(result.folder).classes == [1, 2]
    assert not pq.read_schema(result.folder / "data/shard-00000.parquet").field("label").nullable
    assert "flickr.com/help/terms/api" in (result.folder / "README.md").read_text()
    some = subset(varied, Selection(where="shop < 5"), tmp_path / "some").manifest
    assert some.n_unlabelled == 2 and some.notes["subset_of"]["name"] == "flickr"
    both = merge([result.folder, write_dataset(tmp_path / "mvsa-single", draw_pairs(20))], tmp_path / "both",
                 rules=__import__("mvsent.config").config.MergeRules(mixed_classes=True))  # fmt: skip
    assert both.manifest.sources == ["flickr", "mvsa-single"]


@pytest.mark.slow
def test_a_subset_of_a_subset_has_the_whole_funnel(small_dataset: Path, tmp_path: Path) -> None:
    first = subset(small_dataset, Selection(where="label <> 'neutral'"), tmp_path / "a").folder
    second = subset(first, Selection(share=0.5), tmp_path / "b")
    assert second.manifest.funnel.model_dump() == {
        "input": 62, "kept": 20, "dropped": {"label-conflict": 2, "not-selected": 40}
    }  # fmt: skip
    assert validate(second.folder).problems == []


@pytest.mark.slow
def test_nothing_is_written_if_no_row_is_selected_or_the_output_exists(
    small_dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="no row is selected"):
        subset(small_dataset, Selection(where="width < 0"), tmp_path / "none")
    with pytest.raises(UsageError, match=r"no rows are asked for. Give --ids, --where, --role or --share"):
        subset(small_dataset, Selection(), tmp_path / "none")
    (tmp_path / "ids.txt").write_text("1\n999\n")
    with pytest.raises(SplitError, match=r"ids.txt: 1 of 2 ids are not in the dataset: '999'"):
        subset(small_dataset, Selection(ids=tmp_path / "ids.txt"), tmp_path / "none")
    assert [path.name for path in tmp_path.iterdir()] == ["ids.txt"]
    known = subset(small_dataset, Selection(ids=tmp_path / "ids.txt", unknown="drop"), tmp_path / "one")
    assert known.manifest.funnel.kept == 1
    with pytest.raises(OutputExistsError):
        subset(small_dataset, Selection(share=0.5), tmp_path / "one")
    with pytest.raises(UsageError, match="inside or around it"):
        subset(small_dataset, Selection(share=0.5), small_dataset / "x")
    with pytest.raises(DatasetError, match="no such folder"):
        subset(tmp_path / "nowhere", Selection(share=0.5), tmp_path / "x")


@pytest.mark.slow
def test_a_subset_in_object_storage(small_dataset: Path, bucket: Path, tmp_path: Path) -> None:
    there = subset(small_dataset, Selection(where="label = 'neutral'"), bucket / "neutral")
    assert (
        there.manifest.sha256
        == subset(small_dataset, Selection(where="label = 'neutral'"), tmp_path / "n").manifest.sha256
    )
    again = subset(bucket / "neutral", Selection(share=0.5), tmp_path / "half")
    assert again.manifest.labels["neutral"] == 10 and validate(bucket / "neutral").problems == []


# The command


@pytest.mark.slow
def test_the_command_prints_the_funnel(small_dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "positive"
    said = run("subset", small_dataset, "--where", "label = 'positive'", "--share", 0.5, "--out", out).stdout
    assert f"positive → {out}" in said and "- not-selected" in said and "10 of 20 rows" in said
    document = json.loads(
        run(
            "subset",
            small_dataset,
            "--role",
            "test",
            "--fold",
            1,
            "--protocol",
            "kfold-5",
            "--json",
            "--out",
            tmp_path / "t",
            "--name",
            "mine",
        ).stdout
    )
    assert document["name"] == "mine" and document["settings"]["role"] == "test"
    assert sum(document["labels"].values()) == 12 and set(document["labels"]) == set(LABEL_NAMES)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--share", "0.5", "--fold", "1"], "--fold: only for the rows of a role"),
        (["--share", "0.5", "--protocol", "kfold-5"], "--protocol: only for the rows of a role"),
        (["--share", "0.5", "--split-file", "x.csv"], "--split-file: only for the rows of a role"),
        (["--role", "test", "--split-file", "x.csv", "--protocol", "kfold-5"], "contradict each other"),
        ([], "no rows are asked for"),
        (["--share", "0.5", "--name", "a/b"], "--name a/b: not a name"),
    ],
)
def test_options_without_effect_are_refused(
    small_dataset: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    error = run("subset", small_dataset, *words, "--out", tmp_path / "x").exception
    assert isinstance(error, UsageError) and message in str(error)
    assert list(tmp_path.iterdir()) == []
