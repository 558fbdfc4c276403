"""Ranks of one training on this machine, started by torch's own launcher.

    mvsent train --devices 2 ── agent ─┬─ rank 0: trains, writes, speaks
        (waits, forwards Ctrl-C)       └─ rank 1: trains

The agent is torch's (`torch.distributed.launcher`, as in torchrun), in a session of its own, so that Ctrl-C
reaches the ranks once, by way of us: they end after the same step. Where a rank fails the agent ends the
others, and what the failed one had to say is raised here.
"""

import json
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from tqdm import tqdm

from mvsent.errors import MvsentError, PrintableFormatter
from mvsent.learn.distributed import LostRankError
from mvsent.storage import located
from mvsent.workers.interrupt import interruptible
from mvsent.workers.processes import Ended, end_with_parent, interrupts_ignored

log = logging.getLogger("mvsent")

T = TypeVar("T")

GOES_ON = "It goes on where it was saved with: mvsent train --resume"
LAUNCHED = "MVSENT_LAUNCHED"  # in the environment of ranks that this module started
KILL_RANKS = signal.SIGUSR1  # what the agent is told by a second Ctrl-C
STEP_AT_MOST_S = 600  # that the ranks are given after Ctrl-C to end their step and save
BLAMED_WITHIN_S = 5  # a rank that only lost another lets that one be blamed: it waits to be ended


@dataclass(frozen=True)
class RankFailure:
    """Why a process ended that worked for this one; what an MvsentError says, in a form to send."""

    what: str
    next_step: str = ""
    exit_code: int = 1
    is_echo: bool = False  # it failed only because another had

    @classmethod
    def of(cls, error: BaseException, who: str) -> "RankFailure":
        """What `error` says; `who` met it."""
        if isinstance(error, MvsentError):
            return cls(error.what, error.next_step, error.exit_code, isinstance(error, LostRankError))
        if isinstance(error, KeyboardInterrupt):
            return cls("interrupted", exit_code=130)
        reason = (str(error).splitlines() or [""])[0]
        return cls(f"{who} failed ({type(error).__name__}: {reason})", "See above where it did")

    def raised(self) -> BaseException:
        """The exception that says the same here."""
        if self.exit_code == 130:
            return KeyboardInterrupt()
        error = MvsentError(self.what, self.next_step)
        error.exit_code = self.exit_code
        return error


def in_ranks(call: Callable[..., T], n_ranks: int, ready: Callable[[Path], object]) -> T:
    """What `call(ready=…)` returns in the first of `n_ranks` new processes, each of which makes the call.

    `ready` is told here what the first rank's `ready` was told there, once the ranks have ended.

    Raises: MvsentError as the rank that failed first; KeyboardInterrupt once the ranks have saved, on Ctrl-C.
    """
    context, now = get_context("spawn"), threading.Event()
    with (
        tempfile.TemporaryDirectory(prefix="mvsent-ranks-") as folder,
        interruptible(again=lambda *_: now.set()) as stop,  # and nothing is raised before all have ended
    ):
        receiver, sender = context.Pipe(duplex=False)
        agent = context.Process(
            target=_agent, args=(sender, call, n_ranks, Path(folder), log.getEffectiveLevel())
        )
        with interrupts_ignored():
            agent.start()
        sender.close()
        answer = _answer(receiver, agent, {signal.SIGINT: stop, KILL_RANKS: now})
        if (told := Path(folder) / _RUN).exists():
            ready(located(told.read_text()))
    if now.is_set() and isinstance(answer, RankFailure):
        raise KeyboardInterrupt
    if isinstance(answer, RankFailure):
        raise answer.raised()
    result: T = answer
    return result


def asked_to_end() -> AbstractContextManager[threading.Event]:
    """As `interruptible`; but a process that another of ours started hears of Ctrl-C from that one.

    A rank gets SIGINT, for SIGTERM says that another rank failed: it ends at once. Others get SIGTERM.
    """
    if parent_process() is None:
        return interruptible()
    return interruptible((signal.SIGINT if os.environ.get(LAUNCHED) else signal.SIGTERM,), tell=False)


