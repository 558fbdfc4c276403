"""A dataset on disk: what is written, and who can read it."""

import json
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvsent.errors import DatasetError, UsageError
from mvsent.pairs import PAIR_SCHEMA, REJECTED_SCHEMA
from mvsent.shards import rejected
from mvsent.shards.atomic import PartialFile, atomic_write
from mvsent.shards.card import card
from mvsent.shards.manifest import Funnel, Manifest
from mvsent.shards.reader import Dataset, newest_dataset
from mvsent.shards.rejected import RejectedFile
from mvsent.shards.writer import DatasetWriter
from tests.conftest import write_dataset
from tests.drawing import draw_pairs, draw_rejected

# What is written


def test_every_shard_has_small_row_groups_zstd_and_a_page_index(
    tmp_path: Path, sixty_pairs: pa.Table
) -> None:
    pairs = pa.concat_tables([sixty_pairs, draw_pairs(600, images=False)])  # some with pictures, some without
    folder = write_dataset(tmp_path / "drawn", pairs, shard_size=500)
    assert [path.name for path in Dataset.open(folder).shard_paths] == [
        "shard-00000.parquet",
        "shard-00001.parquet",
    ]
    sizes = []
    for path in Dataset.open(folder).shard_paths:
        metadata = pq.read_metadata(path)
        for group in map(metadata.row_group, range(metadata.num_row_groups)):
            sizes.append(group.num_rows)
            columns = [group.column(i) for i in range(group.num_columns)]
            expected = {
                c.path_in_schema: "UNCOMPRESSED" if c.path_in_schema == "image.bytes" else "ZSTD"
                for c in columns
            }
            assert {c.path_in_schema: c.compression for c in columns} == expected
            assert all(c.has_offset_index for c in columns)
            assert all(c.has_column_index for c in columns if c.path_in_schema in ("id", "label"))
    assert sizes == [256, 244, 160]


def test_rows_come_back_as_they_were_written(small_dataset: Path, sixty_pairs: pa.Table) -> None:
    dataset = Dataset.open(small_dataset)
    assert dataset.table(PAIR_SCHEMA.names).equals(sixty_pairs)
    assert len(dataset) == 60
    assert dataset.ids == sixty_pairs["id"].to_pylist()
    assert dataset.labels.dtype == np.int8
    assert dataset.labels.tolist() == sixty_pairs["label"].to_pylist()
    assert dataset.classes == [0, 1, 2]


def test_the_manifest_says_what_became_of_every_row(small_dataset: Path) -> None:
    document = json.loads((small_dataset / "dataset.json").read_text())
    assert document["funnel"] == {"input": 62, "kept": 60, "dropped": {"label-conflict": 2}}
    assert document["labels"] == {"negative": 20, "neutral": 20, "positive": 20}
    assert [shard["rows"] for shard in document["shards"]] == [25, 25, 10]
    assert document.keys() == {
        "schema_version", "name", "mvsent_version", "created_at", "settings", "funnel", "labels", "shards",
    }  # fmt: skip
    rejected = pq.read_table(small_dataset / "rejected.parquet")
    assert rejected.schema.equals(REJECTED_SCHEMA)
    assert rejected["id"].to_pylist() == ["drawn-rejected:0", "drawn-rejected:1"]


def test_two_builds_are_the_same_bytes(
    tmp_path: Path, sixty_pairs: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1600000000")
    one, two = (write_dataset(tmp_path / parent / "drawn", sixty_pairs, n_rejected=3) for parent in "ab")
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert len(files) == 7
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in files)
    assert json.loads((one / "dataset.json").read_text())["created_at"] == "2020-09-13T12:26:40Z"


def test_another_row_is_another_dataset(tmp_path: Path, sixty_pairs: pa.Table) -> None:
    one = write_dataset(tmp_path / "a", sixty_pairs)
    other = write_dataset(tmp_path / "b", sixty_pairs.slice(0, 59))
    assert Manifest.load(one).sha256 != Manifest.load(other).sha256


def with_heavy_images(pairs: pa.Table, rows: slice) -> pa.Table:
    """Pairs of which some have 50 kB that nothing compresses: enough for several Parquet pages a row group."""
    heavy = [None] * len(pairs)
    noise = np.random.default_rng(0)
    heavy[rows] = [{"bytes": noise.bytes(50_000), "path": "x"} for _ in heavy[rows]]
    return pairs.set_column(1, PAIR_SCHEMA.field("image"), pa.array(heavy, PAIR_SCHEMA.field("image").type))


