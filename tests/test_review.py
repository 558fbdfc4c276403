"""`mvsent review`: planted faults come first, whatever strangers wrote, and nothing of theirs is overwritten."""

import csv
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from selectolax.lexbor import LexborHTMLParser
from typer.testing import CliRunner

from mvsent.cli import app
from mvsent.errors import DatasetError, OutputExistsError, RunError, UsageError
from mvsent.pages.review import COLUMNS, review
from mvsent.pages.review_rows import out_of_fold, vote_table
from mvsent.pairs import LABEL_NAMES, VOTES, pair_table
from mvsent.runs.run_folder import RunFolder
from mvsent.runs.trial import saved_trial
from mvsent.shards.reader import Dataset
from mvsent.shards.writer import DatasetWriter
from tests.drawing import draw_picture
from tests.run_folder import write_run
from tests.test_quality import informed, with_flips

HOSTILE = [
    "</script><script>document.title = 'owned'</script>",
    "\"' onmouseover=\"document.title = 'owned'\" x='",
    "{{ 7 * 7 }} {% include 'base.html' %}",
    "=cmd|' /C calc'!A0",
    'a "quoted", text\nof two lines',
    "safe \u202egnp.exe\u202c",
]


def write(folder: Path, columns: dict[str, list[Any]]) -> Path:
    """A finished dataset of pairs with these columns."""
    pairs = pair_table(columns)
    with DatasetWriter(folder, folder.name, settings={}, shard_size=100) as writer:
        writer.write(pairs)
        writer.finish(pairs.num_rows)
    return folder


def plain(labels: list[int], **columns: list[Any]) -> dict[str, list[Any]]:
    """Rows `r:0` … with a text each and nothing else suspicious."""
    n = len(labels)
    texts = [f"text number {i}" for i in range(n)]
    return {"id": [f"r:{i}" for i in range(n)], "text": texts, "label": labels, **columns}


def answer(run: Path, dataset: Path, y_prob: np.ndarray, folds: list[np.ndarray]) -> Path:
    """A run on `dataset` whose folds test these rows; its validation rows are all the others, and say nonsense."""
    opened = Dataset.open(dataset)
    write_run(run, n_folds=len(folds), finished=[], dataset_sha256=opened.sha256, dataset=str(dataset))
    for fold, rows in enumerate(folds):
        others = np.setdiff1d(np.arange(len(opened)), rows)
        nonsense = np.roll(np.eye(3), 1, axis=1)[opened.labels[others]]
        parts = [
            _predictions(opened, rows, y_prob[rows], "test"),
            _predictions(opened, others, nonsense, "validation"),
        ]
        (run / f"fold-{fold}").mkdir()
        pq.write_table(pa.concat_tables(parts), run / f"fold-{fold}" / "predictions.parquet")
    return run


def _predictions(dataset: Dataset, rows: np.ndarray, y_prob: np.ndarray, role: str) -> pa.Table:
    shares = {f"p_{name}": y_prob[:, i].astype(np.float32) for i, name in enumerate(LABEL_NAMES)}
    ids = pa.array([dataset.ids[row] for row in rows], pa.string())
    return pa.table(
        {
            "id": ids,
            "label": dataset.labels[rows],
            **shares,
            "role": pa.array([role] * len(rows), pa.string()),
        }
    )


def listed(path: Path) -> list[dict[str, str]]:
    """The rows of a review's table."""
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def ids(path: Path) -> list[str]:
    return [row["id"] for row in listed(path)]


# Twins


def test_planted_duplicates_are_listed_with_their_twins_and_the_contradicting_ones_first(
    tmp_path: Path,
) -> None:
    columns = plain([2, 0, 2, 1, 2, 2, 1, 0])
    for copy, original in ((1, 0), (3, 2), (5, 4)):  # positive/negative, positive/neutral, positive/positive
        columns["text"][copy] = columns["text"][original].upper() + " http://t.co/1"
    review(write(tmp_path / "d", columns), out=tmp_path / "r.csv", quiet=True)
    rows = listed(tmp_path / "r.csv")
    assert [row["id"] for row in rows] == ["r:0", "r:1", "r:2", "r:3", "r:4", "r:5"]
    assert [json.loads(row["twins"]) for row in rows[:2]] == [["r:1"], ["r:0"]]
    assert rows[0]["reasons"] == "contradiction: 1 other row with the same text, labelled negative"
    assert rows[4]["reasons"] == "duplicate: 1 other row with the same text, labelled positive"


