"""Command lines of mvsent and of Python, for tests that need a process of their own.

`mvsent("train", …)` starts in a twentieth of a second where `python -m mvsent train …` takes seconds to import
torch: the process is forked from one that the whole test session shares (`fork_server.py`). Its children have
one hash seed, and modules that are imported already: tests of either take `sys.executable`.
"""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PYTHON = "PYTHON_OF_TESTS"
"""Variable with the path of a program that is like `python`, which xdist's workers inherit."""
INTERPRETER = "INTERPRETER_OF_TESTS"
"""Variable with the path of Python itself."""
ROOT = Path(__file__).parents[1]


@contextmanager
def fork_server() -> Iterator[None]:
    """Programs can be started meanwhile, and keep the features that they compute in one cache."""
    with (
        tempfile.TemporaryDirectory(prefix="fork-", ignore_cleanup_errors=True) as folder,
        socket.socket(socket.AF_UNIX) as listener,
    ):
        python, address = Path(folder, "python"), f"{folder}/socket"
        client = Path(__file__).with_name("fork_client.py")
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{client}" "{address}" "$@"\n')
        python.chmod(0o700)
        os.environ |= {PYTHON: str(python), INTERPRETER: sys.executable, "MVSENT_CACHE": f"{folder}/cache"}
        listener.bind(address)
        listener.listen(64)
        command = [sys.executable, "-m", "tests.fork_server", str(listener.fileno()), str(python)]
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # no threads before a fork
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, pass_fds=[listener.fileno()], cwd=ROOT, env=environment
        ):
            listener.close()  # where the server ends, a client is refused rather than left waiting
            yield


def python(*words: str) -> list[str]:
    """The command line of a process that does what `python WORDS` does."""
    return [os.environ[PYTHON], *words]


def mvsent(*words: str) -> list[str]:
    """The command line of a process that does what `mvsent WORDS` does."""
    return python("-m", "mvsent", *words)


def pid(client: int) -> int:
    """The number of the process that a client has had forked: the one to kill, and the parent of others."""
    return int(Path(f"/proc/{client}/comm").read_text())
