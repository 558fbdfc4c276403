"""Start the ranks of one training on this machine with torch's own launcher.

    mvsent train --devices 2 ── agent ─┬─ rank 0: trains, writes, logs
        (waits, forwards Ctrl-C)       └─ rank 1: trains

The agent is torch's (`torch.distributed.launcher`, as in torchrun), in a session of its own: so a terminal's
Ctrl-C does not reach the ranks, and this process forwards it once, after which they all end with the same
step. If a rank fails, the agent ends the others, and the failure is raised here.
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
from dataclasses import asdict
from functools import partial
from multiprocessing import active_children, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from tqdm import tqdm

from mvsent.errors import LostRankError, MvsentError, PrintableFormatter
from mvsent.storage import located
from mvsent.workers.interrupt import LAUNCHED, handled_by, interruptible
from mvsent.workers.processes import Ended, ProcessFailure, end_with_parent

log = logging.getLogger("mvsent")

T = TypeVar("T")

GOES_ON = "Continue from what was saved with: mvsent train --resume"
KILL_RANKS = signal.SIGUSR1  # sent to the agent on a second Ctrl-C
STEP_AT_MOST_S = 600  # for ranks to end their step and save after Ctrl-C
BLAMED_WITHIN_S = 5  # a rank that only lost another waits to be ended, so that the other one is blamed
_STARTED = "started"
_RUN = "run"  # file with the run's folder, once the first rank knows it


def in_ranks(call: Callable[..., T], n_ranks: int, ready: Callable[[Path], object]) -> T:
    """Make the call in `n_ranks` new processes; return what it returns in the first of them.

    Args:
        call: gets `ready`, a function to call with the run's folder.
        ready: called in this process with that folder, after the ranks have ended.

    Raises: what the first rank to fail raised, as an MvsentError; KeyboardInterrupt on Ctrl-C, once the ranks
        have saved.
    """
    context, now, started = get_context("spawn"), threading.Event(), False
    with (
        tempfile.TemporaryDirectory(prefix="mvsent-ranks-") as name,
        interruptible(again=lambda *_: now.set()) as stop,  # the second Ctrl-C too waits for the ranks' end
    ):
        folder = Path(name)
        receiver, sender = context.Pipe(duplex=False)
        agent = context.Process(target=_agent, args=(sender, call, n_ranks, folder, log.getEffectiveLevel()))
        with handled_by(signal.SIG_IGN):  # inherited until the agent sets its own handlers
            agent.start()
        sender.close()
        to_send = {signal.SIGINT: stop, KILL_RANKS: now}
        while True:
            for number in [each for each, asked in to_send.items() if started and asked.is_set()]:
                os.kill(agent.pid or 0, number)
                del to_send[number]
            if not receiver.poll(0.1):
                continue
            try:
                answer = receiver.recv()
            except EOFError:
                agent.join()
                answer = ProcessFailure(f"the launcher of the ranks {Ended(agent.exitcode)}", GOES_ON)
            if answer != _STARTED:
                agent.join()
                break
            started = True
        if (run := folder / _RUN).exists():
            ready(located(run.read_text()))
    if isinstance(answer, ProcessFailure):
        raise KeyboardInterrupt if now.is_set() else answer.exception()
    result: T = answer
    return result


def _agent(sender: Connection, call: Callable[..., Any], n_ranks: int, folder: Path, level: int) -> None:
    """The agent's process: let torch start and watch the ranks; send the first rank's result or a failure."""
    os.setsid()  # a terminal's Ctrl-C would reach each rank twice, and the second ends it unsaved
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(KILL_RANKS, _kill_ranks)
    end_with_parent(partial(os.kill, os.getpid(), signal.SIGINT))
    # Blocked in this thread, and so in the ranks, which inherit it until they can handle an interruption.
    # In the agent the thread that waits for the parent still receives it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.environ |= {LAUNCHED: "1", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(STEP_AT_MOST_S)}
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if "lo" in (name for _, name in socket.if_nameindex()):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all ranks are on this machine
    logging.disable()  # torch would log a failure at length
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=n_ranks,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",  # a free port
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
        if (told := folder / f"rank-{rank}.json").exists():
            answer = ProcessFailure(**json.loads(told.read_text()))
        else:
            answer = ProcessFailure(f"rank {rank} {Ended(failure.exitcode)}", GOES_ON)
    except (SignalException, KeyboardInterrupt):
        answer = interrupted = ProcessFailure.of(KeyboardInterrupt(), "")
        for told in sorted(folder.glob("rank-*.json")):  # of ranks that could not save, if any
            failed = ProcessFailure(**json.loads(told.read_text()))
            if failed.exit_code != interrupted.exit_code and not failed.is_echo:
                answer = failed
                break
    try:
        sender.send(answer)
    except BrokenPipeError:  # the parent was killed, and with it whoever would remove the folder
        shutil.rmtree(folder, ignore_errors=True)


def _kill_ranks(number: int, frame: FrameType | None) -> None:
    for rank in active_children():
        rank.kill()


def _rank(call: Callable[..., T], folder: Path, level: int) -> T:
    """A rank's process: make the call; write a failure down before ending with its exit code."""
    rank = int(os.environ["RANK"])
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter("%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    log.setLevel(level)
    tqdm.set_lock(threading.RLock())  # tqdm's own is a semaphore, which a rank that is ended leaves behind

    def ready(run: Path) -> None:
        if rank == 0:
            (folder / _RUN).write_text(str(run))

    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        return call(ready=ready)
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, LostRankError):
            time.sleep(BLAMED_WITHIN_S)
        elif not isinstance(error, MvsentError | KeyboardInterrupt):
            traceback.print_exc()
        failure = ProcessFailure.of(error, f"rank {rank}")
    (folder / f"rank-{rank}.json").write_text(json.dumps(asdict(failure)))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(failure.exit_code)  # torch's own exit takes seconds, and may wait for ranks that have ended
