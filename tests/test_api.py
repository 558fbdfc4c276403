"""The Python API: `mvsent.open`, `train`, `load`, `score`, `benchmark`, and what a notebook shows of them."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, f1_score
from torch.utils.data import DataLoader

import mvsent
from mvsent.api.places import settings_of
from mvsent.errors import DatasetError, InputError, RunError, UsageError
from mvsent.pairs import LABEL_NAMES
from mvsent.runs import evaluate as evaluation
from mvsent.runs.material import prepare
from mvsent.runs.train import make_trainer
from mvsent.splits import TRAIN
from tests.drawing import draw_pairs
from tests.run_folder import write_run

SETTINGS: dict[str, Any] = {
    "weights": "random",
    "words": "random",
    "batch_size": 16,
    "threads": 1,
    "epochs": 1,
}


@pytest.fixture
def dataset(small_dataset: Path) -> mvsent.PairDataset:
    return mvsent.open(small_dataset)


@pytest.fixture(scope="module")
def run(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> mvsent.Run:
    place = tmp_path_factory.mktemp("runs") / "run"
    return mvsent.train(str(small_dataset), out=str(place), folds=[0, 1], quiet=True, **SETTINGS)


@pytest.mark.slow
def test_importing_and_opening_need_neither_torch_nor_pandas(small_dataset: Path) -> None:
    code = (
        f"import sys, mvsent; assert not {{'pyarrow', 'numpy', 'torch'}} & sys.modules.keys()\n"
        f"ds = mvsent.open({str(small_dataset)!r}); ds[0]; repr(ds)\n"
        "assert not {'torch', 'pandas', 'sklearn'} & sys.modules.keys()\n"
        "assert 'train' in dir(mvsent)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        mvsent.trian  # noqa: B018


# Datasets


def test_strings_paths_and_datasets_open_alike(small_dataset: Path, dataset: mvsent.PairDataset) -> None:
    for place in (str(small_dataset), small_dataset, dataset, small_dataset.as_uri()):
        assert mvsent.open(place).files.sha256 == dataset.files.sha256
    with pytest.raises(DatasetError, match="no such folder"):
        mvsent.open("nowhere")


def test_a_dataset_is_a_sequence_of_its_rows(dataset: mvsent.PairDataset, sixty_pairs: pa.Table) -> None:
    expected = sixty_pairs.to_pylist()
    assert len(dataset) == 60 and dataset.labels == dict.fromkeys(LABEL_NAMES, 20)
    assert [pair.columns for pair in dataset] == expected
    for row in (0, 24, 25, 59, -1, -60):  # across shards of 25 rows
        assert dataset[row].columns == expected[row]
    assert [pair.id for pair in dataset[57:99]] == ["drawn:57", "drawn:58", "drawn:59"]
    assert dataset["drawn:7"].columns == expected[7]
    assert [pair.id for pair in reversed(dataset)][:2] == ["drawn:59", "drawn:58"]
    for wrong in (60, -61):
        with pytest.raises(IndexError):
            dataset[wrong]
    assert dataset["7"].columns == dataset[np.int64(7)].columns == expected[7]
    with pytest.raises(KeyError, match="'drawn:60' is no id of"):
        dataset["drawn:60"]
    for unusable in (1.5, None, "0.5"):
        with pytest.raises((TypeError, KeyError)):
            dataset[unusable]  # type: ignore[call-overload]


def test_a_pair_has_its_picture_text_and_label(dataset: mvsent.PairDataset) -> None:
    pair = dataset[0]
    assert (pair.id, pair.label) == ("drawn:0", "positive") and pair.text.endswith("http://t.co/0")
    assert pair.image is not None and (pair.image.size, pair.image.mode) == ((96, 72), "RGB")
    assert repr(pair).startswith("Pair('drawn:0', '") and len(repr(pair)) < 90


def test_a_pair_without_picture_text_or_label_is_a_pair(make_dataset: Callable[..., Path]) -> None:
    bare = mvsent.Pair({"id": "a:1", "text": None, "label": None, "image": None})
    assert (bare.text, bare.label, bare.image) == ("", None, None)
    assert "unlabelled" in repr(bare) and "unlabelled" in bare._repr_html_()
    broken = mvsent.Pair({"id": "a:1", "text": "", "label": 1, "image": {"bytes": b"\xff\xd8 no picture"}})
    with pytest.raises(InputError, match=r"a:1: image-corrupt"):
        broken.image  # noqa: B018
    assert "<img" not in broken._repr_html_()


def test_a_table_for_pandas_is_what_duckdb_reads(dataset: mvsent.PairDataset, small_dataset: Path) -> None:
    ours = dataset.to_pandas()
    theirs = duckdb.sql(f"select id, text, label, width, sha256 from '{small_dataset}/data/*.parquet'").df()
    assert ours["id"].tolist() == theirs["id"].tolist() and ours["text"].tolist() == theirs["text"].tolist()
    assert ours["label"].cat.codes.tolist() == theirs["label"].tolist()
    assert list(ours["label"].cat.categories) == list(LABEL_NAMES) and ours["label"].cat.ordered
    assert "image" not in ours and ours["width"].tolist() == theirs["width"].tolist()
    assert dataset.to_pandas(["id", "image"])["image"][0]["bytes"] == dataset[0].image_bytes
    with pytest.raises(UsageError, match=r"no column 'lable'\. Did you mean 'label'\?"):
        dataset.to_pandas(["lable"])


def test_hashes_and_missing_labels_keep_their_values(make_dataset: Callable[..., Path]) -> None:
    """As floats, hashes of 64 bits would be rounded."""
    pairs = draw_pairs(3)
    exact = pa.array([2**64 - 1, None, 3], pa.uint64())
    pairs = pairs.set_column(pairs.schema.get_field_index("phash"), pairs.schema.field("phash"), exact)
    frame = mvsent.open(make_dataset(pairs, name="exact")).to_pandas()
    assert frame["phash"].tolist()[0] == 2**64 - 1 and frame["phash"].isna().tolist() == [False, True, False]


def test_a_split_is_that_of_the_command(dataset: mvsent.PairDataset, small_dataset: Path) -> None:
    split = dataset.split("kfold-5")
    assert (split.protocol, split.n_folds, len(split.rows(0, "test"))) == ("kfold-5", 5, 12)
    assert not (small_dataset / "splits" / "kfold-5.parquet").exists()
    table = split.to_pandas()
    assert len(table) == 300 and table.groupby(["fold", "role"], observed=True).size()[4, "train"] == 42
    assert split.counts().loc[(0, "test")].tolist() == [4, 4, 4]
    assert split.counts().to_numpy().sum() == 300
    assert split.rows(0, "dev").tolist() == split.rows(0, "validation").tolist()
    with pytest.raises(UsageError, match="role 'trian'"):
        split.rows(0, "trian")
    with pytest.raises(UsageError, match="fold 5: there is none"):
        split.rows(5)
    with pytest.raises(UsageError, match="unknown protocol"):
        dataset.split("kfold-6")


@pytest.mark.slow
def test_a_split_of_a_file_is_read(dataset: mvsent.PairDataset, tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    roles = ["train", "train", "validation", "test"]
    file.write_text(
        "id,role\n" + "".join(f"{pair.id},{roles[i // 3 % 4]}\n" for i, pair in enumerate(dataset))
    )
    split = dataset.split(file=file)
    assert split.rows(0, "test").tolist() == [row for row in range(60) if row // 3 % 4 == 3]
    assert dataset.split(file=[str(file)]).rows(0, "test").tolist() == split.rows(0, "test").tolist()
    with pytest.raises(UsageError, match="protocol and file contradict each other"):
        dataset.split("kfold-5", file=file)
    with pytest.raises(UsageError, match="protocol and split_file contradict each other"):
        mvsent.train(dataset, protocol="kfold-5", split_file=file, out=tmp_path / "run")
    by_file = mvsent.train(
        dataset, model="logistic", split_file=file, out=tmp_path / "run", quiet=True, **SETTINGS
    )
    assert by_file.settings.split_file == [str(file)]
    assert set(by_file.predictions()["id"]) == {dataset[int(row)].id for row in split.rows(0, "test")}


# Torch


def test_decoded_pairs_go_through_a_loader(dataset: mvsent.PairDataset) -> None:
    split = dataset.split("kfold-5")
    rows = dataset.to_torch(split, fold=1, role="validation", side=32)
    assert isinstance(rows, torch.utils.data.Dataset) and len(rows) == len(split.rows(1, "validation"))
    batches = list(DataLoader(rows, batch_size=4))
    assert [id for batch in batches for id in batch["id"]] == [
        dataset[int(row)].id for row in split.rows(1, "validation")
    ]
    for batch in batches:
        assert batch["image"].dtype == torch.uint8 and batch["image"].shape[1:] == (3, 32, 32)
        for id, text, label, image in zip(*(batch[k] for k in ("id", "text", "label", "image")), strict=True):
            pair = dataset[id]
            assert (text, LABEL_NAMES[label]) == (pair.text, pair.label)
            # By Pillow: the same picture, up to the rounding of another resampling.
            other = np.asarray(pair.image.resize((32, 32), Image.Resampling.BILINEAR), np.int16)
            assert np.abs(image.permute(1, 2, 0).numpy() - other).mean() < 3
    (ours,) = DataLoader(rows, batch_size=6, collate_fn=rows.collate)
    (default,) = DataLoader(rows, batch_size=6)
    assert torch.equal(ours["image"], default["image"]) and torch.equal(ours["label"], default["label"])
    assert (ours["id"], ours["text"]) == (default["id"], default["text"])
    assert "image" not in dataset.to_torch(side=0)[0] and len(dataset.to_torch(side=0)) == 60
    assert repr(rows) == "DecodedPairs(6 pairs, pictures (3, 32, 32))"


@pytest.mark.slow
def test_ready_inputs_are_those_that_a_trainer_reads(run: mvsent.Run, dataset: mvsent.PairDataset) -> None:
    """By name, from a run, and in a training: the same numbers."""
    material = prepare(run.settings, device=torch.device("cpu"), quiet=True)
    source = make_trainer(run.files, 0, material).source
    rows = material.split.rows(0, TRAIN)
    (expected,) = source.batches([rows])
    for ready in (
        dataset.to_torch("paper-5x", 0, "train", inputs="dmlanet", **SETTINGS),
        dataset.to_torch(fold=0, role="train", inputs=run),
    ):
        (batch,) = DataLoader(ready, batch_size=len(rows), collate_fn=ready.collate)
        assert torch.equal(batch.regions, expected.regions) and torch.equal(batch.words, expected.words)
        assert torch.equal(batch.target, expected.target)
        assert ready[3].regions.shape == (1, *expected.regions.shape[1:])
        assert "regions" in repr(ready)


@pytest.mark.slow
def test_arguments_that_do_not_go_together_are_refused(dataset: mvsent.PairDataset, run: mvsent.Run) -> None:
    with pytest.raises(UsageError, match="epochs: goes only with inputs"):
        dataset.to_torch(epochs=1)
    with pytest.raises(UsageError, match="epochs: a run has its own settings"):
        dataset.to_torch(inputs=run, epochs=1)
    with pytest.raises(UsageError, match="inputs need one"):
        dataset.to_torch(inputs="dmlanet")
    with pytest.raises(UsageError, match="side=9999"):
        dataset.to_torch(side=9999)


# Runs


@pytest.mark.slow
def test_a_run_is_trained_evaluated_and_its_predictions_are_a_table(
    run: mvsent.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "RESAMPLES", 20)
    result = run.evaluate(metrics="roc,prc", quiet=True)
    document = json.loads((run.folder / "metrics.json").read_text())
    assert result.document == document and [p.stem for p in result.pictures] == ["roc", "prc"]
    predictions = run.predictions()
    for fold, part in predictions.groupby("fold"):
        told = document["folds"][fold]["metrics"]
        assert mvsent.score(part["label"], part) == pytest.approx(told, nan_ok=True)
        assert told["accuracy"] == accuracy_score(part["label"].astype(str), part["predicted"].astype(str))
        assert told["f1_macro"] == pytest.approx(
            f1_score(part["label"].cat.codes, part["predicted"].cat.codes, average="macro")
        )
    assert result.to_pandas().loc["accuracy", "mean"] == document["metrics"]["accuracy"]["mean"]
    of_first = [run.predictions(role).query("fold == 0")["id"] for role in ("validation", "test")]
    assert set(of_first[0]).isdisjoint(of_first[1]) and len(of_first[0]) == 6
    assert run.history()["epoch"].tolist() == [0, 0] and run.history()["fold"].tolist() == [0, 1]
    page = result._repr_html_()
    assert "ROC AUC" in page and page.count("data:image/svg+xml") == 2
    assert "2 of 2 folds finished" in repr(run) and "test accuracy" in run._repr_html_()
    with pytest.raises(UsageError, match="role 'train': not predicted"):
        run.predictions("train")


def test_settings_are_checked_as_on_the_command_line(small_dataset: Path, tmp_path: Path) -> None:
    for settings, problem in (
        ({"epoch": 1}, r"unknown setting 'epoch'\. Did you mean 'epochs'\?"),
        ({"epochs": 0}, "epochs: input should be greater than or equal to 1"),
        ({"class_weights": "invers"}, r"class_weights: .*Did you mean 'inverse'\?"),
    ):
        with pytest.raises(UsageError, match=problem):
            mvsent.train(small_dataset, out=tmp_path / "run", **settings)
    with pytest.raises(UsageError, match="no model is called 'dmlante'"):
        mvsent.train(small_dataset, model="dmlante", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unfinished_run_is_continued(run: mvsent.Run, tmp_path: Path) -> None:
    shutil.copytree(run.folder, tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "fold-1")
    half = mvsent.Run(tmp_path / "half")
    assert "1 of 2 folds finished" in repr(half)
    assert half.resume(quiet=True).predictions().equals(run.predictions())


def test_a_run_without_a_finished_fold_says_so(tmp_path: Path) -> None:
    begun = mvsent.Run(write_run(tmp_path / "begun", finished=[]))
    for ask in (begun.predictions, begun.history, begun.load, lambda: begun.attention([])):
        with pytest.raises(RunError, match="no fold is finished"):
            ask()


def test_attention_is_that_of_explain(run: mvsent.Run, dataset: mvsent.PairDataset) -> None:
    attended = run.attention(dataset[:2])
    assert len(attended) == 2 and attended[0].gold == "positive" and attended[0].id == "drawn:0"
    assert {"class activation", "spatial attention"} <= set(attended[0].maps)
    weights = attended.words()
    assert weights["word"][weights["id"] == "drawn:1"].tolist() == attended[1].words
    assert weights.groupby("id")["semantic attention"].sum().tolist() == pytest.approx([1, 1], abs=1e-5)
    given = run.attention([(dataset[0].image, dataset[0].text), (None, "so good"), {"text": "so bad"}])
    assert given[0].probabilities == pytest.approx(attended[0].probabilities, abs=1e-4)
    assert given[1].picture is None and not given[1].maps
    page = attended._repr_html_()
    assert page.count("<img") == 6 and "labelled positive" in page
    assert len(attended.figure().axes) == 6 and len(attended[:1]) == 1
    for wrong in ([1], ["text"], [("a", "b", "c")]):
        with pytest.raises(UsageError, match="pair 0: not a pair"):
            run.attention(wrong)


def test_pairs_are_no_pictures_of_a_prediction(run: mvsent.Run, dataset: mvsent.PairDataset) -> None:
    model = mvsent.load(run)
    with pytest.raises(UsageError, match=r"a Pair is not a picture.*\[pair\.image for pair in pairs\]"):
        model.predict(list(dataset[:2]))
    assert model.predict([pair.image for pair in dataset[:2]]).errors == ["", ""]


def test_one_fold_may_be_a_number() -> None:
    assert settings_of({"folds": 0}).folds == [0]


def test_columns_of_pandas_and_arrays_are_texts(run: mvsent.Run) -> None:
    import pandas as pd

    model = run.load(0, "cpu")
    texts = ["so good", "so sad"]
    expected = model.predict(texts=texts).probabilities
    for given in (pd.Series(texts), np.array(texts), iter(texts), tuple(texts)):
        assert np.array_equal(model.predict(texts=given).probabilities, expected)
    (answer,) = model.predict(texts=[float("nan")]).errors
    assert "neither" in answer or answer
    for wrong, message in (([3], "a int is no text"), (5, "are lists, not int")):
        with pytest.raises(UsageError, match=message):
            model.predict(texts=wrong)
    with pytest.raises(UsageError, match="are lists, one entry a pair"):
        model.predict(images=Path("a.jpg"))  # type: ignore[arg-type]


def test_a_split_of_another_dataset_is_refused(
    dataset: mvsent.PairDataset, small_dataset: Path, tmp_path: Path
) -> None:
    from mvsent.datasets.subset import Selection, subset

    other = subset(small_dataset, Selection(share=0.5), tmp_path / "half").folder
    with pytest.raises(UsageError, match="the split is of another dataset"):
        mvsent.open(other).to_torch(dataset.split("kfold-5"), fold=0, role="test")
    with pytest.raises(TypeError, match="not by a bool"):
        dataset[True]


def test_what_is_no_folder_and_empty_lists_are_refused(dataset: mvsent.PairDataset) -> None:
    for wrong in (None, 3, b"data", {"a": 1}):
        with pytest.raises(UsageError, match="a folder is asked for, not"):
            mvsent.open(wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="models: is empty"):
        mvsent.benchmark(dataset, models=[])
    with pytest.raises(UsageError, match="folds: is empty"):
        mvsent.train(dataset, "majority", folds=[])


def test_a_benchmark_goes_into_no_run(run: mvsent.Run, dataset: mvsent.PairDataset) -> None:
    with pytest.raises(UsageError, match="is the folder of a run"):
        mvsent.benchmark(dataset, models=["majority"], out=run, quiet=True)


def test_answers_are_a_table(run: mvsent.Run, dataset: mvsent.PairDataset) -> None:
    model = mvsent.load(run)
    answers = model.predict([dataset[0].image, b"no picture", None], ["so good", "so bad", None])
    frame = answers.to_pandas()
    assert list(frame) == ["label", "p_negative", "p_neutral", "p_positive", "missing", "error"]
    assert frame["label"].isna().tolist() == [False, True, True] and frame["label"][0] == answers.labels[0]
    assert frame["p_negative"][0] == answers.probabilities[0, 0]
    assert "2 errors" in repr(answers) and "image-not-an-image" in answers._repr_html_()
    assert repr(model).startswith("Model(") and "folds 0, 1" in repr(model)


@pytest.mark.slow
def test_a_benchmark_is_a_table(small_dataset: Path, tmp_path: Path) -> None:
    result = mvsent.benchmark(
        str(small_dataset),
        **{"table": "2", "models": "logistic", "protocols": "kfold-5", "out": str(tmp_path / "bench")},
        **{"folds": [0], "weights": "random", "text_vector": "none", "threads": 1, "quiet": True},
    )
    table = result.to_pandas()
    assert "logistic" in table["system"].tolist() and (tmp_path / "bench" / "results.json").is_file()
    assert repr(result).startswith("Benchmark(") and "<table>" in result._repr_html_()


# Scores


def test_scores_take_names_numbers_and_tables() -> None:
    rng = np.random.default_rng(0)
    y_prob, y_true = rng.dirichlet(np.ones(3), 50), rng.integers(0, 3, 50)
    scores = mvsent.score(y_true, y_prob)
    assert scores["accuracy"] == accuracy_score(y_true, y_prob.argmax(axis=1))
    names = [LABEL_NAMES[label] for label in y_true]
    table = pd.DataFrame(y_prob, columns=[f"p_{name}" for name in LABEL_NAMES])
    for true, prob in ((names, table), (pd.Series(pd.Categorical(names)), y_prob.tolist())):
        assert mvsent.score(true, prob) == scores
    two = mvsent.score([0, 2], [[1, 0, 0], [0, 0, 1]])
    assert (
        "recall_neutral" not in two and mvsent.score([0, 2], np.full((2, 3), 1 / 3))["recall_neutral"] is None
    )


@pytest.mark.parametrize(
    ("y_true", "y_prob", "problem"),
    [
        (["good"], [[1, 0, 0]], "label 0: 'good' is none"),
        ([3], [[1, 0, 0]], "label 0: 3 is none"),
        ([0], [[1, 0]], "has shape"),
        ([], np.zeros((0, 3)), "has shape"),
        ([0, 1], [[1, 0, 0]], "has shape"),
        ([0], [[0.5, 0.2, 0.2]], "sum to 1"),
        ([0], [[float("nan"), 0, 1]], "sum to 1"),
        ([0], [["a", "b", "c"]], "not a table of numbers"),
        ([0], pd.DataFrame({"p_negative": [1.0]}), "no column p_neutral"),
    ],
)
def test_scores_of_something_else_are_refused(y_true: Any, y_prob: Any, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        mvsent.score(y_true, y_prob)


# Notebooks


def test_texts_of_strangers_are_escaped_in_a_notebook(make_dataset: Callable[..., Path]) -> None:
    evil = '<script>alert(1)</script> \u202e & "quoted" \''
    pairs = draw_pairs(7)
    pairs = pairs.set_column(pairs.schema.get_field_index("text"), pairs.schema.field("text"), [[evil] * 7])
    dataset = mvsent.open(make_dataset(pairs, name="evil"))
    for page in (dataset._repr_html_(), dataset[0]._repr_html_()):
        assert "<script" not in page and "\u202e" not in page
    page = dataset._repr_html_()
    assert page.count("<img") == 5 and "&lt;script&gt;" in page and "the first 5" in page
    assert len(page) < 5 * 9000  # a notebook keeps it in its file


@pytest.mark.slow
def test_drawn_data_is_drawn_once(tmp_path: Path) -> None:
    first = mvsent.draw(tmp_path / "drawn", rows=30)
    made = (tmp_path / "drawn" / "dataset.json").stat().st_mtime_ns
    assert mvsent.draw(str(tmp_path / "drawn"), rows=30).files.sha256 == first.files.sha256
    assert (tmp_path / "drawn" / "dataset.json").stat().st_mtime_ns == made and 0 < len(first) <= 30
    with pytest.raises(UsageError):
        mvsent.draw(tmp_path / "drawn", rows=31)


@pytest.mark.slow
def test_a_dataset_in_object_storage_opens_alike(bucket: Path, small_dataset: Path) -> None:
    for file in sorted(small_dataset.rglob("*")):
        if file.is_file():
            (bucket / "small" / file.relative_to(small_dataset).as_posix()).write_bytes(file.read_bytes())
    there = mvsent.open(f"{str(bucket).rstrip('/')}/small")
    assert there[41].columns == mvsent.open(small_dataset)[41].columns and mvsent.open(there).name == "small"
