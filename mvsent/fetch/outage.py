"""Fetch every picture, or stop while the network or a host is down: neither must drop pictures."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from mvsent.errors import Interrupted, Unreachable
from mvsent.fetch.downloads import Outcome, fetch_images
from mvsent.fetch.policy import Dropped, FetchPolicy, HostLimits, ImageRequest, Refusals
from mvsent.fetch.refused import WITNESS_S, WITNESSES, RefusedPictures


def fetch_all(
    requests: Sequence[ImageRequest],
    policy: FetchPolicy,
    take: Callable[[Outcome], object],
    *,
    limits: HostLimits | None = None,
    stop: threading.Event | None = None,
    known: Iterable[str] = (),
) -> Iterator[Outcome]:
    """Call `take` with the outcome of every request, then yield it.

    A picture whose host did not answer is asked for again after the others. It is dropped only if that host
    answers by then, or never did although others do: a dead host costs its own pictures alone, and a network
    that is down costs none. So is a picture whose host is busy, see `refused.py`.

    Args:
        take: called from another thread as soon as an outcome is known, in any order.
        known: addresses of pictures that an earlier process fetched, tried if no host answered this one.

    Raises: Interrupted if `stop` is set before all is fetched; Unreachable if no host answers, or one refuses
        everything. The requests without an outcome are then neither fetched nor dropped.
    """
    limits, stop = limits or HostLimits(policy.per_host_per_s), stop or threading.Event()
    known = list(known)
    put_off = RefusedPictures(policy, limits, stop, known)
    asked_twice: set[str] = set()
    left = {request.id: request for request in requests}
    while left:
        taken: set[str] = set()
        unanswered: list[Dropped] = []
        refused: dict[str, Refusals] = {}

        def sort(
            outcome: Outcome,
            taken: set[str] = taken,
            unanswered: list[Dropped] = unanswered,
            refused: dict[str, Refusals] = refused,
        ) -> None:
            if isinstance(outcome, Dropped) and outcome.unanswered:
                unanswered.append(outcome)
            elif isinstance(outcome, Dropped) and outcome.refusals:
                refused[outcome.id] = outcome.refusals
            else:
                take(outcome)
                taken.add(outcome.id)

        for outcome in fetch_images(list(left.values()), policy, limits=limits, stop=stop, on_progress=sort):
            if outcome.id in taken:
                del left[outcome.id]
                yield outcome
        if left and stop.is_set():
            raise Interrupted
        for outcome in put_off.decide(refused, left, is_quiet=not taken):
            take(outcome)
            yield outcome
            del left[outcome.id]
        for host, detail in {one.unanswered: one.detail for one in unanswered}.items():
            # A host that answered before is asked again; for one that never did, others show if any answers.
            answered = limits.answered
            witnesses = list(answered.values())[: -WITNESSES - 1 : -1] or known[:WITNESSES]
            asked = [answered[host]] if host in answered else witnesses
            if not any(_answers(url, policy, stop) for url in asked):
                raise Interrupted if stop.is_set() else Unreachable(host, detail)
        limits.forget_unanswered()
        for one in unanswered:
            if one.id in asked_twice:
                take(one)
                yield one
                del left[one.id]
            asked_twice.add(one.id)


def _answers(url: str, policy: FetchPolicy, stop: threading.Event) -> bool:
    """Whether the server answers anything at all."""
    once = replace(policy, retries=0, patience_s=0, timeout_s=min(policy.timeout_s, WITNESS_S))
    limits = HostLimits(policy.per_host_per_s)
    # Its own limits: any answer that they know of is an answer to this request.
    list(fetch_images([ImageRequest("witness", url)], once, limits=limits, stop=stop))
    return bool(limits.answered)
