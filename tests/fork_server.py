"""Server that forks Python programs from a process that has already imported mvsent and torch.

`python -m tests.fork_server N` listens on its file descriptor N until its stdin ends, and imports when the first
client comes. A client (`fork_client.py`) sends its command line, environment, working directory and standard
streams. A child takes them over and runs as a new interpreter would, without the seconds that imports take.
Another process, its keeper, reports its exit code to the client, and kills it if the client is killed.
"""

import atexit
import gc
import importlib
import json
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
ON_USE = ("timm", "captum.attr", "PIL.ImageDraw", "pyarrow.dataset")
"""Packages that mvsent imports when it uses them, as many commands do."""


def preload() -> None:
    """Import mvsent and what it imports."""
    import mvsent

    for module in pkgutil.walk_packages(mvsent.__path__, "mvsent."):
        if module.name not in NOT_PRELOADED:
            importlib.import_module(module.name)
    for name in ON_USE:
        with suppress(ImportError):
            importlib.import_module(name)
    threads = [thread.read_text().strip() for thread in Path("/proc/self/task").glob("*/comm")]
    assert set(threads[1:]) <= {"jemalloc_bg_thd"}, f"a child would lack {threads}"  # Arrow's survives a fork
    gc.freeze()  # a collection in a child would touch, and so copy, every page


def serve(listener: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Fork for each client; return its request and its streams in the child. The server itself never returns."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for pytest, which then ends our stdin
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the keepers
    while True:
        if sys.stdin in select([sys.stdin, listener], [], [])[0]:
            os._exit(0)
        client = listener.accept()[0]
        preload()
        if os.fork():
            client.close()
            continue
        listener.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        request, streams = receive(client)
        child = os.fork()
        if child == 0:
            client.close()
            return request, streams
        for stream in streams:
            os.close(stream)
        keep(child, client)
        os._exit(0)


def receive(client: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """The request of a client and its open standard streams."""
    head, streams, _, _ = socket.recv_fds(client, LENGTH, 3)
    size, body = int.from_bytes(head, "big"), b""
    while len(body) < size:
        body += client.recv(size - len(body))
    return json.loads(body), streams


def keep(child: int, client: socket.socket) -> None:
    """Tell the client the child's number and later its exit code, negative for a signal."""
    with suppress(BrokenPipeError):
        client.sendall(child.to_bytes(LENGTH, "big"))
    if client in select([client, os.pidfd_open(child)], [], [])[0]:  # it never speaks: this is its end
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with suppress(BrokenPipeError):
        client.sendall(code.to_bytes(LENGTH, "big", signed=True))


def become(request: dict[str, Any], streams: list[int]) -> None:
    """Take over the surroundings of a client."""
    for number in range(3):
        os.close(number)
    for stream, number in zip(streams, request["streams"], strict=True):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin, sys.stdout, sys.stderr = (opened(number) for number in range(3))
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
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
    how, program, *_ = words
    sys.path[0] = str(Path.cwd()) if how == "-m" else ""
    sys.argv = words[1:] if how == "-m" else ["-c", *words[2:]]
    try:
        if how == "-m":
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        else:
            assert how == "-c", words
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
    _request, _streams = serve(socket.socket(fileno=int(sys.argv[1])))
    become(_request, _streams)
    end(run(_request["words"]))
