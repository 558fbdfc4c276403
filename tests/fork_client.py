"""Run a Python command line in a child of the fork server: `python fork_client.py SOCKET -m mvsent …`.

SIGINT, SIGTERM and SIGUSR1 are passed on; the exit code, or the signal that ended the child, becomes this
process's own. It imports little, and is run with `-I -S`, so that it starts in hundredths of a second.
"""

import json
import os
import signal
import socket
import sys

LENGTH = 4  # as in fork_server.py


def open_files() -> list[int]:
    """The open file descriptors."""
    listed = [int(name) for name in os.listdir("/proc/self/fd")]  # noqa: PTH208 - pathlib takes 10 ms to import
    return [number for number in listed if is_open(number)]


def is_open(number: int) -> bool:
    """Whether the file descriptor is open; that of the listing itself is no more."""
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def main() -> int:
    """Return the exit code, negative for a signal."""
    address, *words = sys.argv[1:]
    files = open_files()
    passed_on = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1}  # the last by launcher.py
    signal.pthread_sigmask(signal.SIG_BLOCK, passed_on)  # until it is known to whom
    server = socket.socket(socket.AF_UNIX)
    server.connect(address)
    request = {"words": words, "environment": dict(os.environ), "folder": os.getcwd(), "files": files}  # noqa: PTH109
    body = json.dumps(request).encode()
    socket.send_fds(server, [len(body).to_bytes(LENGTH, "big")], files)
    server.sendall(body)
    for number in files:
        os.close(number)  # from here on only the child has them open
    child = number_from(server)
    with open("/proc/self/comm", "w") as name:  # noqa: PTH123
        name.write(str(child))
    for number in passed_on:
        signal.signal(number, lambda number, _: os.kill(child, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, passed_on)
    return number_from(server)


def number_from(server: socket.socket) -> int:
    """The next number of the server. Raises: ConnectionError if it has ended."""
    data = server.recv(LENGTH, socket.MSG_WAITALL)
    if not data:
        raise ConnectionError("the fork server has ended")
    return int.from_bytes(data, "big", signed=True)


if __name__ == "__main__":
    code = main()
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)
