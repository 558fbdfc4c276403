"""`mvsent explain`: which pairs are shown, what is shown of them, and what is refused."""

import json
import re
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from mvsent.cli import app, exit_code
from mvsent.config import TrainSettings
from mvsent.errors import DatasetError, InputError, OutputExistsError, RunError, UsageError
from mvsent.inference.attended import shown_picture
from mvsent.pages.explain import MAX_PAIRS, explain_pair, explain_run
from mvsent.pages.explain_rows import pick_rows
from mvsent.report.explain_page import render_explanations, render_terminal
from mvsent.report.overlays import Explained, heat, paper_figure, shade
from mvsent.runs.train import train
from tests.drawing import draw_pairs, draw_picture

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


def test_a_panel_is_titled_by_what_it_shows() -> None:
    def titles(*pairs: Explained) -> list[str]:
        return [axes.get_title() for axes in paper_figure(pairs).axes[:3]]

    regions = {"region attention": np.eye(3), "class activation": np.eye(3)}
    assert titles(pair(maps=regions)) == [
        "pair, as the network read it", "region attention", "semantic attention",
    ]  # fmt: skip
    bare = pair(picture=None, maps={}, shades={})
    assert titles(bare, pair())[1:] == ["class activation", "semantic attention"]
    assert titles(bare)[1:] == ["", ""]


def test_the_page_says_how_to_read_heat_and_shades() -> None:
    page = render_explanations("run", "lead", [pair()], {})
    assert "class activation (bright: more, dark: less)" in page
    assert (
        "a stronger colour is more weight; if all words have half the colour, their weights are equal" in page
    )


@pytest.mark.slow
def test_a_run_is_explained(run: Path) -> None:
    found = CliRunner().invoke(app, ["explain", str(run), "-n", "6", "--measured", "10"])
    assert found.exit_code == 0, found.output
    assert "spatial attention" in found.output and "regions by chance" in found.output
    written = {path.name for path in (run / "explain").iterdir()}
    assert {Path(line).name for line in found.output.splitlines() if "/explain/" in line} == written
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


@pytest.mark.slow
def test_the_same_pairs_are_picked_again(run: Path, tmp_path: Path) -> None:
    first, second = (explain_run(run, measured=0, out=tmp_path / name).document for name in "ab")
    assert [p["id"] for p in first["pairs"]] == [p["id"] for p in second["pairs"]]


