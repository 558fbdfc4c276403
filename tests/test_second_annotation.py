"""How often people agree: which pairs of a dataset were annotated twice, and what `eval` makes of them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mvsent.pairs import pair_table
from mvsent.report.results import render_results
from mvsent.runs.evaluate import evaluate
from mvsent.runs.second_annotation import AnnotatedTwice, annotated_twice
from mvsent.shards.reader import Dataset
from tests.run_folder import write_run

MakeDataset = Callable[..., Path]


def twice(n: int, *, n_agreeing: int, n_others: int = 5, **changes: object) -> pa.Table:
    """`n` pairs, each in two rows, of which the first ones have equal labels; and rows that occur once."""
    rng = np.random.default_rng(0)
    looks = rng.integers(2**63, 2**64, n + n_others, dtype=np.uint64) | np.uint64(0xFFFFFF)  # of many bits
    pair = [*range(n), *range(n), *range(n, n + n_others)]
    labels = rng.integers(0, 3, n + n_others)
    second = np.where(np.arange(n) < n_agreeing, labels[:n], (labels[:n] + 1) % 3)
    columns: dict[str, object] = {
        "id": [f"drawn:{row}" for row in range(len(pair))],
        "text": [f"Tweet number {one} http://t.co/{row}" for row, one in enumerate(pair)],
        "label": pa.array([*labels[:n], *second, *labels[n:]], pa.int8()),
        "phash": pa.array(looks[pair], pa.uint64()),
        "source": ["drawn"] * len(pair),
    }
    return pair_table(columns | changes)


def test_rows_of_one_text_and_one_look_are_one_pair_that_was_annotated_twice(
    make_dataset: MakeDataset,
) -> None:
    """Links do not count in a text, as in the grouped protocols."""
    found = annotated_twice(Dataset.open(make_dataset(twice(40, n_agreeing=30))))
    assert found is not None
    assert (len(found.first), int((found.first == found.second).sum())) == (40, 30)


@pytest.mark.parametrize(
    "changes",
    [
        {"phash": pa.nulls(85, pa.uint64())},
        {"phash": pa.array(range(1, 86), pa.uint64())},  # flat pictures, which equal no other
        {"text": [f"a text of its own, {row}" for row in range(85)]},
        {"text": ["http://t.co/1"] * 85},  # nothing but a link equals no other
        {"query": ["happy dog"] * 85},  # nobody annotated them
    ],
)
def test_what_was_not_annotated_twice_does_not_count(
    make_dataset: MakeDataset, changes: dict[str, object]
) -> None:
    assert annotated_twice(Dataset.open(make_dataset(twice(40, n_agreeing=30, **changes)))) is None


def test_of_fewer_than_ten_pairs_nothing_is_said(make_dataset: MakeDataset) -> None:
    assert annotated_twice(Dataset.open(make_dataset(twice(9, n_agreeing=9), name="nine"))) is None
    assert annotated_twice(Dataset.open(make_dataset(twice(10, n_agreeing=9), name="ten"))) is not None


def test_a_third_annotation_is_left_out(make_dataset: MakeDataset) -> None:
    pairs = twice(20, n_agreeing=20)
    third = pair_table({**pairs.slice(0, 1).to_pydict(), "id": ["drawn:third"]})
    found = annotated_twice(Dataset.open(make_dataset(pa.concat_tables([pairs, third]))))
    assert found is not None and len(found.first) == 20


def test_the_interval_is_wilson_s() -> None:
    """statsmodels 0.14: proportion_confint(108, 142, method="wilson"), the figures of MVSA-Single."""
    first = np.zeros(142, np.int64)
    document = AnnotatedTwice(first, np.where(np.arange(142) < 108, 0, 2)).document([0, 2], n=20, seed=0)
    accuracy = document["metrics"]["accuracy"]
    assert accuracy == {
        "mean": pytest.approx(108 / 142),
        "std": None,
        "low": pytest.approx(0.684102818572847),
        "high": pytest.approx(0.8232974817147403),
    }


def test_both_annotations_are_judged_by_the_other_one() -> None:
    """Of three pairs, negative-negative twice and negative-positive: six answers, of which two are wrong."""
    again = AnnotatedTwice(np.array([0, 0, 0]), np.array([0, 0, 2]))
    metrics = again.document([0, 2], n=20, seed=0)["metrics"]
    assert metrics["recall_negative"]["mean"] == metrics["precision_negative"]["mean"] == pytest.approx(4 / 5)
    assert metrics["f1_weighted"]["mean"] == pytest.approx((5 * 4 / 5 + 1 * 0) / 6)
    assert "roc_auc_macro" not in metrics and "log_loss" not in metrics


@pytest.mark.slow
def test_eval_says_how_often_people_agree_if_the_dataset_tells(
    make_dataset: MakeDataset, small_dataset: Path, tmp_path: Path
) -> None:
    dataset = make_dataset(twice(40, n_agreeing=30))
    sha256 = Dataset.open(dataset).sha256
    run = write_run(tmp_path / "run", dataset=str(dataset), dataset_sha256=sha256)
    result = evaluate(run, ["roc"], quiet=True)
    assert result.document["second_annotation"]["n_pairs"] == 40
    sentence = (
        "Second annotation: 40 pairs of mvsa-single were annotated twice, and 75.00 % got the same label again "
        "(59.81–85.81; weighted F1 "
    )
    assert sentence in render_results(result.document)
    assert "Second annotation: 40 pairs" in (run / "report.html").read_text()
    other = write_run(
        tmp_path / "other", dataset=str(small_dataset), dataset_sha256=Dataset.open(small_dataset).sha256
    )
    document = evaluate(other, ["roc"], quiet=True).document
    assert "second_annotation" not in document and "Second annotation" not in render_results(document)
