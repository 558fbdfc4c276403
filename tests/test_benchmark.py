"""`mvsent benchmark`: every system by one command, resumable cell by cell, and blind to the test rows."""

import csv
import json
import math
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from mvsent.cli import app
from mvsent.config import TrainSettings
from mvsent.datasets.split import split_dataset
from mvsent.errors import Interrupted, SplitError, UsageError
from mvsent.learn.bootstrap import Answered, interval, pair_numbers, resampled_means
from mvsent.learn.significance import corrected_t_test, holm
from mvsent.models import registry
from mvsent.report import benchmark_tables as report
from mvsent.runs import benchmark as harness
from mvsent.runs import evaluate as evaluation
from mvsent.runs.benchmark_plan import Asked, plan, systems
from mvsent.runs.benchmark_results import make_row
from mvsent.runs.run_folder import RunFolder
from mvsent.runs.train import train
from mvsent.runs.trial import saved_trial
from mvsent.shards.reader import Dataset
from mvsent.splits import TEST, TRAIN, VALIDATION
from tests import programs
from tests.drawing import draw_pairs
from tests.run_folder import write_run
from tests.test_second_annotation import twice

SHORT = shlex.split(
    "--weights random --words random --text-vector none --epochs 2 --batch-size 16 --threads 1"
)
COMMON = TrainSettings(
    weights="random", words="random", text_vector="none", epochs=2, batch_size=16, threads=1, folds=[0, 1]
)


@pytest.fixture(autouse=True, scope="module")
def _few_resamplings() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "RESAMPLES", 20)
        yield


def typed(*words: str | Path) -> Any:
    return CliRunner().invoke(app, ["benchmark", *map(str, words)])


def asked(dataset: Path, out: Path, *models: str, **changes: Any) -> Asked:
    """Two folds of the plain protocol."""
    given = {
        "datasets": [dataset],
        "tables": ["2"],
        "models": models,
        "protocols": ["paper-5x"],
        "options": {},
        "common": COMMON,
        "out": out,
        "against": "dmlanet",
    }
    return Asked(**{**given, **changes})


def stamps(out: Path) -> dict[str, int]:
    """When each file of a run was written."""
    runs = [path for path in out.rglob("*") if path.is_file() and "-s0" in str(path)]
    return {str(path): path.stat().st_mtime_ns for path in runs}


