"""What makes the command line comfortable: init, completion, colours, slips, --json, --quiet, resume hints."""

import ast
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from mvsent.cli import app, complete
from mvsent.cli.command import sections
from mvsent.datasets import export
from mvsent.errors import UsageError, did_you_mean
from mvsent.features.backbones import BACKBONES
from mvsent.inference import export_model
from mvsent.models import registry
from mvsent.runs import evaluate
from mvsent.serve import server
from mvsent.splits import PROTOCOLS
from tests import programs

ROOT = Path(__file__).parents[1]
GROUP: Any = typer.main.get_command(app)
SECTIONS = {section: command.kind for section, command in sections().items()}
COMMANDS = sorted(GROUP.commands)
AS_INSTALLED = "import sys; sys.argv[0] = 'mvsent'; from mvsent.cli import main; main()"
COLOUR = "\x1b["


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(*words: str, code: int = 0) -> str:
    shown = CliRunner().invoke(app, list(words), prog_name="mvsent")
    assert shown.exit_code == code, shown.output
    return shown.stdout


def uncommented(text: str) -> str:
    return re.sub(r"^#(?=\S)", "", text, flags=re.MULTILINE)


# init


def test_init_writes_a_file_that_changes_nothing(empty_folder: Path) -> None:
    assert "Next: " in said("init")
    written = (empty_folder / "mvsent.toml").read_text()
    assert tomllib.loads(written) == {section: {} for section in SECTIONS}
    assert all(sections()[section].given().resolve() == kind() for section, kind in SECTIONS.items())


def test_every_setting_of_the_file_of_init_is_there_at_its_default(empty_folder: Path) -> None:
    said("init", "--quiet")
    path = empty_folder / "mvsent.toml"
    path.write_text(uncommented(path.read_text()))
    found = tomllib.loads(path.read_text())
    assert list(found) == list(SECTIONS)
    for section, kind in SECTIONS.items():
        assert list(found[section]) == list(kind.model_fields)
        assert sections()[section].given().resolve() == kind()


def test_every_setting_of_the_file_of_init_has_one_line_that_says_what_it_is() -> None:
    said("init")
    lines = Path("mvsent.toml").read_text().splitlines()
    for before, line in pairwise(lines):
        if re.match(r"#\w+ = ", line):
            assert re.match(r"# .{8,}[.…]$", before), line
    told = dict(zip(lines[1:], lines, strict=False))
    assert "0: 40 for tweets, 100 otherwise" in told["#max_words = 0"]
    assert told['#dataset = ""'].endswith("Empty: the newest in data.")


def test_a_line_of_the_file_of_init_counts_once_its_sign_is_taken_away(empty_folder: Path) -> None:
    said("init")
    path = empty_folder / "mvsent.toml"
    path.write_text(path.read_text().replace("#epochs = 50", "epochs = 3"))
    assert sections()["train"].given().resolve() == SECTIONS["train"](epochs=3)


def test_init_replaces_nothing_unless_it_is_told_to(empty_folder: Path) -> None:
    (empty_folder / "mvsent.toml").write_text("[train]\nepochs = 3\n")
    refused = CliRunner().invoke(app, ["init"])
    assert refused.exit_code == 1 and "Give --overwrite" in str(refused.exception)
    assert (empty_folder / "mvsent.toml").read_text() == "[train]\nepochs = 3\n"
    document = json.loads(said("init", "--overwrite", "--json"))
    assert document["file"] == "mvsent.toml"
    assert document["settings"]["train"]["epochs"] == 50
    assert "epochs = 3" not in (empty_folder / "mvsent.toml").read_text()


@pytest.mark.parametrize("section", SECTIONS)
def test_every_setting_is_an_option_of_its_command(section: str) -> None:
    parameters = {parameter.name for parameter in GROUP.commands[section].params}
    assert list(SECTIONS[section].stated()) == list(SECTIONS[section].model_fields)
    assert set(SECTIONS[section].model_fields) <= parameters


# Every command

# They run until Ctrl-C, and all that they say before is where they answer.
NEVER_QUIET = {"replay", "serve"}


def options_of(command: Any) -> set[str]:
    return {name for parameter in command.params for name in parameter.opts}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_json_and_quiet(name: str) -> None:
    options = options_of(GROUP.commands[name])
    assert "--json" in options
    assert ("--quiet" in options) != (name in NEVER_QUIET)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_in_the_help_of_every_command_can_be_typed(name: str) -> None:
    _, _, example = GROUP.commands[name].help.partition("Example: ")
    program, given, *words = shlex.split(example)
    assert (program, given) == ("mvsent", name)
    GROUP.commands[name].make_context(name, words)
    assert "Example: mvsent" in said(name, "--help")


