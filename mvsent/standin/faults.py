"""Faults of the stand-in, each with a rate; which requests they hit follows from the seed.

A passing fault depends on the request and on how often it was made. It spoils at most `repeats` attempts, so
a retry succeeds. A lasting fault belongs to a picture: every retry meets it again.
"""

import hashlib
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace

from mvsent.errors import UsageError, did_you_mean

_SLOWEST_PER_S = 0.001
_LARGEST = 10**9


def _passing() -> float:
    return field(default=0.0, metadata={"lasts": False})


def _lasting() -> float:
    return field(default=0.0, metadata={"lasts": True})


@dataclass(frozen=True)
class Faults:
    """The share of requests (0..1) with each fault, `api_…` of searches, `image_…` of pictures."""

    api_429: float = _passing()  # without Retry-After
    api_429_seconds: float = _passing()  # Retry-After: 1
    api_429_date: float = _passing()  # Retry-After: a date
    api_500: float = _passing()
    api_truncated: float = _passing()  # Content-Length is larger than the body
    api_drip: float = _passing()  # a byte at a time
    api_silent: float = _passing()  # accepts and never answers
    api_html: float = _passing()
    api_jsonp: float = _passing()
    api_redirect: float = _passing()
    api_empty: float = _passing()  # a page without items, though the total promises some
    api_short: float = _passing()  # a page without a tenth of its items
    fail_0: float = _passing()  # Flickr's stat=fail with this code
    fail_105: float = _passing()
    fail_201: float = _passing()
    getty_per_second: float = _passing()  # 403, Account Over Queries Per Second Limit
    getty_token: float = _passing()  # 401: the token has expired

    image_429: float = _passing()
    image_429_seconds: float = _passing()
    image_429_date: float = _passing()
    image_500: float = _passing()
    image_truncated: float = _passing()
    image_drip: float = _passing()
    image_silent: float = _passing()
    image_chain: float = _passing()  # three redirects, then the picture

    image_404: float = _lasting()
    image_html: float = _lasting()
    image_svg: float = _lasting()
    image_corrupt: float = _lasting()  # the first half of a JPEG, honestly declared
    image_short_length: float = _lasting()  # Content-Length is smaller than the body
    image_endless: float = _lasting()  # declares 10 GB, and begins to send them
    image_bomb: float = _lasting()  # a PNG of a few kB that unpacks to 900 megapixels
    image_noai: float = _lasting()  # X-Robots-Tag: noai, noimageai
    image_unavailable: float = _lasting()  # a redirect to Flickr's placeholder
    image_loop: float = _lasting()  # a redirect to itself
    image_private: float = _lasting()  # a redirect to 127.0.0.2
    photo_gone: float = _lasting()  # getInfo: not found, as if its owner had removed it

    total_off: float = 0.0  # totals are wrong by up to this share, differently on every page
    disorder_s: int = 0  # results come out of order by up to so many seconds
    getty_last_page: int = 0  # Getty's pages after it are HTTP 400; 0: none
    getty_no_comp: int = 0  # 1: the key may not have the size `comp` (403, UnauthorizedDisplaySize)
    getty_error_codes: int = 0  # 1: errors are {"ErrorCode", "ErrorMessage"} instead of {"message"}
    image_burst: int = 0  # pictures that the host gives at once, before it answers 429; 0: any number
    image_per_s: float = 1.0  # pictures per second that it gives after the burst
    image_retry_after: int = 0  # 1: its 429 says how long to wait
    image_refused_above: int = 0  # pixels; larger pictures are HTTP 403; 0: none

    seed: int = 0
    repeats: int = 2  # attempts that a passing fault may spoil
    retry_after_s: int = 1
    drip_s: float = 0.05  # between two bytes
    silent_s: float = 60.0
    daily_limit: int = 0  # Getty's searches before 403 Account Over Rate Limit; 0: no limit
    revoked_after: int = 0  # searches before HTTP 403 without a reason; 0: never

    def with_rates(self, given: Iterable[str]) -> "Faults":
        """Return these faults with the changes that `given` names as `NAME=NUMBER`.

        Raises: UsageError for an unknown name or an unusable number.

        >>> Faults().with_rates(["image-404=0.1", "daily-limit=5"]).image_404
        0.1
        """
        kinds = {entry.name: type(getattr(self, entry.name)) for entry in fields(self)}
        changes = {}
        for text in given:
            name, _, number = text.partition("=")
            key = name.strip().replace("-", "_")
            try:
                changes[key] = kinds[key](number)
            except KeyError:
                names = [kind.replace("_", "-") for kind in kinds]
                known = f"{did_you_mean(name, names)}Known are: {', '.join(names)}"
                raise UsageError(f"--fault {text}: no such fault", known) from None
            except ValueError:
                raise UsageError(f"--fault {text}: {number!r} is no number", "Write NAME=NUMBER") from None
            least, most = _bounds(key)
            if not least <= changes[key] <= most:
                raise UsageError(
                    f"--fault {text}: out of bounds", f"Give a number from {least:g} to {most:g}"
                )
        return replace(self, **changes)


def _bounds(key: str) -> tuple[float, float]:
    """The least and the largest value of a fault or number."""
    if key in NAMES or key == "total_off":
        return 0, 1
    return _SLOWEST_PER_S if key == "image_per_s" else 0, _LARGEST


ORDINARY = Faults(
    api_empty=0.03,
    api_short=0.02,
    total_off=0.1,
    disorder_s=600,
    getty_error_codes=1,
    image_burst=60,
    image_per_s=40.0,
)
"""The faults of the services on an ordinary day, as far as others have reported them (docs/replay.md)."""

NAMES = {entry.name: entry.metadata["lasts"] for entry in fields(Faults) if "lasts" in entry.metadata}
"""Fault → whether it is lasting."""


class Chance:
    """Chooses the fault of each request, counting how often that request was made before."""

    def __init__(self) -> None:
        self._attempts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def fault(self, faults: Faults, request: str, *kinds: str) -> str:
        """The fault that this attempt meets, of those whose names start with one of `kinds`; "" if none."""
        with self._lock:
            attempt = self._attempts[request]
            self._attempts[request] += 1
        for name, lasts in NAMES.items():
            rate = getattr(faults, name)
            if not rate or not name.startswith(kinds) or (not lasts and attempt >= faults.repeats):
                continue
            # A hash instead of a random generator: the order in which requests arrive must not matter.
            drawn = repr((faults.seed, request, name, 0 if lasts else attempt))
            digest = hashlib.blake2b(drawn.encode(), digest_size=4).digest()
            if int.from_bytes(digest) / 2**32 < rate:
                return name
        return ""
