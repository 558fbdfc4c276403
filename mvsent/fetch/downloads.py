"""Fetch many pictures at once and yield them in order: a generator before an event loop in a thread."""

import asyncio
import contextlib
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from mvsent.curate.images import check_image
from mvsent.fetch.client import Body, ImageClient, PutOff, Stopped
from mvsent.fetch.policy import Dropped, Fetched, FetchPolicy, HostLimits, ImageRequest
from mvsent.fetch.responses import Failure, plain
from mvsent.reasons import Reason, Rejection

AHEAD = 4  # pictures begun but not yielded yet, per request that may be in flight
AHEAD_BYTES = 64 * 2**20  # of pictures not yielded yet, beyond which none is begun
_OF_A_SIZE = frozenset(
    {
        Reason.HTTP_404,
        Reason.HTTP_ERROR,
        Reason.IMAGE_CORRUPT,
        Reason.IMAGE_NOT_AN_IMAGE,
        Reason.IMAGE_TOO_LARGE,
    }
)
"""Reasons to drop one size of a picture that say nothing about its others."""

_GONE = 2  # sizes that are not found, after which the photo counts as removed
_LOOK_S = 0.1  # between looks at `stop`

Outcome = Fetched | Dropped


def fetch_images(
    requests: Sequence[ImageRequest],
    policy: FetchPolicy,
    *,
    limits: HostLimits | None = None,
    stop: threading.Event | None = None,
    on_progress: Callable[[Outcome], object] | None = None,
) -> Iterator[Outcome]:
    """Yield the outcome of every request, in the order of the requests.

    Once `stop` is set, pictures in flight are finished and yielded, and the others left out: they are neither
    fetched nor dropped. So are those of a host that leaves `policy.n_unanswered` in a row unanswered, to
    which `outage.fetch_all` returns, as it does to those with `Dropped.refusals`, which are only put off.
    Memory holds at most AHEAD_BYTES of pictures and those in flight.

    Args:
        limits: shared with other calls; None for new ones.
        stop: set by another thread or a signal handler.
        on_progress: called from another thread with each outcome as soon as it is known, in any order.
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
    """A call of `fetch_images`: `work` runs in the thread, `outcomes` in the generator."""

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
        # Made here and not by the thread, so that the generator can reach it from the start.
        self._loop = asyncio.new_event_loop()
        self._main: asyncio.Task[None] | None = None
        self._pool = ThreadPoolExecutor(policy.workers or os.cpu_count() or 1, "mvsent-check")
        self._stopping = asyncio.Event()
        self._space = asyncio.Event()
        self._n_in_flight = 0
        self._n_ahead = 0
        self._bytes_ahead = 0

    def outcomes(self) -> Iterator[Outcome]:
        """Yield the outcomes in order, as the thread makes them."""
        while (slot := self._slots.get()) is not None:
            outcome = slot.result()
            with contextlib.suppress(RuntimeError):  # the loop is closed: nothing waits for space
                self._loop.call_soon_threadsafe(self._give_space, _n_bytes(outcome))
            if outcome is not None:
                yield outcome

    def cancel(self) -> None:
        """Let the thread end without waiting for pictures in flight."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: all was done
            self._loop.call_soon_threadsafe(self._cancel_main)

    def _cancel_main(self) -> None:
        self._stopping.set()  # in case `_fetch_all` has not begun
        if self._main is not None:
            self._main.cancel()

    def work(self) -> None:
        """Fetch everything; the last slot is None, after an exception if there was one."""
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
                most = self._policy.concurrency
                for request in self._requests:
                    while not self._stopping.is_set() and (
                        self._n_in_flight >= most
                        or self._n_ahead >= AHEAD * most
                        or self._bytes_ahead >= AHEAD_BYTES
                    ):
                        self._space.clear()
                        await self._space.wait()
                    if self._stopping.is_set():
                        break
                    self._n_in_flight += 1
                    self._n_ahead += 1
                    slot: Future[Outcome | None] = Future()
                    # Before its task runs: the order of the slots is that of the requests.
                    self._slots.put(slot)
                    group.create_task(self._fill(slot, client, request))
        finally:
            watch.cancel()

    async def _watch(self) -> None:
        """Pass `stop` on to the loop, which a threading.Event cannot wake by itself."""
        while self._stop is not None:
            if self._stop.is_set():
                self._stopping.set()
                self._space.set()
                return
            await asyncio.sleep(_LOOK_S)

    def _give_space(self, n_bytes: int) -> None:
        self._n_ahead -= 1
        self._bytes_ahead -= n_bytes
        self._space.set()

    async def _fill(self, slot: "Future[Outcome | None]", client: ImageClient, request: ImageRequest) -> None:
        """Set the result of `slot`: the outcome, None if the request was left out, or an exception."""
        try:
            outcome = await self._outcome(client, request)
            if self._on_progress is not None:
                self._on_progress(outcome)
        except Stopped:
            slot.set_result(None)
        except asyncio.CancelledError:
            slot.set_result(None)
            raise
        except Exception as error:  # raised by the generator in place of the outcome
            slot.set_exception(error)
        else:
            slot.set_result(outcome)
        finally:  # after on_progress, so that a kill loses no more pictures than may be in flight
            self._n_in_flight -= 1
            self._space.set()

    async def _outcome(self, client: ImageClient, request: ImageRequest) -> Outcome:
        """The picture in the first of its sizes that can be used, or why the first one cannot."""
        first = outcome = await self._outcome_of(client, request.id, request.url)
        n_gone = 0
        for url in request.others:
            if isinstance(outcome, Fetched) or outcome.unanswered or outcome.refusals:
                break
            if outcome.reason not in _OF_A_SIZE:
                break
            n_gone += outcome.reason is Reason.HTTP_404
            if n_gone == _GONE:
                break
            outcome = await self._outcome_of(client, request.id, url)
        if isinstance(outcome, Dropped) and outcome.refusals:
            return outcome
        return outcome if isinstance(outcome, Fetched) else first

    async def _outcome_of(self, client: ImageClient, id: str, url: str) -> Outcome:
        try:
            body = await client.download(url)
        except Failure as failure:
            return Dropped(id, failure.reason, failure.detail, failure.unanswered)
        except PutOff as put_off:
            detail = f"{put_off.refusals.host}: busy (HTTP 429 or 503)"
            return Dropped(id, Reason.HTTP_ERROR, detail, refusals=put_off.refusals)
        self._bytes_ahead += len(body.data)
        # In threads, as Pillow decodes without Python's lock.
        outcome = await self._loop.run_in_executor(self._pool, examine, id, url, body, self._policy)
        self._bytes_ahead += _n_bytes(outcome) - len(body.data)
        return outcome


def examine(id: str, url: str, body: Body, policy: FetchPolicy) -> Outcome:
    """Check the picture in the body of the answer for `url`."""
    try:
        data = plain(body.data, body.encoding, policy.max_bytes)
    except Failure as failure:
        return Dropped(id, failure.reason, failure.detail)
    facts = check_image(
        data, max_pixels=policy.max_pixels, max_bytes=policy.max_bytes, min_side=policy.min_side
    )
    if isinstance(facts, Rejection):
        return Dropped(id, facts.reason, facts.detail)
    return Fetched(id, data, facts, body.url, url)


def _n_bytes(outcome: Outcome | None) -> int:
    return len(outcome.data) if isinstance(outcome, Fetched) else 0