@pytest.fixture(
    scope="module", params=[slice(0), slice(None), slice(100, None)], ids=["none", "all", "later"]
)
def many_pairs(request: pytest.FixtureRequest) -> pa.Table:
    """330 pairs with no pictures, all pictures, or pictures from row 100."""
    return with_heavy_images(draw_pairs(330, images=False), request.param)


@pytest.mark.slow
@settings(max_examples=10)
@given(cuts=st.lists(st.integers(1, 329), max_size=6, unique=True))
def test_the_bytes_do_not_depend_on_how_rows_are_handed_over(
    cuts: list[int], tmp_path_factory: pytest.TempPathFactory, many_pairs: pa.Table
) -> None:
    folder = tmp_path_factory.mktemp("drawn")
    whole = write_dataset(folder / "whole", many_pairs, name="drawn", shard_size=290)
    with DatasetWriter(folder / "pieces", "drawn", settings={}, shard_size=290) as writer:
        for start, stop in pairwise([0, *sorted(cuts), 330]):
            writer.write(many_pairs.slice(start, stop - start))
        manifest = writer.finish(330)
    assert manifest.sha256 == Manifest.load(whole).sha256


@settings(max_examples=20)
@given(cuts=st.lists(st.integers(0, 10), max_size=4))
def test_dropped_rows_are_written_as_they_come_and_their_bytes_do_not_depend_on_how(
    cuts: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, rows = tmp_path_factory.mktemp("dropped"), draw_rejected(10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rejected, "_GROUP_ROWS", 4)
        for name, places in (("whole", [0, 10]), ("pieces", [0, *sorted(cuts), 10])):
            (folder / name).mkdir()
            file = RejectedFile(folder / name)
            for start, stop in pairwise(places):
                file.append(rows.slice(start, stop - start))
            assert file.n_pending == 2
            file.close()
    whole, pieces = ((folder / name / "rejected.parquet").read_bytes() for name in ("whole", "pieces"))
    assert pieces == whole
    assert pq.read_table(folder / "whole").equals(rows)
    assert file.counts == {"label-conflict": 10}


def test_nothing_is_left_of_dropped_rows_that_were_not_finished(tmp_path: Path) -> None:
    file = RejectedFile(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rejected, "_GROUP_ROWS", 4)
        file.append(draw_rejected(10))
    assert list(tmp_path.iterdir()) != []
    file.abandon()
    assert list(tmp_path.iterdir()) == []


def test_row_groups_are_small_wherever_there_are_pictures(tmp_path: Path, many_pairs: pa.Table) -> None:
    [path] = Dataset.open(write_dataset(tmp_path / "drawn", many_pairs, shard_size=330)).shard_paths
    metadata = pq.read_metadata(path)
    sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    assert sizes == ([256, 74] if many_pairs["image"].null_count < 330 else [330])


def test_the_manifest_is_written_last(
    tmp_path: Path, sixty_pairs: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    commit = PartialFile.commit
    monkeypatch.setattr(PartialFile, "commit", lambda self: (written.append(self.path.name), commit(self)))
    write_dataset(tmp_path / "drawn", sixty_pairs)
    assert written.index("dataset.json") == len(written) - 1 == 6


def test_a_file_that_fails_leaves_the_old_one_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write(b"new")
        raise RuntimeError
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("file", b"old")]


def test_a_lost_row_stops_the_build(tmp_path: Path, sixty_pairs: pa.Table) -> None:
    with DatasetWriter(tmp_path / "drawn", "drawn", settings={}, shard_size=25) as writer:
        writer.write(sixty_pairs)
        writer.reject(draw_rejected(1))
        with pytest.raises(AssertionError, match=r"62 in, 60 kept, dropped {'label-conflict': 1}"):
            writer.finish(62)
    with pytest.raises(DatasetError, match="not a finished dataset"):
        Dataset.open(tmp_path / "drawn")


def test_other_columns_are_refused(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "drawn", "drawn", settings={}, shard_size=25) as writer:
        with pytest.raises(ValueError, match="not the columns of this dataset"):
            writer.write(pa.table({"id": ["a"]}))
        with pytest.raises(ValueError, match="REJECTED_SCHEMA"):
            writer.reject(pa.table({"id": ["a"]}))


def test_a_dataset_without_rows_can_be_opened(tmp_path: Path) -> None:
    dataset = Dataset.open(write_dataset(tmp_path / "empty", PAIR_SCHEMA.empty_table(), n_rejected=2))
    assert (len(dataset), dataset.ids) == (0, [])
    assert list(dataset.batches(["id"], 8)) == []
    with pytest.raises(DatasetError, match=r"it has no rows.*mvsent validate"):
        _ = dataset.classes


@pytest.mark.parametrize("labels", [{}, {"positive": 60}, {"negative": 20, "neutral": 20, "positive": 21}])
def test_labels_that_the_manifest_miscounts_are_refused(
    make_dataset: Callable[..., Path], sixty_pairs: pa.Table, labels: dict[str, int]
) -> None:
    path = make_dataset(sixty_pairs) / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"labels": labels}))
    with pytest.raises(DatasetError, match=r"not those of its manifest.*mvsent validate"):
        _ = Dataset.open(path.parent).classes


