"""A server that sends exactly the bytes it is given, for answers that no HTTP library would write."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

END_OF_HEADERS = b"\r\n\r\n"


def http(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    """An HTTP answer that ends its connection."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + END_OF_HEADERS + body


@contextmanager
def raw_server(*answers: bytes, byte_pause_s: float = 0.0) -> Iterator[str]:
    """The address of a server that gives each connection the next answer, then the last one again.

    With `byte_pause_s` it sends a byte, waits, and sends the next one.
    """
    stopped = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def give(connection: socket.socket, answer: bytes) -> None:
        with connection, suppress(OSError):
            request = b""
            while END_OF_HEADERS not in request:
                request += connection.recv(2**16) or END_OF_HEADERS
            if byte_pause_s:
                for byte in answer:
                    connection.sendall(bytes([byte]))
                    if stopped.wait(byte_pause_s):
                        return
            else:
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)
                connection.recv(2**16)

    def serve() -> None:
        for number in range(10_000):
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            answer = answers[min(number, len(answers) - 1)]
            threading.Thread(target=give, args=(connection, answer), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        stopped.set()
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
