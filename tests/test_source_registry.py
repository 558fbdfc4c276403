"""A source is one object: once it is registered, commands, help, keys, terms and refresh know it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from mvsent.build.refresh import open_refreshable
from mvsent.cli import app
from mvsent.config import BuildSettings, lexicon
from mvsent.lexicons import Term, load_lexicon
from mvsent.shards.reader import Dataset
from mvsent.sources import registry
from mvsent.sources.crawl.candidate import Candidate, Query, SearchPage, Size, Window
from mvsent.sources.registry import Key, Keys, Paging, SearchedSource, Terms
from tests.drawing import draw_picture
from tests.fault_server import answer, serving


class ToySettings(BuildSettings):
    """The settings of `build-toy`."""

    words: str = lexicon(unset="happy and sad")


def words(settings: ToySettings) -> list[Term]:
    return load_lexicon(settings.words) if settings.words else [Term("happy", 1.0), Term("sad", -1.0)]


class ToyClient:
    """Finds three pictures for each query, without asking anybody."""

    def __init__(self, settings: ToySettings, keys: Keys) -> None:
        assert keys == {"TOY_API_KEY": SecretStr("sesame")}
        self.images = settings.endpoint

    def search(self, query: Query, window: Window) -> SearchPage:
        found = tuple(
            Candidate(
                id=f"toy:{query.text}{n}",
                title=f"Toy {n}",
                description=f"A {query.text} toy that a child has left here",
                tags=(),
                sizes=(Size(f"{self.images}/{query.text}{n}.jpg", 96, 72),),
                page_url="",
                license="",
                owner="",
                posted_at=None,
            )
            for n in range(3)
        )
        return SearchPage(len(found), window.page, 1, found, ())


TOY = SearchedSource(
    name="toy",
    title="the toy shop",
    about="Needs TOY_API_KEY.\n\nExample: mvsent build-toy --dry-run",
    settings=ToySettings,
    keys=(Key("TOY_API_KEY", "https://toys.example.org/keys"),),
    paging=Paging(per_page=100),
    lexicon=words,
    search=lambda settings, keys: ToyClient(settings, keys).search,
    still_public=lambda settings, keys: lambda id: id != "toy:sad1",
    terms=Terms("Toys are for playing with.", "https://toys.example.org/terms"),
)


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The toy source is registered, and forgotten afterwards; the working directory is empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TOY_API_KEY", raising=False)
    registry.register(TOY, "Build a dataset from a toy shop.")
    yield
    registry.unregister("toy")


@pytest.fixture
def images() -> Iterator[str]:
    """The address of a host with the toys' pictures."""
    with serving() as server:
        for seed, name in enumerate(f"{word}{n}" for word in ("happy", "sad") for n in range(3)):
            server.answers[f"/{name}.jpg"] = [answer(body=draw_picture(2, seed))]
        yield server.url("")


def run(line: str, **environment: str) -> str:
    """Type `mvsent LINE`; returns what it printed. Fails where it fails."""
    result = CliRunner().invoke(app, line.split(), env=environment, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_its_command_stands_in_the_help_with_its_settings() -> None:
    assert "build-toy" in run("--help") and "Build a dataset from a toy shop." in run("--help")
    shown = " ".join(run("build-toy --help").split())
    assert "Needs TOY_API_KEY." in shown and "Example: mvsent build-toy --dry-run" in shown
    assert "--words" in shown and "[default: happy and sad]" in shown and "--max-pairs" in shown


def test_doctor_names_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    assert json.loads(run("doctor --json"))["API keys"]["TOY_API_KEY"] == "not set"


def test_its_settings_are_a_table_of_the_configuration(tmp_path: Path) -> None:
    run("init")
    assert "[build-toy]" in Path("mvsent.toml").read_text()
    Path("mvsent.toml").write_text("[build-toy]\nper_query = 7\n")
    assert json.loads(run("build-toy --dry-run --json"))["per_query"] == 7


def test_without_its_key_it_says_where_to_get_one() -> None:
    result = CliRunner().invoke(app, ["build-toy"])
    assert "No TOY_API_KEY is set. Get one at https://toys.example.org/keys" in str(result.exception)


@pytest.mark.slow
def test_its_build_is_a_dataset_whose_card_has_its_terms(images: str) -> None:
    given: dict[str, Any] = {"TOY_API_KEY": "sesame"}
    funnel = json.loads(run(f"build-toy --endpoint {images} --quiet --json", **given))["funnel"]
    assert funnel == {"input": 6, "kept": 6, "dropped": {}}
    rows = pq.read_table("data/toy/data").to_pylist()
    assert {(row["source"], row["query"], row["label"]) for row in rows} == {
        ("toy", "happy", 2),
        ("toy", "sad", 0),
    }
    card = Path("data/toy/README.md").read_text()
    assert "Toys are for playing with." in card and "license_link: https://toys.example.org/terms" in card


@pytest.mark.slow
def test_refresh_asks_the_source_that_the_dataset_is_of(images: str) -> None:
    run(f"build-toy --endpoint {images} --quiet --json", TOY_API_KEY="sesame")
    assert open_refreshable(Path("data/toy"))[1] is TOY
    assert json.loads(run("refresh data/toy --json", TOY_API_KEY="sesame"))["removed"] == ["toy:sad1"]
    assert len(Dataset.open(Path("data/toy"))) == 5


@pytest.mark.parametrize("name", [*registry.SEARCHED, *registry.OTHERS])
def test_a_registered_source_has_terms_and_the_name_that_it_is_registered_by(name: str) -> None:
    source = registry.source(name)
    assert source.name == name and source.terms.text
    assert isinstance(source, SearchedSource) == (name in registry.SEARCHED)


@pytest.mark.parametrize("name", list(registry.SEARCHED))
def test_a_searched_source_states_its_keys_and_takes_an_endpoint_from_the_environment(name: str) -> None:
    source = registry.searched(name)
    assert all(key.name.startswith(name.upper()) and key.url.startswith("https://") for key in source.keys)
    assert source.settings.stated()["endpoint"].variable == f"MVSENT_{name.upper()}_ENDPOINT"
