"""The share of requests that a limited host refuses, at the pace of downloads, on a simulated clock.

The host gives 30 pictures at once and one a second after that, and answers any other request with 429.
"""

from mvsent.curate.table_one import PAPER_TABLE_I
from mvsent.fetch.pace import HostPace

Row = tuple[str, float, float, float, str]

BURST, PER_S, LIMIT_PER_S = 30, 1.0, 10.0
N_FLICKR = sum(PAPER_TABLE_I["flickr"].values())


def rows() -> list[Row]:
    """Refused requests among a hundred, for a number of pictures."""
    table = []
    for n in (2000, N_FLICKR):
        n_refused = ask_limited_host(n, BURST, PER_S, LIMIT_PER_S)[1]
        figure = f"refused requests ÷ hundreds of requests, {n} pictures from a limited host"
        table.append((figure, float(n_refused), (n + n_refused) / 100, 100 * refused_share(n), "≤ 5"))
    return table


def refused_share(n: int) -> float:
    """The share of the requests for `n` pictures that the host refuses."""
    n_refused = ask_limited_host(n, BURST, PER_S, LIMIT_PER_S)[1]
    return n_refused / (n + n_refused)


def ask_limited_host(n: int, burst: int, per_s: float, limit: float | None) -> tuple[float, int]:
    """Ask a host that gives `burst` pictures at once and `per_s` a second for `n`: seconds and refusals."""
    now = 0.0
    pace = HostPace(limit, lambda: now)
    tokens, before, n_given, n_refused, paused_until = float(burst), 0.0, 0, 0, 0.0
    while n_given < n:
        now = max(now + 1 / (pace.rate_per_s or 100.0), paused_until)
        tokens, before = min(burst, tokens + (now - before) * per_s), now
        if tokens >= 1:
            tokens, n_given = tokens - 1, n_given + 1
            pace.note_answer()
        else:
            n_refused += 1
            pace.note_refusal()
            paused_until = now + 1 / (pace.rate_per_s or 1.0)
    return now, n_refused
