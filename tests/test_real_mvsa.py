"""The published MVSA folder that MVSENT_MVSA_ROOT names gives the paper's numbers."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from mvsent.build.from_table import build_table
from mvsent.build.reconcile import reconcile
from mvsent.build.table_cells import read_plan
from mvsent.config import ReconcileSettings
from mvsent.curate.table_one import PAPER_TABLE_I
from mvsent.curate.text import clean_text, decode_text
from mvsent.shards.reader import Dataset
from mvsent.sources.table import TableSettings
from tests.tables import write_csv, write_jsonl

ROOT = os.environ.get("MVSENT_MVSA_ROOT", "")

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(not ROOT, reason="MVSENT_MVSA_ROOT names no MVSA folder"),
]


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return reconcile(Path(ROOT), tmp_path_factory.mktemp("real") / "out", ReconcileSettings(), quiet=True)


def test_the_label_counts_are_table_i(result):
    assert result.manifest.labels == PAPER_TABLE_I[result.manifest.name]


def test_every_row_is_accounted_for(result):
    funnel = result.manifest.funnel
    assert funnel.adds_up
    if result.manifest.name == "mvsa-single":
        assert (funnel.input, funnel.kept, funnel.dropped) == (4869, 4511, {"label-conflict": 358})


def test_labels_alone_give_the_same_rows(result, tmp_path):
    labels = reconcile(Path(ROOT), tmp_path / "out", ReconcileSettings(labels_only=True), quiet=True)
    if result.manifest.name == "mvsa-single":  # of MVSA-Multiple three pictures cannot be decoded
        assert Dataset.open(labels.folder).ids == Dataset.open(result.folder).ids


def test_a_quarter_of_the_texts_end_in_an_ellipsis_and_none_is_mojibake(result):
    texts = Dataset.open(result.folder).table(["text"])["text"]
    assert pc.sum(pc.match_substring(texts, "…")).as_py() / len(texts) > 0.15
    for sign in (
        "\ufffd",
        "¡­",
        "â€",
        "Ã©",
    ):  # undecodable bytes; GB18030 read as Latin-1; UTF-8 read as Latin-1
        assert not pc.any(pc.match_substring(texts, sign)).as_py()


# The same pairs as a table


def pairs_of(root: Path) -> list[dict[str, str]]:
    """The rows of MVSA-Single, with the texts as they were published."""
    lines = (root / "labelResultAll.txt").read_text().split("\n")[1:]
    rows = []
    for id, labels in (line.strip().split("\t") for line in lines if line.strip()):
        text_label, image_label = labels.split(",")
        text = decode_text((root / "data" / f"{id}.txt").read_bytes())
        image = str(root.absolute() / "data" / f"{id}.jpg")
        rows.append(
            {"id": id, "image": image, "text": text, "text_label": text_label, "image_label": image_label}
        )
    return rows


def as_csv(rows: list[dict[str, str]], folder: Path) -> Path:
    return write_csv(folder / "pairs.csv", rows)


def as_jsonl(rows: list[dict[str, str]], folder: Path) -> Path:
    return write_jsonl(folder / "pairs.jsonl", rows)


def as_parquet(rows: list[dict[str, str]], folder: Path) -> Path:
    held = [{**row, "image": {"bytes": Path(row["image"]).read_bytes(), "path": None}} for row in rows]
    pq.write_table(pa.Table.from_pylist(held), folder / "pairs.parquet")
    return folder / "pairs.parquet"


@pytest.mark.parametrize("write", [as_csv, as_jsonl, as_parquet])
def test_mvsa_single_as_a_table_gives_the_same_bytes(write, result, tmp_path):
    if result.manifest.name != "mvsa-single":
        pytest.skip("MVSENT_MVSA_ROOT is not MVSA-Single")
    table = write(pairs_of(Path(ROOT)), tmp_path)
    plan = read_plan([table], TableSettings(), "mvsa-single")
    built = build_table(plan, tmp_path / "out", quiet=True)
    assert built.manifest.funnel == result.manifest.funnel
    # Every column, as the shards have: texts, labels, votes and the bytes of the pictures among them.
    assert [shard.sha256 for shard in built.manifest.shards] == [
        shard.sha256 for shard in result.manifest.shards
    ]


def test_texts_that_were_cleaned_before_they_came_into_a_table_stay_as_they_are(result):
    texts = Dataset.open(result.folder).table(["text"])["text"].to_pylist()
    assert [clean_text(text) for text in texts] == texts
