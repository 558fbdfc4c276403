"""Everything that can go wrong on purpose: one exception per cause, each saying what to do next.

An `MvsentError` reaches the user as one line on stderr, `mvsent: WHAT. NEXT`, and as the process's exit code:
0 done, 1 failed, 2 bad usage or configuration, 3 finished with some work left (resumable), 130 interrupted.
"""

import logging
from collections.abc import Iterable
from typing import Any


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """A question that names the one of `known` that `given` is a slip of; empty where none is near.

    It ends with a space: it goes before what `MvsentError.next_step` says else.

    >>> did_you_mean("Trian", ["train", "eval"])
    "Did you mean 'train'? "
    >>> did_you_mean("mend", ["train", "eval"])
    ''
    """
    from difflib import get_close_matches

    by_lower_case = {name.lower(): name for name in known}
    near = get_close_matches(given.lower(), by_lower_case, n=1)
    return f"Did you mean {by_lower_case[near[0]]!r}? " if near else ""


def printable(text: str) -> str:
    """`text` on one line, with an escape for each character that a terminal would obey instead of show.

    >>> printable("a\\nb\\x1b[31m\\u202e")
    'a\\\\nb\\\\x1b[31m\\\\u202e'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class PrintableFormatter(logging.Formatter):
    """Log lines repeat paths, lexicon words and servers' answers: they cannot steer the terminal."""

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
        """Pickled by what it says: subclasses take other arguments."""
        return _again, (type(self), self.what, self.next_step)


def _again(kind: type[MvsentError], what: str, next_step: str) -> MvsentError:
    error = kind.__new__(kind)
    MvsentError.__init__(error, what, next_step)
    return error


class UsageError(MvsentError):
    """A flag, an argument or a setting cannot be used as given."""

    exit_code = 2


class Interrupted(MvsentError):
    """The user wanted an end (Ctrl-C); what was under way is finished and saved."""

    exit_code = 130

    def __init__(self, what: str = "interrupted", next_step: str = "The same command continues") -> None:
        super().__init__(what, next_step)


class Unreachable(MvsentError):
    """Nobody answers where pictures come from; nothing is decided about those that are left."""

    exit_code = 3

    def __init__(self, host: str, detail: str) -> None:
        super().__init__(
            f"the network or {host} is unreachable ({detail})", "The same command continues, once it is back"
        )


class OutputExistsError(UsageError):
    """The output already holds something finished, and `--overwrite` was not given."""


class InputError(MvsentError):
    """A file that the user gave (labels, texts, pictures, a split) cannot be read as what it should be."""


class DatasetError(MvsentError):
    """A dataset folder is missing, unfinished, altered, or lacks what the command needs."""


class StorageError(MvsentError):
    """A file cannot be read or written as things are; what it holds may be sound."""


class SilentStorageError(StorageError):
    """Object storage does not answer: what else it is asked for would be waited for in vain."""


class EngineError(MvsentError):
    """The workers of a cluster cannot be reached, or died while they worked."""


class LostRankError(MvsentError):
    """Another rank has ended, and this one cannot continue alone."""


class SplitError(MvsentError):
    """A split cannot be made, or does not fit the dataset."""


class WeightsError(MvsentError):
    """Pretrained weights or word vectors are not to be had, or are not what they should be."""


class RunError(MvsentError):
    """A run folder is missing, unfinished or not one."""


class DeviceMemoryError(MvsentError):
    """The memory of a GPU is full."""


class NonFiniteLossError(MvsentError):
    """The training loss became infinite or not a number."""
