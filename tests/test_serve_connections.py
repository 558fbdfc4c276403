"""What slow, idle and hostile clients of `mvsent serve` cost the others: nothing, for a bounded time."""

import asyncio
import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from mvsent.errors import UsageError
from mvsent.serve import server
from mvsent.serve.gate import Limits, Message, Receive, Send
from tests.serving import begun, behind_a_gate, connected

START = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]}


async def good(scope: Message, receive: Receive, send: Send) -> None:
    """An application that says "good" to everything."""
    await send(START)
    await send({"type": "http.response.body", "body": b"good"})


@contextlib.contextmanager
def serving(limits: Limits) -> Iterator[int]:
    """The port of a server that says "good" to everything."""
    with behind_a_gate(good, limits) as found:
        yield found.port


def status(port: int, body: bytes = b"good", host: str = "127.0.0.1") -> int:
    """Of one request on a connection of its own; 0 where that is closed instead."""
    connection = http.client.HTTPConnection(host, port, timeout=20)
    try:
        connection.request("POST", "/api/predict", body)
        return connection.getresponse().status
    except (http.client.RemoteDisconnected, ConnectionError):
        return 0
    finally:
        connection.close()


def is_closed(connection: socket.socket) -> bool:
    """Has the server closed it, or does it within the connection's timeout?"""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def is_closed_while_sending(connection: socket.socket, piece: bytes, most_seconds: float = 10) -> bool:
    """Does the server close it although, every 20 ms, something is sent on it?"""
    connection.settimeout(0.02)
    end = time.monotonic() + most_seconds
    while time.monotonic() < end:
        with contextlib.suppress(TimeoutError):
            try:
                connection.sendall(piece)
            except ConnectionError:
                return True
            if is_closed(connection):
                return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "piece"),
    [
        (b"", b"G"),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"G"),
        (b"POST / HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 9999999\r\n\r\n", b"body"),
    ],
    ids=["at first", "after an answer", "after a refusal"],
)
def test_a_connection_on_which_no_whole_head_comes_is_closed(before: bytes, piece: bytes) -> None:
    with serving(Limits(head_seconds=0.3)) as port:
        for sent in (b"", piece):
            with connected(port) as connection:
                connection.sendall(before)
                assert not before or connection.recv(2000).startswith(b"HTTP/1.1 ")
                assert is_closed_while_sending(connection, sent), sent


@pytest.mark.slow
def test_a_connection_in_use_stays_open_longer_than_a_head_may_take() -> None:
    with serving(Limits(head_seconds=0.5)) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.connect()
        only = connection.sock
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            connection.request("GET", "/")
            assert connection.getresponse().read() == b"good"
            assert connection.sock is only
        connection.close()


@pytest.mark.slow
def test_a_body_may_take_longer_than_a_head() -> None:
    with serving(Limits(head_seconds=0.2)) as port, begun(port, 4) as connection:
        connection.settimeout(0.6)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.sendall(b"body")
        assert b" 200 " in connection.recv(2000)


@pytest.mark.slow
def test_a_client_that_does_not_take_its_answer_is_left() -> None:
    done = threading.Event()

    async def endless(scope: Message, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(1000):
            await send({"type": "http.response.body", "body": bytes(2**20), "more_body": True})
        done.set()  # a connection that is closed takes everything

    limits = Limits(head_seconds=0.1, body_seconds=0.1, seconds=0.1)
    with behind_a_gate(endless, limits) as found, connected(found.port) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert done.wait(20)


@pytest.mark.parametrize("is_asking", [False, True], ids=["idle", "slow bodies"])
def test_one_connection_too_many_closes_the_one_that_was_waited_for_longest(is_asking: bool) -> None:
    with serving(Limits(connections=4)) as port, contextlib.ExitStack() as stack:
        hogs = [stack.enter_context(begun(port, 9) if is_asking else connected(port)) for _ in range(4)]
        assert status(port) == 200
        assert is_closed(hogs[0])
        hogs[3].settimeout(0.1)
        with pytest.raises(TimeoutError):
            hogs[3].recv(1)


def test_who_waits_for_an_answer_makes_room_for_nobody() -> None:
    asked, go = threading.Semaphore(0), threading.Event()

    async def stuck(scope: Message, receive: Receive, send: Send) -> None:
        asked.release()
        await asyncio.get_running_loop().run_in_executor(None, go.wait, 20)
        await good(scope, receive, send)

    with behind_a_gate(stuck, Limits(connections=2)) as found, ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(status, found.port) for _ in range(2)]
        try:
            assert all(asked.acquire(timeout=20) for _ in waiting)
            assert status(found.port) == 0
        finally:
            go.set()
        assert [each.result() for each in waiting] == [200, 200]


