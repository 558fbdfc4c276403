"""A picture with its words as a source's search names it, before anything is decided or fetched."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from mvsent.pairs import Reason

Skipped = tuple[str, Reason, str]
"""An item of a page that can be no candidate: id, reason, detail."""


@dataclass(frozen=True, slots=True)
class Size:
    """One size in which a picture can be fetched; pixels, 0 where the source does not say."""

    url: str
    width: int
    height: int

    @property
    def side(self) -> int:
        """The longer side in pixels, 0 if unknown."""
        return max(self.width, self.height)


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a source says of one picture. `id` is the Pair's, e.g. `flickr:123`; texts are raw."""

    id: str
    title: str
    description: str
    tags: tuple[str, ...]
    sizes: tuple[Size, ...]
    page_url: str
    license: str
    owner: str
    posted_at: datetime | None


@dataclass(frozen=True, slots=True)
class SearchPage:
    """One page of a search: every item of the answer is in `candidates` or in `skipped`, in its order."""

    total: int | None
    """Results of the whole search; None where the answer does not say."""
    page: int
    """Counted from 1."""
    pages: int | None
    candidates: tuple[Candidate, ...]
    skipped: tuple[Skipped, ...]


def choose_size(sizes: Sequence[Size], target: int = 1024, minimum: int = 640) -> Size | None:
    """The size to fetch by its longer side: the largest of minimum..target, else the nearest larger one,
    else the largest smaller one, else one of unknown size; None if there is none at all.

    >>> small, middle, large, huge = (Size(f"{n}.jpg", n, n // 2) for n in (240, 800, 1024, 4000))
    >>> some = [small, middle, large, huge], [small, huge], [small]
    >>> tuple(choose_size(sizes).url for sizes in some)
    ('1024.jpg', '4000.jpg', '240.jpg')
    """
    known = [size for size in sizes if size.side > 0]
    fitting = [size for size in known if minimum <= size.side <= target]
    larger = [size for size in known if size.side > target]
    if fitting:
        return max(fitting, key=lambda size: size.side)
    if larger:
        return min(larger, key=lambda size: size.side)
    return max(known, key=lambda size: size.side) if known else next(iter(sizes), None)
