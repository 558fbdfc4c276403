"""Several processes that train one run: the same numbers as one, and none left when one of them ends.

Two ranks compute what one process does, but add up in another order: numbers agree within `TOLERANCE`, where
no dropout is drawn (each rank draws its own). Everything else here is equal bit for bit.
"""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from multiprocessing import active_children
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mvsent.config import TrainSettings
from mvsent.errors import UsageError
from mvsent.learn.batches import Examples, Rows
from mvsent.learn.checkpoint import Checkpoint
from mvsent.learn.distributed import LossScale, Step, synced
from mvsent.learn.loop import inverse_frequency
from mvsent.models.batch import Batch
from mvsent.models.encoders import Standardize
from mvsent.runs.run_folder import RunFolder
from mvsent.runs.train import train
from mvsent.workers import devices
from mvsent.workers.interrupt import interruptible
from mvsent.workers.processes import ProcessFailure, apart
from mvsent.workers.ranks import PLACE, Ranks, under_launcher
from tests import programs
from tests.drawing import draw_pairs
from tests.test_train import assert_same_run, without_seconds
from tests.test_training import FOLD, made_up, records, trainer

TOLERANCE = 1e-4

# 47 of 48 rows are in the first step, and one in the second: there the first rank has none.
QUICK = (
    "--weights random --words random --epochs 3 --batch-size 47 --class-weights inverse --threads 1 "
    "--option hidden=16 --option dropout=0"
)
DMLANET = "--folds 0,1 --option map_channels=16"
PLUS = "--folds 0 --model dmlanet-plus --option modality_dropout=0 --option memory=false --text-vector none"
LONG = {
    n: f"--folds 0 --option map_channels=16 --devices {n} --epochs {epochs} --patience {epochs}".split()
    for n, epochs in (("1", 60), ("2", 40))  # enough that they last longer than it takes to end them
}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PLACE:
        monkeypatch.delenv(name, raising=False)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False)


