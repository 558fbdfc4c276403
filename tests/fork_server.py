"""Server that forks Python programs from a process that has already imported mvsent and torch.

`python -m tests.fork_server N PYTHON` listens on its file descriptor N until its stdin ends, and imports when the
first client comes. A client (`fork_client.py`, which the program PYTHON calls) sends its command line,
environment, working directory and open files. A child takes them over and runs as a new interpreter would,
without the seconds that imports take. The server reports its exit code to the client, and kills it if the
client is killed.
"""

import atexit
import fcntl
import gc
import importlib
import json
import multiprocessing
import os
import pkgutil
import runpy
import signal
import socket
import sys
import threading
import traceback
import types
from contextlib import suppress
from pathlib import Path
from select import select
from typing import Any, TextIO

LENGTH = 4
"""Bytes of each number that client and server exchange."""
NOT_PRELOADED = {"mvsent.__main__", "mvsent.serve.application"}
"""The first is a program; the second imports FastAPI, which only `mvsent serve` needs."""
ON_USE = ("timm", "captum.attr", "PIL.ImageDraw", "pyarrow.dataset", "transformers")
"""Packages that mvsent imports when it uses them, as many commands do."""
OF_TESTS = ("datasets", "mlcroissant", "onnxscript", "sklearn.metrics")
"""Packages that tests import."""


def preload() -> None:
    """Import mvsent and what it imports."""
    import mvsent

    for module in pkgutil.walk_packages(mvsent.__path__, "mvsent."):
        if module.name not in NOT_PRELOADED:
            importlib.import_module(module.name)
    for name in ON_USE + OF_TESTS:
        with suppress(ImportError):
            importlib.import_module(name)
    threads = [thread.read_text().strip() for thread in Path("/proc/self/task").glob("*/comm")]
    assert set(threads[1:]) <= {"jemalloc_bg_thd"}, f"a child would lack {threads}"  # Arrow's survives a fork
    gc.freeze()  # a collection in a child would touch, and so copy, every page


def serve(listener: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Fork for each client; return its request and its files in the child. The server itself never returns."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for pytest, which then ends our stdin
    children: dict[int, tuple[int, socket.socket]] = {}  # by the file descriptor that tells of the end
    clients: dict[socket.socket, int] = {}  # that live, each with its child
    while True:
        ready = set(select([sys.stdin, listener, *children, *clients], [], [])[0])
        if sys.stdin in ready:
            os._exit(0)
        for client in ready & clients.keys():  # they never speak twice: this one was killed
            os.kill(clients.pop(client), signal.SIGKILL)
        for end in ready & children.keys():
            child, client = children.pop(end)
            clients.pop(client, None)
            send(client, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            client.close()
            os.close(end)
        if listener not in ready:
            continue
        client = listener.accept()[0]
        preload()
        request, files = receive(client)
        child = os.fork()
        if child == 0:
            for other in (listener, client, *clients):
                other.close()
            for end in children:
                os.close(end)
            return request, files
        for file in files:
            os.close(file)
        send(client, child)
        clients[client], children[os.pidfd_open(child)] = child, (child, client)


def receive(client: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """The request of a client and its open files."""
    head, files, _, _ = socket.recv_fds(client, LENGTH, 250)
    body = client.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL)
    return json.loads(body), files


def send(client: socket.socket, number: int) -> None:
    """Tell a client its child's number, or at last its exit code, negative for a signal."""
    with suppress(BrokenPipeError):
        client.sendall(number.to_bytes(LENGTH, "big", signed=True))


def become(request: dict[str, Any], files: list[int], python: str) -> None:
    """Take over the surroundings of a client; processes that this one starts are clients, too."""
    high = [fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, 500) for file in files]  # out of the way of all numbers
    for number in {0, 1, 2, *files}:
        os.close(number)
    for file, number in zip(high, request["files"], strict=True):
        os.dup2(file, number)
        os.close(file)
    sys.stdin, sys.stdout, sys.stderr = (opened(number) for number in range(3))
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.executable = python
    multiprocessing.set_executable(python)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # or all children would draw the same
    if "OMP_NUM_THREADS" in os.environ and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def opened(number: int) -> TextIO | None:
    """A standard stream as Python opens it at its start: None if it is closed."""
    errors = ("surrogateescape", "strict", "backslashreplace")[number]
    try:
        buffering = 1 if number == 2 else -1
        return open(number, "r" if number == 0 else "w", buffering, "utf-8", errors, closefd=False)
    except OSError:
        return None


def run(words: list[str]) -> int:
    """Run `-m MODULE …` or `-c CODE …`; return the exit code."""
    while words[0] not in ("-c", "-m"):  # flags, as -B
        del words[0]
    how, program, *_ = words
    sys.path[0] = str(Path.cwd()) if how == "-m" else ""
    sys.argv = words[1:] if how == "-m" else ["-c", *words[2:]]
    try:
        if how == "-m":
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        else:
            main = sys.modules["__main__"] = types.ModuleType("__main__")
            exec(compile(program, "<string>", "exec"), main.__dict__)
    except SystemExit as leaving:
        if leaving.code is None or isinstance(leaving.code, int):
            return leaving.code or 0
        print(leaving.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def end(code: int) -> None:
    """Exit as an interpreter does, but do not tear down its modules, which takes a second with torch."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except OSError:
            traceback.print_exc()
            code = 120
    os._exit(code & 0xFF)


if __name__ == "__main__":
    _request, _files = serve(socket.socket(fileno=int(sys.argv[1])))
    become(_request, _files, sys.argv[2])
    end(run(_request["words"]))