def test_serve_says_in_json_where_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "serve", lambda run, *, ready, **_: ready("http://127.0.0.1:8000/"))
    assert json.loads(said("serve", "a-run", "--json")) == {"address": "http://127.0.0.1:8000/"}


def test_replay_says_in_json_what_to_set() -> None:
    with subprocess.Popen(
        programs.mvsent("replay", "--photos", "3", "--json"),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        given = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
    assert process.returncode == 0
    assert given["MVSENT_FLICKR_ENDPOINT"].startswith("http://127.0.0.1:")


# Slips


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["trian"], "'train'"),
        (["train", "--epoch", "3"], "--epochs"),
        (["--versoin"], "--version"),
    ],
)
def test_a_slip_in_a_command_or_an_option_is_answered_with_the_one_that_was_meant(
    words: list[str], meant: str
) -> None:
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 2
    assert meant in shown.output


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["train", "no-data", "--model", "dmlanett"], "dmlanet"),
        (["train", "no-data", "--option", "dropuot=0"], "dropout"),
        (["train", "no-data", "--model", "Logistic"], "logistic"),
        (["eval", "no-run", "--metrics", "rok"], "roc"),
        (["eval", "no-run", "--missing", "imgae"], "image"),
        (["export", "no-data", "--to", "imagefoldr"], "imagefolder"),
        (["export-model", "no-run", "--to", "onyx"], "onnx"),
        (["lexicon", "anp"], "anps"),
        (["lexicon", "anps", "--pattern", "hapy_dog"], "happy_dog"),
        (["replay", "--fault", "image-40=1"], "image-404"),
        (["benchmark", "no-data", "--protocol", "papr-5x"], "paper-5x"),
        (["predict", "no-run", "table.csv", "--format", "jsnl"], "jsonl"),
    ],
)
def test_a_slip_in_a_name_is_answered_with_the_one_that_was_meant(words: list[str], meant: str) -> None:
    shown = CliRunner().invoke(app, words)
    assert f". Did you mean {meant!r}? " in str(shown.exception)


def test_a_name_that_is_near_none_gets_the_list_alone() -> None:
    assert did_you_mean("resnet", ["onnx", "safetensors"]) == ""
    with pytest.raises(UsageError, match=r"^no model is called 'x'\. Known are: "):
        registry.card("x")


# Completion