def trained(dataset: Path, out: Path, *words: str) -> Path:
    done = run(*programs.mvsent("train", str(dataset), "--out", str(out), *words))
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="session")
def of_one(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(small_dataset, tmp_path_factory.mktemp("one") / "run", *QUICK.split(), *DMLANET.split())


@pytest.fixture(scope="session")
def of_two(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = [*QUICK.split(), *DMLANET.split(), "--devices", "2"]
    return trained(small_dataset, tmp_path_factory.mktemp("two") / "run", *words)


def assert_near(one: Path, other: Path) -> None:
    for folder in sorted(one.glob("fold-*")):
        histories = [
            np.array(without_seconds(run / folder.name / "history.csv")[1:], float) for run in (one, other)
        ]
        np.testing.assert_allclose(*histories, atol=TOLERANCE)
        tables = [pq.read_table(run / folder.name / "predictions.parquet") for run in (one, other)]
        assert tables[0]["id"] == tables[1]["id"]
        for name in ("p_negative", "p_neutral", "p_positive"):
            np.testing.assert_allclose(*(table[name].to_numpy() for table in tables), atol=TOLERANCE)


# What a rank takes


@given(st.integers(0, 200), st.integers(1, 9))
def test_the_shares_of_all_ranks_are_every_row_once_and_differ_by_one_at_most(n: int, world: int) -> None:
    rows = np.random.default_rng(0).permutation(n)
    shares = [Ranks(rank, world).share(rows) for rank in range(world)]
    assert np.concatenate(shares).tolist() == rows.tolist()
    lengths = [len(share) for share in shares]
    assert max(lengths) - min(lengths) <= 1


@given(st.integers(1, 40), st.integers(2, 5), st.booleans())
def test_the_mean_over_ranks_of_their_parts_is_the_loss_of_all_rows(
    n: int, world: int, weighted: bool
) -> None:
    random = torch.Generator().manual_seed(n)
    logits, target = torch.randn(n, 3, generator=random), torch.randint(3, (n,), generator=random)
    weights = inverse_frequency(np.array([0, 0, 0, 1, 2]), 3) if weighted else None
    cross_entropy = torch.nn.CrossEntropyLoss(weights)
    total = 0.0
    for rank in range(world):
        ranks = Ranks(rank, world)
        mine = torch.from_numpy(ranks.share(np.arange(n)))
        part = LossScale.of(target[mine], target, weights, ranks)
        taken = mine if len(mine) else torch.tensor([0])
        total += part.loss * cross_entropy(logits[taken], target[taken]).item() / world
        assert part.penalty == pytest.approx(world * len(mine) / n)
    assert total == pytest.approx(cross_entropy(logits, target).item(), rel=1e-5)


def test_a_layer_that_standardizes_by_a_batch_does_so_by_the_rows_of_all_ranks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows, step = torch.randn(7, 4), Step(mine=5, all=7)
    alone, shared = torch.nn.Sequential(Standardize(4)), torch.nn.Sequential(Standardize(4))
    synced(shared, Ranks(0, 2), step)
    rest = iter([rows[5:].double().sum(0), (rows[5:].double() - rows.double().mean(0)).square().sum(0)])
    monkeypatch.setattr("mvsent.learn.distributed._summed", lambda own: own + next(rest))
    assert torch.allclose(shared(rows[:5]), alone(rows)[:5], atol=1e-6)
    for name, values in alone.state_dict().items():
        assert torch.allclose(shared.state_dict()[name], values, atol=1e-6), name


# Ranks compute what one process does


@pytest.mark.slow
def test_two_ranks_come_to_what_one_process_does(of_one: Path, of_two: Path) -> None:
    assert_near(of_one, of_two)


@pytest.mark.slow
def test_two_ranks_share_penalties_and_standardized_inputs(small_dataset: Path, tmp_path: Path) -> None:
    words = [*QUICK.split(), *PLUS.split()]
    one = trained(small_dataset, tmp_path / "one", *words)
    assert_near(one, trained(small_dataset, tmp_path / "two", *words, "--devices", "2"))


@pytest.mark.slow
def test_ranks_that_torchrun_starts_by_hand_are_the_same_and_the_first_alone_speaks(
    of_two: Path, small_dataset: Path, tmp_path: Path
) -> None:
    by_hand = "--nproc-per-node 2 --rdzv-backend c10d --rdzv-endpoint 127.0.0.1:0 --local-addr 127.0.0.1"
    words = ["-m", "mvsent", "train", str(small_dataset), "--out", str(tmp_path / "run"), *QUICK.split()]
    done = run(
        *programs.python("-m", "torch.distributed.run", *by_hand.split(), *words, *DMLANET.split(), "--json")
    )
    assert done.returncode == 0, done.stderr
    assert_same_run(of_two, tmp_path / "run")
    assert done.stdout.count('"validation_accuracy"') == 2  # one a fold
    assert done.stderr.count("RANDOM weights") == 1
    assert not RunFolder.open(tmp_path / "run").settings.devices > 1


@pytest.mark.slow
def test_folds_on_devices_of_their_own_are_those_of_a_serial_run(
    of_one: Path, small_dataset: Path, tmp_path: Path
) -> None:
    words = [*QUICK.split(), *DMLANET.split(), "--devices", "2", "--parallel", "folds"]
    assert_same_run(of_one, trained(small_dataset, tmp_path / "run", *words))


@pytest.mark.slow
def test_a_training_of_one_process_loads_nothing_that_it_does_not_use(
    small_dataset: Path, tmp_path: Path
) -> None:
    words = [str(small_dataset), "--out", str(tmp_path / "run"), *QUICK.split(), *DMLANET.split()]
    code = (
        "import sys; from mvsent.cli import app\n"
        f"app(['train', *{words!r}, '--quiet'], standalone_mode=False)\n"
        "import mvsent.build.search, mvsent.build.reconcile, mvsent.datasets.validate\n"
        "import mvsent.runs.train_anps, mvsent.demo\n"
        "import torch.distributed as dist\n"
        "assert not dist.is_initialized()\n"
        "print([name for name in ('ray', 'transformers', 'torch.distributed.launcher') if name in sys.modules])\n"
    )
    done = run(sys.executable, "-c", code)
    assert done.stdout.endswith("[]\n"), done.stdout + done.stderr


# What ends


@pytest.fixture(scope="session")
def long_of(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of many epochs by one process, and by two, that nothing interrupted."""
    folder = tmp_path_factory.mktemp("long")
    return {n: trained(small_dataset, folder / n, *QUICK.split(), *words) for n, words in LONG.items()}


def start(dataset: Path, out: Path, *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        programs.mvsent("train", str(dataset), "--out", str(out), *QUICK.split(), *words),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def at_epoch(process: "subprocess.Popen[str]", epoch: int) -> None:
    """Return when that epoch is done."""
    assert process.stderr is not None
    for line in process.stderr:
        if re.match(rf"fold 0 .* epoch {epoch} ", line):
            return
    pytest.fail("it ended before that epoch")


@pytest.mark.slow
def test_a_killed_rank_ends_all_is_named_and_the_run_goes_on_to_the_same_end(
    small_dataset: Path, tmp_path: Path, long_of: dict[str, Path]
) -> None:
    process = start(small_dataset, tmp_path / "cut", *LONG["2"])
    at_epoch(process, 2)
    ranks = descendants(programs.pid(process.pid), depth=2)  # as they were started
    os.kill(ranks[0], signal.SIGKILL)
    assert process.stderr is not None
    lines = process.stderr.read().splitlines()
    assert process.wait() == 1
    told = [line for line in lines if line.startswith("mvsent:")]
    assert told == [
        "mvsent: rank 0 was killed by signal 9 (SIGKILL). Continue from what was saved with: mvsent train --resume"
    ]
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks)
    done = run(*programs.mvsent("train", "--resume", "--out", str(tmp_path / "cut")))
    assert done.returncode == 0, done.stderr
    assert_same_folds(long_of["2"], tmp_path / "cut")


def descendants(pid: int, depth: int) -> list[int]:
    """The processes `depth` generations below `pid`, without the helpers of multiprocessing."""
    if depth == 0:
        return [pid]
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    working = [int(child) for child in children if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()]
    return [found for child in working for found in descendants(programs.pid(child), depth - 1)]


def assert_same_folds(one: Path, other: Path) -> None:
    for name in ("history.csv", "predictions.parquet"):
        first, second = (run / "fold-0" / name for run in (one, other))
        if name == "history.csv":
            assert without_seconds(first) == without_seconds(second)
        else:
            assert pq.read_table(first) == pq.read_table(second)


@pytest.mark.slow
def test_ctrl_c_again_and_again_is_one_line_and_leaves_a_run_that_goes_on(
    small_dataset: Path, tmp_path: Path
) -> None:
    process = start(small_dataset, tmp_path / "cut", *LONG["2"], "--epochs", "1000", "--patience", "1000")
    at_epoch(process, 1)
    children = descendants(programs.pid(process.pid), depth=1)
    for _ in range(4):
        process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    lines = [line for line in process.stderr.read().splitlines() if " epoch " not in line]
    assert process.wait() == 130, lines
    assert lines == [
        "Finishing what is under way; Ctrl-C again stops at once",
        f"mvsent: interrupted. It goes on where it was with: mvsent train --resume --out {tmp_path / 'cut'}",
    ]
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    assert not RunFolder.open(tmp_path / "cut").is_finished


def reluctant(sender: Connection, pipe: Path) -> None:
    """Work that ends neither by itself nor when it is asked to; it says when it has begun, and when asked."""
    with interruptible(again=lambda *_: None, tell=False) as stop:
        pipe.write_text("begun")
        stop.wait()
        pipe.write_text("asked")
        threading.Event().wait()


@pytest.mark.slow
def test_a_second_ctrl_c_kills_what_does_not_end(tmp_path: Path) -> None:
    pipes = [tmp_path / "one", tmp_path / "other"]
    for pipe in pipes:
        os.mkfifo(pipe)

    def interrupt() -> None:
        for _ in range(2):
            assert [pipe.read_text() for pipe in pipes]  # waits until they say so
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        list(apart(pipes, 2, reluctant))
    assert not active_children()


@pytest.mark.slow
def test_ranks_whose_parent_is_killed_save_and_end_in_silence_and_leave_nothing(
    small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    process = start(small_dataset, tmp_path / "cut", *LONG["2"])
    at_epoch(process, 1)
    os.kill(programs.pid(process.pid), signal.SIGKILL)
    assert process.stderr is not None
    lines = process.stderr.read().splitlines()  # as long as a child has it open
    assert [line for line in lines if " epoch " not in line] == []
    assert not list((tmp_path / "tmp").glob("mvsent*"))
    assert Checkpoint.load(tmp_path / "cut" / "fold-0" / "checkpoint.pt").history


@pytest.mark.slow
def test_ctrl_c_saves_says_how_to_go_on_and_the_run_ends_as_if_nothing_had_happened(
    small_dataset: Path, tmp_path: Path, long_of: dict[str, Path]
) -> None:
    process = start(small_dataset, tmp_path / "cut", *LONG["2"])
    at_epoch(process, 1)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    lines = process.stderr.read().splitlines()
    assert process.wait() == 130, lines
    assert lines[-1].endswith(f"mvsent train --resume --out {tmp_path / 'cut'}")
    assert sum(line.startswith("Finishing what is under way") for line in lines) == 1
    assert (tmp_path / "cut" / "fold-0" / "checkpoint.pt").exists()
    done = run(*programs.mvsent("train", "--resume", "--out", str(tmp_path / "cut")))
    assert done.returncode == 0, done.stderr
    assert_same_folds(long_of["2"], tmp_path / "cut")


@pytest.mark.slow
def test_a_fold_whose_process_is_killed_is_named_and_the_run_goes_on_to_the_same_end(
    small_dataset: Path, tmp_path: Path, long_of: dict[str, Path]
) -> None:
    words = [*LONG["1"], "--folds", "0,1", "--devices", "2", "--parallel", "folds"]
    process = start(small_dataset, tmp_path / "cut", *words)
    at_epoch(process, 2)
    for pid in descendants(programs.pid(process.pid), depth=1):
        os.kill(pid, signal.SIGKILL)
    assert process.stderr is not None
    told = [line for line in process.stderr.read().splitlines() if line.startswith("mvsent:")]
    assert process.wait() == 1
    assert len(told) == 1 and re.match(
        r"mvsent: fold [01]: its process was killed by signal 9 \(SIGKILL\)\. It goes on", told[0]
    )
    done = run(*programs.mvsent("train", "--resume", "--out", str(tmp_path / "cut")))
    assert done.returncode == 0, done.stderr
    assert_same_folds(long_of["1"], tmp_path / "cut")


@pytest.mark.slow
def test_a_rank_that_fails_ends_all_with_its_own_line_and_exit_code(
    small_dataset: Path, tmp_path: Path
) -> None:
    words = ["--folds", "0", "--devices", "2", "--learning-rate", "1e30"]
    done = run(
        *programs.mvsent("train", str(small_dataset), "--out", str(tmp_path / "r"), *QUICK.split(), *words)
    )
    assert done.returncode == 1
    assert re.search(r"^mvsent: fold 0, epoch \d.* Lower --learning-rate", done.stderr, re.MULTILINE)
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_more_ranks_than_rows_of_a_step_are_refused(small_dataset: Path, tmp_path: Path) -> None:
    words = [*QUICK.split(), "--devices", "2", "--batch-size", "1"]
    done = run(*programs.mvsent("train", str(small_dataset), "--out", str(tmp_path / "r"), *words))
    assert done.returncode == 2
    line = (
        "mvsent: 2 ranks are more than the 1 rows of a step. Give fewer --devices, or a larger --batch-size"
    )
    assert line in done.stderr.splitlines()
    assert not (tmp_path / "r").exists()


# What cannot be


def test_half_of_what_torchrun_sets_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UsageError, match="RANK is set and WORLD_SIZE is not"):
        under_launcher()


def test_an_address_alone_is_no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert not under_launcher()


def test_devices_and_torchrun_together_are_refused(small_dataset: Path, tmp_path: Path) -> None:
    place = dict.fromkeys(PLACE, "0") | {"WORLD_SIZE": "2"}
    words = programs.mvsent("train", str(small_dataset), "--out", str(tmp_path / "r"), "--devices", "2")
    done = subprocess.run(words, env=os.environ | place, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--devices: torchrun has started the ranks already. Leave it out" in done.stderr


@pytest.mark.parametrize("parallel", ["ranks", "folds"])
def test_more_devices_than_gpus_are_refused_before_anything_starts(
    parallel: str, small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    settings = TrainSettings(dataset=str(small_dataset), devices=4, parallel=parallel)
    with pytest.raises(UsageError, match=r"--devices 4: there are 2 on CUDA here\. Give --devices 2, or"):
        train(settings, out=tmp_path / "r", quiet=True)
    with pytest.raises(UsageError, match=r"--device cuda:1: one device for"):
        devices.check_devices(settings.model_copy(update={"devices": 2, "device": "cuda:1"}))
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("n", "told"),
    [
        (1000, r"--devices 1000: more than 4 processes per core of this machine\. Give --devices 2"),
        (8, "8 ranks are"),
    ],
)
def test_more_processes_than_can_be_of_use_are_not_started(
    n: int, told: str, make_dataset: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr("mvsent.runs.train.in_ranks", lambda *_: pytest.fail("they were started"))
    settings = TrainSettings(dataset=str(make_dataset(draw_pairs(6))), devices=n, device="cpu")
    with pytest.raises(UsageError, match=told):
        train(settings, out=tmp_path / "r", quiet=True)
    assert not (tmp_path / "r").exists()


def test_an_error_of_a_rank_is_raised_as_it_was() -> None:
    failure = ProcessFailure.of(UsageError("--protocol: no such", "Choose another"), "rank 1")
    error = failure.exception()
    assert (str(error), error.exit_code) == ("--protocol: no such. Choose another", 2)
    assert isinstance(ProcessFailure.of(KeyboardInterrupt(), "rank 0").exception(), KeyboardInterrupt)


# The middle of an epoch


class Watched(Examples):
    """Examples that write down which rows batches were made of."""

    seen: list[list[int]]

    def batches(self, steps: Sequence[Rows], *, pin: bool = False) -> Iterator[Batch]:
        for rows, batch in zip(steps, super().batches(steps, pin=pin), strict=True):
            self.seen.append(rows.tolist())
            yield batch


def watched(seen: list[list[int]]) -> Watched:
    plain = made_up()
    examples = Watched(**{field.name: getattr(plain, field.name) for field in fields(plain)})
    object.__setattr__(examples, "seen", seen)
    return examples


def steps_only(seen: list[list[int]]) -> list[list[int]]:
    """Those of training: validation rows are asked for in order."""
    return [rows for rows in seen if max(rows) < 40]


class AfterSteps:
    """Asks for an end after `n` steps."""

    def __init__(self, n: int) -> None:
        self.left = n

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


@pytest.mark.parametrize("n_steps", range(1, 8))
def test_stopped_after_any_step_it_ends_bit_for_bit_as_if_nothing_had_happened(
    n_steps: int, tmp_path: Path
) -> None:
    rows_of_whole: list[list[int]] = []
    rows_of_both: list[list[int]] = []
    whole = trainer(watched(rows_of_whole), epochs=3)
    expected = whole.fit(FOLD, tmp_path / "whole.pt")
    with pytest.raises(KeyboardInterrupt):
        trainer(watched(rows_of_both), epochs=3).fit(FOLD, tmp_path / "cut.pt", stop=AfterSteps(n_steps))
    kept = Checkpoint.load(tmp_path / "cut.pt")
    assert (len(kept.history), kept.begun.step) == divmod(n_steps, 3) or kept.begun.step == 3
    torch.manual_seed(12345)  # another process would not have our random state either
    again = trainer(watched(rows_of_both), epochs=3)
    assert records(again.fit(FOLD, tmp_path / "cut.pt")) == records(expected)
    assert steps_only(rows_of_both) == steps_only(rows_of_whole)
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, again.network.state_dict()[name]), name


def test_within_a_long_epoch_what_is_done_is_saved_from_time_to_time(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def kill_at_the_second_step() -> bool:
        if (tmp_path / "cut.pt").exists():
            raise Killed
        return False

    expected = trainer(made_up()).fit(FOLD, tmp_path / "whole.pt")
    with pytest.raises(Killed):
        trainer(made_up(), checkpoint_every=1e-9).fit(FOLD, tmp_path / "cut.pt", stop=kill_at_the_second_step)
    assert Checkpoint.load(tmp_path / "cut.pt").begun.step == 1
    assert records(trainer(made_up()).fit(FOLD, tmp_path / "cut.pt")) == records(expected)


def test_a_checkpoint_of_an_older_version_is_one_of_whole_epochs(tmp_path: Path) -> None:
    expected = trainer(made_up()).fit(FOLD, tmp_path / "whole.pt")
    trainer(made_up(), epochs=1).fit(FOLD, tmp_path / "one.pt")
    state = torch.load(tmp_path / "one.pt", weights_only=True)
    for name in ("begun", "of_others"):
        del state[name]
    torch.save(state, tmp_path / "old.pt")
    assert records(trainer(made_up()).fit(FOLD, tmp_path / "old.pt")) == records(expected)