@pytest.mark.slow
def test_one_pair_of_one_s_own(run: Path, tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    Image.new("RGB", (50, 30), "blue").save(picture)
    whole = explain_pair(run, picture, "a good day", out=tmp_path / "whole").document["pairs"][0]
    assert whole["words"] == ["a", "good", "day"] and whole["gold"] == ""
    raw = "a  good\u200b day\n"
    assert explain_pair(run, None, raw, out=tmp_path / "raw").document["pairs"][0]["words"] == whole["words"]
    text = explain_pair(run, None, "a good day", out=tmp_path / "text").document["pairs"][0]
    assert not text["picture"] and text["maps"] == {} and text["shades"]
    image = explain_pair(run, picture, None, out=tmp_path / "image").document["pairs"][0]
    assert image["maps"] and image["words"] == [] and image["shades"] == {}


@pytest.mark.slow
def test_another_dataset_is_explained(run: Path, make_dataset, tmp_path: Path) -> None:
    other = make_dataset(draw_pairs(30, prefix="other"))
    document = explain_run(run, n=3, dataset=other, measured=5, out=tmp_path / "out").document
    assert all(p["id"].startswith("other") for p in document["pairs"])


@pytest.mark.slow
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
    with pytest.raises(UsageError, match="at least one is required"):
        explain_pair(run, None, " ", out=tmp_path / "out")
    with pytest.raises(UsageError, match="fold 7"):
        explain_run(run, fold=7)
    with pytest.raises(RunError):
        explain_run(tmp_path / "no-run")
    assert not (tmp_path / "out").exists()


def test_steering_characters_are_shown_as_what_they_are() -> None:
    page = render_explanations("run", "lead", [pair(id="a\u202eb", words=["c\x1b[31m"])], {})
    assert "a\ufffdb" in page and "c\ufffd[31m" in page
    document = {
        "model": "dmlanet",
        "fold": 0,
        "pairs": [
            {"id": "a\x1b[31m", "kind": "given", "predicted": "x", "probabilities": {"x": 1.0}, "gold": ""}
        ],
        "faithfulness": {},
    }
    assert "\x1b" not in render_terminal(document)


@pytest.mark.parametrize("n", [0, -1, MAX_PAIRS + 1, 10**9])
def test_no_pairs_and_more_than_a_figure_holds_are_bad_usage(run: Path, tmp_path: Path, n: int) -> None:
    with pytest.raises(UsageError, match=f"-n {n}: out of range"):
        explain_run(run, n=n, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_most_pairs_of_one_kind_make_a_figure() -> None:
    row = paper_figure([pair(picture=None, maps={}, words=["a"], shades={})]).get_figheight()
    assert MAX_PAIRS * row * 300 < 2**16, "matplotlib draws no picture of so many pixels"


@pytest.mark.parametrize("holds", ["notes.txt", "index.html"])
def test_a_strangers_folder_is_left_as_it_is(run: Path, tmp_path: Path, holds: str) -> None:
    out = tmp_path / "theirs"
    out.mkdir()
    (out / holds).write_text("precious")
    with pytest.raises(OutputExistsError, match=holds):
        explain_pair(run, None, "a good day", out=out)
    with pytest.raises(OutputExistsError, match=holds):
        explain_run(run, out=out)
    assert [(path.name, path.read_text()) for path in out.iterdir()] == [(holds, "precious")]


def test_a_file_in_the_place_of_the_folder_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("precious")
    with pytest.raises(OutputExistsError, match="is a file"):
        explain_pair(run, None, "a good day", out=tmp_path / "out")


@pytest.mark.slow
def test_nothing_is_left_of_an_earlier_explanation(run: Path, tmp_path: Path) -> None:
    explain_run(run, n=3, measured=0, out=tmp_path)
    explain_pair(run, None, "a good day", out=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "explain.json", "index.html", "given.png", "given.svg",
    }  # fmt: skip


def huge_png() -> bytes:
    """A picture that says it has 10 000 million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"this is text", "image-not-an-image"),
        (b"", "image-corrupt: the file is empty"),
        (huge_png(), "image-too-large"),
        (draw_picture(0, 0)[:600], "image-corrupt"),
    ],
    ids=["a text", "nothing", "too many pixels", "cut off"],
)
def test_a_bad_picture_is_one_line_that_names_it_and_nothing_is_written(
    run: Path, tmp_path: Path, data: bytes, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "bad.png", tmp_path / "out"
    path.write_bytes(data)
    command = ["explain", str(run), "--image", str(path), "--text", "good", "--out", str(out)]
    assert exit_code(lambda: app(command, standalone_mode=False)) == 1
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and f"{path}: {problem}" in said.err
    assert said.out == "" and not out.exists()


def test_a_picture_that_breaks_off_after_its_header_is_bad_input() -> None:
    with pytest.raises(InputError, match="picture: image-corrupt"):
        shown_picture(draw_picture(0, 0)[:600])


@pytest.mark.slow
def test_a_text_of_any_length_is_explained_as_far_as_it_is_read(run: Path, tmp_path: Path) -> None:
    (words,) = explain_pair(run, None, "x" * 100_000, out=tmp_path / "one").document["pairs"]
    assert words["words"] == ["x" * 100_000]
    assert (tmp_path / "one" / "index.html").stat().st_size < 30_000
    (words,) = explain_pair(run, None, "good day " * 10_000, out=tmp_path / "many").document["pairs"]
    assert 2 <= len(words["words"]) <= 100


def test_a_dataset_without_rows_is_refused(run: Path, make_dataset, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="has no rows"):
        explain_run(run, dataset=make_dataset(draw_pairs(1).slice(0, 0)), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_dataset_with_a_label_that_the_run_never_saw_is_refused(make_dataset, tmp_path: Path) -> None:
    pairs = draw_pairs(60)
    polar = pairs.filter(np.array(pairs["label"]) != 1)
    run = trained(make_dataset(polar, name="polar"), tmp_path / "run", "image-only")
    with pytest.raises(RunError, match=r"has label 1, the run knows only \[0, 2\]"):
        explain_run(run, dataset=make_dataset(pairs, name="whole"), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_pair_without_what_the_model_looks_at_is_refused(small_dataset: Path, tmp_path: Path) -> None:
    run = trained(small_dataset, tmp_path / "run", "image-only")
    with pytest.raises(UsageError, match="has no attention on a pair without --image"):
        explain_pair(run, None, "a good day", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_rows_count_as_measured_only_with_picture_and_text(run: Path, make_dataset, tmp_path: Path) -> None:
    pairs = draw_pairs(20, prefix="half")
    place = pairs.schema.get_field_index("image")
    images = [image if i % 2 else None for i, image in enumerate(pairs["image"].to_pylist())]
    pairs = pairs.set_column(
        place, pairs.schema.field(place), pa.array(images, pairs.schema.field(place).type)
    )
    found = explain_run(run, n=2, dataset=make_dataset(pairs), out=tmp_path / "out").document
    assert found["faithfulness"]["rows"] == 10


@pytest.mark.parametrize("lost", ["vocabulary.txt", "model.safetensors"])
def test_a_run_without_its_vocabulary_or_weights_is_one_line(run: Path, tmp_path: Path, lost: str) -> None:
    broken = tmp_path / "run"
    shutil.copytree(run, broken, ignore=shutil.ignore_patterns(lost, "explain"))
    with pytest.raises(RunError, match=f"{lost}: missing"):
        explain_run(broken, measured=0)
    assert not (broken / "explain").exists()


@pytest.mark.parametrize("damage", ["ids of other rows", "no test rows"])
def test_answers_about_other_rows_are_one_line(damage: str, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "fold-0" / "predictions.parquet"
    table = pq.read_table(path)
    said = "not those of the dataset"
    if damage == "no test rows":
        said = "has no test rows"
        table = table.filter(pc.not_equal(table["role"], "test"))
    else:
        table = table.set_column(0, "id", pa.array([f"other:{i}" for i in range(len(table))]))
    pq.write_table(table, path)
    with pytest.raises(RunError, match=said):
        explain_run(tmp_path / "run", n=2, measured=0)
