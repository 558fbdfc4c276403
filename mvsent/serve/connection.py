"""A client's connection, with time limits and a rule for closing one when there are too many."""

import asyncio
from typing import Any, cast

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from mvsent.serve.gate import Gate


class Connection(H11Protocol):
    """Uvicorn's connection with a timer that always runs, so that no idle connection stays open.

    Uvicorn's own timeout covers only the time from an answer to the next byte. A client that never asks,
    sends its head byte by byte, keeps sending after a refusal, or does not read the answer stays connected
    for ever; and `limit_concurrency` refuses requests, not connections. Here the timer closes the connection
    unless the whole head of a request arrives in time and the whole answer is read in time. When there are
    too many connections, the one whose client has kept the server waiting longest is closed, so that idle and
    slow clients block no others; if the server owes every other client an answer, the new connection is
    closed.

    The limits are those of the `Gate` behind the connection.
    """

    timer: asyncio.TimerHandle | None = None
    since: float  # time of opening, of the last head, or of the last complete answer

    def __init__(self, config: uvicorn.Config, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self.limits = cast(Gate, config.app).limits

    @property
    def is_waited_for(self) -> bool:
        """Whether the server waits for the client."""
        return self.cycle is None or self.cycle.response_complete or self.cycle.more_body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer for the head, and close a connection if there are too many."""
        super().connection_made(transport)
        self._close_in(self.limits.head_seconds)
        if len(self.connections) > self.limits.connections:
            everyone = cast("set[Connection]", self.connections)
            slowest = min(everyone, key=lambda each: (not each.is_waited_for, each.since))
            everyone.discard(slowest)  # now, as more connections may open before this one is reported lost
            slowest.transport.abort()

    def handle_events(self) -> None:
        """Start the timer for the answer when a head has arrived."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._close_in(self.limits.longest_seconds)

    def on_response_complete(self) -> None:
        """Start the timer for the next head, or for the rest of a body that was not read."""
        self._close_in(self.limits.head_seconds)
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        if self.timer:
            self.timer.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Send a 400 only if no answer is under way: h11 refuses to write a second one."""
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            super().send_400_response(msg)
        else:
            self.transport.abort()

    def _close_in(self, seconds: float) -> None:
        if self.timer:
            self.timer.cancel()
        self.since = self.loop.time()
        self.timer = self.loop.call_later(seconds, self.transport.abort)
