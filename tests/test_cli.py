"""What the command line says when something is wrong: one line, what to do next, and an exit code."""

import errno
import logging
import re
import sys
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from mvsent.cli import PrintableFormatter, app, exit_code, options
from mvsent.cli.command import COMMANDS, PANELS, commands
from mvsent.config import ReconcileSettings, TrainSettings
from mvsent.errors import UsageError, WeightsError
from mvsent.features.backbones import load_backbone
from mvsent.workers.devices import compute_device


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def typed(*words: str) -> tuple[int, str]:
    """The exit code of `mvsent …` and what it says on stderr."""
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer, "echo", lambda text="", err=False, **_: lines.append(str(text)) if err else None)
        code = exit_code(lambda: app(list(words), prog_name="mvsent", standalone_mode=False))
    return code, re.sub(r"\x1b\[\d+m", "", "\n".join(lines))


def failing(error: BaseException) -> typer.Typer:
    program = typer.Typer()

    @program.command()
    def fail() -> None:
        raise error

    return program


def ended(error: BaseException, command: str = "") -> int:
    return exit_code(lambda: failing(error)([], standalone_mode=False), command)


@pytest.mark.parametrize("command", list(commands()))
def test_no_help_shows_a_type_of_python(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"]).stdout
    assert shown.startswith("Usage:") and "list[" not in shown


def test_an_option_of_pairs_shows_their_form() -> None:
    for command, form in (
        ("replay", "--fault NAME=RATE"),
        ("train", "--option KEY=VALUE"),
        ("benchmark", "--option MODEL.KEY=VALUE"),
    ):
        assert form in CliRunner().invoke(app, [command, "--help"]).stdout


@pytest.mark.parametrize("command", ["build-flickr", "build-getty", "refresh", "benchmark"])
def test_a_command_that_goes_on_where_it_was_says_so(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(KeyboardInterrupt(), command) == 130
    assert capsys.readouterr().err == "mvsent: interrupted. The same command continues\n"


def test_any_other_interrupted_command_begins_anew(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(KeyboardInterrupt(), "export") == 130
    assert capsys.readouterr().err == "mvsent: interrupted. The same command begins anew\n"


ODD = "a\nb\x1b[31m\x9b\u202ec"
SHOWN = r"a\nb\x1b[31m\x9b\u202ec"


def test_no_message_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(UsageError(f"{ODD}: no lexicon")) == 2
    assert ended(OSError(errno.ENOENT, "Something failed", ODD)) == 1
    assert ended(typer.BadParameter(ODD)) == 2
    said = capsys.readouterr().err
    assert said.count(SHOWN) == 3
    assert "\x1b" not in said and "\u202e" not in said


def test_no_line_of_the_log_steers_the_terminal() -> None:
    record = logging.LogRecord("mvsent", logging.WARNING, "", 0, "%s: left out", (ODD,), None)
    assert PrintableFormatter("%(message)s").format(record) == f"{SHOWN}: left out"


@pytest.mark.parametrize("command", ["build-flickr", "build-getty", "train"])
@pytest.mark.parametrize("given", ["", " "])
def test_an_empty_out_is_refused_and_not_taken_for_the_current_folder(
    empty_folder: Path, command: str, given: str
) -> None:
    shown = CliRunner().invoke(app, [command, "--out", given])
    assert shown.exit_code == 2
    assert "--out" in shown.output and "is empty" in shown.output
    assert list(empty_folder.iterdir()) == []


@pytest.mark.parametrize("kind", [errno.ENOENT, errno.EISDIR, errno.ENAMETOOLONG, errno.EACCES])
def test_an_error_of_the_file_system_that_names_a_file_is_one_line(
    capsys: pytest.CaptureFixture[str], kind: int
) -> None:
    assert ended(OSError(kind, "Something failed", "a/b.parquet")) == 1
    assert capsys.readouterr().err == (
        "mvsent: a/b.parquet: Something failed. Correct that, then run the same command again\n"
    )


def test_an_error_of_the_system_that_names_no_file_is_not_hidden() -> None:
    with pytest.raises(OSError, match="Cannot fork"):
        ended(OSError(errno.EAGAIN, "Cannot fork"))


def test_a_reader_that_goes_away_ends_the_command_quietly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr", sys.stderr)  # Typer replaces both: they are put back
    monkeypatch.setattr("sys.stdout", sys.stdout)
    assert ended(BrokenPipeError(errno.EPIPE, "Broken pipe")) == 141
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "[trian]\nepochs = 3\n",
            r"unknown table \[trian\]\. Did you mean 'train'\? Known tables are: .*\[train\]",
        ),
        ("epochs = 3\n", r"'epochs' is in no table\. Known tables are"),
        ("train = 3\n", r"'train' should be a table\. Write \[train\]"),
        ("[train]\nepoch = 3\n", r"\[train\]: unknown setting 'epoch'\. Did you mean 'epochs'\?$"),
        (f"[train]\nepochs = {'9' * 5000}\n", r"mvsent\.toml: not a readable TOML file: Exceeds the limit"),
        (f"[train.options{'.a' * 2000}]\nx = 1\n", r"\[train\]: options: .* \(got .{5,80}\)\. "),
        ('[train]\nfolds = "0,,1"\n', r"folds: should be values separated by commas, none of them empty"),
        ("\ufeff[train]\nepochs = 0\n", r"\[train\]: epochs: .*greater than"),
        ("[train]\nepochs = 0\n", r"\[train\]: epochs: .*greater than.*\(got 0\)\. See: mvsent train --help"),
    ],
)
def test_a_mistake_in_mvsent_toml_is_named(empty_folder: Path, content: str, said: str) -> None:
    (empty_folder / "mvsent.toml").write_text(content)
    with pytest.raises(UsageError, match=said):
        COMMANDS["train"].given().resolve()


