"""`mvsent compare`: which runs can be compared, on which rows, and what is printed."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from scipy import stats
from typer.testing import CliRunner

import mvsent
from mvsent.cli import app
from mvsent.errors import RunError, UsageError
from mvsent.learn.metrics import score
from mvsent.runs.compare import compare_runs
from tests.run_folder import write_run


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Three runs of three folds on the same rows: the second answers some rows better, the third as the first."""
    folders = [write_run(tmp_path / name, model=name) for name in ("dmlanet", "logistic", "fenet")]
    rng = np.random.default_rng(0)
    for fold in range(3):
        path = folders[1] / f"fold-{fold}" / "predictions.parquet"
        table = pq.read_table(path)
        sure = np.eye(3, dtype=np.float32)[table["label"].to_numpy()]
        better = rng.random(len(table)) < 0.15
        for i, name in enumerate(("p_negative", "p_neutral", "p_positive")):
            column = np.where(better, sure[:, i], table[name].to_numpy())
            table = table.set_column(
                table.column_names.index(name), name, pa.array(column.astype(np.float32))
            )
        pq.write_table(table, path)
    return folders


def answers(run: Path, fold: int) -> pa.Table:
    table = pq.read_table(run / f"fold-{fold}" / "predictions.parquet")
    return table.filter(pc.equal(table["role"], "test"))


def right(run: Path) -> np.ndarray[Any, Any]:
    tables = [answers(run, fold) for fold in range(3)]
    y_prob = np.concatenate(
        [np.stack([t[f"p_{of}"].to_numpy() for of in ("negative", "neutral", "positive")], 1) for t in tables]
    )
    return y_prob.argmax(axis=1) == np.concatenate([t["label"].to_numpy() for t in tables])


def typed(*words: str | Path) -> Any:
    return CliRunner().invoke(app, ["compare", *map(str, words)])


def test_every_two_runs_are_compared_and_each_test_is_corrected_for_all(runs: list[Path]) -> None:
    document = compare_runs(runs).document
    assert [(c["first"], c["second"]) for c in document["comparisons"]] == [
        ("dmlanet", "logistic"),
        ("dmlanet", "fenet"),
        ("logistic", "fenet"),
    ]
    better, same, worse = document["comparisons"]
    assert better["accuracy"]["low"] < better["accuracy"]["mean"] < better["accuracy"]["high"] < 0
    assert worse["accuracy"]["mean"] == pytest.approx(-better["accuracy"]["mean"])
    assert set(same["p"].values()) == {1.0} and set(same["p_holm"].values()) == {1.0}
    assert same["accuracy"] == {"mean": 0.0, "std": 0.0, "low": 0.0, "high": 0.0}
    for test in ("mcnemar", "permutation_accuracy", "permutation_f1_weighted"):
        assert better["p_holm"][test] == pytest.approx(min(1, 3 * better["p"][test])), test
        assert better["p"][test] < 0.01, test


def test_mcnemar_counts_the_pairs_that_one_run_alone_answers_correctly(runs: list[Path]) -> None:
    [compared] = compare_runs(runs[:2]).document["comparisons"]
    first, second = right(runs[0]), right(runs[1])
    counts = int((first & ~second).sum()), int((second & ~first).sum())
    assert (compared["only_first_right"], compared["only_second_right"]) == counts
    assert compared["p"]["mcnemar"] == pytest.approx(stats.binomtest(counts[0], sum(counts)).pvalue)
    assert compared["p_holm"] == compared["p"]


def test_the_t_test_is_that_of_the_folds_and_their_training_rows(runs: list[Path]) -> None:
    """120 test rows of each fold, and 5 training rows, as the runs recorded."""
    [compared] = compare_runs(runs[:2]).document["comparisons"]
    gaps = (right(runs[0]).astype(float) - right(runs[1])).reshape(3, 120).mean(axis=1)
    t = gaps.mean() / np.sqrt((1 / 3 + 120 / 5) * gaps.var(ddof=1))
    assert compared["p"]["t_test"] == pytest.approx(2 * stats.t.sf(abs(t), df=2))
    for run in runs[:2]:
        (run / "rows.parquet").unlink()
    [unknown] = compare_runs(runs[:2]).document["comparisons"]
    assert unknown["p"]["t_test"] is unknown["p_holm"]["t_test"] is None


@pytest.mark.slow
def test_runs_keep_their_numbers_if_all_rows_are_common(runs: list[Path]) -> None:
    document = compare_runs(runs[:2]).document
    for run, told in zip(runs, document["runs"], strict=False):
        metrics = mvsent.Run(run).evaluate("roc", quiet=True).document["metrics"]
        assert told["metrics"]["accuracy"] == pytest.approx(metrics["accuracy"])
        assert told["metrics"]["f1_weighted"] == pytest.approx(metrics["f1_weighted"])


def test_the_order_of_saved_rows_does_not_matter(runs: list[Path]) -> None:
    before = compare_runs(runs[:2]).document["comparisons"]
    path = runs[1] / "fold-2" / "predictions.parquet"
    table = pq.read_table(path)
    pq.write_table(table.take(np.random.default_rng(1).permutation(len(table))), path)
    assert compare_runs(runs[:2]).document["comparisons"] == before


