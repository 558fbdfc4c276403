"""Interpret a response by its status, headers and body alone."""

from collections.abc import Iterable

from yarl import URL

from mvsent.encoding import EncodingError, UnknownEncodingError, decoded
from mvsent.reasons import Reason

REDIRECTS = frozenset({301, 302, 303, 307, 308})
GONE = frozenset({404, 410})
BUSY = frozenset({429, 503})
"""Statuses of a host that is asked too often, or is overloaded, with or without `Retry-After`."""

PASSING = frozenset({408, 425, 500, 502, 504})
"""Statuses after which another attempt may succeed."""

_NO_AI = frozenset({"noai", "noimageai"})
# Directives with a value; any other name before a colon is that of a user agent.
_VALUED = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})


class Failure(Exception):
    """A picture cannot be downloaded, at present or at all.

    Args:
        again: whether another attempt may succeed.
        busy: whether the host is busy, which says nothing about the picture.
        wait_s: seconds of the pause; None if the host named none.
        unanswered: the host, if it did not answer: it, or the network, may be down.
    """

    def __init__(
        self,
        reason: Reason,
        detail: str,
        *,
        again: bool = False,
        busy: bool = False,
        wait_s: float | None = None,
        unanswered: str = "",
    ) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.again = again
        self.busy = busy
        self.wait_s = wait_s
        self.unanswered = unanswered


def refuses_ai(values: Iterable[str], agent: str = "mvsent") -> bool:
    """Whether the `X-Robots-Tag` headers forbid use for machine learning, to everyone or to `agent`.

    >>> refuses_ai(["noindex, NoAI"]), refuses_ai(["mvsent: noimageai"]), refuses_ai(["otherbot: noai"])
    (True, True, False)
    """
    for value in values:
        addressee = "*"
        for part in value.lower().split(","):
            name, colon, rest = part.strip().partition(":")
            if colon and name not in _VALUED:
                addressee, directive = name.strip(), rest.strip()
            else:
                directive = name
            if directive in _NO_AI and addressee in ("*", agent):
                return True
    return False


def is_placeholder(url: URL) -> bool:
    """Whether the URL is the picture that Flickr shows in place of a removed one.

    >>> is_placeholder(URL("https://s.yimg.com/pw/images/en-us/photo_unavailable_l.png"))
    True
    """
    return url.name.startswith("photo_unavailable")


def plain(data: bytes, encoding: str, max_bytes: int) -> bytes:
    """The body without its `Content-Encoding`, cut off after max_bytes + 1 bytes.

    Raises: Failure if it cannot be decoded.
    """
    try:
        return decoded(data, encoding, max_bytes)
    except EncodingError as error:
        unknown = isinstance(error, UnknownEncodingError)
        raise Failure(Reason.HTTP_ERROR if unknown else Reason.IMAGE_CORRUPT, str(error)) from None
