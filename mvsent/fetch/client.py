"""Download one picture: redirects, deadline, byte cap, retries, pauses that the host asks for."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from types import TracebackType

import aiohttp
from yarl import URL

from mvsent.errors import in_words
from mvsent.fetch.addresses import BlockedHostError, CheckedResolver, check_literal
from mvsent.fetch.policy import FetchPolicy, HostLimits, Refusals
from mvsent.fetch.responses import BUSY, GONE, PASSING, REDIRECTS, Failure, is_placeholder, refuses_ai
from mvsent.limits import backoff, retry_after
from mvsent.reasons import Reason

log = logging.getLogger("mvsent")

LONG_S = 10.0
"""A pause that a host asks for is said if it is longer."""

_SOME = 3  # refusals of a picture, after which it is put off if its host gives others meanwhile
_SKEW_S = 1.0  # by which workers may know later that a host gave something
_LOOK_S = 0.05  # the shortest time between two looks at whether patience is at its end
_ADDRESSES_S = 300  # during which connections use the addresses of a host that were checked
_NO_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=None)  # `Deadline` is used instead


class Stopped(Exception):
    """No new request may begin."""


class PutOff(Exception):
    """A busy host does not give a picture, which is to be asked for again later."""

    def __init__(self, refusals: Refusals) -> None:
        super().__init__(refusals.host)
        self.refusals = refusals


@dataclass(frozen=True, slots=True)
class Body:
    """A response body, not yet examined."""

    data: bytes
    encoding: str  # Content-Encoding, in lower case
    url: str


class Deadline:
    """A time limit that runs only during requests, not while waiting for a turn."""

    def __init__(self, seconds: float) -> None:
        self._left_s = seconds

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Let the time run within the block. Raises: TimeoutError there, when none is left."""
        start = time.monotonic()
        try:
            async with asyncio.timeout(self._left_s):
                yield
        finally:
            self._left_s = max(0.0, self._left_s - (time.monotonic() - start))