def completed(*words: str) -> tuple[list[str], bool]:
    """What bash is offered for the last of the words, and whether torch was loaded for it."""
    watched = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr))\n"
    line = " ".join(["mvsent", *words])
    done = subprocess.run(
        [sys.executable, "-c", watched + AS_INSTALLED],
        env={
            **os.environ,
            "_MVSENT_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words)),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.split(), done.stderr.strip() != "False"


@pytest.mark.slow
def test_bash_is_given_a_script_that_completes() -> None:
    done = subprocess.run(
        [sys.executable, "-c", AS_INSTALLED, "--show-completion", "bash"],
        # or it would look for a shell among the processes above, and a test may have none
        env={**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "_MVSENT_COMPLETE=complete_bash" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["export-"], ["export-model"]),
        (["train", "--model", "dml"], ["dmlanet", "dmlanet-plus"]),
        (["eval", "--metrics", "roc,c"], ["roc,confusion", "roc,curves"]),
    ],
)
def test_names_are_completed_without_waiting_for_torch(words: list[str], offered: list[str]) -> None:
    assert completed(*words) == (offered, False)


def test_the_names_that_are_completed_are_those_that_exist() -> None:
    assert complete.models() == registry.names()
    assert complete.PROTOCOLS == PROTOCOLS
    assert set(complete.BACKBONES) == set(BACKBONES)
    assert complete.PICTURES == evaluate.PICTURES
    assert complete.DATASET_FORMATS == export.FORMATS
    assert set(complete.MODEL_FORMATS) == set(export_model.SUFFIX)


@pytest.mark.parametrize(
    ("command", "option"),
    [
        *((name, "--protocol") for name in ("train", "split", "benchmark", "train-anps")),
        *((name, "--backbone") for name in ("train", "benchmark", "train-anps")),
        *(("train", "--model"), ("benchmark", "--models"), ("benchmark", "--against"), ("eval", "--metrics")),
        *(("export", "--to"), ("export-model", "--to")),
    ],
)
def test_an_option_that_takes_a_name_completes_it(command: str, option: str) -> None:
    found = GROUP.commands[command]
    parameter = next(one for one in found.params if option in one.opts)
    assert parameter.shell_complete(typer.Context(found), "")


# Colours


def on_a_terminal(*words: str, before: str = "", **environment: str) -> tuple[str, str]:
    """What `mvsent …` writes to stdout and to stderr, each a terminal; `before` is run in its process first."""
    plain = {
        name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM", "FORCE_COLOR")
    }
    ends = [pty.openpty(), pty.openpty()]
    process = subprocess.Popen(
        programs.python("-c", before + AS_INSTALLED, *words),
        env={**plain, "TERM": "xterm", **environment},
        stdin=subprocess.DEVNULL,
        stdout=ends[0][1],
        stderr=ends[1][1],
    )
    for _, theirs in ends:
        os.close(theirs)
    process.wait(60)
    return shown_on(ends[0][0]), shown_on(ends[1][0])


def shown_on(terminal: int) -> str:
    parts = []
    try:
        while part := os.read(terminal, 4096):
            parts.append(part)
    except OSError:  # Linux says so where the other end is closed
        pass
    os.close(terminal)
    return b"".join(parts).decode()


def test_what_went_wrong_stands_out_on_a_terminal() -> None:
    assert (
        f"{COLOUR}31mmvsent:{COLOUR}0m nowhere.tsv: No such file"
        in on_a_terminal("lexicon", "nowhere.tsv")[1]
    )


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_nothing_is_coloured_where_colours_are_unwanted(environment: dict[str, str]) -> None:
    said = on_a_terminal("lexicon", "nowhere.tsv", **environment)[1]
    assert said.startswith("mvsent: nowhere.tsv: No such file")
    assert COLOUR not in said


def test_nothing_is_coloured_in_a_pipe() -> None:
    command = programs.python("-c", AS_INSTALLED, "lexicon", "nowhere.tsv")
    done = subprocess.run(
        command, env={**os.environ, "TERM": "xterm"}, capture_output=True, text=True, check=False
    )
    assert done.stderr.startswith("mvsent: nowhere.tsv: No such file")


@pytest.mark.slow
def test_the_sections_of_doctor_are_bold_on_a_terminal_that_wants_it() -> None:
    healthy = (
        "from mvsent import doctor\n"
        "doctor.examine = lambda: doctor.Examination({'versions': {'python': '3'}})\n"
    )
    assert f"{COLOUR}1mversions{COLOUR}0m" in on_a_terminal("doctor", before=healthy)[0]
    for unwanted in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert on_a_terminal("doctor", before=healthy, **unwanted)[0].startswith("versions")


@pytest.mark.slow
def test_every_progress_bar_can_be_hidden() -> None:
    """A bar on what is no terminal fills a log file with its every state."""
    bars = [
        (path.name, {keyword.arg for keyword in node.keywords})
        for path in (ROOT / "mvsent").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "tqdm"
    ]
    assert len(bars) > 5
    assert [name for name, keywords in bars if "disable" not in keywords] == []


# Resume hints


@pytest.mark.slow
def test_an_interrupted_training_names_the_command_that_continues_it_and_so_does_that(
    small_dataset: Path, empty_folder: Path
) -> None:
    long = "--epochs 100000 --patience 100000 --device cpu"
    typed = f"train {small_dataset} --model text-only --words random {long}"
    out = empty_folder / "a run"
    hint = f"mvsent train --resume --out '{out}'"
    for words in ([*shlex.split(typed), "--out", str(out)], shlex.split(hint)[1:]):
        said = interrupted(words, empty_folder)
        assert said.endswith(f"mvsent: interrupted. It goes on where it was with: {hint}\n")


def interrupted(words: list[str], cwd: Path) -> str:
    """What the command says on stderr when Ctrl-C comes after its first epoch."""
    with subprocess.Popen(
        programs.mvsent(*words),
        cwd=cwd,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        before = next(line for line in process.stderr if " epoch " in line)
        process.send_signal(signal.SIGINT)
        after = process.stderr.read()
    assert process.returncode == 130, before + after
    return after


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-"])
def test_a_closed_output_is_no_crash(closed: str) -> None:
    command = f"{shlex.join(programs.mvsent('lexicon', 'keywords'))} {closed}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