def test_bodies_that_dribble_take_nobodys_place() -> None:
    with serving(Limits(under_way=1)) as port, contextlib.ExitStack() as stack:
        slow = [stack.enter_context(begun(port, 9)) for _ in range(20)]
        for connection in slow:
            connection.sendall(b"g")
        assert status(port) == 200
        slow[0].sendall(b"oodbadgo")
        assert b" 200 " in slow[0].recv(1000), "slow is not forbidden"


def test_bodies_fill_no_more_memory_together_than_they_may() -> None:
    with behind_a_gate(good, Limits(bodies=1000)) as found, begun(found.port, 900) as slow:
        slow.sendall(b"a" * 800)
        assert status(found.port, b"a" * 201) == 503
        assert status(found.port, b"a" * 200) == 200
        slow.sendall(b"a" * 100)
        assert b" 200 " in slow.recv(1000)
        assert status(found.port, b"a" * 1000) == 200
    assert (found.gate.held, found.gate.under_way) == (0, 0)


def test_a_body_that_breaks_off_gives_its_memory_back() -> None:
    with behind_a_gate(good, Limits(bodies=1000)) as found:
        with begun(found.port, 900) as slow:
            slow.sendall(b"a" * 800)
            assert status(found.port, b"a" * 201) == 503
        end = time.monotonic() + 20
        while found.gate.held and time.monotonic() < end:
            assert status(found.port, b"") == 200
        assert status(found.port, b"a" * 1000) == 200


def test_two_origins_are_refused_whatever_they_are() -> None:
    with serving(Limits()) as port:
        own, other = f"http://127.0.0.1:{port}", "https://evil.example"
        for origins in ([own, other], [other, own], [own, own], [other], ["null"], [""]):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            connection.putrequest("POST", "/api/predict")
            for origin in origins:
                connection.putheader("Origin", origin)
            connection.endheaders()
            answer = connection.getresponse()
            assert (answer.status, list(json.load(answer))) == (403, ["error"]), origins
            connection.close()


BEGUN = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        [b"\x16\x03\x01\x02\x00\x01\r\n\r\n"],
        [b"GET / HTTP/1.1\r\n\r\n"],
        [b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n"],
        [b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 2**20],
        [b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n"],
        [BEGUN + b"no number\r\n"],
        [BEGUN.replace(b"127.0.0.1", b"evil"), b"no number\r\n"],
    ],
    ids=["TLS", "no host", "two hosts", "long header", "websocket", "bad chunk", "bad chunk after a refusal"],
)
def test_what_is_no_http_gets_one_answer_and_leaves_the_log_empty(
    sent: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    with serving(Limits()) as port, connected(port) as connection:
        answers = b""
        for piece in sent:
            with contextlib.suppress(ConnectionError):
                connection.sendall(piece)
                answers += connection.recv(2000)
        with contextlib.suppress(ConnectionError):
            for part in iter(lambda: connection.recv(2000), b""):
                answers += part
        assert answers.count(b"HTTP/1.1 ") == 1
        assert status(port) == 200
    assert caplog.messages == []


def test_old_clients_and_those_that_want_the_head_only_are_answered() -> None:
    with serving(Limits()) as port:
        for asked, body in (("GET / HTTP/1.0", b"good"), ("HEAD / HTTP/1.0", b""), ("HEAD / HTTP/1.1", b"")):
            with connected(port) as connection:
                connection.sendall(f"{asked}\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
                head, _, rest = b"".join(iter(lambda: connection.recv(2000), b"")).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            assert b"content-length: 4" in head
            assert rest == body


def test_a_request_that_is_not_there_when_the_server_ends_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_FAREWELL", 0.1)
    with (
        behind_a_gate(good, Limits()) as found,
        begun(found.port, 9) as connection,
        connected(found.port) as idle,
    ):
        found.server.should_exit = True
        answer = connection.recv(2000)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"default-src" in answer
        assert is_closed(idle)


def test_an_address_of_ipv6_is_one_by_which_it_can_be_called() -> None:
    try:
        server.bound("::1", 0).close()
    except UsageError:
        pytest.skip("this machine has no such address")
    with behind_a_gate(good, Limits(), "::1") as found:
        assert status(found.port, host="::1") == 200
