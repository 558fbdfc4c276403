"""Failures of a source, one exception per cause.

`RetryLater` and `BadAnswer` may pass: the crawl tries again. The others end the build, or this query.
"""

from mvsent.errors import MvsentError


class SourceFailure(MvsentError):
    """A source did not answer a request."""


class RetryLater(SourceFailure):
    """The source is busy or unreachable, or asks to slow down.

    Args:
        after_s: seconds that the source asks to wait; None if it does not say.
        what: what happened.
    """

    exit_code = 3

    def __init__(self, after_s: float | None, what: str) -> None:
        self.after_s = after_s
        super().__init__(what, "The same command continues where it stopped")


class BadAnswer(SourceFailure):
    """The body is no answer of the API: HTML, JSONP, a cut-off document. A few retries may help."""

    exit_code = 3

    def __init__(self, what: str, next_step: str = "Check the endpoint, then run the same command") -> None:
        super().__init__(what, next_step)


class RequestRefused(SourceFailure):
    """The source refuses this one request, and would refuse it again."""


class BadKey(SourceFailure):
    """The source does not accept the key."""

    exit_code = 2


class DailyLimit(SourceFailure):
    """The key's quota for the day is used up.

    Args:
        what: what the source said.
        after_s: seconds that the source asks to wait, if it says.
    """

    exit_code = 3

    def __init__(self, what: str, after_s: float | None = None) -> None:
        self.after_s = after_s
        super().__init__(what, "Everything found so far is kept: run the same command tomorrow")


class AccessRevoked(SourceFailure):
    """The source knows the key and has revoked it."""

    exit_code = 3