def test_the_same_text_and_picture_with_two_labels_is_worse_than_one_of_them(tmp_path: Path) -> None:
    columns = plain([2, 0] * 3, sha256=["a", "a", "b", "b", "c", "d"], phash=[None] * 6)
    columns["text"][1], columns["text"][5] = columns["text"][0], columns["text"][4]
    review(write(tmp_path / "d", columns), out=tmp_path / "r.csv", quiet=True)
    rows = listed(tmp_path / "r.csv")
    assert [row["id"] for row in rows[:2]] == ["r:0", "r:1"]
    assert float(rows[1]["score"]) == pytest.approx(0.9)
    assert {row["score"] for row in rows[2:]} == {"0.450"}
    assert [re.search(r"same (.*),", row["reasons"])[1] for row in rows[::2]] == [  # type: ignore[index]
        "text and picture",
        "picture",
        "text",
    ]


def test_pictures_that_look_the_same_are_twins_though_their_bytes_differ(tmp_path: Path) -> None:
    look = 0xF0F0F0F0F0F0F0F0
    columns = plain([2, 0, 2, 0], sha256=list("abcd"), phash=[look, look, 1, 1])  # 1: a flat picture
    review(write(tmp_path / "d", columns), out=tmp_path / "r.csv", quiet=True)
    assert ids(tmp_path / "r.csv") == ["r:0", "r:1"]


def test_the_majority_of_the_twins_is_suggested_to_the_odd_one(tmp_path: Path) -> None:
    columns = plain([2, 2, 0, 1, 0])
    columns["text"][1] = columns["text"][2] = columns["text"][0]
    columns["text"][4] = columns["text"][3]
    review(write(tmp_path / "d", columns), out=tmp_path / "r.csv", quiet=True)
    suggested = {row["id"]: row["suggested_label"] for row in listed(tmp_path / "r.csv")}
    assert suggested == {"r:2": "positive", "r:0": "", "r:1": "", "r:3": "", "r:4": ""}


# Modalities and annotators


def test_a_neutral_text_with_a_polar_image_is_listed_and_an_unlabelled_modality_is_not(
    tmp_path: Path,
) -> None:
    columns = plain([2, 2, 0], text_label=[1, 2, None], image_label=[2, 2, 0])
    review(write(tmp_path / "d", columns), out=tmp_path / "r.csv", quiet=True)
    assert [(row["id"], row["reasons"]) for row in listed(tmp_path / "r.csv")] == [
        ("r:0", "modalities: the text is neutral, the picture positive")
    ]


def test_annotators_who_disagree_are_quoted_the_most_divided_first(tmp_path: Path) -> None:
    cast = [[(2, 2), (2, 2)], None, [(2, 2), (1, 2)], [(0, 2), (2, 2), (2, 2)], [(0, 1)], []]
    votes = [row and [{"text": text, "image": image} for text, image in row] for row in cast]
    folder = write(tmp_path / "d", plain([2, 2, 2, 2, 0, 1], votes=votes))
    review(folder, out=tmp_path / "r.csv", quiet=True)
    assert [(row["id"], row["reasons"]) for row in listed(tmp_path / "r.csv")] == [
        ("r:3", "annotators: votes on the text: 1 negative, 2 positive"),
        ("r:2", "annotators: votes on the text: 1 neutral, 1 positive"),
    ]


def test_votes_are_counted_by_row_where_some_rows_have_none() -> None:
    votes = [None, [{"text": 2, "image": None}, {"text": 0, "image": 1}], [], [{"text": 1, "image": 1}]]
    column = pa.chunked_array([pa.array(votes[:1], VOTES), pa.array(votes[1:], VOTES)])
    assert vote_table(column, "text").tolist() == [[0, 0, 0], [1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert vote_table(column, "image").tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0], [0, 1, 0]]


# Label errors


