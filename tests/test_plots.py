"""Pictures, tables and the page: what they show, and that nothing but the data decides it."""

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from mvsent.learn.bootstrap import Answered, summarise
from mvsent.learn.curves import GRID, prc_curves, prevalence, roc_curves
from mvsent.report import plots
from mvsent.report.page import own_ids, render_page
from mvsent.report.results import render_results, result_table
from mvsent.report.tables import aligned
from tests.conftest import PRINTED_DPI
from tests.run_folder import answers

CURVES = ["negative", "neutral", "positive", "macro", "micro"]
FOLDS = [answers(90, (0, 1, 2), seed) for seed in range(3)]


def answered(folds) -> Answered:
    """Folds that test no pair twice."""
    ends = np.cumsum([len(y_true) for y_true, _ in folds])
    return Answered(folds, np.split(np.arange(ends[-1]), ends[:-1]))


def draw_roc(folds=FOLDS, classes=(0, 1, 2)) -> Figure:
    drawn = roc_curves(folds, classes)
    _, summary = summarise(answered(folds), classes, n=20)
    return plots.roc(drawn, GRID, {name: summary[f"roc_auc_{name}"] for name in drawn})


def draw_prc(folds=FOLDS, classes=(0, 1, 2)) -> Figure:
    drawn = prc_curves(folds, classes)
    _, summary = summarise(answered(folds), classes, n=20)
    scores = {name: summary[f"average_precision_{name}"] for name in drawn}
    return plots.prc(drawn, GRID, scores, prevalence(folds, classes))


def draw_histories(lengths=(5, 8, 6), kept=(1, 4, 2)) -> Figure:
    columns = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")
    histories = [
        {"epoch": np.arange(n)} | {name: np.linspace(0.2, 0.8, n) + i / 50 for name in columns}
        for i, n in enumerate(lengths)
    ]
    return plots.training_curves(histories, kept)


def draw_confusion() -> Figure:
    names = ["negative", "neutral", "positive"]
    return plots.confusion(np.array([[8, 1, 1], [0, 0, 0], [100, 0, 1900]]), names, names)


DRAWINGS = {"roc": draw_roc, "prc": draw_prc, "curves": draw_histories, "confusion": draw_confusion}


def lines(figure: Figure) -> dict[str, np.ndarray]:
    """The drawn points of each line that stands in a legend."""
    every = [line for axes in figure.axes for line in axes.lines]
    return {
        str(line.get_label()): line.get_xydata()
        for line in every
        if not str(line.get_label()).startswith("_")
    }


@pytest.mark.parametrize(("draw", "family"), [(draw_roc, "AUC"), (draw_prc, "AP")])
def test_the_area_under_a_drawn_curve_is_the_score_in_its_legend(draw, family):
    shown = lines(draw())
    assert [label.split(",")[0] for label in shown] == CURVES
    for label, points in shown.items():
        score = float(re.search(rf"{family} (0\.\d+)", label)[1])
        assert np.trapezoid(points[:, 1], points[:, 0]) == pytest.approx(score, abs=0.006), label


def test_a_perfect_ranking_fills_the_square_and_a_reversed_one_leaves_it_empty():
    y_true = np.array([0, 0, 2, 2, 2])
    for p_positive, filled in ((0.1 + 0.8 * (y_true == 2), 1.0), (0.9 - 0.8 * (y_true == 2), 0.0)):
        y_prob = np.stack([1 - p_positive, 0 * p_positive, p_positive], axis=1)
        of_folds = roc_curves([(y_true, y_prob)], [0, 2])["positive"]
        assert np.trapezoid(of_folds[0], GRID) == pytest.approx(filled, abs=0.005)


def test_two_classes_are_two_curves_and_their_averages():
    folds = [answers(60, (0, 2), seed) for seed in range(2)]
    assert [label.split(",")[0] for label in lines(draw_roc(folds, (0, 2)))] == [
        "negative",
        "positive",
        "macro",
        "micro",
    ]


def test_a_fold_without_a_class_does_not_bend_that_class_s_curve():
    lacking = answers(60, (0, 2), seed=9)
    with_it, without = (lines(draw_roc(folds)) for folds in (FOLDS, [*FOLDS, lacking]))
    neutral = [next(v for k, v in shown.items() if k.startswith("neutral")) for shown in (with_it, without)]
    assert np.array_equal(*neutral)