@pytest.fixture(scope="module")
def table_two(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole Table II, made by one command."""
    out = tmp_path_factory.mktemp("benchmark") / "out"
    done = typed(small_dataset, "--table", "2", "--folds", "0,1,2", "--out", out, "--quiet", *SHORT)
    assert done.exit_code == 0, done.output
    return out


def rows_of(out: Path) -> list[dict[str, Any]]:
    [table] = json.loads((out / "results.json").read_text())["tables"]
    return list(table["rows"])


@pytest.mark.slow
def test_one_command_runs_every_system_of_the_table_by_both_protocols(table_two: Path) -> None:
    of_paper = [name for name in registry.names() if 2 in registry.card(name).tables]
    others = [name for name in registry.names() if registry.card(name).kind != "paper"]
    found = {(row["system"], row["protocol"]) for row in rows_of(table_two)}
    names = ["majority", *of_paper, *others]
    assert found == {(name, protocol) for name in names for protocol in ("paper-5x", "grouped-paper-5x")}
    for row in rows_of(table_two):
        assert row["seed"] == 0 and re.fullmatch("[0-9a-f]{8}", row["split_sha256"]) and not row["failure"]
        assert row["parameters"] or row["system"] in ("majority", "pair-memory"), row["system"]


@pytest.mark.slow
def test_a_finished_benchmark_is_not_repeated(table_two: Path, small_dataset: Path) -> None:
    before, tables = stamps(table_two), (table_two / "results.md").read_text()
    again = typed(small_dataset, "--table", "2", "--folds", "0,1,2", "--out", table_two, "--quiet", *SHORT)
    assert again.exit_code == 0
    assert stamps(table_two) == before
    assert (table_two / "results.md").read_text() == tables


@pytest.mark.slow
def test_the_significance_is_that_of_the_same_folds_against_the_reference(
    table_two: Path, small_dataset: Path
) -> None:
    from scipy import stats

    rows = {row["system"]: row for row in rows_of(table_two) if row["protocol"] == "paper-5x"}
    assert rows["dmlanet"]["p"] is None
    split = split_dataset(small_dataset).split
    n_test, n_train = (sum(len(split.rows(k, role)) for k in range(3)) / 3 for role in (TEST, TRAIN))
    checked = 0
    for name in set(rows) - {"majority", "dmlanet"}:
        pairs = zip(rows[name]["folds"], rows["dmlanet"]["folds"], strict=True)
        d = [ours["accuracy"] - theirs["accuracy"] for ours, theirs in pairs]
        mean = sum(d) / 3
        variance = sum((x - mean) ** 2 for x in d) / 2
        if variance > 1e-12:
            t = mean / math.sqrt((1 / 3 + n_test / n_train) * variance)
            assert rows[name]["p"] == pytest.approx(2 * stats.t.sf(abs(t), 2))
            checked += 1
    assert checked


@pytest.mark.slow
def test_the_leak_is_the_plain_accuracy_minus_the_grouped_one(table_two: Path) -> None:
    rows = {(row["system"], row["protocol"]): row for row in rows_of(table_two)}
    for (system, protocol), row in rows.items():
        plain, grouped = rows[system, "paper-5x"], rows[system, "grouped-paper-5x"]
        difference = plain["accuracy"]["mean"] - grouped["accuracy"]["mean"]
        assert row["leak"] == pytest.approx(difference), protocol
    lines = (table_two / "results.md").read_text().splitlines()
    [header] = [line for line in lines if line.startswith("| system")]
    place = [cell.strip() for cell in header.split("|")].index("leak")
    [shown] = [line.split("|")[place].strip() for line in lines if line.startswith("| image-only")]
    low, leak, high = (
        100 * rows["image-only", "paper-5x"][name] for name in ("leak_low", "leak", "leak_high")
    )
    assert shown == f"{leak:+.2f} ({low:+.2f} to {high:+.2f})", "a reader sees points"


@pytest.mark.slow
def test_a_leak_has_an_interval_of_pairs_that_are_drawn_with_all_their_test_rows(table_two: Path) -> None:
    """A system without an error has no leak, and an interval of 0."""
    for row in rows_of(table_two):
        assert row["leak_low"] <= row["leak"] <= row["leak_high"], row["system"]
    plain, grouped = (
        saved_trial(RunFolder.open(table_two / "small" / protocol / "image-only-s0"))
        for protocol in ("paper-5x", "grouped-paper-5x")
    )
    pairs = pair_numbers([fold.answers.ids for trial in (plain, grouped) for fold in trial.tested])
    both = [Answered(plain.answered.folds, pairs[:3]), Answered(grouped.answered.folds, pairs[3:])]
    one, other = (means["accuracy"] for means in resampled_means(both, [0, 1, 2], only=["accuracy"]))
    [row] = [r for r in rows_of(table_two) if (r["system"], r["protocol"]) == ("image-only", "paper-5x")]
    assert (row["leak_low"], row["leak_high"]) == pytest.approx(interval(one - other))


def test_a_table_of_two_grouped_protocols_has_a_leak_for_each() -> None:
    summary = {"mean": 0.7, "std": None, "low": 0.6, "high": 0.8}
    empty = ("published_accuracy", "published_f1", "p", "p_holm", "parameters", "seconds")
    row = dict.fromkeys(empty) | {"system": "one", "fidelity": "exact", "failure": ""}
    row |= dict.fromkeys(("accuracy", "f1_weighted", "f1_macro"), summary)
    leaks = {"paper-5x": 0.01, "grouped-paper-5x": 0.01, "grouped-near-paper-5x": 0.02, "file-mine": None}
    rows = [
        row | {"protocol": name, "leak": leak, "leak_low": leak, "leak_high": leak}
        for name, leak in leaks.items()
    ]
    grid = report.Grid({"rows": rows})
    assert grid.header()[-4:-2] == ["leak, grouped-paper-5x", "leak, grouped-near-paper-5x"]
    assert grid.cells()[0][-4:-2] == ["+1.00 (+1.00 to +1.00)", "+2.00 (+2.00 to +2.00)"]


@pytest.mark.slow
def test_the_printed_p_is_corrected_for_every_comparison_of_the_table(table_two: Path) -> None:
    rows = rows_of(table_two)
    assert [row["p_holm"] for row in rows] == holm([row["p"] for row in rows])
    n = sum(row["p"] is not None for row in rows)
    least = min((row for row in rows if row["p"] is not None), key=lambda row: row["p"])
    assert least["p_holm"] == pytest.approx(min(1, n * least["p"]))
    page = (table_two / "results.md").read_text()
    assert f"after Holm's correction for the {n} comparisons of the table; results.csv also has it" in page
    assert "| p (Holm) |" in page


@pytest.mark.slow
def test_the_agreement_of_people_is_a_line_but_no_system(
    make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    dataset = make_dataset(twice(40, n_agreeing=30, n_others=0))
    result = harness.benchmark(asked(dataset, tmp_path / "out", "text-only"), quiet=True)
    *_, row = result.document["tables"][0]["rows"]
    assert (row["system"], row["kind"], row["model"], row["fidelity"]) == (
        "second annotation",
        "annotators",
        "",
        "",
    )
    assert row["accuracy"]["mean"] == 0.75 and row["roc_auc_macro"] is None and row["p"] is None
    page = (tmp_path / "out" / "results.md").read_text()
    assert "| second annotation | – | – | 75.00 (59.81–85.81) |" in page
    assert "second annotation: no system, but people: of 40 pairs that were annotated twice" in page
    assert result.to_pandas()["kind"].tolist()[-1] == "annotators"


@pytest.mark.slow
def test_csv_markdown_latex_and_picture_hold_every_system(table_two: Path) -> None:
    rows = rows_of(table_two)
    with (table_two / "results.csv").open() as file:
        flat = list(csv.DictReader(file))
    assert [(r["system"], r["protocol"], r["split_sha256"], r["seed"]) for r in flat] == [
        (r["system"], r["protocol"], r["split_sha256"], "0") for r in rows
    ]
    assert float(flat[2]["accuracy_mean"]) == rows[2]["accuracy"]["mean"]
    lines = [line for line in (table_two / "results.md").read_text().splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {lines[0].count("|")}
    tex = (table_two / "results.tex").read_text()
    body = [line for line in tex.splitlines() if line.endswith(r"\\")]
    assert {line.count(" & ") for line in body} == {lines[0].count("|") - 2}
    assert len(body) == len(lines) - 1 == 1 + len({row["system"] for row in rows})
    assert tex.count("{") == tex.count("}")
    assert (table_two / "results.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_killed_within_a_cell_it_repeats_no_finished_one(
    small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    words = [small_dataset, "--models", "text-only,hsan", "--protocol", "paper-5x", "--folds", "0,1"]
    line = [*map(str, words), "--out", str(out), *SHORT]
    process = subprocess.Popen(programs.mvsent("benchmark", *line), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    second = False
    for shown in process.stderr:
        second = second or shown.startswith("[1 of 2")
        if second and shown.startswith("fold 1 (2 of 2) epoch 0"):
            os.kill(programs.pid(process.pid), signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL
    first = out / "small" / "paper-5x" / "text-only-s0"
    before = stamps(first)
    began: list[tuple[Path, bool]] = []

    def counted(settings: TrainSettings, **how: Any) -> Any:
        began.append((how["out"], how["resume"]))
        return train(settings, **how)

    monkeypatch.setattr(harness, "train", counted)
    kept = stamps(out / "small" / "paper-5x" / "hsan-s0" / "fold-0")
    assert typed(*words, "--out", out, "--quiet", *SHORT).exit_code == 0
    assert began == [(out / "small" / "paper-5x" / "hsan-s0", True)]
    assert stamps(first) == before
    assert stamps(out / "small" / "paper-5x" / "hsan-s0" / "fold-0") == kept


def _dies_at_hsan(sender: Any, cell: Any) -> None:
    if cell.system.name == "hsan":
        os.kill(os.getpid(), signal.SIGKILL)
    harness._child(sender, cell)


@pytest.mark.slow
def test_a_process_that_is_killed_costs_its_own_cell_only(
    small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = asked(small_dataset, tmp_path / "out", "text-only", "hsan")
    with monkeypatch.context() as patch:
        patch.setattr(harness, "_child", _dies_at_hsan)
        result = harness.benchmark(chosen, jobs=2, quiet=True)
    assert list(result.failures) == ["small paper-5x hsan"]
    assert "was killed by signal 9" in result.failures["small paper-5x hsan"]
    assert not harness.benchmark(chosen, jobs=2, quiet=True).failures


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(
    small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(settings: TrainSettings, **how: Any) -> Any:
        if settings.model == "hsan":
            raise KeyboardInterrupt
        return train(settings, **how)

    monkeypatch.setattr(harness, "train", stopped)
    chosen = asked(small_dataset, tmp_path, "hsan", "text-only", tables=["3"])
    with pytest.raises(
        Interrupted, match=r"1 of 2 cells are finished\. The same command continues"
    ) as caught:
        harness.benchmark(chosen, quiet=True)
    assert caught.value.exit_code == 130


@pytest.mark.slow
def test_a_cell_that_fails_stops_no_other_and_says_why(
    make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    dataset = make_dataset(draw_pairs(60, images=False))
    words = [dataset, "--models", "image-only,text-only", "--protocol", "paper-5x", "--folds", "0"]
    done = typed(*words, "--out", tmp_path / "out", "--quiet", *SHORT)
    assert done.exit_code == 3
    rows = {row["system"]: row for row in rows_of(tmp_path / "out")}
    assert "without pictures" in rows["image-only"]["failure"] and rows["image-only"]["accuracy"] is None
    assert not rows["text-only"]["failure"] and rows["text-only"]["accuracy"]
    shown = (tmp_path / "out" / "results.md").read_text()
    assert "| image-only | exact | – | failed |" in shown and "has rows without pictures" in shown


@pytest.mark.slow
def test_cells_of_other_settings_are_refused_and_replaced_only_on_demand(
    small_dataset: Path, tmp_path: Path
) -> None:
    harness.benchmark(asked(small_dataset, tmp_path, "text-only", "hsan"), quiet=True)
    changed = {"options": {"hsan": {"hidden": "8"}}}
    chosen = asked(small_dataset, tmp_path, "text-only", "hsan", **changed)
    with pytest.raises(UsageError, match=r"hsan-s0: was made with other settings \(options\)\. Give another"):
        harness.benchmark(chosen, quiet=True)
    before = stamps(tmp_path / "small" / "paper-5x" / "text-only-s0")
    result = harness.benchmark(chosen, overwrite=True, quiet=True)
    assert stamps(tmp_path / "small" / "paper-5x" / "text-only-s0") == before
    assert [r["system"] for r in result.document["tables"][0]["rows"]] == [
        "majority",
        "text-only",
        "hsan, hidden=8",
    ]


def test_table_four_is_the_model_with_its_ablations_and_others_only_if_named() -> None:
    assert {system.card.name for system in systems("4")} == {"dmlanet"}
    assert [system.name for system in systems("4", ["fenet"])] == ["fenet"]
    assert {system.card.name for system in systems("all")} == set(registry.names())


def test_an_ablation_stands_beside_its_own_published_numbers(
    small_dataset: Path, make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    flickr = make_dataset(draw_pairs(30, images=False), name="flickr")
    cells = plan(asked(flickr, tmp_path, tables=["4"]))
    rows = {cell.system.name: make_row(cell, "failed") for cell in cells}
    printed = {name: (row["published_accuracy"], row["published_f1"]) for name, row in rows.items()}
    assert printed == {
        "dmlanet": (0.8930, 0.8919),
        "dmlanet w/o SA + CA": (0.8577, 0.8554),
        "dmlanet w/o SMAtt": (0.8190, 0.8244),
        "dmlanet w/o SAtt": (0.8798, 0.8801),
    }
    unpublished = [make_row(cell, "failed") for cell in plan(asked(small_dataset, tmp_path, tables=["4"]))]
    assert {row["published_accuracy"] for row in unpublished} == {None}


@pytest.mark.slow
def test_a_run_of_an_ablation_is_not_judged_beside_the_whole_model_s_numbers(tmp_path: Path) -> None:
    whole = write_run(tmp_path / "whole", options={"hidden": "16"})
    ablated = write_run(tmp_path / "ablated", options={"hidden": "16", "without": "self"})
    printed = [
        evaluation.evaluate(run, ["roc"], quiet=True).document["published"] for run in (whole, ablated)
    ]
    assert printed == [{"accuracy": 79.47, "f1": 79.59}, None]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--models", "dmlnet"], r"no model is called 'dmlnet'"),
        (["--table", "5"], r"--table: unknown '5'\. Choose from 2, 3, 4, all"),
        (["--protocol", "mine"], r"--protocol: unknown 'mine'"),
        (["--option", "ahrm.hidden=3"], r"--option ahrm: is not in this benchmark"),
        (["--option", "fenet.depth=3"], r"--option depth: unknown option"),
        (["--against", "nobody"], r"no model is called 'nobody'"),
        (["--folds", "0,99"], r"--folds: paper-5x has no fold 99\. Choose from 0 to 4"),
        (["--table", ","], r"at least one has to be named"),
    ],
)
def test_what_does_not_exist_is_refused_before_anything_is_run(
    words: list[str], said: str, small_dataset: Path, tmp_path: Path
) -> None:
    done = typed(small_dataset, "--table", "2", "--out", tmp_path / "out", *words)
    assert isinstance(done.exception, UsageError) and re.search(said, str(done.exception))
    assert not (tmp_path / "out").exists()


def test_names_that_make_the_same_folder_are_refused(make_dataset, tmp_path: Path) -> None:
    folders = [make_dataset(draw_pairs(12), name=name) for name in ("a b", "a+b")]
    with pytest.raises(UsageError, match="names that make the same folder"):
        plan(asked(folders[0], tmp_path, "logistic", datasets=folders))


@pytest.mark.slow
@pytest.mark.parametrize("damaged", ["metrics.json", "config.toml", "fold-0/history.csv"])
def test_a_damaged_cell_stops_no_other_and_says_what_is_wrong(
    damaged: str, small_dataset: Path, tmp_path: Path
) -> None:
    wanted = asked(small_dataset, tmp_path / "out", "logistic", "image-only")
    harness.benchmark(wanted, quiet=True)
    (cell,) = [cell for cell in plan(wanted) if cell.system.name == "logistic"]
    (cell.path / damaged).write_text("{")
    if damaged == "config.toml":
        with pytest.raises(UsageError, match="its configuration cannot be read"):
            harness.benchmark(wanted, quiet=True)
    again = harness.benchmark(wanted, quiet=True, overwrite=True)
    rows = {row["system"]: row for row in again.document["tables"][0]["rows"]}
    assert rows["image-only"]["accuracy"]
    if damaged == "metrics.json":
        assert rows["logistic"]["accuracy"] and not rows["logistic"]["failure"]
    else:
        assert Path(damaged).name in rows["logistic"]["failure"]


def test_a_dry_run_lists_the_cells_and_runs_none(small_dataset: Path, tmp_path: Path) -> None:
    done = typed(small_dataset, "--table", "4", "--out", tmp_path / "out", "--dry-run", "--json")
    cells = json.loads(done.stdout)
    assert len(cells) == 8 and {cell["state"] for cell in cells} == {"to do"}
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_dry_run_names_what_differs_and_how_it_is_replaced(small_dataset: Path, tmp_path: Path) -> None:
    harness.benchmark(asked(small_dataset, tmp_path, "logistic", "image-only"), quiet=True)
    words = [small_dataset, "--models", "logistic,image-only,hsan", "--table", "2", "--protocol", "paper-5x"]
    words += ["--folds", "0,1", "--option", "logistic.max_iter=9", "--out", tmp_path, "--dry-run", *SHORT]
    words += ["--threads", "3", "--device", "cpu:0"]  # they cannot change a result
    lines = typed(*words).stdout.splitlines()
    assert lines[:3] == [
        "finished        small paper-5x image-only",
        "other settings  small paper-5x logistic  (options)",
        "to do           small paper-5x hsan",
    ]
    assert "refused: give another --out, or replace them with --overwrite" in lines[-1]
    cells = {cell["cell"].split()[-1]: cell for cell in json.loads(typed(*words, "--json").stdout)}
    assert cells["logistic"]["changes"] == ["options"] and cells["image-only"]["changes"] == []
    before = typed(*words[:-1], "--models", "image-only").stdout  # nothing differs: nothing to say
    assert "--overwrite" not in before


@pytest.mark.slow
def test_finished_cells_that_are_not_in_the_tables_are_named_in_one_note(
    small_dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    harness.benchmark(asked(small_dataset, tmp_path, "logistic", "image-only"), quiet=True)
    assert "also holds" not in caplog.text
    fewer = harness.benchmark(asked(small_dataset, tmp_path, "image-only"), quiet=True)
    assert [row["model"] for row in fewer.document["tables"][0]["rows"]] == ["majority", "image-only"]
    [note] = [record.getMessage() for record in caplog.records if "also holds" in record.getMessage()]
    assert "1 finished cells" in note and "do not show: small/paper-5x/logistic-s0. " in note
    before = stamps(tmp_path)
    again = harness.benchmark(asked(small_dataset, tmp_path, "logistic", "image-only"), quiet=True)
    assert len(again.document["tables"][0]["rows"]) == 3 and stamps(tmp_path) == before


@pytest.mark.slow
def test_papers_and_ours_stand_in_one_unit_in_the_csv_and_in_percent_in_the_page(
    make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    dataset = make_dataset(draw_pairs(60), name="flickr")
    fenet = asked(dataset, tmp_path / "out", "hdf", common=COMMON.model_copy(update={"epochs": 1}))
    harness.benchmark(fenet, quiet=True)
    with (tmp_path / "out" / "results.csv").open() as file:
        [row] = [row for row in csv.DictReader(file) if row["model"] == "hdf"]
    assert (row["published_accuracy"], row["published_f1"]) == ("0.859", "0.861")
    assert 0 <= float(row["accuracy_mean"]) <= 1
    assert "| 85.90 / 86.10 |" in (tmp_path / "out" / "results.md").read_text()


def test_a_markdown_file_gets_the_tables_between_its_marks() -> None:
    page = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    once = report.replace_block(page, "| new |")
    assert once == f"before\n{report.BEGIN}\n\n| new |\n\n{report.END}\nafter\n"
    assert report.replace_block(once, "| new |") == once
    with pytest.raises(UsageError, match="lacks <!-- benchmark:end -->"):
        report.replace_block(f"before\n{report.BEGIN}\n", "new")


def test_the_corrected_test_is_what_a_hand_computes() -> None:
    # mean 0.02, variance 0.0001: t = 0.02 / sqrt((1/3 + 1/2) · 0.0001) = 2.1909; with 2 degrees of freedom
    # the two-sided p is 1 - t / sqrt(t² + 2) = 0.15983.
    assert corrected_t_test([0.01, 0.03, 0.02], 0.5) == pytest.approx(0.159832, abs=1e-6)
    assert corrected_t_test([0.01, 0.03], 0.5) is None
    assert corrected_t_test([0.0, 0.0, 0.0], 0.5) == 1


def with_shuffled_test_labels(pairs: pa.Table, tested: set[str]) -> pa.Table:
    """Every row of `tested` has the next label, in all the columns that hold one."""
    ids = pairs["id"].to_pylist()
    for name in ("label", "text_label", "image_label"):
        values = [
            (value + 1) % 3 if row in tested else value
            for row, value in zip(ids, pairs[name].to_pylist(), strict=True)
        ]
        column = pairs.schema.get_field_index(name)
        pairs = pairs.set_column(
            column, pairs.schema.field(name), pa.array(values, pairs.schema.field(name).type)
        )
    return pairs


@pytest.mark.slow
@pytest.mark.parametrize("model", ["dmlanet", "logistic", "dmaf", "pair-memory"])
def test_shuffled_test_labels_change_no_epoch_weight_or_hyperparameter(
    model: str, make_dataset: Callable[..., Path], sixty_pairs: pa.Table, tmp_path: Path
) -> None:
    honest = make_dataset(sixty_pairs, name="honest")
    found = split_dataset(honest)
    ids = Dataset.open(honest).ids
    tested = {ids[i] for i in found.split.rows(0, TEST)}
    shuffled = make_dataset(with_shuffled_test_labels(sixty_pairs, tested), name="shuffled")
    chosen = COMMON.model_copy(
        update={"model": model, "epochs": 4, "folds": [0], "split_file": [str(found.path)]}
    )
    runs = [
        train(chosen.model_copy(update={"dataset": str(folder)}), out=tmp_path / folder.name, quiet=True)
        for folder in (honest, shuffled)
    ]
    plain, blind = (run.run / "fold-0" for run in runs)
    assert (plain / "model.safetensors").read_bytes() == (blind / "model.safetensors").read_bytes()
    histories = [[row[:-1] for row in csv.reader((fold / "history.csv").open())] for fold in (plain, blind)]
    assert histories[0] == histories[1]
    judged = [pq.read_table(fold / "predictions.parquet", columns=["label"]) for fold in (plain, blind)]
    assert judged[0] != judged[1]  # the test labels did change


@pytest.mark.slow
def test_shuffled_validation_labels_do_show_in_the_history(
    make_dataset: Callable[..., Path], sixty_pairs: pa.Table, tmp_path: Path
) -> None:
    honest = make_dataset(sixty_pairs, name="honest")
    found = split_dataset(honest)
    ids = Dataset.open(honest).ids
    judges = {ids[i] for i in found.split.rows(0, VALIDATION)}
    other = make_dataset(with_shuffled_test_labels(sixty_pairs, judges), name="other")
    chosen = COMMON.model_copy(update={"model": "dmaf", "folds": [0], "split_file": [str(found.path)]})
    plain, changed = (
        train(chosen.model_copy(update={"dataset": str(folder)}), out=tmp_path / folder.name, quiet=True).run
        for folder in (honest, other)
    )
    histories = [(run / "fold-0" / "history.csv").read_text().split(",")[8] for run in (plain, changed)]
    assert histories[0] != histories[1]


def test_no_cell_is_planned_twice_for_two_tables(small_dataset: Path, tmp_path: Path) -> None:
    cells = plan(asked(small_dataset, tmp_path, tables=["2", "4", "all"]))
    assert len({cell.path for cell in cells}) == len(cells)


# The split of files


def write_split_files(folder: Path, ids: list[str], n_train: int, n_test: int) -> Path:
    """Lists of the training and of the test rows, and no validation rows."""
    folder.mkdir()
    bare = [id.partition(":")[2] for id in ids]
    (folder / "train.txt").write_text("\n".join(bare[:n_train]))
    (folder / "test.txt").write_text("\n".join(bare[n_train : n_train + n_test]))
    return folder


@pytest.mark.slow
def test_split_files_stand_for_the_protocol_in_every_command(
    make_dataset: Callable[..., Path], sixty_pairs: pa.Table, tmp_path: Path
) -> None:
    dataset, out = make_dataset(sixty_pairs), tmp_path / "runs"
    files = write_split_files(tmp_path / "published", sixty_pairs["id"].to_pylist(), 40, 15)
    words = ["--split-file", files, "--validation-share", "0.2", "--models", "logistic", "--table", "2"]
    done = typed(dataset, *words, "--out", out, *SHORT, "--json")
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["tables"][0]["rows"]
    assert {row["protocol"] for row in rows} == {"file-published"} and not any(row["failure"] for row in rows)
    run = out / "drawn" / "file-published" / "logistic-s0"
    judged = pq.read_table(run / "fold-0" / "predictions.parquet").to_pylist()
    tested = [row["id"] for row in judged if row["role"] == "test"]
    assert tested == [f"drawn:{i}" for i in range(40, 55)]
    assert len([row for row in judged if row["role"] == "validation"]) == 9
    assert "validation_share = 0.2" in (run / "config.toml").read_text()
    document = evaluation.evaluate(run, [], quiet=True).document
    assert (document["protocol"], document["folds"][0]["n_test"]) == ("published", 15)
    assert evaluation.evaluate(run, [], missing="text", quiet=True).document["missing"] == "text"
    assert typed(dataset, *words, "--out", out, *SHORT, "--dry-run").stdout.startswith("finished")


def test_split_files_that_do_not_fit_stop_a_benchmark_before_its_first_cell(
    make_dataset: Callable[..., Path], sixty_pairs: pa.Table, tmp_path: Path
) -> None:
    dataset = make_dataset(sixty_pairs)
    files = write_split_files(
        tmp_path / "published", [f"drawn:{i}" for i in range(59)] + ["drawn:999"], 40, 20
    )
    common = COMMON.model_copy(update={"split_file": [str(files)]})
    with pytest.raises(SplitError, match="1 of 60 ids are not in the dataset: '999'"):
        harness.benchmark(asked(dataset, tmp_path / "runs", "logistic", common=common))
    dropped = common.model_copy(update={"split_unknown": "drop"})
    with pytest.raises(UsageError, match=r"--folds: file-published has no fold 1. Choose from 0 to 0"):
        harness.benchmark(asked(dataset, tmp_path / "runs", "logistic", common=dropped))
    with pytest.raises(UsageError, match="--split-file: is the split of one dataset, not of 2"):
        plan(asked(dataset, tmp_path / "runs", "logistic", common=common, datasets=[dataset] * 2))
    assert not (tmp_path / "runs").exists()