_RUN = "run"
_STARTED = "started"


def _answer(receiver: Connection, agent: SpawnProcess, asked: dict[signal.Signals, threading.Event]) -> Any:
    """What the agent says last, once it has ended; each signal is sent to it once it is asked for."""
    started = False
    while True:
        for number in [each for each, event in asked.items() if started and event.is_set()]:
            os.kill(agent.pid or 0, number)
            del asked[number]
        if not receiver.poll(0.1):
            continue
        try:
            message = receiver.recv()
        except EOFError:
            agent.join()
            return RankFailure(f"the launcher of the ranks {Ended(agent.exitcode)}", GOES_ON)
        if message != _STARTED:
            agent.join()
            return message
        started = True


def _agent(sender: Connection, call: Callable[..., Any], n_ranks: int, folder: Path, level: int) -> None:
    """What the agent's process does: it has the ranks started and watched, and sends how they ended."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(KILL_RANKS, _kill_ranks)
    end_with_parent(partial(os.kill, os.getpid(), signal.SIGINT))
    # The ranks inherit it: an interruption waits until they can take it. Here that thread takes it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.environ |= {LAUNCHED: "1", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(STEP_AT_MOST_S)}
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if "lo" in (name for _, name in socket.if_nameindex()):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # the ranks are on this machine
    logging.disable()  # torch would tell of a failure at length
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=n_ranks,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        monitor_interval=0.1,
        logs_specs=DefaultLogsSpecs(str(folder)),
    )
    try:
        sender.send(_STARTED)
        answer = elastic_launch(config, _rank)(call, folder, level)[0]
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        answer = _failure(rank, failure.exitcode, folder)
    except (SignalException, KeyboardInterrupt):
        answer = _saved_or_not(folder)
    try:
        sender.send(answer)
    except BrokenPipeError:  # we were killed, and nobody else removes the folder
        shutil.rmtree(folder, ignore_errors=True)


def _kill_ranks(number: int, frame: FrameType | None) -> None:
    for rank in active_children():
        rank.kill()


def _failure(rank: int, exit_code: int, folder: Path) -> RankFailure:
    """Why a rank failed: what it wrote down itself, or else how it ended."""
    if (told := folder / f"rank-{rank}.json").exists():
        return RankFailure(**json.loads(told.read_text()))
    return RankFailure(f"rank {rank} {Ended(exit_code)}", GOES_ON)


def _saved_or_not(folder: Path) -> RankFailure:
    """How ranks ended that were asked to: interrupted, unless one of them could not save."""
    interrupted = RankFailure.of(KeyboardInterrupt(), "")
    told = [RankFailure(**json.loads(path.read_text())) for path in sorted(folder.glob("rank-*.json"))]
    failed = [one for one in told if one.exit_code != interrupted.exit_code and not one.is_echo]
    return failed[0] if failed else interrupted


def _rank(call: Callable[..., T], folder: Path, level: int) -> T:
    """What a rank does: the call. A failure is written down before the process ends with its exit code."""
    rank = int(os.environ["RANK"])
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter("%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    log.setLevel(level)
    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which a rank that is ended would leave behind
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        return call(ready=partial(_tell_run, folder) if rank == 0 else _nobody)
    except LostRankError as error:
        time.sleep(BLAMED_WITHIN_S)
        failure = RankFailure.of(error, f"rank {rank}")
    except (MvsentError, KeyboardInterrupt) as error:
        failure = RankFailure.of(error, f"rank {rank}")
    except Exception as error:
        traceback.print_exc()
        failure = RankFailure.of(error, f"rank {rank}")
    (folder / f"rank-{rank}.json").write_text(json.dumps(asdict(failure)))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(failure.exit_code)  # torch's own end takes seconds, and may wait for ranks that are no more


def _tell_run(folder: Path, run: Path) -> None:
    (folder / _RUN).write_text(str(run))


def _nobody(run: Path) -> None: ...
