"""`mvsent explain`: which pairs are shown, what is shown of them, and what is refused."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from mvsent.cli import app
from mvsent.config import TrainSettings
from mvsent.errors import InputError, RunError, UsageError
from mvsent.pipelines.explain import explain_pair, explain_run, pick_rows
from mvsent.pipelines.train import train
from mvsent.report.attention import Explained, heat, paper_figure, shade
from mvsent.report.explain_page import render_explanations

HOSTILE = '<script>alert("x")</script>'


@pytest.fixture(scope="module")
def run(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(small_dataset, tmp_path_factory.mktemp("explain") / "run", "dmlanet")


def trained(dataset: Path, out: Path, model: str, **options: str) -> Path:
    settings = TrainSettings(
        dataset=str(dataset), model=model, options=options, weights="random", words="random",
        text_vector="none", lexicon="none", epochs=1, batch_size=16, threads=1, folds=[0],
    )  # fmt: skip
    return train(settings, out=out, quiet=True).run


def pair(**changes: object) -> Explained:
    given = {
        "id": "row:1",
        "kind": "error",
        "picture": Image.new("RGB", (60, 40), "green"),
        "words": ["good", HOSTILE, "$x_1$"],
        "maps": {"class activation": np.eye(3)},
        "shades": {"semantic attention": np.array([0.2, 0.6, 0.2])},
        "text_share": 0.7,
        "probabilities": {"negative": 0.1, "neutral": 0.2, "positive": 0.7},
        "gold": "negative",
    }
    return Explained(**{**given, **changes})


def test_a_third_of_each_kind_is_picked_as_far_as_there_are_any() -> None:
    y_true = np.array([2, 2, 2, 0, 0, 1, 2, 0])
    y_pred = np.array([2, 2, 2, 0, 0, 2, 0, 2])
    y_prob = np.eye(3)[y_pred] * 0.5 + 1 / 6
    y_prob[6] = [0.9, 0.05, 0.05]
    picked = pick_rows(y_true, y_prob, 6, np.random.default_rng(0))
    assert [kind for _, kind in picked] == ["correct positive"] * 2 + ["correct negative"] * 2 + ["error"] * 2
    assert picked[4][0] == 6, "the surest error comes first"
    assert all((y_true[row] == y_pred[row]) == (kind != "error") for row, kind in picked)
    assert len(pick_rows(y_true, y_prob, 100, np.random.default_rng(0))) == 8


def test_heat_is_where_the_weights_are() -> None:
    weights = np.zeros((4, 4))
    weights[0, 0] = 1
    shown = np.asarray(heat(Image.new("RGB", (80, 80), "black"), weights), int)
    assert shown[5, 5].sum() > shown[70, 70].sum() + 100


def test_shades_are_in_proportion_and_nothing_is_shaded_without_weight() -> None:
    assert shade(np.array([0.0, 0.5, 1.0])) == [0, 4, 9]
    assert shade(np.zeros(2)) == [0, 0]


def test_strangers_words_are_escaped_and_the_page_fetches_nothing() -> None:
    page = render_explanations(HOSTILE, "lead", [pair(id=HOSTILE, gold=HOSTILE)], {})
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert ' style="' not in page, "the policy allows no style but the page's own"


def test_a_figure_has_a_row_a_pair_even_without_picture_or_words() -> None:
    bare = pair(picture=None, maps={}, words=[], shades={}, text_share=None)
    assert len(paper_figure([pair(), bare]).axes) == 6


def test_a_run_is_explained(run: Path) -> None:
    found = CliRunner().invoke(app, ["explain", str(run), "-n", "6", "--measured", "10"])
    assert found.exit_code == 0, found.output
    assert "spatial attention" in found.output and "regions by chance" in found.output
    document = json.loads((run / "explain" / "explain.json").read_text())
    assert 1 <= len(document["pairs"]) <= 6
    for shown in document["pairs"]:
        assert list(shown["maps"]) == ["class activation", "spatial attention"]
        assert len(shown["shades"]["semantic attention"]) == len(shown["words"])
        assert sum(shown["shades"]["semantic attention"]) == pytest.approx(1, abs=0.01)
        assert 0 < shown["text_share"] < 1
        assert (shown["kind"] == "error") == (shown["predicted"] != shown["gold"])
    orders = document["faithfulness"]["orders"]
    assert {"semantic attention", "words by chance"} <= orders.keys()
    assert all(0 <= value <= 1 for order in orders.values() for value in order.values())
    assert (run / "explain" / "index.html").read_text().count("data:image/webp") == 3 * len(document["pairs"])


def test_the_same_pairs_are_picked_again(run: Path, tmp_path: Path) -> None:
    first, second = (explain_run(run, measured=0, out=tmp_path / name).document for name in "ab")
    assert [p["id"] for p in first["pairs"]] == [p["id"] for p in second["pairs"]]


def test_one_pair_of_one_s_own(run: Path, tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    Image.new("RGB", (50, 30), "blue").save(picture)
    whole = explain_pair(run, picture, "a good day", out=tmp_path / "whole").document["pairs"][0]
    assert whole["words"] == ["a", "good", "day"] and whole["gold"] == ""
    text = explain_pair(run, None, "a good day", out=tmp_path / "text").document["pairs"][0]
    assert not text["picture"] and text["maps"] == {} and text["shades"]
    image = explain_pair(run, picture, None, out=tmp_path / "image").document["pairs"][0]
    assert image["maps"] and image["words"] == [] and image["shades"] == {}


def test_another_dataset_is_explained(run: Path, make_dataset, tmp_path: Path) -> None:
    from tests.drawing import draw_pairs

    other = make_dataset(draw_pairs(30, prefix="other"))
    document = explain_run(run, n=3, dataset=other, measured=5, out=tmp_path / "out").document
    assert all(p["id"].startswith("other") for p in document["pairs"])


@pytest.mark.parametrize("model", ["comn", "dmaf", "ahrm", "hsan", "image-only"])
def test_other_models_show_what_they_have(small_dataset: Path, tmp_path: Path, model: str) -> None:
    run = trained(small_dataset, tmp_path / "run", model)
    document = explain_run(run, n=2, measured=4).document
    assert all(p["maps"] or p["shades"] for p in document["pairs"])


def test_a_model_with_nothing_to_show_says_so(small_dataset: Path, tmp_path: Path) -> None:
    run = trained(small_dataset, tmp_path / "run", "text-only")
    with pytest.raises(UsageError, match="has no attention and reads no regions"):
        explain_run(run, n=2, measured=0)


def test_what_cannot_be_explained_is_refused(run: Path, tmp_path: Path) -> None:
    bad = tmp_path / "a.jpg"
    bad.write_text("this is no picture")
    with pytest.raises(InputError, match="picture"):
        explain_pair(run, bad, "text", out=tmp_path / "out")
    with pytest.raises(UsageError, match="one of the two has to be there"):
        explain_pair(run, None, " ", out=tmp_path / "out")
    with pytest.raises(UsageError, match="at least one pair"):
        explain_run(run, n=0)
    with pytest.raises(UsageError, match="fold 7"):
        explain_run(run, fold=7)
    with pytest.raises(RunError):
        explain_run(tmp_path / "no-run")
    assert not (tmp_path / "out").exists()
