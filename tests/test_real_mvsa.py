"""The published MVSA folder that MVSENT_MVSA_ROOT names gives the paper's numbers."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from mvsent.build.from_table import build_table
from mvsent.build.reconcile import reconcile
from mvsent.build.table_cells import read_plan
from mvsent.config import ReconcileSettings
from mvsent.curate.near_texts import near_text_pairs
from mvsent.curate.table_one import PAPER_TABLE_I
from mvsent.curate.text import clean_text, decode_text, normalised_text
from mvsent.datasets.split import split_dataset
from mvsent.shards.reader import Dataset
from mvsent.sources.table import TableSettings
from mvsent.splits import TEST
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


# Other pairs, and splits. The literature that uses consistent pairs counts 2592 of them.

PAIRS = {"consistent": (724, 470, 1398), "text": (1217, 1921, 1731), "image": (1223, 938, 2708)}


@pytest.mark.parametrize("pairs", PAIRS)
def test_the_pairs_of_each_rule_are_as_many_as_their_labels_say(pairs, result, tmp_path):
    if result.manifest.name != "mvsa-single":
        pytest.skip("MVSENT_MVSA_ROOT is not MVSA-Single")
    made = reconcile(
        Path(ROOT), tmp_path / "out", ReconcileSettings(pairs=pairs, labels_only=True), quiet=True
    ).manifest
    assert made.name == f"mvsa-single-{pairs}"
    assert tuple(made.labels.values()) == PAIRS[pairs]
    given = Counter()  # counted in the published file, by nothing of ours
    for line in (Path(ROOT) / "labelResultAll.txt").read_text().split("\n")[1:]:
        if line.strip():
            text, image = line.strip().split("\t")[1].split(",")
            given[text if pairs == "text" else image] += pairs != "consistent" or text == image
    assert made.labels == dict(given)


def test_near_protocols_leave_no_near_copy_that_scikit_learn_finds(result):
    dataset = Dataset.open(result.folder)
    texts = [normalised_text(text) for text in dataset.table(["text"])["text"].to_pylist()]
    distinct, value = np.unique(texts, return_inverse=True)
    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5)).fit_transform(distinct.tolist())
    near = np.argwhere(np.triu((vectors @ vectors.T).toarray(), 1) > 0.8)
    assert near_text_pairs(distinct.tolist()).tolist() == near.tolist() != []
    exact, grouped = (
        split_dataset(result.folder, f"{name}kfold-10") for name in ("grouped-", "grouped-near-")
    )
    for split, is_near in ((exact.split, False), (grouped.split, True)):
        tested = (split.roles == TEST).argmax(axis=0)  # the fold that tests each row
        apart = [len({*tested[value == one], *tested[value == other]}) > 1 for one, other in near]
        assert any(apart) is not is_near
    assert grouped.left.near.n_leaked == 0
    if result.manifest.name == "mvsa-single":
        assert (exact.left.near.n_leaked, exact.left.near.n_compared) == (112, 4511)
        assert (grouped.left.n_rows, grouped.left.n_groups, grouped.left.n_largest) == (547, 217, 29)


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
