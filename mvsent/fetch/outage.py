"""Every picture's outcome, or an end while nobody answers: that a network is down is no picture's fault."""

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import islice

from mvsent.errors import Interrupted, Unreachable
from mvsent.fetch.downloads import Outcome, fetch_images
from mvsent.fetch.policy import Dropped, FetchPolicy, HostLimits, ImageRequest

_WITNESSES = 3  # addresses that are tried before the network is held to be down
_WITNESS_S = 10.0


def fetch_all(
    requests: Sequence[ImageRequest],
    policy: FetchPolicy,
    take: Callable[[Outcome], object],
    *,
    limits: HostLimits | None = None,
    stop: threading.Event | None = None,
    known: Callable[[], Iterable[str]] = tuple,
) -> None:
    """`take` was called with the outcome of every request, in any order and from another thread.

    A picture whose host did not answer is asked for once more when the others are done, and dropped only if
    that host is there then, or never was while others are: so a dead host costs its pictures alone, and a
    network that is down costs none.

    Args:
        known: addresses of pictures that an earlier process was given, for when nobody has answered this one.

    Raises: Interrupted when `stop` was set before all was fetched; Unreachable when nobody answers. What was
        not taken then is neither fetched nor dropped.
    """
    limits = limits or HostLimits(policy.per_host_per_s)
    asked_twice: set[str] = set()
    left = list(requests)
    while left:
        done, unanswered = _round(left, policy, take, limits, stop)
        left = [request for request in left if request.id not in done]
        if left and stop is not None and stop.is_set():
            raise Interrupted
        for host, detail in {one.unanswered: one.detail for one in unanswered}.items():
            if not _is_worth_asking(host, limits, known, policy, stop):
                raise Interrupted if stop is not None and stop.is_set() else Unreachable(host, detail)
        limits.count_anew()
        for one in unanswered:
            if one.id in asked_twice:
                take(one)
                left = [request for request in left if request.id != one.id]
            asked_twice.add(one.id)


def _round(
    requests: Sequence[ImageRequest],
    policy: FetchPolicy,
    take: Callable[[Outcome], object],
    limits: HostLimits,
    stop: threading.Event | None,
) -> tuple[set[str], list[Dropped]]:
    """The ids of what was taken, and what was left unanswered."""
    done: set[str] = set()
    unanswered: list[Dropped] = []

    def sort(outcome: Outcome) -> None:
        if isinstance(outcome, Dropped) and outcome.unanswered:
            unanswered.append(outcome)
        else:
            take(outcome)
            done.add(outcome.id)

    for _ in fetch_images(requests, policy, limits=limits, stop=stop, on_progress=sort):
        pass
    return done, unanswered


def _is_worth_asking(
    host: str,
    limits: HostLimits,
    known: Callable[[], Iterable[str]],
    policy: FetchPolicy,
    stop: threading.Event | None,
) -> bool:
    """Whether a host that answered before answers now; or, for one that never did, any other."""
    if host in limits.answered:
        return _answers(limits.answered[host], policy, stop)
    heard = list(limits.answered.values())[: -_WITNESSES - 1 : -1] or list(islice(known(), _WITNESSES))
    return any(_answers(url, policy, stop) for url in heard)


def _answers(url: str, policy: FetchPolicy, stop: threading.Event | None) -> bool:
    """Whether anything comes back, whatever it says."""
    once = replace(policy, retries=0, patience=0, timeout_s=min(policy.timeout_s, _WITNESS_S))
    heard = HostLimits(policy.per_host_per_s)
    list(fetch_images([ImageRequest("witness", url)], once, limits=heard, stop=stop))
    return bool(heard.answered)
