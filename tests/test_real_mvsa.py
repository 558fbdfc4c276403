"""The published MVSA folder that MVSENT_MVSA_ROOT names gives the paper's numbers."""

import os
from pathlib import Path

import pyarrow.compute as pc
import pytest

from mvsent.build.reconcile import reconcile
from mvsent.config import ReconcileSettings
from mvsent.curate.table_one import PAPER_TABLE_I
from mvsent.shards.reader import Dataset

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