@pytest.mark.parametrize("epoch", ["abc", "1e9", "9" * 30])
def test_a_time_that_is_none_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: str
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    with pytest.raises(UsageError, match=f"SOURCE_DATE_EPOCH={epoch}: not a time"):
        DatasetWriter(tmp_path / "drawn", "drawn", settings={}, shard_size=8)
    assert list(tmp_path.iterdir()) == []


def test_notes_and_agreement_survive(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "drawn", "drawn", settings={"ties": "drop"}, shard_size=25) as writer:
        writer.finish(0, extra={"agreement": {"text": 0.5, "image": None}, "notes": ["drawn"]})
    manifest = Manifest.load(tmp_path / "drawn")
    assert manifest.agreement is not None
    assert (manifest.agreement.text, manifest.agreement.image) == (0.5, None)
    assert (manifest.notes, manifest.settings) == (["drawn"], {"ties": "drop"})


def test_the_card_counts_licences_and_cannot_be_broken_by_them() -> None:
    manifest = Manifest(
        name="flickr", created_at="2026-01-01T00:00:00Z", funnel=Funnel(input=3, kept=3), labels={}, shards=[]
    )
    hostile = {"<b>|\nevil": 1, "[x](javascript:a) ![y](z)": 1, "\x1b[31m\u202e&#60;`*_~\\": 1, "a" * 9999: 1}
    text = card(manifest, {"CC BY 2.0": 2, **hostile})
    assert "| CC BY 2.0 | 2 |" in text
    assert r"| \<b\>\| evil | 1 |" in text
    assert r"| \[x\]\(javascript:a\) \!\[y\]\(z\) | 1 |" in text
    assert r"| \[31m \&#60;\`\*\_\~\\ | 1 |" in text
    assert f"| {'a' * 100} | 1 |" in text
    assert all(c.isprintable() for c in text.replace("\n", ""))
    assert "not endorsed or certified by SmugMug" in text


# Who can read it


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    return lambda folder, **options: datasets.load_dataset(
        str(folder), cache_dir=str(tmp_path / "hub"), **options
    )


@pytest.mark.parametrize("streaming", [False, True])
def test_hugging_face_decodes_pictures_and_names_labels(
    hub: Any, small_dataset: Path, streaming: bool
) -> None:
    loaded = hub(small_dataset, streaming=streaming)
    assert list(loaded) == ["train"]
    rows = list(loaded["train"])
    assert len(rows) == 60  # rejected.parquet is not among them
    features = loaded["train"].features
    for name in ("label", "text_label", "image_label"):
        assert features[name].names == ["negative", "neutral", "positive"]
    assert rows[1]["image"].size == (96, 72)
    assert features["label"].int2str(rows[1]["label"]) == "neutral"
    assert rows[1]["votes"] == [{"text": 1, "image": 1}]


def test_hugging_face_reads_labels_without_pictures(hub: Any, make_dataset: Callable[..., Path]) -> None:
    rows = hub(make_dataset(draw_pairs(30, images=False)))["train"]
    assert rows[0]["image"] is None
    assert rows.features["label"].names == ["negative", "neutral", "positive"]


def test_pandas_reads_the_shards(small_dataset: Path, sixty_pairs: pa.Table) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(small_dataset / "data")
    assert frame["id"].tolist() == sixty_pairs["id"].to_pylist()
    assert frame["image"][0]["bytes"] == sixty_pairs["image"][0].as_py()["bytes"]


def test_duckdb_reads_the_shards(small_dataset: Path, sixty_pairs: pa.Table) -> None:
    duckdb = pytest.importorskip("duckdb")
    query = f"select label, count(*), min(octet_length(image.bytes)) from '{small_dataset}/data/*.parquet' group by 1 order by 1"
    rows = duckdb.sql(query).fetchall()
    sizes = [len(row["image"]["bytes"]) for row in sixty_pairs.to_pylist()]
    labels = sixty_pairs["label"].to_pylist()
    smallest = [min(size for size, label in zip(sizes, labels, strict=True) if label == k) for k in range(3)]
    assert rows == [(k, 20, smallest[k]) for k in range(3)]


