"""`mvsent stats`: Table I for what you have, with the paper's row under it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvsent.cli import app, exit_code
from mvsent.datasets.stats import dataset_folders, dataset_stats
from mvsent.errors import DatasetError
from mvsent.pairs import pair_table
from mvsent.report.histograms import PERCENTILES, percentiles
from mvsent.shards.reader import Dataset
from tests.drawing import draw_pairs


def run(*arguments: str) -> int:
    return exit_code(lambda: app(["stats", *arguments], standalone_mode=False))


def test_counts_of_the_small_dataset(small_dataset: Path) -> None:
    stats = dataset_stats(small_dataset)
    assert stats.labels == {"negative": 20, "neutral": 20, "positive": 20}
    assert (stats.total, stats.n_images, stats.annotation, stats.paper) == (60, 60, "strong", None)
    assert (stats.widths, stats.heights) == ([96] * 5, [72] * 5)
    assert (stats.n_duplicates, stats.n_contradicted) == (4, 0)


def test_words_are_what_whitespace_separates(make_dataset: Callable[..., Path]) -> None:
    texts = ["one", "one two", " spaces\taround  three\n", "", None, "a b c d"]
    pairs = pair_table({"id": [f"t:{i}" for i in range(6)], "text": texts, "label": [0] * 6})
    stats = dataset_stats(make_dataset(pairs))
    assert stats.words == [0, 0, 2, 4, 4]
    assert (stats.widths, stats.n_images) == ([], 0)


@given(values=st.lists(st.integers(0, 500), min_size=1, max_size=60))
def test_percentiles_are_those_of_numpy(values: list[int]) -> None:
    ours = percentiles(np.bincount(values))
    assert ours == np.percentile(values, PERCENTILES, method="inverted_cdf").tolist()


def test_twins_with_different_labels_are_counted(make_dataset: Callable[..., Path]) -> None:
    texts = ["Same text", "same text http://t.co/1", "SAME TEXT!", "other", "twin", "twin"]
    pairs = pair_table({"id": [f"t:{i}" for i in range(6)], "text": texts, "label": [0, 0, 2, 1, 1, 1]})
    stats = dataset_stats(make_dataset(pairs))
    assert (stats.n_duplicates, stats.n_contradicted) == (5, 3)


def test_labels_of_queries_are_weak(make_dataset: Callable[..., Path]) -> None:
    pairs = pair_table({"id": ["f:1"], "label": [2], "query_sentiment": [1.5]})
    assert dataset_stats(make_dataset(pairs)).annotation == "weak"


def test_pictures_are_not_read(small_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    table, batches = Dataset.table, Dataset.batches
    monkeypatch.setattr(Dataset, "table", lambda self, columns: asked.extend(columns) or table(self, columns))
    monkeypatch.setattr(
        Dataset, "batches", lambda self, columns, n: asked.extend(columns) or batches(self, columns, n)
    )
    dataset_stats(small_dataset)
    assert "text" in asked
    assert "image" not in asked


@pytest.mark.slow
def test_the_papers_row_stands_under_a_dataset_of_the_paper(
    make_dataset: Callable[..., Path], sixty_pairs: pa.Table, capsys: pytest.CaptureFixture[str]
) -> None:
    mvsa = make_dataset(sixty_pairs, name="mvsa-single")
    flickr = make_dataset(draw_pairs(30, images=False), name="flickr")
    mine = make_dataset(draw_pairs(30, images=False), name="mine")
    assert run(str(mvsa), str(flickr), str(mine)) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[:7]]
    assert lines == [
        ["dataset", "negative", "neutral", "positive", "total", "label"],
        ["-" * 13, "-" * 8, "-" * 7, "-" * 8, "-" * 6, "-" * 6],
        ["mvsa-single", "20", "20", "20", "60", "strong"],
        ["the", "paper's", "1358", "470", "2683", "4511", "strong"],
        ["flickr", "10", "10", "10", "30", "strong"],
        ["the", "paper's", "147254", "–", "129317", "276571", "weak"],
        ["mine", "10", "10", "10", "30", "strong"],
    ]


def test_json_is_one_document(small_dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(small_dataset), "--json") == 0
    [document] = json.loads(capsys.readouterr().out)
    assert document["labels"] == {"negative": 20, "neutral": 20, "positive": 20}
    assert document["duplicates"] == 4
    assert document["percentiles"] == [0, 5, 50, 95, 100]


def test_without_folders_all_in_data_are_counted(
    make_dataset: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parent = make_dataset(draw_pairs(9, images=False), name="b").parent
    make_dataset(draw_pairs(9, images=False), name="a")
    (parent / "notes").mkdir()
    monkeypatch.chdir(parent.parent)
    assert [path.name for path in dataset_folders([])] == ["a", "b"]
    assert run() == 0
    assert capsys.readouterr().out.splitlines()[2].startswith("a ")


def test_no_dataset_at_all_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="contains no dataset"):
        dataset_folders([], tmp_path)


def test_a_dataset_without_rows_has_figures(
    make_dataset: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(str(make_dataset(draw_pairs(3, images=False).slice(0, 0)))) == 0
    assert "rows with a duplicate" in capsys.readouterr().out
