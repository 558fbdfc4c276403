"""One picture's bytes: redirects, deadline, byte cap, retries and the host's wishes."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType

import aiohttp
from yarl import URL

from mvsent.fetch.addresses import BlockedHostError, CheckedResolver, check_literal
from mvsent.fetch.policy import FetchPolicy, HostLimits
from mvsent.fetch.responses import GONE, PASSING, REDIRECTS, Failure, is_placeholder, refuses_ai
from mvsent.limits import backoff, retry_after
from mvsent.pairs import Reason

_ADDRESSES_S = 300  # how long a host's checked addresses are good for further connections
_NO_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=None)  # ours is `Deadline`


class Stopped(Exception):
    """Nothing new is begun any more."""


@dataclass(frozen=True, slots=True)
class Body:
    """What came, not yet looked at."""

    data: bytes
    encoding: str  # Content-Encoding, in lower case
    url: str


class Deadline:
    """Seconds that run only while something is under way."""

    def __init__(self, seconds: float) -> None:
        self._left_s = seconds

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Raises: TimeoutError inside, when none are left."""
        start = time.monotonic()
        try:
            async with asyncio.timeout(self._left_s):
                yield
        finally:
            self._left_s = max(0.0, self._left_s - (time.monotonic() - start))


class ImageClient:
    """Downloads pictures under one policy, in one event loop; nothing new once `stopping` is set."""

    def __init__(self, policy: FetchPolicy, limits: HostLimits, stopping: asyncio.Event) -> None:
        self._policy = policy
        self._limits = limits
        self._stopping = stopping
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, resolver=CheckedResolver(policy.allowed), ttl_dns_cache=_ADDRESSES_S
            ),
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
        """The body behind `url`.

        Raises: Failure when it is not to be had; Stopped when that was not found out, which is also so for
            a host that left the pictures before it unanswered.
        """
        deadline = Deadline(self._policy.timeout_s)
        n_failed = n_busy = 0
        while True:
            try:
                return await self._follow(url, deadline, n_busy)
            except Failure as failure:
                n_failed += failure.again and not failure.busy
                n_busy += failure.busy
                if not failure.again or n_failed > self._policy.retries or n_busy > self._policy.patience:
                    if failure.unanswered:
                        self._limits.note_unanswered(failure.unanswered)
                    raise
                if self._stopping.is_set():
                    raise Stopped from None
                if not failure.busy:
                    await self._wait(backoff(n_failed - 1, base_s=self._policy.backoff_s))

    async def _follow(self, address: str, deadline: Deadline, n_busy: int) -> Body:
        """The body at the end of the redirects; a host that asks to be left alone is."""
        url = _joined(None, address)
        for _ in range(self._policy.max_redirects + 1):
            self._check(url)
            await self._turn(url.raw_host or "")
            try:
                found = await self._ask(url, deadline)
            except Failure as failure:
                if failure.busy:
                    asked_s = failure.wait_s
                    wait_s = backoff(n_busy, base_s=self._policy.backoff_s) if asked_s is None else asked_s
                    self._limits.pause(url.raw_host or "", wait_s)
                raise
            if isinstance(found, Body):
                return found
            url = _joined(url, found)
        raise Failure(Reason.HTTP_ERROR, f"more than {self._policy.max_redirects} redirects")

    async def _turn(self, host: str) -> None:
        """It is our turn to ask the host. One that it asked to be left alone before counts no more."""
        await self._wait(self._limits.reserve(host))
        while not self._limits.is_free(host):
            await self._wait(self._limits.reserve(host))

    def _check(self, url: URL) -> None:
        """Raise Failure if the URL is not one to ask for, Stopped if its host is asked no more."""
        if is_placeholder(url):
            raise Failure(Reason.IMAGE_MISSING, "Flickr shows its placeholder instead")
        if url.scheme not in ("http", "https"):
            raise Failure(Reason.BLOCKED_HOST, f"the scheme {url.scheme[:20]!r} is neither http nor https")
        if not url.raw_host:
            raise Failure(Reason.HTTP_ERROR, "unusable address: no host in it")
        try:
            check_literal(url, self._policy.allowed)
        except BlockedHostError as error:
            raise Failure(Reason.BLOCKED_HOST, str(error)) from None
        if self._limits.n_unanswered(url.raw_host) >= self._policy.n_unanswered:
            raise Stopped

    async def _ask(self, url: URL, deadline: Deadline) -> Body | str:
        """One request: a body, or where to look instead. Raises: Failure, whatever the network does."""
        host = url.raw_host or ""
        try:
            async with deadline.running(), self._session.get(url, allow_redirects=False) as response:
                self._limits.note_answer(host, str(url))
                try:
                    return _redirect(response) or await self._body(response)
                finally:
                    if not response.content.at_eof():
                        response.close()
        except TimeoutError:
            detail = f"{host}: not done in {self._policy.timeout_s:g} s"
            raise Failure(Reason.TIMEOUT, detail, unanswered=host) from None
        except BlockedHostError as error:
            raise Failure(Reason.BLOCKED_HOST, str(error)) from None
        except aiohttp.ClientPayloadError:
            raise Failure(Reason.HTTP_ERROR, f"{host}: the body ended early", again=True) from None
        except (aiohttp.InvalidURL, aiohttp.ClientSSLError, UnicodeError) as error:  # IDNA's is the last
            raise Failure(Reason.HTTP_ERROR, f"{host}: {_one_line(error)}") from None
        except (aiohttp.ClientConnectionError, OSError) as error:
            detail = f"{host}: {_one_line(error)}"
            raise Failure(Reason.HTTP_ERROR, detail, again=True, unanswered=host) from None
        except aiohttp.ClientError as error:  # an answer that is not HTTP
            raise Failure(Reason.HTTP_ERROR, f"{host}: {_one_line(error)}", again=True) from None

    async def _body(self, response: aiohttp.ClientResponse) -> Body:
        """All of the body, unless it is too long. What the server says of its length is not relied on."""
        max_bytes = self._policy.max_bytes
        _refuse_status(response, self._policy.max_wait_s)
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
        """Raises: Stopped, as soon as nothing new is to be begun."""
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), seconds)
                raise Stopped


def _joined(base: URL | None, address: str) -> URL:
    """The address as a URL, seen from `base`. Raises: Failure for what yarl or IDNA cannot make sense of."""
    try:
        url = URL(address)
        return base.join(url) if base else url
    except ValueError as error:
        raise Failure(Reason.HTTP_ERROR, f"unusable address: {_one_line(error)}") from None


def _redirect(response: aiohttp.ClientResponse) -> str:
    """Where the answer sends us; empty if nowhere."""
    return response.headers.get("Location", "") if response.status in REDIRECTS else ""


def _refuse_status(response: aiohttp.ClientResponse, max_wait_s: float) -> None:
    """Raise Failure unless a body may be taken."""
    status, host = response.status, response.url.raw_host
    if status == 200:
        if refuses_ai(response.headers.getall("X-Robots-Tag", [])):
            raise Failure(Reason.ROBOTS_NOAI, f"{host}: X-Robots-Tag forbids use for machine learning")
        return
    detail = f"{host}: HTTP {status}"
    if status in GONE:
        raise Failure(Reason.HTTP_404, detail)
    wait_s = retry_after(response.headers, time.time(), cap_s=max_wait_s)
    if status == 429 or (status == 503 and wait_s is not None):
        raise Failure(Reason.HTTP_ERROR, detail, again=True, busy=True, wait_s=wait_s)
    raise Failure(Reason.HTTP_ERROR, detail, again=status in PASSING)


def _one_line(error: BaseException) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:200]
