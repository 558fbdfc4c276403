"""`mvsent merge` and `mvsent shard`: every row of every dataset is kept once or named with its reason."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from mvsent.cli import app, exit_code
from mvsent.config import MergeRules
from mvsent.curate.merging import KEPT, REASONS, Keys, merged, numbered
from mvsent.datasets import merge as pipeline
from mvsent.datasets.merge import merge
from mvsent.datasets.reshard import reshard
from mvsent.datasets.split import split_dataset
from mvsent.datasets.validate import validate
from mvsent.errors import DatasetError, OutputExistsError, UsageError
from mvsent.pairs import REJECTED_SCHEMA, SCHEMA_VERSION
from mvsent.reasons import Reason
from mvsent.shards.reader import Dataset
from mvsent.splits import read_split
from tests.conftest import write_dataset
from tests.drawing import draw_pairs

LOOK = 0xF0F0F0F0F0F0F0F0
"""A perceptual hash that tells its picture from others."""
ID, IMAGE, CONFLICT = range(3)
CONFLICT_RULES = MergeRules.stated()["conflict"].choices

Row = tuple[str, str, int, int]
"""id, picture, perceptual hash, label."""


def keys(*datasets: list[Row]) -> Keys:
    rows = [row for dataset in datasets for row in dataset]
    starts = np.cumsum([0, *map(len, datasets)]).tolist()
    columns = list(zip(*rows, strict=True)) or [()] * 4
    ids, pictures = (
        numbered(pipeline._digests(pa.array([text or None for text in columns[i]], pa.string())))
        for i in (0, 1)
    )
    return Keys(starts, ids, pictures, np.array(columns[2], np.uint64), np.array(columns[3], np.int8))


def reasons(*datasets: list[Row], conflict: str = "first", distance: int | None = 4) -> list[int]:
    return merged(keys(*datasets), conflict, distance).reason.tolist()


# Decisions


def test_a_row_with_an_id_of_an_earlier_dataset_is_dropped() -> None:
    assert reasons([("a", "p", 0, 0)], [("a", "q", 0, 0), ("b", "r", 0, 0)]) == [KEPT, ID, KEPT]


def test_a_row_with_a_picture_of_an_earlier_dataset_is_dropped() -> None:
    assert reasons([("a", "p", 0, 0)], [("b", "p", 0, 0)], distance=None) == [KEPT, IMAGE]


def test_a_row_whose_picture_looks_like_one_of_an_earlier_dataset_is_dropped_unless_such_are_kept() -> None:
    datasets = [("a", "p", LOOK, 0)], [("b", "q", LOOK ^ 0b111, 0)], [("c", "r", LOOK, 0)]
    assert reasons(*datasets, distance=4) == [KEPT, IMAGE, IMAGE]
    assert reasons(*datasets, distance=2) == [KEPT, KEPT, IMAGE]
    assert reasons(*datasets, distance=None) == [KEPT, KEPT, KEPT]


def test_a_picture_near_to_a_dropped_one_only_is_kept() -> None:
    """Else a chain of small steps would lead from one picture to any other."""
    chain = [[(name, name, LOOK ^ bits, 0)] for name, bits in (("a", 0), ("b", 0b1111), ("c", 0b11111111))]
    assert reasons(*chain, distance=4) == [KEPT, IMAGE, KEPT]


def test_flat_pictures_do_not_look_alike() -> None:
    assert reasons([("a", "p", 1, 0)], [("b", "q", 1, 0)]) == [KEPT, KEPT]


def test_rows_without_a_picture_have_none_in_common() -> None:
    assert reasons([("a", "", 0, 0)], [("b", "", 0, 0)]) == [KEPT, KEPT]


def test_duplicates_within_one_dataset_stay() -> None:
    assert reasons([("a", "p", LOOK, 0), ("b", "p", LOOK, 0)], [("c", "q", 0, 0)]) == [KEPT, KEPT, KEPT]


def test_all_rows_of_a_later_dataset_that_repeat_one_picture_are_dropped() -> None:
    assert reasons([("a", "p", 0, 0)], [("b", "p", 0, 0), ("c", "p", 0, 0)]) == [KEPT, IMAGE, IMAGE]


TWO_TO_ONE = [("a", "p", 0, 0)], [("b", "p", 0, 2)], [("c", "p", 0, 2)]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("first", [KEPT, IMAGE, IMAGE]),
        ("drop", [CONFLICT, CONFLICT, CONFLICT]),
        ("majority", [CONFLICT, KEPT, IMAGE]),
    ],
)
def test_contradicting_labels_are_settled_by_the_rule(rule: str, expected: list[int]) -> None:
    assert reasons(*TWO_TO_ONE, conflict=rule) == expected


def test_where_no_label_is_the_commonest_the_majority_keeps_none() -> None:
    assert reasons([("a", "p", 0, 0)], [("b", "p", 0, 2)], conflict="majority") == [CONFLICT, CONFLICT]


def test_the_majority_counts_every_row_of_the_first_dataset_that_has_the_picture() -> None:
    datasets = [("a", "p", 0, 0), ("b", "p", 0, 2)], [("c", "p", 0, 2)]
    assert reasons(*datasets, conflict="majority") == [CONFLICT, KEPT, IMAGE]
    assert reasons(*datasets, conflict="drop") == [CONFLICT] * 3


def test_a_dropped_row_names_one_that_it_contradicts() -> None:
    verdict = merged(keys([("a", "p", 0, 0), ("b", "p", 0, 0)], [("c", "p", 0, 2)]), "drop")
    assert verdict.twin.tolist() == [2, 2, 0]
    assert verdict.n_conflicts == 1


@pytest.mark.parametrize("rule", CONFLICT_RULES)
def test_no_rule_touches_duplicates_that_agree(rule: str) -> None:
    assert reasons([("a", "p", 0, 1)], [("b", "p", 0, 1)], conflict=rule) == [KEPT, IMAGE]


def test_two_majorities_do_not_keep_one_id_twice() -> None:
    contradicted = [("a", "p", 0, 0), ("b", "q", 0, 0)]
    winners = [("x", "p", 0, 2)], [("x", "q", 0, 2)]
    verdict = merged(keys(contradicted, *winners, [("c", "p", 0, 2), ("d", "q", 0, 2)]), "majority")
    assert verdict.reason.tolist() == [CONFLICT, CONFLICT, KEPT, ID, IMAGE, IMAGE]
    assert verdict.twin[3] == 2


rows = st.tuples(
    st.sampled_from("abcdef"),
    st.sampled_from(["", *"pqrst"]),
    st.sampled_from([0, 1, LOOK, LOOK ^ 1, LOOK ^ 0b111, LOOK ^ 0b11100]),
    st.integers(0, 2),
)
inputs = st.lists(st.lists(rows, max_size=6, unique_by=lambda row: row[0]), min_size=2, max_size=4)


def one_by_one(datasets: list[list[Row]], distance: int | None) -> list[bool]:
    """Whether each row stays, by comparing it with every row kept before."""

    def is_same(row: Row, other: Row) -> bool:
        telling = distance is not None and all(bits.bit_count() > 20 for bits in (row[2], other[2]))
        looks_same = telling and (row[2] ^ other[2]).bit_count() <= (distance or 0)
        return row[0] == other[0] or (row[1] == other[1] != "") or looks_same

    kept: list[Row] = []
    verdict = []
    for dataset in datasets:
        stays = [not any(is_same(row, other) for other in kept) for row in dataset]
        verdict += stays
        kept += [row for row, is_kept in zip(dataset, stays, strict=True) if is_kept]
    return verdict


@given(inputs, st.sampled_from([None, 0, 1, 3]))
def test_the_first_rule_keeps_what_comparing_row_by_row_keeps(
    datasets: list[list[Row]], distance: int | None
) -> None:
    assert merged(keys(*datasets), "first", distance).kept.tolist() == one_by_one(datasets, distance)


@pytest.mark.slow
@given(inputs, st.sampled_from(CONFLICT_RULES), st.sampled_from([None, 3]))
def test_whatever_the_rule_ids_stay_unique_and_every_dropped_row_names_another(
    datasets: list[list[Row]], rule: str, distance: int | None
) -> None:
    verdict = merged(keys(*datasets), rule, distance)
    ids = np.array([row[0] for dataset in datasets for row in dataset])
    assert len(np.unique(ids[verdict.kept])) == verdict.kept.sum()
    assert ((verdict.twin >= 0) == ~verdict.kept).all()
    assert (verdict.twin != np.arange(len(ids)))[~verdict.kept].all()


@pytest.mark.slow
@given(inputs)
def test_by_the_rule_drop_no_kept_picture_has_another_label_elsewhere(datasets: list[list[Row]]) -> None:
    apart = [[(f"{number}{row[0]}", *row[1:]) for row in dataset] for number, dataset in enumerate(datasets)]
    verdict = merged(keys(*apart), "drop")
    flat = [(number, *row) for number, dataset in enumerate(apart) for row in dataset]
    for row, is_kept in zip(flat, verdict.kept, strict=True):
        others = {other[4] for other in flat if other[0] != row[0] and other[2] == row[2] != ""}
        assert not is_kept or others <= {row[4]}


# Datasets


def drawn(n: int, start: int = 0, *, prefix: str = "drawn", label: int | None = None) -> pa.Table:
    """Pairs `start` … `start + n - 1` of the drawn ones, with ids of their own unless `prefix` is the same."""
    table = draw_pairs(start + n, prefix=prefix).slice(start)
    if label is not None:
        table = table.set_column(3, table.schema.field("label"), pa.array([label] * n, pa.int8()))
    return table


@pytest.fixture
def two(make_dataset: Callable[..., Path]) -> tuple[Path, Path]:
    """60 and 50 rows; the first 20 of the second show the last 20 pictures of the first."""
    return (
        make_dataset(drawn(60), name="flickr", n_rejected=2),
        make_dataset(drawn(50, 40, prefix="other"), name="getty", n_rejected=3),
    )


def rejected(folder: Path) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = pq.read_table(folder / "rejected.parquet").to_pylist()
    return listed


def test_the_merged_dataset_holds_every_row_once_and_is_valid(two: tuple[Path, Path], tmp_path: Path) -> None:
    result = merge(two, tmp_path / "both")
    first, second = map(Dataset.open, two)
    assert list(Dataset.open(result.folder).ids) == [*first.ids, *list(second.ids)[20:]]
    assert validate(result.folder).problems == []
    columns = Dataset.open(result.folder).table(["image", "text", "label", "votes"])
    expected = [d.table(["image", "text", "label", "votes"]) for d in (first, second)]
    assert columns == pa.concat_tables([expected[0], expected[1].slice(20)])


def test_the_funnel_counts_what_the_datasets_had_dropped_too(two: tuple[Path, Path], tmp_path: Path) -> None:
    funnel = merge(two, tmp_path / "both").manifest.funnel
    assert (funnel.input, funnel.kept) == (62 + 53, 90)
    assert funnel.dropped == {"label-conflict": 5, "duplicate-image": 20}


def test_rejected_rows_of_the_datasets_come_first_as_they_were(
    two: tuple[Path, Path], tmp_path: Path
) -> None:
    listed = rejected(merge(two, tmp_path / "both").folder)
    assert listed[:5] == rejected(two[0]) + rejected(two[1])
    assert listed[5] == {
        "id": "other:40",
        "reason": "duplicate-image",
        "detail": "getty: like drawn:40 of flickr",
    }


def test_the_manifest_says_what_each_dataset_was(two: tuple[Path, Path], tmp_path: Path) -> None:
    manifest = merge(two, tmp_path / "both", "web").manifest
    assert (manifest.name, manifest.settings["merged"]) == ("web", ["flickr", "getty"])
    for told, folder in zip(manifest.notes["merged"], two, strict=True):
        before = Dataset.open(folder)
        assert (told["name"], told["sha256"]) == (before.name, before.sha256)
        assert told["settings"] == before.manifest.settings
        assert told["funnel"] == before.manifest.funnel.model_dump()


def test_the_terms_of_every_source_are_on_the_card(two: tuple[Path, Path], tmp_path: Path) -> None:
    result = merge(two, tmp_path / "web")
    merge([result.folder, write_dataset(tmp_path / "mine", draw_pairs(6, prefix="mine"))], tmp_path / "all")
    for name in ("web", "all"):
        card = (tmp_path / name / "README.md").read_text()
        assert "Flickr API" in card
        assert "Getty Images" in card


def test_the_same_datasets_give_the_same_bytes(
    two: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    folders = [merge(two, tmp_path / place / "both").folder for place in ("here", "there")]
    here, there = ({p.relative_to(f): p.read_bytes() for p in f.rglob("*.*") if p.is_file()} for f in folders)
    assert here == there
    assert Path("dataset.json") in here


def test_rows_do_not_depend_on_how_the_datasets_were_sharded(two: tuple[Path, Path], tmp_path: Path) -> None:
    finer = [reshard(folder, 7, tmp_path / folder.name).folder for folder in two]
    assert merge(finer, tmp_path / "a").manifest.sha256 == merge(two, tmp_path / "b").manifest.sha256


def test_near_pictures_are_dropped_by_their_perceptual_hash_or_kept(
    make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    def with_hash(table: pa.Table, value: int) -> pa.Table:
        place = table.schema.get_field_index("phash")
        hashes = pa.array([value] + [None] * (table.num_rows - 1), pa.uint64())
        return table.set_column(place, table.schema.field("phash"), hashes)

    first = make_dataset(with_hash(drawn(6), LOOK), name="a")
    second = make_dataset(with_hash(drawn(6, 20, prefix="other"), LOOK ^ 0b1010), name="b")
    assert merge([first, second], tmp_path / "drop").manifest.funnel.dropped == {"duplicate-image": 1}
    for number, rules in enumerate((MergeRules(near_duplicates="keep"), MergeRules(distance=1))):
        assert merge([first, second], tmp_path / f"keep-{number}", rules=rules).manifest.funnel.kept == 12


@pytest.mark.parametrize("rule", CONFLICT_RULES)
def test_the_rule_for_contradictions_is_kept_to_and_counted(
    rule: str, make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    first = make_dataset(drawn(60), name="a")
    labels = draw_pairs(90, prefix="other").slice(40)
    changed = pa.concat_tables([drawn(20, 40, prefix="other", label=2), labels.slice(20)])
    result = merge(
        [first, make_dataset(changed, name="b")], tmp_path / "both", rules=MergeRules(conflict=rule)
    )
    n_conflicts = sum(label != 2 for label in draw_pairs(60)["label"].to_pylist()[40:])
    assert result.n_conflicts == result.manifest.notes["contradictions"] == n_conflicts
    assert result.manifest.funnel.kept == (90 if rule == "first" else 90 - n_conflicts)
    assert (rule == "first") == ("duplicate-label-conflict" not in result.manifest.funnel.dropped)
    assert validate(result.folder).problems == []


def test_datasets_of_labels_only_are_merged_by_their_ids(
    make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    first = make_dataset(draw_pairs(12, images=False), name="a")
    second = make_dataset(draw_pairs(30, images=False).slice(6), name="b")
    result = merge([first, second], tmp_path / "both")
    assert result.manifest.funnel.dropped == {"duplicate-id": 6}
    assert validate(result.folder).problems == []


def test_pictures_are_read_a_row_group_at_a_time(
    two: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    whole = Dataset.batches

    def counted(self: Dataset, columns: list[str], batch_size: int, rows: slice | None = None) -> Any:
        for batch in whole(self, columns, batch_size, rows):
            sizes.append((len(batch), "image" in columns))
            yield batch

    monkeypatch.setattr(pipeline, "_BATCH_ROWS", 10)
    monkeypatch.setattr(Dataset, "batches", counted)
    merge(two, tmp_path / "both")
    assert max(n_rows for n_rows, with_pictures in sizes if with_pictures) == 10


@pytest.mark.slow
def test_datasets_in_object_storage_are_merged_there(
    two: tuple[Path, Path], bucket: Path, tmp_path: Path
) -> None:
    there = reshard(two[1], 20, bucket / "getty").folder
    result = merge([two[0], there], bucket / "both")
    assert result.manifest.sha256 == merge(two, tmp_path / "both").manifest.sha256
    assert validate(bucket / "both").problems == []
    with pytest.raises(UsageError, match="inside or around it"):
        merge([two[0], there], there / "both")


@pytest.mark.slow
def test_splits_come_along_into_object_storage(two: tuple[Path, Path], bucket: Path) -> None:
    split = split_dataset(two[0], "kfold-5").split
    result = reshard(two[0], 20, bucket / "flickr")
    assert read_split(bucket / "flickr" / "splits" / result.splits[0], split.ids).sha256 == split.sha256


# What cannot be merged


def test_one_dataset_is_nothing_to_merge(two: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="merging needs two datasets"):
        merge(two[:1], tmp_path / "out")


def test_a_dataset_is_merged_with_itself_under_no_name(two: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(two[0])
    for other in (two[0], tmp_path / "link", two[0] / ".." / two[0].name):
        with pytest.raises(UsageError, match=r"named twice|holds the rows of"):
            merge([two[0], other], tmp_path / "out")


def test_out_is_no_part_of_a_dataset(two: tuple[Path, Path]) -> None:
    for out in (two[1], two[1] / "data", two[0].parent):
        with pytest.raises(UsageError, match="inside or around it"):
            merge(two, out, overwrite=True)


def test_other_classes_are_refused_unless_they_may_be_mixed(
    make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    folders = [
        make_dataset(draw_pairs(6), name="a"),
        make_dataset(drawn(8, 20, prefix="b", label=1), name="b"),
    ]
    with pytest.raises(UsageError, match=r"b has the classes neutral, .*a has negative, neutral, positive"):
        merge(folders, tmp_path / "out")
    assert merge(folders, tmp_path / "out", rules=MergeRules(mixed_classes=True)).manifest.funnel.kept == 14


def test_a_dataset_without_rows_is_refused(
    two: tuple[Path, Path], make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    empty = make_dataset(draw_pairs(3).slice(0, 0), name="empty")
    with pytest.raises(DatasetError, match="has no rows"):
        merge([*two, empty], tmp_path / "out")


@pytest.mark.parametrize(
    ("version", "said"),
    [(0, "schema_version: input should be greater than 0"), (SCHEMA_VERSION + 1, "newer mvsent")],
)
def test_another_schema_version_is_refused(
    version: int, said: str, two: tuple[Path, Path], tmp_path: Path
) -> None:
    manifest = two[1] / "dataset.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"schema_version": version}))
    with pytest.raises(DatasetError, match=said):
        merge(two, tmp_path / "out")


def test_an_unfinished_dataset_is_refused(two: tuple[Path, Path], tmp_path: Path) -> None:
    (two[1] / "dataset.json").unlink()
    with pytest.raises(DatasetError, match="not a finished dataset"):
        merge(two, tmp_path / "out")


def test_other_rows_than_the_manifest_counts_are_one_line(two: tuple[Path, Path], tmp_path: Path) -> None:
    manifest = two[1] / "dataset.json"
    manifest.write_text(manifest.read_text().replace('"rows": 25', '"rows": 26', 1))
    for mixed in (True, False):
        with pytest.raises(DatasetError, match="mvsent validate"):
            merge(two, tmp_path / "out", rules=MergeRules(mixed_classes=mixed))


@pytest.mark.parametrize("damage", ["missing", "short", "unknown reason", "no parquet"])
def test_rejected_rows_other_than_the_manifest_counts_are_one_line(
    damage: str, two: tuple[Path, Path], tmp_path: Path
) -> None:
    path = two[1] / "rejected.parquet"
    table = pq.read_table(path)
    if damage == "missing":
        path.unlink()
    elif damage == "no parquet":
        path.write_text("nothing")
    elif damage == "short":
        pq.write_table(table.slice(1), path)
    else:
        pq.write_table(pa.table([table["id"], ["so"] * 3, table["detail"]], schema=REJECTED_SCHEMA), path)
    with pytest.raises(DatasetError, match=re.escape(str(path))):
        merge(two, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_where_all_rows_contradict_one_another_nothing_is_written(
    make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    folders = [
        make_dataset(drawn(3, prefix=name, label=label), name=name) for name, label in (("a", 0), ("b", 2))
    ]
    with pytest.raises(DatasetError, match="no row is left"):
        merge(folders, tmp_path / "out", rules=MergeRules(conflict="drop", mixed_classes=True))
    assert list((tmp_path).glob("*out*")) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "--near-duplicates drp",
            r"--near-duplicates: .*'drop' or 'keep' \(got 'drp'\). Did you mean 'drop'?",
        ),
        ("--conflict last", "--conflict: input should be 'first', 'drop' or 'majority'"),
        ("--distance 9", "--distance: input should be less than or equal to 8"),
        ("--shard-size 0", "--shard-size: input should be greater than or equal to 1"),
    ],
)
def test_rules_that_there_are_not_are_refused(
    words: str, said: str, two: tuple[Path, Path], tmp_path: Path
) -> None:
    command = ["merge", *map(str, two), "--out", str(tmp_path / "out"), *words.split()]
    with pytest.raises(UsageError, match=said):
        app(command, standalone_mode=False)


def test_a_finished_output_is_replaced_only_with_overwrite(two: tuple[Path, Path], tmp_path: Path) -> None:
    merge(two, tmp_path / "both")
    with pytest.raises(OutputExistsError):
        merge(two, tmp_path / "both")
    before = (tmp_path / "both" / "dataset.json").read_bytes()
    merge(two, tmp_path / "both", rules=MergeRules(shard_size=10), overwrite=True)
    assert (tmp_path / "both" / "dataset.json").read_bytes() != before


# Shards of another size


def test_other_shards_hold_the_same_rows_and_all_that_is_known_of_them(
    small_dataset: Path, tmp_path: Path
) -> None:
    result = reshard(small_dataset, 17, tmp_path / "other")
    before, after = Dataset.open(small_dataset), Dataset.open(result.folder)
    assert [shard.rows for shard in after.manifest.shards] == [17, 17, 17, 9]
    columns = ["id", "image", "text", "label", "votes", "tags"]
    assert after.table(columns) == before.table(columns)
    for name in ("name", "settings", "funnel", "labels", "agreement"):
        assert getattr(after.manifest, name) == getattr(before.manifest, name)
    assert after.manifest.notes == {"sharded": {"version_before": before.sha256}, "before": None}
    assert rejected(result.folder) == rejected(small_dataset)
    assert validate(result.folder).problems == []


def test_back_in_the_old_size_the_rows_have_the_old_hash(small_dataset: Path, tmp_path: Path) -> None:
    there = reshard(small_dataset, 7, tmp_path / "there").folder
    assert reshard(there, 25, tmp_path / "back").manifest.sha256 == Dataset.open(small_dataset).sha256


def test_splits_come_along_and_fit(make_dataset: Callable[..., Path], sixty_pairs: pa.Table) -> None:
    folder = make_dataset(sixty_pairs)
    split = split_dataset(folder, "kfold-5", 3).split
    result = reshard(folder, 11)
    assert (result.folder, result.splits) == (folder.with_name("drawn-11"), ["kfold-5-seed3.parquet"])
    carried = read_split(result.folder / "splits" / result.splits[0], Dataset.open(result.folder).ids)
    assert carried.sha256 == split.sha256


@pytest.mark.parametrize("rows", [0, -3])
def test_a_shard_has_one_row_at_least(rows: int, small_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="must be at least 1"):
        reshard(small_dataset, rows, tmp_path / "out")


def test_a_dataset_is_not_sharded_in_place(make_dataset: Callable[..., Path], sixty_pairs: pa.Table) -> None:
    folder = make_dataset(sixty_pairs)
    with pytest.raises(UsageError, match="Name another --out"):
        reshard(folder, 10, folder, overwrite=True)


# The commands


def test_merge_tells_where_the_rows_went(two: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "both"
    run = CliRunner().invoke(app, ["merge", *map(str, two), "--out", str(out), "--quiet"])
    assert run.exit_code == 0, run.output
    assert "- duplicate-image     20" in run.stdout
    assert "0 pictures had several labels (--conflict first)" in run.stdout
    again = ["merge", *map(str, two), "--out", str(out), "--overwrite", "--name", "web", "--json"]
    document = json.loads(CliRunner().invoke(app, again).stdout)
    assert (document["name"], document["folder"]) == ("web", str(out))


def test_a_manifest_that_counts_other_rows_is_one_line(
    make_dataset: Callable[..., Path], sixty_pairs: pa.Table, tmp_path: Path
) -> None:
    folder = make_dataset(sixty_pairs)
    manifest = json.loads((folder / "dataset.json").read_text())
    manifest["funnel"]["input"] += 1
    (folder / "dataset.json").write_text(json.dumps(manifest))
    with pytest.raises(DatasetError, match="are not those of its manifest"):
        reshard(folder, 20, tmp_path / "out")


def test_neither_takes_rows_whose_labels_the_manifest_miscounts(
    two: tuple[Path, Path], tmp_path: Path
) -> None:
    manifest = json.loads((two[0] / "dataset.json").read_text())
    manifest["labels"]["positive"] += 1
    (two[0] / "dataset.json").write_text(json.dumps(manifest))
    with pytest.raises(DatasetError, match="are not those of its manifest"):
        reshard(two[0], 20, tmp_path / "out")
    with pytest.raises(DatasetError, match="are not those of its manifest"):
        merge(two, tmp_path / "out", rules=MergeRules(mixed_classes=True))


@pytest.mark.parametrize("name", ["../elsewhere", "/tmp/elsewhere", "..", "."])
def test_a_name_is_no_place(two: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="not a name"):
        merge(two, tmp_path / "out", name)


def test_shard_tells_what_there_is_now(
    make_dataset: Callable[..., Path], sixty_pairs: pa.Table, tmp_path: Path
) -> None:
    command = [
        "shard",
        str(make_dataset(sixty_pairs)),
        "--rows-per-shard",
        "20",
        "--out",
        str(tmp_path / "out"),
    ]
    assert "60 rows in 3 shards; splits: none" in CliRunner().invoke(app, command).stdout
    document = json.loads(CliRunner().invoke(app, [*command, "--overwrite", "--json"]).stdout)
    assert [shard["rows"] for shard in document["shards"]] == [20, 20, 20]


def test_a_failure_is_one_line(two: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    command = ["merge", str(two[0]), str(two[0])]
    assert exit_code(lambda: app(command, standalone_mode=False)) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_every_reason_of_a_merge_has_a_meaning() -> None:
    assert all(Reason(reason).meaning for reason in REASONS)