@pytest.mark.parametrize("folds", ["", "0,,1", "0,"])
def test_an_empty_number_of_a_fold_does_not_mean_all_folds(folds: str, empty_folder: Path) -> None:
    with pytest.raises(UsageError, match="--folds: should be values separated by commas"):
        COMMANDS["train"].given(folds=folds).resolve()


def test_a_misspelt_setting_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MVSENT_TRAIN_EPOCH", "3")
    with pytest.raises(
        UsageError, match=r"^MVSENT_TRAIN_EPOCH: no such setting.*Did you mean 'MVSENT_TRAIN_EPOCHS'"
    ):
        COMMANDS["train"].given().resolve()
    assert COMMANDS["reconcile-mvsa"].given().resolve() == ReconcileSettings()


def test_variables_that_are_no_settings_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CACHE", "MVSA_ROOT", "FLICKR_ENDPOINT", "GETTY_ENDPOINT", "GETTY_TOKEN_URL"):
        monkeypatch.setenv(f"MVSENT_{name}", "x")
    assert COMMANDS["train"].given().resolve() == TrainSettings()


def test_lists_and_options_can_be_written_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MVSENT_TRAIN_FOLDS", "0, 1")
    monkeypatch.setenv("MVSENT_TRAIN_OPTIONS", "without=self,gate=sigmoid")
    settings = COMMANDS["train"].given().resolve()
    assert settings.folds == [0, 1]
    assert settings.options == {"without": "self", "gate": "sigmoid"}
    assert COMMANDS["train"].given().resolve({"folds": "2"}).folds == [2]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"threads": 1025}, "--threads: .*1024"),
        ({"workers": 1025}, "--workers: .*1024"),
        ({"seed": 2**32 - 5}, "--seed: .*4294967290"),
        ({"learning_rate": float("inf")}, "--learning-rate: .*finite"),
        ({"weight_decay": float("nan")}, "--weight-decay: .*finite"),
        ({"folds": [1, 1]}, "--folds: a fold is named twice"),
        ({"folds": [-1]}, "--folds: folds count from 0"),
        ({"options": ["self"]}, "--option: should be KEY=VALUE"),
    ],
)
def test_a_value_out_of_bounds_is_refused_with_a_next_step(flags: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=rf"^{said}.* \(got .*\)\. See: mvsent train --help$"):
        COMMANDS["train"].given(**flags).resolve()