@pytest.mark.slow
def test_polars_reads_the_shards(small_dataset: Path, sixty_pairs: pa.Table) -> None:
    polars = pytest.importorskip("polars")
    frame = polars.read_parquet(small_dataset / "data" / "*.parquet")
    assert frame["text"].to_list() == sixty_pairs["text"].to_pylist()
    assert frame["image"].struct.field("bytes")[59] == sixty_pairs["image"][59].as_py()["bytes"]


# The reader


@settings(max_examples=40)
@given(batch_size=st.integers(1, 70), start=st.integers(-70, 70), stop=st.none() | st.integers(-70, 70))
def test_batches_are_exact_slices_of_the_table(
    batch_size: int, start: int, stop: int | None, small_dataset: Path, sixty_pairs: pa.Table
) -> None:
    columns = ["image", "label"]
    batches = list(Dataset.open(small_dataset).batches(columns, batch_size, slice(start, stop)))
    expected = sixty_pairs.select(columns).take(pa.array(range(60), pa.int64())[start:stop])
    assert pa.Table.from_batches(batches, expected.schema).equals(expected)
    assert all(len(batch) == batch_size for batch in batches[:-1])


def test_batches_do_not_read_pictures_unless_asked(small_dataset: Path) -> None:
    batch = next(Dataset.open(small_dataset).batches(["label", "id"], 7))
    assert batch.schema.names == ["label", "id"]


def test_an_unknown_column_is_named(small_dataset: Path) -> None:
    with pytest.raises(KeyError, match="caption"):
        Dataset.open(small_dataset).table(["caption"])


def test_an_altered_shard_is_named(make_dataset: Callable[..., Path], sixty_pairs: pa.Table) -> None:
    folder = make_dataset(sixty_pairs)
    with (folder / "data/shard-00001.parquet").open("ab") as file:
        file.write(b"x")
    with pytest.raises(DatasetError, match=r"shard-00001.parquet: altered"):
        Dataset.open(folder)


def test_a_missing_shard_is_named(make_dataset: Callable[..., Path], sixty_pairs: pa.Table) -> None:
    folder = make_dataset(sixty_pairs)
    (folder / "data/shard-00002.parquet").unlink()
    with pytest.raises(DatasetError, match=r"shard-00002.parquet: cannot be read"):
        Dataset.open(folder)


def test_a_shard_overwritten_with_rubbish_is_named(
    make_dataset: Callable[..., Path], sixty_pairs: pa.Table
) -> None:
    folder = make_dataset(sixty_pairs)
    path = folder / "data/shard-00000.parquet"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(DatasetError, match=r"shard-00000.parquet: not a readable shard"):
        Dataset.open(folder).table(["id"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not a finished dataset"),
        ("{", "not readable as JSON"),
        ("[]", "not a dataset manifest"),
        pytest.param("[" * 100_000, "not readable as JSON", id="nested"),
        pytest.param('{"name": ' + "9" * 5000 + "}", "not readable as JSON", id="digits"),
        ("{}", "name: field required"),
        ('{"name": "\\ud800"}', "not readable as JSON"),
        ('{"schema_version": 99}', "newer mvsent"),
    ],
)
def test_a_folder_that_is_no_dataset_says_so(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(DatasetError, match=message):
        Dataset.open(tmp_path)


@pytest.mark.parametrize(
    "elsewhere", ["../a.parquet", "data/../../a.parquet", "/a.parquet", "", ".", "dataset.json"]
)
def test_a_shard_that_lies_elsewhere_is_refused(
    make_dataset: Callable[..., Path], sixty_pairs: pa.Table, elsewhere: str
) -> None:
    path = make_dataset(sixty_pairs) / "dataset.json"
    path.write_text(path.read_text().replace("data/shard-00000.parquet", elsewhere))
    with pytest.raises(DatasetError, match=r"shards\.0\.path: .*is no place for a shard"):
        Dataset.open(path.parent)


def test_a_missing_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such folder"):
        Dataset.open(tmp_path / "nowhere")


def test_the_newest_dataset_is_the_one_finished_last(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no dataset there"):
        newest_dataset(tmp_path)
    for age, name in enumerate(["b", "c", "a", ".a.partial"]):
        folder = write_dataset(tmp_path / name, draw_pairs(3, images=False))
        os.utime(folder / "dataset.json", (age, age))
    assert newest_dataset(tmp_path) == tmp_path / "a"


def test_a_pipe_or_a_device_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to("/dev/null")
    for name in ("pipe", "null"):
        with pytest.raises(UsageError, match="no ordinary file"), atomic_write(tmp_path / name):
            pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["null", "pipe"]
