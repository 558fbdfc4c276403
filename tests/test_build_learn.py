"""What a build makes is a dataset like any other: it loads, it is learnt from, and what was learnt is judged.

Labels of a search are positive or negative only, so every number here is about two classes.
"""

import json
import math
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mvsent.datasets.validate import validate
from mvsent.shards.reader import Dataset
from mvsent.standin.replay import Replay
from tests import programs
from tests.building import EPOCH, SETTINGS, build, small_world


@pytest.fixture(scope="module", params=list(SETTINGS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A dataset built from the stand-in, in `data/` below a project's folder."""
    project = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch, Replay(small_world(photos=14)) as running:
        patch.setenv("SOURCE_DATE_EPOCH", EPOCH)
        settings = SETTINGS[request.param](running, project)
        yield build(project / "data" / request.param, settings).folder


@pytest.mark.slow
def test_a_built_dataset_is_valid(folder: Path) -> None:
    assert validate(folder, quiet=True).problems == []


def test_hugging_face_loads_a_built_dataset_with_its_pictures(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    rows = Dataset.open(folder).table(["id", "width", "height", "text"]).to_pylist()
    assert loaded["id"] == [row["id"] for row in rows]
    assert loaded.features["label"].names == ["negative", "neutral", "positive"]
    for row, expected in zip(loaded, rows, strict=True):
        row["image"].load()
        assert row["image"].size == (expected["width"], expected["height"])
        assert row["text"] == expected["text"]


def mvsent(folder: Path, *arguments: str) -> str:
    """What the command prints, run from the project's folder."""
    done = subprocess.run(
        programs.mvsent(*arguments),
        cwd=folder.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_train_learns_from_a_built_dataset_and_eval_draws_its_curves(folder: Path) -> None:
    quick = "--weights random --words random --epochs 6 --batch-size 8 --folds 0 --option hidden=16"
    mvsent(folder, "train", "--out", "runs/tiny", "--quiet", *quick.split(), "--option", "map_channels=16")
    run = folder.parents[1] / "runs" / "tiny"
    with (run / "fold-0" / "history.csv").open() as file:
        header, *epochs = (line.strip().split(",") for line in file)
    losses = [float(epoch[header.index("train_loss")]) for epoch in epochs]
    assert losses[-1] < losses[0]
    predictions = pq.read_table(run / "fold-0" / "predictions.parquet")
    assert set(predictions["label"].to_pylist()) == {0, 2}
    assert set(predictions["p_neutral"].to_pylist()) == {0.0}
    document = json.loads(mvsent(folder, "eval", "--metrics", "roc,prc", "--json"))
    assert document["classes"] == ["negative", "positive"]
    means = {name: metric["mean"] for name, metric in document["metrics"].items()}
    assert not [name for name in means if "neutral" in name]
    assert all(math.isfinite(mean) for mean in means.values())
    assert 0 <= means["roc_auc_macro"] <= 1
    assert (run / "roc.png").exists() and (run / "prc.svg").exists()
