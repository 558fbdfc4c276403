"""docs/models.md names every model, every option and every way to read more."""

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mvsent.cli import app
from mvsent.models import registry
from mvsent.runs.benchmark_plan import systems

PAGE = (Path(__file__).parents[1] / "docs" / "models.md").read_text(encoding="utf-8")
FLAGS = (
    "words",
    "text-vector",
    "backbone",
    "scene-backbone",
    "captions",
    "lexicon",
    "tokens",
    "anps",
    "fine-tune-words",
)


def help_of(command: str) -> str:
    return CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).stdout


@pytest.mark.parametrize("name", registry.names())
def test_a_model_is_in_the_table_with_its_fidelity_and_its_options_below(name: str) -> None:
    card = registry.card(name)
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |"))
    assert f"| {card.fidelity} |" in row
    assert all(what in row for what in card.reads | card.may_read)
    for numbers in card.published.values():
        assert all(f"{value:.2f}" in row for value in (numbers.accuracy, numbers.f1) if value is not None)
    for ablation, by_dataset in card.published_ablations.items():
        assert ablation in card.ablations
        numbers = [f"{n.accuracy:.2f} / {n.f1:.2f}" for n in by_dataset.values()]
        assert f"| {ablation} | {' | '.join(numbers)} |" in PAGE
    (options,) = re.findall(rf"^`{name}` takes: (.*)\.$", PAGE, re.MULTILINE)
    expected = {f"{key}={field.default}" for key, field in card.options.model_fields.items()}
    assert set(re.findall("`([^`]*)`", options)) == expected


@pytest.mark.parametrize("flag", FLAGS)
def test_a_way_to_read_more_is_on_the_page_and_among_the_flags(flag: str) -> None:
    assert f"--{flag}" in PAGE
    assert f"--{flag} " in help_of("train")


def test_every_example_names_models_options_and_flags_that_exist() -> None:
    examples = re.findall(r"^mvsent (.*)$", PAGE, re.MULTILINE)
    assert len(examples) >= 9
    for example in examples:
        command, *words = shlex.split(example)
        shown = help_of(command)
        assert all(word in shown for word in words if word.startswith("--")), example
        if "--model" in words:
            given = [words[i + 1].split("=") for i, word in enumerate(words) if word == "--option"]
            registry.options(words[words.index("--model") + 1], dict(given))


def test_the_models_command_prints_each_with_kind_tables_and_numbers() -> None:
    shown = CliRunner().invoke(app, ["models"]).stdout
    assert [line.split()[0] for line in shown.splitlines() if line and line[0] != " "] == registry.names()
    assert "dmlanet  (a paper's, reconstructed, Table 2, Table 3, Table 4)" in shown
    assert "mvsa-single accuracy 79.47, F1 79.59" in shown
    published = "mvsa-multiple accuracy 70.00, F1 70.17; flickr accuracy 81.90, F1 82.44"
    assert f"    dmlanet w/o SMAtt  (without=semantic)  {published}\n" in shown
    assert "uses if there: image vector, lexicon, modality labels, text vector" in shown


def test_the_models_command_prints_every_ablation_as_table_4_calls_it() -> None:
    shown = CliRunner().invoke(app, ["models"]).stdout.splitlines()
    documents = json.loads(CliRunner().invoke(app, ["models", "--json"]).stdout)
    ablations = {document["name"]: document["ablations"] for document in documents}
    named = [name for name in registry.names() if registry.card(name).ablations]
    assert {"dmlanet", "dmlanet-plus"} <= set(named)
    for system in systems("4", named):
        if system.ablation:
            assert any(line.startswith(f"    {system.name}  (") for line in shown), system.name
            assert ablations[system.card.name][system.ablation] == system.options
