"""One client's connection: when it is closed for keeping us waiting, and which one makes room for another."""

import asyncio
from typing import Any, cast

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from mvsent.serve.gate import Gate


class Connection(H11Protocol):
    """Uvicorn's connection with one timer that always runs, so that none stays open without being used.

    Uvicorn counts only the seconds after an answer until the next byte: who never asks, sends a head byte by
    byte, goes on sending after a refusal, or does not take the answer, stays for ever. And its
    `limit_concurrency` refuses requests, not connections. Here the timer closes the connection unless the
    whole head of a request comes in time, and then unless the whole answer was taken in time. One connection
    too many closes the one whose client we have waited for longest, so idle and slow ones shut nobody out; it
    is the new one itself where all others wait for us.

    Its limits are those of the `Gate` that it leads to.
    """

    timer: asyncio.TimerHandle | None = None
    since: float  # when it was opened, or a request's head came, or an answer was complete

    def __init__(self, config: uvicorn.Config, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self.limits = cast(Gate, config.app).limits

    @property
    def is_waited_for(self) -> bool:
        """Is it the client's turn?"""
        return self.cycle is None or self.cycle.response_complete or self.cycle.more_body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The head has to come in time."""
        super().connection_made(transport)
        self._close_in(self.limits.head_seconds)
        if len(self.connections) > self.limits.connections:
            everyone = cast("set[Connection]", self.connections)
            slowest = min(everyone, key=lambda each: (not each.is_waited_for, each.since))
            everyone.discard(slowest)  # at once: more may come before it is lost
            slowest.transport.abort()

    def handle_events(self) -> None:
        """Where a head has come, the answer has to be taken in time."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._close_in(self.limits.longest_seconds)

    def on_response_complete(self) -> None:
        """The next head has to come in time, or what is left of a body that was not wanted."""
        self._close_in(self.limits.head_seconds)
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for."""
        if self.timer:
            self.timer.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Only where no answer is under way: h11 does not write a second one."""
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            super().send_400_response(msg)
        else:
            self.transport.abort()

    def _close_in(self, seconds: float) -> None:
        if self.timer:
            self.timer.cancel()
        self.since = self.loop.time()
        self.timer = self.loop.call_later(seconds, self.transport.abort)
