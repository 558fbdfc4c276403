"""Progress of a build's stages on stderr: a bar on a terminal, now and then a line in a log."""

import logging
import sys
import time
from collections import Counter
from collections.abc import Mapping
from types import TracebackType

from tqdm import tqdm

log = logging.getLogger("mvsent")

LOG_EVERY_S = 60.0
"""Seconds between two lines of the log; a build may take days."""


class StageProgress:
    """The progress of one stage.

    Args:
        title: its name.
        total, done: units of work.
        unit: in the plural.
        quiet: show no bar, even on a terminal.
    """

    def __init__(self, title: str, total: int, done: int, unit: str, *, quiet: bool) -> None:
        self._hidden = quiet or not sys.stderr.isatty()
        if self._hidden:
            log.info("%s: %d of %d %s are left", title, total - done, total, unit)
        self._bar = tqdm(total=total, initial=done, desc=title, unit=f" {unit}", disable=self._hidden)
        self._title, self._total, self._unit = title, total, unit
        self._done, self._said_at, self._slowed = done, time.monotonic(), ""
        self._counts = Counter[str]()

    def __enter__(self) -> "StageProgress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    @property
    def is_due(self) -> bool:
        """Whether `to` would show anything now; if not, its arguments need not be counted."""
        return not self._hidden or time.monotonic() - self._said_at >= LOG_EVERY_S

    def to(self, done: int, state: str) -> None:
        """Show that `done` units are done; `state` says with which result."""
        self._bar.set_postfix_str(state, refresh=False)  # `update` redraws the bar
        self._bar.update(done - self._done)
        self._done = done
        if self._hidden and self.is_due:
            self._said_at = time.monotonic()
            log.info("%s: %d of %d %s, %s", self._title, done, self._total, self._unit, state)

    def tell_pace(self, slowed: Mapping[str, float]) -> None:
        """Show the hosts that are asked less often since they refused, with their requests per second."""
        said = ", ".join(f"{host} slowed down to {rate:.1f} a second" for host, rate in slowed.items())
        if said and not self._slowed:
            log.warning("%s, as it answers 429 or 503; pictures wait meanwhile", said)
        self._slowed = said

    def add(self, n_more: int, **counts: int) -> None:
        """Show that `n_more` units are done, and the totals of `counts`."""
        self._counts.update(counts)
        said = [f"{n} {name}" for name, n in self._counts.items()]
        self.to(self._done + n_more, ", ".join([*said, *filter(None, [self._slowed])]))