def test_only_common_rows_and_folds_count_and_others_are_named(runs: list[Path]) -> None:
    other = right(runs[0])[240:].mean()
    (runs[0] / "fold-0" / "predictions.parquet").unlink()
    path = runs[1] / "fold-1" / "predictions.parquet"
    table = pq.read_table(path)
    pq.write_table(table.filter(pc.not_equal(table["id"], "mvsa-single:test-1-7")), path)
    document = compare_runs(runs[:2]).document
    assert document["folds"] == [1, 2] and document["n_rows"] == 239
    assert document["notes"] == [
        f"{runs[1]}: fold 0 is left out, as another run has not finished it",
        "1 test row is left out, as not every run has it",
    ]
    kept = np.array([id != "mvsa-single:test-1-7" for id in answers(runs[0], 1)["id"].to_pylist()])
    table = answers(runs[0], 1)
    y_prob = np.stack([table[f"p_{of}"].to_numpy() for of in ("negative", "neutral", "positive")], axis=1)
    of_fold = score(table["label"].to_numpy()[kept], y_prob[kept])["accuracy"]
    accuracy = document["runs"][0]["metrics"]["accuracy"]["mean"]
    assert of_fold is not None and accuracy == pytest.approx((of_fold + other) / 2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"dataset_sha256": "e" * 64},
            r"dataset mvsa-single \(dddddddd\) and mvsa-single \(eeeeeeee\)\. Compare",
        ),
        (
            {"split_sha256": "6" * 64},
            r"rows: split paper-5x \(55555555\) and paper-5x \(66666666\)\. Compare",
        ),
        ({"dataset_sha256": "e" * 64, "split_sha256": "6" * 64}, r"dataset .*; split .*\. Compare"),
    ],
)
def test_runs_on_other_rows_are_refused_by_what_differs(
    runs: list[Path], changes: dict[str, str], said: str
) -> None:
    config = runs[1] / "config.toml"
    for name, value in changes.items():
        lines = [
            f'{name} = "{value}"' if line.startswith(name) else line
            for line in config.read_text().splitlines()
        ]
        config.write_text("\n".join(lines))
    with pytest.raises(UsageError, match=said) as caught:
        compare_runs(runs)
    assert str(runs[0]) in str(caught.value) and str(runs[1]) in str(caught.value)


def test_runs_that_share_no_finished_fold_are_refused(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", finished=[0])
    second = write_run(tmp_path / "second", finished=[1, 2])
    with pytest.raises(
        UsageError, match=r"no finished fold in common: .*first has \[0\]; .*second has \[1, 2\]"
    ):
        compare_runs([first, second])
    with pytest.raises(RunError, match="no fold is finished"):
        compare_runs([first, write_run(tmp_path / "third", finished=[])])


def test_a_row_with_two_labels_is_damage_and_named(runs: list[Path]) -> None:
    path = runs[2] / "fold-1" / "predictions.parquet"
    table = pq.read_table(path)
    labels = (table["label"].to_numpy() + 1) % 3
    pq.write_table(table.set_column(1, "label", pa.array(labels.astype(np.int8))), path)
    with pytest.raises(
        RunError, match=r"fenet: fold 1 has other labels than .*dmlanet, though the same split"
    ):
        compare_runs(runs)


def test_one_run_or_none_cannot_be_compared(runs: list[Path]) -> None:
    with pytest.raises(UsageError, match=r"dmlanet is a single run\. Name two or more"):
        compare_runs([runs[0], runs[0]])
    with pytest.raises(UsageError, match="no run is named"):
        compare_runs([])
    with pytest.raises(RunError, match="not a run folder"):
        compare_runs([runs[0], runs[0].parent / "nowhere"])


def test_a_folder_of_runs_stands_for_them_and_equal_names_are_told_apart(runs: list[Path]) -> None:
    shutil.copytree(runs[0], runs[0].parent / "other" / "dmlanet")
    names = [run["name"] for run in compare_runs([runs[0].parent]).document["runs"]]
    assert names == ["dmlanet", "fenet", "logistic"]
    document = compare_runs([runs[0], runs[0].parent / "other"]).document
    assert [run["name"] for run in document["runs"]] == [f"{runs[0].parent.name}/dmlanet", "other/dmlanet"]


@pytest.mark.slow
def test_the_command_prints_both_tables_and_one_json_document(runs: list[Path]) -> None:
    shown = typed(*runs)
    assert shown.exit_code == 0, shown.output
    lines, document = shown.stdout.splitlines(), compare_runs(runs).document
    assert lines[0] == "3 runs on mvsa-single, paper-5x, 3 folds, 360 test rows"
    assert [line[:9] for line in lines[4:7]] == ["1  dmlane", "2  logist", "3  fenet "]
    [first] = [line for line in lines if line.startswith("1 − 2 ")]
    p = document["comparisons"][0]["p_holm"]["mcnemar"]
    assert f"{p:.3f}" in first and " 0 : " in first
    assert "P-values are corrected by Holm for the 3 comparisons of a column; --json has both." in lines
    document = json.loads(typed(*runs, "--json", "--permutations", "99").stdout)
    assert document["permutations"] == 99
    assert document["comparisons"][0]["p"]["permutation_accuracy"] == pytest.approx(0.02)
    assert "Holm" not in typed(*runs[:2]).stdout


def test_in_python_it_is_a_table_and_a_notebook_shows_it(runs: list[Path]) -> None:
    compared = mvsent.compare([mvsent.Run(runs[0]), runs[1], str(runs[2])], permutations=99)
    frame = compared.to_pandas()
    assert frame["first"].tolist() == ["dmlanet", "dmlanet", "logistic"]
    assert frame["p_mcnemar_holm"].tolist() == [
        c["p_holm"]["mcnemar"] for c in compared.document["comparisons"]
    ]
    assert frame["accuracy_low"][0] < frame["accuracy_mean"][0] < frame["accuracy_high"][0]
    assert repr(compared) == "RunComparison(3 runs on mvsa-single, paper-5x, 3 folds, 360 test rows)"
    assert compared._repr_html_().count("<table") == 2