def test_pictures_of_more_than_a_terabyte_are_not_asked_for() -> None:
    with pytest.raises(UsageError, match="See: mvsent reconcile-mvsa --help"):
        COMMANDS["reconcile-mvsa"].given(max_bytes=2**40 + 1).resolve()


@pytest.mark.parametrize(
    "words", [("--seed", "-1"), ("--seed", str(2**32 - 5)), ("--workers", "-1"), ("--workers", "1025")]
)
def test_a_seed_or_a_number_of_workers_out_of_bounds_is_bad_usage(words: tuple[str, str]) -> None:
    code, said = typed("train", *words)
    assert code == 2
    assert said.startswith(f"mvsent: {words[0]}: input should be ")


def test_the_largest_seed_is_the_same_for_options_and_settings() -> None:
    """It is stated twice, since options of the small commands are made without pydantic."""
    assert TrainSettings.stated()["seed"].bounds["le"] == options.MAX_SEED


@pytest.mark.parametrize("content", ["", "[other]\nx = 1\n", "train = 3\n"])
def test_a_file_that_is_no_runs_configuration_is_not_replayed(empty_folder: Path, content: str) -> None:
    (empty_folder / "x.toml").write_text(content)
    code, said = typed("train", "--config", "x.toml")
    assert code == 2
    assert said == "mvsent: x.toml: not a run's config.toml. Give the config.toml of a run folder"


@pytest.mark.parametrize("name", ["cuda:99", "tpu", "mps", "cpu:0", ""])
def test_a_device_that_is_not_here_is_refused_with_those_that_are(name: str) -> None:
    with pytest.raises(UsageError, match=r"--device: .*Choose from: auto, .*cpu"):
        compute_device(name)


def test_devices_are_those_that_torch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [str(compute_device(name)) for name in ("auto", "cuda:1", "cpu")] == ["cuda", "cuda:1", "cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert compute_device("auto") == torch.device("cpu")


@pytest.mark.parametrize("name", ["README.md", "weights.safetensors"])
def test_a_file_that_holds_no_weights_is_refused_without_torchs_advice(empty_folder: Path, name: str) -> None:
    (empty_folder / name).write_text("# Not weights\n")
    with pytest.raises(WeightsError, match=r"state_dict file \(\.pth or \.safetensors\)") as caught:
        load_backbone("resnet50", weights=name)
    assert "weights_only" not in str(caught.value)
    assert len(str(caught.value)) < 200


def headings(*words: str) -> list[str]:
    return re.findall(r"^(\w[\w ]*):$", CliRunner().invoke(app, [*words, "--help"]).output, re.MULTILINE)


def test_the_commands_are_listed_by_what_they_are_for_and_no_sentence_is_cut() -> None:
    assert headings() == ["Options", *PANELS]
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"}).output
    listed = shown.partition("Build:")[2]
    assert sorted(re.findall(r"^  ([a-z-]+)  ", listed, re.MULTILINE)) == sorted(commands())
    assert "..." not in listed
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("train", "Arguments Data Model Inputs Optimisation Machine Output"),
        ("benchmark", "Arguments Data Model Inputs Optimisation Machine Output"),
        ("build-flickr", "Data Text Pictures Machine Output"),
        ("build-getty", "Data Text Pictures Machine Output"),
        ("stats", "Arguments Options"),
    ],
)
def test_many_options_are_listed_under_headings(command: str, told: str) -> None:
    assert headings(command) == told.split()


def test_help_of_an_option_reads_alone() -> None:
    shown = CliRunner().invoke(app, ["train", "--help"]).output
    for cut in (" Of Adam.", " At most.", " Of the CPU."):
        assert cut not in shown
    for whole in ("Half precision on CUDA.", "Maximum number of epochs.", "CPU threads of torch."):
        assert whole in " ".join(shown.split())
