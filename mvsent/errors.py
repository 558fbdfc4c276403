"""Exceptions that a user can act on: one for each cause, with what to do next.

An `MvsentError` is printed as one line on stderr, `mvsent: WHAT. NEXT`, and sets the exit code of the
process: 0 done, 1 failed, 2 bad usage or configuration, 3 finished with some work left (resumable), 130
interrupted.
"""

import logging
from collections.abc import Iterable
from typing import Any


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Suggest the one of `known` that is closest to `given`; empty if none is close.

    The suggestion ends with a space, as it precedes the rest of `MvsentError.next_step`.

    >>> did_you_mean("Trian", ["train", "eval"])
    "Did you mean 'train'? "
    >>> did_you_mean("label", ["train", "eval"])
    ''
    """
    from difflib import get_close_matches

    by_lower_case = {name.lower(): name for name in known}
    near = get_close_matches(given.lower(), by_lower_case, n=1)
    return f"Did you mean {by_lower_case[near[0]]!r}? " if near else ""


def printable(text: str) -> str:
    """Escape the characters of `text` that a terminal would interpret instead of display.

    >>> printable("a\\nb\\x1b[31m\\u202e")
    'a\\\\nb\\\\x1b[31m\\\\u202e'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def first_line(error: BaseException) -> str:
    """The first line of an error of a library, at most 200 characters, without a full stop; else its class.

    >>> first_line(ValueError("bad footer.\\n  at byte 4")), first_line(ValueError())
    ('bad footer', 'ValueError')
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200].rstrip(". ")


def in_words(seconds: float) -> str:
    """A length of time as a message says it: in seconds below two minutes, in minutes from there on.

    >>> in_words(1.2), in_words(90), in_words(3600)
    ('1 second', '90 seconds', '60 minutes')
    """
    n, unit = (seconds, "second") if seconds < 120 else (seconds / 60, "minute")
    return f"{n:.0f} {unit}{'' if round(n) == 1 else 's'}"


class PrintableFormatter(logging.Formatter):
    """Escapes control characters in log lines, which repeat paths, lexicon words and answers of servers."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))


class MvsentError(Exception):
    """A failure that the user can act on.

    Args:
        what: what is wrong and where (a path, a file:line, an id), without a final full stop.
        next_step: what to do about it, as an imperative.
    """

    exit_code = 1

    def __init__(self, what: str, next_step: str = "") -> None:
        self.what = what
        self.next_step = next_step
        super().__init__(f"{what}. {next_step}" if next_step else what)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the error by its text, as subclasses take other arguments."""
        return _again, (type(self), self.what, self.next_step)


def _again(kind: type[MvsentError], what: str, next_step: str) -> MvsentError:
    error = kind.__new__(kind)
    MvsentError.__init__(error, what, next_step)
    return error


class UsageError(MvsentError):
    """A flag, an argument or a setting cannot be used as given."""

    exit_code = 2


class Interrupted(MvsentError):
    """The user interrupted the command (Ctrl-C); work under way was finished and saved."""

    exit_code = 130

    def __init__(self, what: str = "interrupted", next_step: str = "The same command continues") -> None:
        super().__init__(what, next_step)


class Unreachable(MvsentError):
    """A picture host cannot be reached; the remaining pictures are neither kept nor dropped."""

    exit_code = 3

    def __init__(self, host: str, detail: str) -> None:
        super().__init__(
            f"the network or {host} is unreachable ({detail})", "The same command continues when it is back"
        )


class Refusing(Unreachable):
    """A picture host refuses every request for longer than `--patience`; for 0 seconds, at the first one."""

    def __init__(self, host: str, seconds: float) -> None:
        since = f"every request for {in_words(seconds)}" if seconds >= 1 else "a request"
        MvsentError.__init__(
            self,
            f"{host} has refused {since} (HTTP 429 or 503)",
            "The same command continues later; all that was fetched is kept",
        )


class AllFailed(MvsentError):
    """Every picture that was asked for failed, for reasons of its host; nothing is decided about them."""

    exit_code = 3

    def __init__(self, n: int, detail: str) -> None:
        super().__init__(
            f"all {n} pictures that were asked for failed; the first: {detail}",
            "The same command asks for them again later",
        )


class OutputExistsError(UsageError):
    """The output already exists and is finished, and `--overwrite` was not given."""


class InputError(MvsentError):
    """A file that the user gave (labels, texts, pictures, a split) is unreadable or malformed."""


class DatasetError(MvsentError):
    """A dataset folder is missing, unfinished, altered, or lacks something that the command needs."""


class StorageError(MvsentError):
    """A file cannot be read or written at the moment; its content may be intact."""


class SilentStorageError(StorageError):
    """Object storage does not answer; further requests would only time out, too."""


class EngineError(MvsentError):
    """The workers of a cluster cannot be reached, or died during the work."""


class LostRankError(MvsentError):
    """Another rank has ended, and this one cannot continue alone."""


class SplitError(MvsentError):
    """A split cannot be made, or does not fit the dataset."""


class WeightsError(MvsentError):
    """Pretrained weights or word vectors are unavailable, or of another kind than needed."""


class RunError(MvsentError):
    """A run folder is missing, unfinished, or not a run folder."""


class DeviceMemoryError(MvsentError):
    """The memory of a GPU is full."""


class NonFiniteLossError(MvsentError):
    """The training loss became infinite or not a number."""
