"""A search and what it lists: pictures with their texts, before anything is decided or fetched."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from mvsent.reasons import Reason

_ENCODER = json.JSONEncoder(ensure_ascii=False)  # `json.dumps` would make one for each candidate

Skipped = tuple[str, Reason, str]
"""An item of a page that is no candidate: id, reason, detail."""


@dataclass(frozen=True, slots=True)
class Query:
    """A search: the text that is sent, the lexicon's word and its sentiment."""

    number: int
    text: str
    word: str
    sentiment: float
    found: int = 0


@dataclass(frozen=True, slots=True)
class Window:
    """Part of a query that is left to ask: uploads from `since` to `until`, inclusive, from page `page`."""

    query: int
    since: int
    until: int
    page: int = 1
    overlaps: bool = False
    """Whether the window before it listed its first results."""
    owed: int | None = None
    """The total it has if all of the second before `since` was shown; None if that is not in doubt."""
    number: int | None = None


@dataclass(frozen=True, slots=True)
class Size:
    """One size in which a picture is offered; width and height in pixels, 0 if unknown."""

    url: str
    width: int
    height: int

    @property
    def side(self) -> int:
        """The longer side in pixels, 0 if unknown."""
        return max(self.width, self.height)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A listed picture. `id` is the pair's, such as `flickr:123`; texts are raw."""

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
    """Results of the whole search; None if the answer does not say."""
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


def candidate_to_json(candidate: Candidate) -> str:
    """Serialise a candidate without its id, for `candidate_from_json`."""
    posted = candidate.posted_at
    return _ENCODER.encode(
        {
            "title": candidate.title,
            "description": candidate.description,
            "tags": candidate.tags,
            "sizes": [[size.url, size.width, size.height] for size in candidate.sizes],
            "page_url": candidate.page_url,
            "license": candidate.license,
            "owner": candidate.owner,
            "posted_at": posted and posted.isoformat(),
        }
    )


def candidate_from_json(id: str, body: str) -> Candidate:
    """Parse what `candidate_to_json` wrote."""
    fields = json.loads(body)
    posted = fields.pop("posted_at")
    return Candidate(
        id=id,
        tags=tuple(fields.pop("tags")),
        sizes=tuple(Size(*size) for size in fields.pop("sizes")),
        posted_at=posted and datetime.fromisoformat(posted),
        **fields,
    )
