"""One field states a setting: options, help, init, completion, variables and the reference follow from it."""

import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import typer
from typer.testing import CliRunner

from mvsent.cli import app, set_up
from mvsent.cli.command import COMMANDS, Command, commands, sections
from mvsent.config import ReconcileSettings, TrainSettings
from mvsent.errors import UsageError
from mvsent.setting import Settings, setting
from mvsent.sources.flickr import FlickrSettings
from mvsent.sources.getty import GettySettings

ROOT = Path(__file__).parents[1]


class Tea(Settings):
    """The settings of `brew`."""

    minutes: int = setting(3, "Pot", "Minutes that the leaves stay in.", ge=1, le=9)
    kind: Literal["green", "black"] = setting("black", "Pot", "Leaves to take.")
    sweet: bool = setting(False, "Cup", "Add sugar.", changes_result=False)
    hot: bool = setting(True, "Cup", "Serve it hot.")
    guests: list[int] = setting([], "Cup", "Guests to serve.", unset="all", flags=("--guests", "-g"))


class LongerTea(Tea):
    """Another default, nothing else."""

    minutes: int = setting(5, "Pot", "Minutes that the leaves stay in.", ge=1, le=9)


Brew = Callable[..., list[Settings]]


@pytest.fixture
def brew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Brew:
    """Types `mvsent brew …` and returns the settings that the command got."""
    monkeypatch.chdir(tmp_path)

    def typed(*words: str, kind: type[Tea] = Tea) -> list[Settings]:
        got: list[Settings] = []

        def function(given: Any) -> None:
            """Brew tea."""
            got.append(given.resolve())

        command = Command("brew", "Build", function, settings=kind)
        monkeypatch.setitem(COMMANDS, "brew", command)
        context = command.make_context("brew", list(words))
        command.invoke(context)
        return got

    return typed


def brew_help(kind: type[Tea], brew: Brew) -> str:
    brew(kind=kind)
    return " ".join(COMMANDS["brew"].get_help(typer.Context(COMMANDS["brew"])).split())


@pytest.mark.parametrize(("kind", "minutes"), [(Tea, 3), (LongerTea, 5)])
def test_a_changed_default_shows_in_the_help_the_file_the_reference_and_the_value(
    kind: type[Tea], minutes: int, brew: Brew, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert brew(kind=kind) == [kind(minutes=minutes)]
    assert f"Minutes that the leaves stay in. [default: {minutes}; 1 to 9]" in brew_help(kind, brew)
    assert f"# Minutes that the leaves stay in.\n#minutes = {minutes}\n" in set_up.table("brew", kind)
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    page = pytest.importorskip("reference").settings_page()
    assert f"| `minutes` | Minutes that the leaves stay in. | 1 to 9 | {minutes} |" in page


def test_type_choices_and_other_names_of_an_option_come_from_the_field(brew: Brew) -> None:
    told = brew_help(Tea, brew)
    for shown in ("--minutes <int>", "--kind <green|black>", "--sweet ", "--hot / --no-hot", "-g, --guests"):
        assert shown in told
    assert "--no-sweet" not in told
    assert brew("--no-hot", "--sweet", "--kind", "green", "-g", "1,2") == [
        Tea(hot=False, sweet=True, kind="green", guests=[1, 2])
    ]


def test_choices_are_completed(brew: Brew) -> None:
    brew()
    parameter = next(one for one in COMMANDS["brew"].params if one.name == "kind")
    assert [one.value for one in parameter.shell_complete(typer.Context(COMMANDS["brew"]), "gr")] == ["green"]


def test_options_override_the_environment_and_that_the_file(
    brew: Brew, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("mvsent.toml").write_text('[brew]\nminutes = 7\nkind = "green"\nguests = [1]\n')
    monkeypatch.setenv("MVSENT_BREW_KIND", "black")
    monkeypatch.setenv("MVSENT_BREW_GUESTS", "2")
    assert brew("--guests", "3") == [Tea(minutes=7, kind="black", guests=[3])]


@pytest.mark.parametrize(
    ("file", "environment", "words", "told"),
    [
        (
            "minutes = 10",
            {},
            [],
            "mvsent.toml [brew]: minutes: input should be less than or equal to 9 (got 10)",
        ),
        ("", {"MVSENT_BREW_MINUTES": "ten"}, [], "MVSENT_BREW_MINUTES: input should be a valid integer"),
        ("", {}, ["--minutes", "0"], "--minutes: input should be greater than or equal to 1 (got 0)"),
        (
            "",
            {},
            ["--kind", "grean"],
            "--kind: input should be 'green' or 'black' (got 'grean'). Did you mean 'green'?",
        ),
        ("minute = 1", {}, [], "mvsent.toml [brew]: unknown setting 'minute'. Did you mean 'minutes'?"),
        (
            "",
            {"MVSENT_BREW_MINUTE": "1"},
            [],
            "MVSENT_BREW_MINUTE: no such setting in the environment. Did you",
        ),
    ],
)
def test_an_error_names_where_the_value_was_set(
    file: str,
    environment: dict[str, str],
    words: list[str],
    told: str,
    brew: Brew,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("mvsent.toml").write_text(f"[brew]\n{file}\n")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError) as caught:
        brew(*words)
    assert str(caught.value).startswith(told)


def test_the_table_of_a_command_is_toml_and_changes_nothing() -> None:
    text = set_up.table("brew", Tea)
    assert tomllib.loads(text) == {"brew": {}}
    assert Tea(**tomllib.loads(text.replace("\n#", "\n").replace("\n ", "\n# "))["brew"]) == Tea()


def test_the_settings_that_cannot_change_a_result_are_known() -> None:
    """With another one of these a run, a benchmark or a crawl continues: nobody adds one by accident."""
    crawl = {"endpoint", "quota_per_hour", "images_per_second", "patience", "concurrency"}
    assert Tea.without_effect() == {"sweet"}
    assert FlickrSettings.without_effect() == crawl | {"anps", "dumps"}
    assert GettySettings.without_effect() == crawl | {"keywords", "token_url"}
    assert ReconcileSettings.without_effect() == set()
    assert TrainSettings.without_effect() == {
        *(
            "dataset",
            "device",
            "devices",
            "parallel",
            "checkpoint_every",
            "threads",
            "workers",
            "tensorboard",
        ),
    }


@pytest.mark.parametrize("section", sections())
def test_every_setting_says_what_it_is_in_a_sentence(section: str) -> None:
    for stated in sections()[section].kind.stated().values():
        assert stated.help[0].isupper() and stated.help.endswith((".", "…")), stated.name
        assert str(stated.default) not in stated.help.split() or stated.choices or not stated.default, (
            stated.name
        )


def test_the_list_of_commands_waits_for_no_library() -> None:
    code = (
        "import sys; from mvsent.cli import app; app(['--help'], standalone_mode=False)\n"
        "print(sorted({'pydantic', 'rich', 'numpy', 'pyarrow', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_every_command_can_be_made() -> None:
    for name, command in commands().items():
        assert command.params, name
        assert CliRunner().invoke(app, [name, "--help"]).exit_code == 0