@pytest.fixture
def flipped(tmp_path: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    """A dataset of 1000 rows with 5 % wrong labels, the rows where they are, and what a good network says."""
    true, labels, wrong = with_flips(1000)
    return write(tmp_path / "d", plain(labels.tolist())), wrong, informed(true)


@pytest.mark.slow
def test_most_planted_label_errors_are_at_the_top(
    tmp_path: Path, flipped: tuple[Path, np.ndarray, np.ndarray]
) -> None:
    folder, wrong, y_prob = flipped
    run = answer(tmp_path / "run", folder, y_prob, np.array_split(np.arange(1000), 5))
    result = review(folder, run, tmp_path / "r.csv", n_rows=50, quiet=True)
    planted = {f"r:{row}" for row in wrong}
    assert len(planted.intersection(ids(tmp_path / "r.csv"))) > 40
    assert result.counts["tested"] == 1000
    assert not any("tested by no fold" in note for note in result.notes)


def test_the_networks_answer_is_suggested_and_quoted(tmp_path: Path) -> None:
    true = np.arange(90) % 3
    labels = true.copy()
    labels[0] = 2
    folder = write(tmp_path / "d", plain(labels.tolist()))
    run = answer(tmp_path / "run", folder, 0.9 * np.eye(3)[true] + 0.1 / 3, [np.arange(90)])
    review(folder, run, tmp_path / "r.csv", quiet=True)
    (row,) = listed(tmp_path / "r.csv")
    assert (row["id"], row["label"], row["suggested_label"]) == ("r:0", "positive", "negative")
    assert row["reasons"] == "label-error: a network predicts negative 93 %, neutral 3 %, positive 3 %"


def test_only_test_rows_count_and_the_others_are_left_out_and_counted(
    tmp_path: Path, flipped: tuple[Path, np.ndarray, np.ndarray]
) -> None:
    folder, _, y_prob = flipped
    run = answer(tmp_path / "run", folder, y_prob, [np.arange(300), np.arange(200, 400)])
    result = review(folder, run, tmp_path / "r.csv", n_rows=1000, quiet=True)
    assert result.counts["tested"] == 400
    assert any("600 of 1000 rows were tested by no fold" in note for note in result.notes)
    assert ids(tmp_path / "r.csv")
    assert all(int(name.removeprefix("r:")) < 400 for name in ids(tmp_path / "r.csv"))


def test_a_row_that_two_folds_tested_gets_the_mean_of_their_answers(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", plain([0, 1, 2, 0]))
    run = answer(tmp_path / "run", folder, np.eye(3)[[0, 1, 2, 0]], [np.array([0, 1]), np.array([3, 1])])
    other = _predictions(Dataset.open(folder), np.array([1, 3]), np.array([[0.5, 0.5, 0], [1, 0, 0]]), "test")
    pq.write_table(other, run / "fold-1" / "predictions.parquet")
    found = out_of_fold(saved_trial(RunFolder.open(run)), Dataset.open(folder).ids)
    assert found.rows.tolist() == [0, 1, 3]
    assert found.y_prob.tolist() == [[1, 0, 0], [0.25, 0.75, 0], [1, 0, 0]]


def test_without_a_run_one_line_says_how_to_get_one(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", plain([0, 1, 2]))
    result = review(folder, out=tmp_path / "r.csv", quiet=True)
    (note,) = result.notes
    assert f"mvsent train {folder} --protocol grouped-kfold-5" in note
    assert note in result.words()
    assert note not in result.words(quiet=True)
    assert "label-error" not in result.kinds
    assert listed(tmp_path / "r.csv") == []


def test_without_a_run_cleanlab_is_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    result = review(write(tmp_path / "d", plain([0, 1, 2])), out=tmp_path / "r.csv", quiet=True)
    assert result.counts["rows"] == 3 and result.out.is_file()


def test_a_run_of_a_plain_protocol_is_said_to_know_twins(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", plain([0, 1, 2] * 10))
    run = answer(tmp_path / "run", folder, np.full((30, 3), 1 / 3), [np.arange(30)])
    assert any("grouped" in note for note in review(folder, run, tmp_path / "r.csv", quiet=True).notes)
    config = run / "config.toml"
    config.write_text(config.read_text().replace('"paper-5x"', '"grouped-kfold-5"'))
    assert review(folder, run, tmp_path / "r.csv", quiet=True).notes == []


# The table and the page


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """Twelve rows with pictures, each text twice with two labels; those of the first are the least apart."""
    labels = [1, 2] + [0, 2] * (len(HOSTILE) - 1)
    pictures = [draw_picture(label, i) for i, label in enumerate(labels)]
    texts = np.repeat(HOSTILE, 2).tolist()
    columns = plain(labels, image=[{"bytes": data, "path": "x.jpg"} for data in pictures])
    return write(tmp_path / "d", columns | {"text": texts, "id": [f"<b>{i}&'\"" for i in range(len(labels))]})


def test_hostile_texts_stand_in_the_table_as_they_are_but_run_no_formula(
    tmp_path: Path, hostile: Path
) -> None:
    review(hostile, out=tmp_path / "r.csv", quiet=True)
    texts = {row["text"].removeprefix("'") for row in listed(tmp_path / "r.csv")}
    assert texts == set(HOSTILE)
    assert not any(row["text"].startswith("=") for row in listed(tmp_path / "r.csv"))


def test_hostile_texts_are_text_on_the_page(tmp_path: Path, hostile: Path) -> None:
    review(hostile, out=tmp_path / "r.csv", html=True, quiet=True)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    tree = LexborHTMLParser(page)
    assert len(tree.css("script")) == len(tree.css("style")) == 1
    assert not re.search(r"<b>|<[^>]+\sonmouseover", page)
    assert "\u202e" not in page
    shown = [card.css_first(".body p").text() for card in tree.css(".card")]
    assert HOSTILE[0] in shown
    assert HOSTILE[2] in shown


def test_the_page_shows_the_rows_of_the_table_in_its_order_with_picture_and_reasons(
    tmp_path: Path, hostile: Path
) -> None:
    review(hostile, out=tmp_path / "r.csv", n_rows=11, html=True, quiet=True)
    cards = LexborHTMLParser((tmp_path / "r.html").read_text(encoding="utf-8")).css(".card")
    assert [card.css_first(".id").text() for card in cards] == ids(tmp_path / "r.csv")
    assert len(cards) == 11
    assert all(
        card.css_first("img").attributes["src"].startswith("data:image/webp;base64,") for card in cards
    )
    assert {card.attributes["data-reason"] for card in cards} == {"contradiction"}
    assert "1 other row with the same text, labelled" in cards[0].text()


def test_a_twin_leads_to_its_card_where_the_page_has_it(tmp_path: Path, hostile: Path) -> None:
    review(hostile, out=tmp_path / "r.csv", n_rows=11, html=True, quiet=True)
    tree = LexborHTMLParser((tmp_path / "r.html").read_text(encoding="utf-8"))
    twins = {row["id"]: json.loads(row["twins"]) for row in listed(tmp_path / "r.csv")}
    links = tree.css(".card .facts a")
    assert len(links) == 10  # the eleventh card's twin is not on the page
    for link in links:
        (target,) = tree.css(f".card[id='{link.attributes['href'].removeprefix('#')}']")
        assert target.css_first(".id").text() == link.text()
        card = next(card for card in tree.css(".card") if link.html in card.html)
        assert twins[card.css_first(".id").text()] == [link.text()]


def test_a_card_is_found_by_any_of_its_reasons(tmp_path: Path) -> None:
    columns = plain([2, 0, 2], text_label=[1, 0, 1], image_label=[2, 0, 2])
    columns["text"][1] = columns["text"][0]
    review(write(tmp_path / "d", columns), out=tmp_path / "r.csv", html=True, quiet=True)
    tree = LexborHTMLParser((tmp_path / "r.html").read_text(encoding="utf-8"))
    reasons = [card.attributes["data-reason"] for card in tree.css(".card")]
    assert reasons == ["contradiction\nmodalities", "contradiction", "modalities"]
    options = [option.text() for option in tree.css("select[name=reason] option")]
    assert options == ["All", "contradiction (2)", "modalities (2)"]


def test_a_page_without_any_suspicious_row_is_a_page(tmp_path: Path) -> None:
    result = review(write(tmp_path / "d", plain([0, 1, 2])), out=tmp_path / "r.csv", html=True, quiet=True)
    assert result.counts == {"rows": 3, "suspicious": 0, "listed": 0}
    assert "0 of 3 pairs" in (tmp_path / "r.html").read_text()


def test_the_same_review_has_the_same_bytes(tmp_path: Path, hostile: Path) -> None:
    written = []
    for name in ("a", "b"):
        review(hostile, out=tmp_path / name / "r.csv", html=True, quiet=True)
        written.append([(tmp_path / name / f"r.{ending}").read_bytes() for ending in ("csv", "html")])
    assert written[0] == written[1]


def test_an_earlier_review_is_replaced(tmp_path: Path, hostile: Path) -> None:
    review(hostile, out=tmp_path / "r.csv", n_rows=3, html=True, quiet=True)
    review(hostile, out=tmp_path / "r.csv", n_rows=4, html=True, quiet=True)
    assert len(listed(tmp_path / "r.csv")) == 4


@pytest.mark.parametrize("name", ["r.csv", "r.html"])
def test_a_strangers_file_is_not_overwritten_and_neither_half_is_written(
    tmp_path: Path, hostile: Path, name: str
) -> None:
    (tmp_path / name).write_text("id,label\n1,positive\n")
    with pytest.raises(OutputExistsError, match=f"{name}: not a review"):
        review(hostile, out=tmp_path / "r.csv", html=True, quiet=True)
    assert (tmp_path / name).read_text() == "id,label\n1,positive\n"
    assert sum((tmp_path / other).exists() for other in ("r.csv", "r.html")) == 1
    review(hostile, out=tmp_path / "r.csv", html=True, overwrite=True, quiet=True)
    assert len(listed(tmp_path / "r.csv")) == 12


# Bad input


def test_a_run_of_another_dataset_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", plain([0, 1, 2]))
    with pytest.raises(UsageError, match=r"run: was trained on other rows \(mvsa-single\)"):
        review(folder, write_run(tmp_path / "run"), tmp_path / "r.csv", quiet=True)
    assert not (tmp_path / "r.csv").exists()


def test_a_run_without_a_finished_fold_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", plain([0, 1, 2]))
    run = answer(tmp_path / "run", folder, np.zeros((3, 3)), [])
    with pytest.raises(RunError, match="no fold is finished"):
        review(folder, run, tmp_path / "r.csv", quiet=True)


def test_a_run_that_tested_rows_of_nobody_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", plain([0, 1, 2]))
    run = write_run(tmp_path / "run", n_folds=1, dataset_sha256=Dataset.open(folder).sha256)
    with pytest.raises(RunError, match="tested mvsa-single:test-0-0, which is not in the dataset"):
        review(folder, run, tmp_path / "r.csv", quiet=True)


def test_a_dataset_without_rows_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    with DatasetWriter(folder, "empty", settings={}, shard_size=10) as writer:
        writer.finish(0)
    with pytest.raises(DatasetError, match="empty: has no rows"):
        review(folder, out=tmp_path / "r.csv", quiet=True)


@pytest.mark.parametrize("n_rows", [0, -1])
def test_a_list_of_no_rows_is_refused(tmp_path: Path, n_rows: int) -> None:
    with pytest.raises(UsageError, match=f"-n {n_rows}: "):
        review(write(tmp_path / "d", plain([0, 1, 2])), out=tmp_path / "r.csv", n_rows=n_rows)


def test_an_output_that_is_no_csv_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"r\.html: the table is written as CSV"):
        review(write(tmp_path / "d", plain([0, 1, 2])), out=tmp_path / "r.html", html=True)


def test_the_command_prints_one_document_with_json(
    tmp_path: Path, hostile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["review", str(hostile), "-n", "5", "--html", "--json", "--quiet"])
    document = json.loads(done.stdout)
    assert (document["rows"], document["suspicious"], document["listed"]) == (12, 12, 5)
    assert document["out"] == "reports/d-review.csv"
    assert (tmp_path / document["page"]).is_file()
    assert (tmp_path / document["out"]).read_text().splitlines()[0] == ",".join(COLUMNS)


def test_the_command_says_what_it_found(tmp_path: Path, hostile: Path) -> None:
    done = CliRunner().invoke(app, ["review", str(hostile), "--out", str(tmp_path / "r.csv")])
    assert done.exit_code == 0
    assert "12 of 12 suspicious rows are listed" in done.stdout
    assert re.search(r"contradiction +12, listed 12", done.stdout)