class ImageClient:
    """Downloads pictures under one policy, in one event loop; begins no request once `stopping` is set."""

    def __init__(self, policy: FetchPolicy, limits: HostLimits, stopping: asyncio.Event) -> None:
        self._policy = policy
        self._limits = limits
        self._stopping = stopping
        self._told = set[str]()  # hosts of which a long pause was said
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,  # `concurrency` and the turns of hosts are the limits
                resolver=CheckedResolver(policy.allowed),
                ttl_dns_cache=_ADDRESSES_S,
            ),
            # Pictures are compressed already. aiohttp would unpack a body without a limit, so
            # `responses.plain` does it.
            headers={"User-Agent": policy.user_agent, "Accept": "image/*", "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=_NO_TIMEOUT,
        )

    async def __aenter__(self) -> "ImageClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def download(self, url: str) -> Body:
        """The body at `url`, with retries.

        Raises: Failure if the picture cannot be downloaded; PutOff if its host refuses it but gives others,
            or refuses everything for longer than the patience; Stopped if nothing is known, because no
            request may begin, or the host has left too many pictures unanswered.
        """
        deadline, refusals = Deadline(self._policy.timeout_s), Refusals()
        n_failed = 0
        while True:
            try:
                return await self._follow(url, deadline, refusals)
            except Failure as failure:
                n_failed += failure.again and not failure.busy
                if not failure.again or n_failed > self._policy.retries:
                    if failure.unanswered:
                        self._limits.note_unanswered(failure.unanswered)
                    raise
                if self._stopping.is_set():
                    raise Stopped from None
                if not failure.busy:
                    await self._wait(backoff(n_failed - 1, base_s=self._policy.backoff_s))
                    continue
                # A busy host says nothing about the picture, so that is not dropped for it here, nor for the
                # time that its refusals take.
                deadline = Deadline(self._policy.timeout_s)
                if refusals.n >= _SOME and self._gave_since(refusals):
                    raise PutOff(refusals) from None

    def _gave_since(self, refusals: Refusals) -> bool:
        """Whether the host answered something else since it refused the picture first."""
        refused_s = self._limits.refused_s(refusals.host) or 0.0
        return refused_s + _SKEW_S < time.monotonic() - refusals.since

    async def _follow(self, address: str, deadline: Deadline, refusals: Refusals) -> Body:
        """The body at the end of the redirects; a host that refuses is asked less often."""
        url = _joined(None, address)
        for _ in range(self._policy.max_redirects + 1):
            self._check(url)
            host = url.raw_host or ""
            await self._turn(host, refusals)
            try:
                response = await self._request(url, deadline)
            except Failure as failure:
                if failure.busy:
                    self._tell_pause(host, failure.wait_s or 0.0)
                    self._limits.note_refusal(host, failure.wait_s)
                    refusals.add(host)
                elif not failure.unanswered:
                    self._limits.note_taken(host, str(url) if failure.reason is Reason.HTTP_404 else "")
                raise
            if isinstance(response, Body):
                self._limits.note_taken(host, str(url))
                return response
            url = _joined(url, response)
            if url.raw_host != host:  # a redirect to a page that answers 429 is a refusal
                self._limits.note_taken(host)
        raise Failure(Reason.HTTP_ERROR, f"more than {self._policy.max_redirects} redirects")

    def _check(self, url: URL) -> None:
        """Raise Failure if the URL must not be requested, Stopped if its host leaves too many unanswered."""
        if is_placeholder(url):
            raise Failure(Reason.IMAGE_MISSING, "Flickr shows its placeholder instead")
        if url.scheme not in ("http", "https"):
            raise Failure(Reason.BLOCKED_HOST, f"the scheme {url.scheme[:20]!r} is neither http nor https")
        if url.raw_user is not None or url.raw_password is not None:
            raise Failure(Reason.BLOCKED_HOST, f"{url.raw_host}: its address has a user name or a password")
        if not url.raw_host:
            raise Failure(Reason.HTTP_ERROR, "unusable address: no host in it")
        try:
            check_literal(url, self._policy.allowed)
        except BlockedHostError as error:
            raise Failure(Reason.BLOCKED_HOST, str(error)) from None
        if self._limits.n_unanswered(url.raw_host) >= self._policy.n_unanswered:
            raise Stopped

    async def _turn(self, host: str, refusals: Refusals) -> None:
        """Wait for the host's turn. Raises: PutOff as soon as patience with the host is at its end."""
        # After a refusal the other pictures take their turns first: else this one alone would be asked for,
        # pause after pause.
        await self._wait_for(host, self._limits.paused_s(host) if refusals.n else 0.0, refusals)
        while True:
            await self._wait_for(host, self._limits.reserve(host), refusals)
            if self._limits.is_free(host):  # else it was paused since the turn was taken: take another
                return

    async def _wait_for(self, host: str, seconds: float, refusals: Refusals) -> None:
        """Sleep. Raises: PutOff as soon as patience with the host is at its end, which may be before."""
        due = time.monotonic() + seconds
        while True:
            if self._limits.is_out(host, self._policy.patience_s):
                raise PutOff(replace(refusals, host=host))
            left_s = due - time.monotonic()
            if left_s <= 0:
                return
            patience_s = self._policy.patience_s - (self._limits.refused_s(host) or 0.0)
            await self._wait(min(left_s, max(_LOOK_S, patience_s)))

    def _tell_pause(self, host: str, seconds: float) -> None:
        """Say that the host asks for a long pause, once."""
        if seconds > LONG_S and host not in self._told:
            self._told.add(host)
            log.warning("%s is busy, and is asked for nothing for %s", host, in_words(seconds))

    async def _request(self, url: URL, deadline: Deadline) -> Body | str:
        """One request: the body, or the address of a redirect. Raises: Failure, whatever the network does."""
        host = url.raw_host or ""
        try:
            # Redirects are followed by `_follow`, which checks the host of every hop.
            async with deadline.running(), self._session.get(url, allow_redirects=False) as response:
                self._limits.note_answer(host, str(url))
                try:
                    if response.status in REDIRECTS and (location := response.headers.get("Location")):
                        return location
                    return await self._body(response)
                finally:
                    if not response.content.at_eof():
                        response.close()  # rather than read the rest to reuse the connection
        except TimeoutError:
            detail = f"{host}: not finished in {self._policy.timeout_s:g} s"
            raise Failure(Reason.TIMEOUT, detail, unanswered=host) from None
        except BlockedHostError as error:
            raise Failure(Reason.BLOCKED_HOST, str(error)) from None
        except aiohttp.ClientPayloadError:
            raise Failure(Reason.HTTP_ERROR, f"{host}: the body ended early", again=True) from None
        # Before ClientConnectionError, of which ClientSSLError is one: a bad certificate stays bad.
        except (aiohttp.InvalidURL, aiohttp.ClientSSLError, UnicodeError) as error:  # IDNA's is the last
            raise Failure(Reason.HTTP_ERROR, f"{host}: {_one_line(error)}") from None
        except (aiohttp.ClientConnectionError, OSError) as error:
            detail = f"{host}: {_one_line(error)}"
            raise Failure(Reason.HTTP_ERROR, detail, again=True, unanswered=host) from None
        except aiohttp.ClientError as error:  # an answer that is not HTTP
            raise Failure(Reason.HTTP_ERROR, f"{host}: {_one_line(error)}", again=True) from None

    async def _body(self, response: aiohttp.ClientResponse) -> Body:
        """The whole body, counted as it comes, since Content-Length may be missing or wrong."""
        max_bytes = self._policy.max_bytes
        status, host = response.status, response.url.raw_host
        if status in GONE:
            raise Failure(Reason.HTTP_404, f"{host}: HTTP {status}")
        if status != 200:
            busy = status in BUSY
            cap_s = min(self._policy.max_wait_s, self._policy.patience_s)
            wait_s = retry_after(response.headers, time.time(), cap_s=cap_s)
            raise Failure(
                Reason.HTTP_ERROR,
                f"{host}: HTTP {status}",
                again=busy or status in PASSING,
                busy=busy,
                wait_s=wait_s if busy else None,
            )
        if refuses_ai(response.headers.getall("X-Robots-Tag", [])):
            raise Failure(Reason.ROBOTS_NOAI, f"{host}: X-Robots-Tag forbids use for machine learning")
        if (response.content_length or 0) > max_bytes:
            raise Failure(Reason.IMAGE_TOO_LARGE, f"{response.content_length} bytes, more than {max_bytes}")
        chunks, n_bytes = [], 0
        async for chunk in response.content.iter_any():
            chunks.append(chunk)
            n_bytes += len(chunk)
            if n_bytes > max_bytes:
                raise Failure(Reason.IMAGE_TOO_LARGE, f"more than {max_bytes} bytes")
        encoding = response.headers.get("Content-Encoding", "").strip().lower()
        return Body(b"".join(chunks), encoding, str(response.url))

    async def _wait(self, seconds: float) -> None:
        """Sleep. Raises: Stopped, as soon as no request may begin."""
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), seconds)
                raise Stopped


def _joined(base: URL | None, address: str) -> URL:
    """The address as a URL, relative to `base`. Raises: Failure if yarl or IDNA cannot parse it."""
    try:
        url = URL(address)
        return base.join(url) if base else url
    except ValueError as error:
        raise Failure(Reason.HTTP_ERROR, f"unusable address: {_one_line(error)}") from None


def _one_line(error: BaseException) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:200]
