"""A real S3 server in a process of its own, and in front of it, where a test wants that, a bad network."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from socket import create_connection, socket
from urllib.request import Request, urlopen

import pytest

from tests import programs

BUCKET = "pairs"


def free_port() -> int:
    with closing(socket()) as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def s3_server() -> Iterator[str]:
    """The address of a server that holds nothing yet."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:  # until it says that it listens
            if "Running on" in line or "Press CTRL" in line:
                break
        reader = threading.Thread(target=process.stderr.read, daemon=True)  # or its pipe would fill
        reader.start()
        create_connection(("127.0.0.1", port), 10).close()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def empty(address: str) -> None:
    """The server holds nothing any more."""
    with urlopen(Request(f"{address}/moto-api/reset", method="POST")):
        pass


def use(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process and those that it starts find S3 at `address`."""
    forget()
    for name, value in environment(address).items():
        monkeypatch.setenv(name, value)


def environment(address: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def forget() -> None:
    """Connections of earlier tests are not used again."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()


@dataclass
class BadNetwork:
    """A proxy that asks `decide` about every request, by its first line: None, `drop`, `throttle`, `deny` …"""

    target: str
    decide: Callable[[str], str | None]
    seen: list[str] = field(default_factory=list)
    address: str = ""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self.target.removeprefix("http://").split(":")
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            line = head.split(b"\r\n", 1)[0].decode()
            self.seen.append(line)
            fate = self.decide(line)
            if fate in ANSWERS:
                writer.write(ANSWERS[fate])
                await writer.drain()
                return
            theirs, ours = await asyncio.open_connection(host, int(port))
            ours.write(head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
            up = asyncio.create_task(self._pump(reader, ours))
            await self._pump(theirs, writer, limit=300 if fate == "drop" else None)
            up.cancel()
            ours.close()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    @staticmethod
    async def _pump(
        source: asyncio.StreamReader, sink: asyncio.StreamWriter, limit: int | None = None
    ) -> None:
        while data := await source.read(65536 if limit is None else limit):
            sink.write(data)
            await sink.drain()
            if limit is not None:
                return

    @contextmanager
    def running(self) -> Iterator[str]:
        """The proxy's address."""
        loop, ready, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

        async def serve() -> None:
            async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
                self.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
                ready.set()
                await stop.wait()

        def work() -> None:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:  # it cancels what is still under way
                runner.run(serve())

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        ready.wait()
        try:
            yield self.address
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join()


def _refusal(status: str, code: str) -> bytes:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code} it is</Message></Error>".encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + body


ANSWERS = {
    "throttle": _refusal("503 Slow Down", "SlowDown"),
    "deny": _refusal("403 Forbidden", "AccessDenied"),
    "expired": _refusal("400 Bad Request", "ExpiredToken"),
    "taken": _refusal("412 Precondition Failed", "PreconditionFailed"),  # as MinIO says it
    "full": _refusal("507 Insufficient Storage", "QuotaExceeded"),
}


def run(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """`mvsent` in a process of its own, with this one's environment and `more`."""
    return subprocess.run(
        programs.mvsent(*words),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | more,
    )