def test_a_class_of_no_fold_is_not_drawn():
    folds = [answers(60, (0, 2), seed) for seed in range(2)]
    assert [label.split(",")[0] for label in lines(draw_roc(folds))] == ["negative", "positive", "micro"]


def test_the_mean_of_training_curves_ends_where_the_first_fold_stopped():
    figure = draw_histories(lengths=(5, 8, 6))
    assert {len(points) for label, points in lines(figure).items() if "kept" not in label} == {5}
    thin = [line for line in figure.axes[0].lines if str(line.get_label()).startswith("_")]
    assert sorted(len(line.get_xdata()) for line in thin) == [5, 5, 6, 6, 8, 8]


def test_a_dot_marks_the_epoch_whose_network_was_kept():
    dots = lines(draw_histories(kept=(1, 4, 2)))["kept network of a fold"]
    assert dots[:, 0].tolist() == [1, 4, 2]


def test_confusion_shows_shares_of_a_row_with_counts_and_a_dash_for_no_rows():
    texts = [text.get_text() for text in draw_confusion().axes[0].texts]
    assert texts == [
        *("80.0\u00a0%\n(8)", "10.0\u00a0%\n(1)", "10.0\u00a0%\n(1)"),
        *("–", "–", "–"),
        *("5.0\u00a0%\n(100)", "0.0\u00a0%\n(0)", "95.0\u00a0%\n(1,900)"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", DRAWINGS)
def test_the_same_data_give_the_same_bytes(name, tmp_path):
    once, again = tmp_path / "once", tmp_path / "again"
    for folder in (once, again):
        folder.mkdir()
        plots.save_figure(DRAWINGS[name](), folder, name)
    for suffix in ("png", "svg"):
        assert (once / f"{name}.{suffix}").read_bytes() == (again / f"{name}.{suffix}").read_bytes()


def test_pictures_are_for_print_and_the_svg_keeps_its_text(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "DPI", PRINTED_DPI)
    png, svg = plots.save_figure(draw_roc(), tmp_path, "roc")
    with Image.open(png) as image:
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        assert image.width == pytest.approx(3.45 * 300, abs=2)
    root = ET.parse(svg).getroot()
    texts = {text.text for text in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"False positive rate", "True positive rate"} <= texts
    assert not re.search(r"<dc:date>|<image", svg.read_text())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["roc.png", "roc.svg"]


@pytest.mark.slow
def test_drawing_leaves_matplotlib_as_it_was(tmp_path):
    before = dict(mpl.rcParams)
    for name, draw in DRAWINGS.items():
        plots.save_figure(draw(), tmp_path, name)
    assert dict(mpl.rcParams) == before


# The table and the page


def document(**changes) -> dict:
    """A `metrics.json` with three folds of two classes."""
    folds, classes = [answers(60, (0, 2), seed) for seed in range(3)], ("negative", "positive")
    per_fold, metrics = summarise(answered(folds), (0, 2), n=20)
    return {
        "mvsent_version": "0",
        "run": "a-run",
        "model": "dmlanet",
        "options": {},
        "fidelity": "reconstructed",
        "dataset": "flickr",
        "dataset_sha256": "d" * 64,
        "trained_on": "flickr",
        "protocol": "paper-5x",
        "split_sha256": "5" * 64,
        "seeds": [0],
        "classes": list(classes),
        "n_folds": 3,
        "bootstrap": {"resamples": 20, "seed": 0, "level": 0.95},
        "notes": [],
        "published": {"accuracy": 89.3, "f1": 89.19},
        "metrics": metrics,
        "majority": metrics,
        "folds": [{"fold": i, "n_test": 60, "metrics": m, "confusion": []} for i, m in enumerate(per_fold)],
    } | changes


def test_a_table_is_aligned_by_what_is_seen():
    assert aligned(["a", "±"], [["long name", "1"], ["b", "–"]]).splitlines() == [
        "a          ±",
        "---------  -",
        "long name  1",
        "b          –",
    ]


def result_rows(document: dict) -> dict[str, tuple[str, ...]]:
    """The cells beside the title of each metric."""
    return {title: tuple(cells) for title, *cells in result_table(document)[1]}


def test_result_rows_stand_beside_the_numbers_of_the_paper():
    rows = result_rows(document())
    assert [rows[title][-1] for title in ("accuracy", "F1, weighted", "F1, macro")] == ["89.30", "89.19", ""]
    assert re.fullmatch(r"\d\d\.\d\d ± \d+\.\d\d", rows["accuracy"][0])
    assert {"F1, negative", "F1, positive", "ROC AUC, positive", "average precision, micro"} <= rows.keys()
    assert not [name for name in rows if "neutral" in name]


def test_the_papers_column_is_there_only_where_the_paper_has_numbers():
    assert "paper" in render_results(document()).splitlines()[2]
    assert "paper" not in render_results(document(published=None)).splitlines()[2]


def test_what_is_undefined_is_a_dash():
    nothing = dict.fromkeys(("mean", "std", "low", "high"))
    metrics = document()["metrics"] | {"f1_negative": nothing}
    assert result_rows(document(metrics=metrics))["F1, negative"][:2] == ("–", "–")


def test_a_number_that_is_no_percentage_says_its_unit_and_an_arrow_that_lower_is_better():
    text = render_results(document())
    assert re.search(
        r"^log loss ↓ \(nats\) +0\.\d{3} ± 0\.\d{3} +0\.\d{3}–0\.\d{3} +0\.\d{3}$", text, re.MULTILINE
    )
    assert re.search(r"^expected calibration error ↓ +\d+\.\d\d ± ", text, re.MULTILINE)
    assert "\n↓: lower is better.\n" in text
    assert "↓: lower is better. The interval of the calibration error lies too high" in render_page(
        document(), {}
    )


def test_a_document_older_than_a_metric_has_no_row_and_no_footnote_of_it():
    whole = document()
    old = {key: value for key, value in whole["metrics"].items() if key.startswith(("accuracy", "f1_"))}
    text = render_results({**whole, "metrics": old, "majority": old})
    assert [line.split("  ")[0] for line in text.splitlines()[4:10]] == [
        "accuracy",
        "F1, weighted",
        "F1, macro",
        "F1, negative",
        "F1, positive",
        "",
    ]
    assert "↓" not in text


def test_the_title_says_when_folds_are_missing_and_which_options_were_set():
    text = render_results(document(n_folds=5, options={"without": "self"}))
    assert text.startswith(
        "dmlanet (reconstructed, without=self) on flickr, paper-5x, 3 of 5 folds, 180 test rows, seed 0\n"
    )


class Outline(HTMLParser):
    """Elements, ids and outside references of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        self.references += [value for name, value in attrs if name in ("src", "href", "xlink:href", "action")]


def element(figure: Figure, folder: Path) -> str:
    return plots.svg_element(plots.save_figure(figure, folder, "figure")[1])


def outline(page: str) -> Outline:
    parsed = Outline()
    parsed.feed(page)
    return parsed


@pytest.mark.slow
def test_the_page_needs_nothing_from_elsewhere_and_no_id_twice(tmp_path):
    figures = {name: element(draw(), tmp_path) for name, draw in DRAWINGS.items()}
    parsed = outline(render_page(document(), figures))
    assert parsed.tags.count("svg") == 4 and "script" not in parsed.tags
    assert all(reference.startswith("#") for reference in parsed.references)
    assert {reference[1:] for reference in parsed.references} <= set(parsed.ids)
    assert len(parsed.ids) == len(set(parsed.ids))


def test_clip_paths_of_a_figure_point_into_the_same_figure(tmp_path):
    svg = own_ids(element(draw_roc(), tmp_path), "roc")
    targets = set(re.findall(r"url\(#([^)]+)\)", svg))
    assert targets and targets <= set(outline(svg).ids)


def test_hostile_names_are_escaped():
    evil = "<script>alert(1)</script>"
    changes = dict.fromkeys(("run", "dataset", "protocol", "trained_on"), evil)
    page = render_page(document(**changes, notes=[evil], options={evil: evil}), {})
    assert evil not in page and "&lt;script&gt;" in page


def test_the_page_carries_notes_and_every_fold():
    page = render_page(document(notes=["ONLY 3 OF 5 FOLDS"]), {})
    assert "<li>ONLY 3 OF 5 FOLDS.</li>" in page
    assert outline(page).tags.count("tbody") == 2
    assert len(re.findall(r'<tr><th scope="row">[012]</th>', page)) == 3
