"""Many pictures at once, given out in order: an event loop in a thread behind a plain generator."""

import asyncio
import contextlib
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from mvsent.curate.images import check_image
from mvsent.fetch.client import Body, ImageClient, Stopped
from mvsent.fetch.policy import Dropped, Fetched, FetchPolicy, HostLimits, ImageRequest
from mvsent.fetch.responses import Failure, plain
from mvsent.pairs import Rejection

AHEAD = 4  # pictures begun but not given out yet, for each request that may be in flight
AHEAD_BYTES = 64 * 2**20  # of pictures that wait to be given out; with more, none is begun
_LOOK_S = 0.1  # how often `stop` is looked at

Outcome = Fetched | Dropped


def fetch_images(
    requests: Sequence[ImageRequest],
    policy: FetchPolicy,
    *,
    limits: HostLimits | None = None,
    stop: threading.Event | None = None,
    on_progress: Callable[[Outcome], object] | None = None,
) -> Iterator[Outcome]:
    """What became of every request, in the order of the requests.

    Once `stop` is set, requests in flight are finished and given out, and the others are left out: they are
    neither fetched nor dropped; so are those of a host that left `policy.n_unanswered` in a row unanswered,
    which `outage.fetch_all` comes back to. Memory holds at most AHEAD_BYTES of pictures and those in flight.

    Args:
        limits: what hosts asked for in earlier calls; None for a new one.
        stop: set by another thread or a signal handler.
        on_progress: called in another thread with each outcome as soon as it is known, in any order.
    """
    run = _Run(requests, policy, limits or HostLimits(policy.per_host_per_s), stop, on_progress)
    thread = threading.Thread(target=run.work, name="mvsent-fetch", daemon=True)
    thread.start()
    try:
        yield from run.outcomes()
    finally:
        run.cancel()
        thread.join()


class _Run:
    """One call of `fetch_images`: the thread's side (`work`) and the generator's side (`outcomes`)."""

    def __init__(
        self,
        requests: Sequence[ImageRequest],
        policy: FetchPolicy,
        limits: HostLimits,
        stop: threading.Event | None,
        on_progress: Callable[[Outcome], object] | None,
    ) -> None:
        self._requests = requests
        self._policy = policy
        self._limits = limits
        self._stop = stop
        self._on_progress = on_progress
        self._slots: queue.SimpleQueue[Future[Outcome | None] | None] = queue.SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._main: asyncio.Task[None] | None = None
        self._pool = ThreadPoolExecutor(policy.workers or os.cpu_count() or 1, "mvsent-check")
        self._stopping = asyncio.Event()
        self._space = asyncio.Event()
        self._n_in_flight = 0
        self._n_ahead = 0
        self._bytes_ahead = 0

    def outcomes(self) -> Iterator[Outcome]:
        """Every outcome, in order, as the thread makes them."""
        while (slot := self._slots.get()) is not None:
            outcome = slot.result()
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits for space
                self._loop.call_soon_threadsafe(self._give_space, _n_bytes(outcome))
            if outcome is not None:
                yield outcome

    def cancel(self) -> None:
        """Nothing is waited for any more."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: it was done
            self._loop.call_soon_threadsafe(self._cancel_main)

    def _cancel_main(self) -> None:
        self._stopping.set()  # in case it has not begun
        if self._main is not None:
            self._main.cancel()

    def work(self) -> None:
        """Fetch everything; ends with the last slot, or when cancelled, or with what went wrong."""
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner, self._pool:
                runner.run(self._fetch_all())
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            failed: Future[Outcome | None] = Future()
            failed.set_exception(error)
            self._slots.put(failed)
        finally:
            self._slots.put(None)

    async def _fetch_all(self) -> None:
        self._main = asyncio.current_task()
        watch = asyncio.create_task(self._watch())
        try:
            async with (
                ImageClient(self._policy, self._limits, self._stopping) as client,
                asyncio.TaskGroup() as group,
            ):
                for request in self._requests:
                    await self._wait_for_space()
                    if self._stopping.is_set():
                        break
                    slot: Future[Outcome | None] = Future()
                    self._slots.put(slot)
                    group.create_task(self._fill(slot, client, request))
        finally:
            watch.cancel()

    async def _watch(self) -> None:
        """Pass `stop` on to the loop: a threading.Event cannot wake it by itself."""
        while self._stop is not None:
            if self._stop.is_set():
                self._stopping.set()
                self._space.set()
                return
            await asyncio.sleep(_LOOK_S)

    async def _wait_for_space(self) -> None:
        while not self._stopping.is_set() and self._is_full():
            self._space.clear()
            await self._space.wait()
        self._n_in_flight += 1
        self._n_ahead += 1

    def _is_full(self) -> bool:
        most = self._policy.concurrency
        return self._n_in_flight >= most or self._n_ahead >= AHEAD * most or self._bytes_ahead >= AHEAD_BYTES

    def _give_space(self, n_bytes: int) -> None:
        self._n_ahead -= 1
        self._bytes_ahead -= n_bytes
        self._space.set()

    async def _fill(self, slot: "Future[Outcome | None]", client: ImageClient, request: ImageRequest) -> None:
        """`slot` holds the outcome, None if the request was left out, or what went wrong with us."""
        try:
            outcome = await self._outcome(client, request)
            if self._on_progress is not None:
                self._on_progress(outcome)
        except Stopped:
            slot.set_result(None)
        except asyncio.CancelledError:
            slot.set_result(None)
            raise
        except Exception as error:  # raised where the outcome would have been given out
            slot.set_exception(error)
        else:
            slot.set_result(outcome)
        finally:  # only now, so that a kill costs no more requests than may be in flight
            self._n_in_flight -= 1
            self._space.set()

    async def _outcome(self, client: ImageClient, request: ImageRequest) -> Outcome:
        try:
            body = await client.download(request.url)
        except Failure as failure:
            return Dropped(request.id, failure.reason, failure.detail, failure.unanswered)
        self._bytes_ahead += len(body.data)
        outcome = await self._loop.run_in_executor(self._pool, examine, request.id, body, self._policy)
        self._bytes_ahead += _n_bytes(outcome) - len(body.data)
        return outcome


def examine(id: str, body: Body, policy: FetchPolicy) -> Outcome:
    """The picture in the body, if it is one that can be used."""
    try:
        data = plain(body.data, body.encoding, policy.max_bytes)
    except Failure as failure:
        return Dropped(id, failure.reason, failure.detail)
    facts = check_image(
        data, max_pixels=policy.max_pixels, max_bytes=policy.max_bytes, min_side=policy.min_side
    )
    if isinstance(facts, Rejection):
        return Dropped(id, facts.reason, facts.detail)
    return Fetched(id, data, facts, body.url)


def _n_bytes(outcome: Outcome | None) -> int:
    return len(outcome.data) if isinstance(outcome, Fetched) else 0
