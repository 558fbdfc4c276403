"""Pictures that a busy host refuses (429 or 503): is it the host that refuses everything, or are they broken?

A host that refuses everything ends the build, which decides nothing about its pictures. A picture counts as
broken if it was refused until patience was at its end, while its host refused all else or nothing else was
left to fetch, and if its host gives another picture right before and right after it refuses this one again.
So does a host that never gave anything, if few pictures depend on it and other hosts give theirs.
"""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from yarl import URL

from mvsent.errors import Interrupted, Refusing, in_words
from mvsent.fetch.downloads import Outcome, fetch_images
from mvsent.fetch.policy import Dropped, Fetched, FetchPolicy, HostLimits, ImageRequest, Refusals
from mvsent.limits import backoff
from mvsent.reasons import Reason

WITNESSES = 3
"""Addresses that are tried before a host counts as refusing, or the network as down."""

WITNESS_S = 10.0
_FEW = 20  # pictures of a host that never gave one, which are given up
_TRIALS = 3  # of pictures whose host gives others now and then, after which they count as broken
_SAYS_NOTHING = frozenset({Reason.HTTP_ERROR, Reason.TIMEOUT, Reason.BLOCKED_HOST})


class RefusedPictures:
    """The pictures of one call of `fetch_all` that were put off, as their hosts are busy.

    Args:
        known: addresses of pictures that an earlier process fetched.
    """

    def __init__(
        self, policy: FetchPolicy, limits: HostLimits, stop: threading.Event, known: Iterable[str]
    ) -> None:
        self._policy, self._limits, self._stop = policy, limits, stop
        self._known = {host: url for url in known if (host := URL(url).raw_host)}
        self._refusals: dict[str, Refusals] = {}  # by id, of all rounds
        self._trials, self._host_trials = Counter[str](), Counter[str]()
        self._n_quiet, self._quiet_since = 0, time.monotonic()

    def decide(
        self, refused: Mapping[str, Refusals], left: Mapping[str, ImageRequest], *, is_quiet: bool
    ) -> Iterator[Outcome]:
        """Yield the outcomes of those of the pictures that can be decided after a round of requests.

        Args:
            refused: the refusals of those that were put off in this round, by id.
            left: the requests, by id.
            is_quiet: whether the round decided no other picture.

        Raises: Refusing if a host refuses everything for longer than the patience; Interrupted.
        """
        of_host = defaultdict[str, list[ImageRequest]](list)
        for id, refusals in refused.items():
            self._note(id, refusals)
            of_host[refusals.host].append(left[id])
        if not is_quiet:
            self._n_quiet, self._quiet_since = 0, time.monotonic()
        patience_s = self._policy.patience_s
        is_alone = time.monotonic() - self._quiet_since >= patience_s
        for host, requests in of_host.items():
            if is_alone or self._limits.is_out(host, patience_s):
                yield from self._examined(host, requests)
        if is_alone:
            self._quiet_since = time.monotonic()
        elif of_host and is_quiet:
            # Other workers get pictures of these hosts; those that are refused are asked for less often.
            self._wait(backoff(self._n_quiet, base_s=self._policy.backoff_s))
            self._n_quiet += 1

    def _note(self, id: str, new: Refusals) -> None:
        """Add refusals of a picture to those of earlier rounds."""
        old = self._refusals.get(id, Refusals())
        self._refusals[id] = Refusals(new.host, old.n + new.n, min(old.since, new.since))

    def _examined(self, host: str, requests: Sequence[ImageRequest]) -> Iterator[Outcome]:
        """Ask the host for another picture, and then for these, of which the outcomes are yielded."""
        refused_s = self._limits.refused_s(host) or 0.0
        if self._policy.patience_s == 0:  # no picture is broken after its first refusal
            raise Refusing(host, 0.0)
        own = [urls[host] for urls in (self._limits.given, self._known) if host in urls]
        asked = [request for request in requests if self._refusals[request.id].n]
        unasked = [request.url for request in requests if not self._refusals[request.id].n]
        witness = next(filter(self._gives, [*own, *unasked][:WITNESSES]), "")
        if witness:
            self._limits.note_taken(host, witness)
            self._limits.begin_anew(host)
            yield from self._tried(witness, asked)
        elif not self._limits.is_out(host, self._policy.patience_s):
            # It gives pictures to other workers, or takes turns in its answers, but never gives these.
            self._host_trials[host] += 1
            if self._host_trials[host] >= _TRIALS:
                yield from map(self._broken, asked)
        elif own or len(requests) > _FEW or not any(map(self._gives, self._of_others(host))):
            raise Refusing(host, self._limits.refused_s(host) or refused_s)
        else:
            detail = f"{host}: refused every request for {in_words(refused_s)}, while other hosts gave theirs"
            yield from (Dropped(request.id, Reason.HTTP_ERROR, detail) for request in requests)

    def _tried(self, witness: str, requests: Sequence[ImageRequest]) -> Iterator[Outcome]:
        """Yield what becomes of the pictures, one after the other, until their host gives nothing more.

        Args:
            witness: address of a picture that the host gave a moment ago.
        """
        for request in requests:
            outcome = self._asked(request, self._policy)
            if isinstance(outcome, Dropped) and outcome.unanswered:
                continue
            if isinstance(outcome, Fetched) or not outcome.refusals:
                yield outcome
                continue
            self._note(request.id, outcome.refusals)
            self._trials[request.id] += 1
            if not self._gives(witness) and self._trials[request.id] < _TRIALS:
                return
            yield self._other_size(request) or self._broken(request)

    def _broken(self, request: ImageRequest) -> Dropped:
        """The outcome of a picture that its host refuses, but not others."""
        refusals = self._refusals[request.id]
        times = f"{refusals.n} times in {in_words(time.monotonic() - refusals.since)}"
        detail = f"{refusals.host}: refused {times} (HTTP 429 or 503), while others were given"
        return Dropped(request.id, Reason.HTTP_ERROR, detail)

    def _other_size(self, request: ImageRequest) -> Fetched | None:
        """The picture in a size that its host gives; None if it gives none."""
        for url in request.others:
            outcome = self._asked(replace(request, url=url, others=()), self._policy)
            if isinstance(outcome, Fetched):
                return outcome
        return None

    def _of_others(self, host: str) -> list[str]:
        """Addresses of pictures that other hosts gave, the latest first."""
        given = self._known | self._limits.given
        return [url for other, url in reversed(given.items()) if other != host][:WITNESSES]

    def _gives(self, url: str) -> bool:
        """Whether the picture is given now, or said to be gone; not whether it can be used."""
        quick = replace(self._policy, retries=0, timeout_s=min(self._policy.timeout_s, WITNESS_S))
        outcome = self._asked(ImageRequest("witness", url), quick)
        return isinstance(outcome, Fetched) or not (outcome.refusals or outcome.reason in _SAYS_NOTHING)

    def _asked(self, request: ImageRequest, policy: FetchPolicy) -> Outcome:
        """The outcome of one request, at some distance to the one before. Raises: Interrupted."""
        self._wait(2 * policy.backoff_s)
        once = replace(policy, patience_s=0.0)
        # Its own limits: the turns of a host that refused everything are far away.
        limits = HostLimits(policy.per_host_per_s)
        for outcome in fetch_images([request], once, limits=limits, stop=self._stop):
            return outcome
        raise Interrupted

    def _wait(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Interrupted
