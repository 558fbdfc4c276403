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
    """One size in which a picture is offered.

    Attributes:
        width, height: in pixels, 0 if unknown.
        name: as the source calls it.
        watermarked: whether it has a watermark; None if the source does not say.
    """

    url: str
    width: int
    height: int
    name: str = ""
    watermarked: bool | None = None

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
    refusal: str = ""
    """Why the source refuses this page, though it gave earlier ones."""

    @property
    def n_items(self) -> int:
        """Number of items."""
        return len(self.candidates) + len(self.skipped)

    @property
    def uploads(self) -> list[int]:
        """Seconds of upload, in the order of the answer, as far as they are known."""
        return [int(one.posted_at.timestamp()) for one in self.candidates if one.posted_at]


USUAL_SIDE = 1024
"""Pixels; hosts may refuse larger sizes."""


def sizes_to_try(sizes: Sequence[Size], target: int = 1024, minimum: int = 640) -> tuple[Size, ...]:
    """The sizes in the order of trying them, by their longer sides.

    The first is the largest of minimum..target, else the nearest larger one, else the largest smaller one.
    Then come smaller ones, the nearest first, then larger ones, then those of unknown size. A size above 1024
    pixels that is larger than `target` is the last choice.

    >>> small, middle, large, huge = (Size(f"{n}.jpg", n, n // 2) for n in (240, 800, 1024, 4000))
    >>> [size.side for size in sizes_to_try([small, middle, large, huge])]
    [1024, 800, 240, 4000]
    >>> [size.side for size in sizes_to_try([small, middle, huge], target=500, minimum=500)]
    [800, 240, 4000]
    """
    known = sorted((size for size in sizes if size.side > 0), key=lambda size: size.side)
    usual = [size for size in known if size.side <= max(target, USUAL_SIDE)]
    fitting = [size for size in usual if minimum <= size.side <= target]
    larger = [size for size in usual if size.side > target]
    first = [*fitting[-1:], *larger[:1], *usual[-1:]][:1]
    side = first[0].side if first else 0
    smaller = [size for size in reversed(usual) if size.side <= side]
    rest = [*smaller, *(size for size in known if size.side > side), *sizes]
    return tuple(dict.fromkeys(first + rest))


def candidate_to_json(candidate: Candidate) -> str:
    """Serialise a candidate without its id, for `candidate_from_json`."""
    posted = candidate.posted_at
    return _ENCODER.encode(
        {
            "title": candidate.title,
            "description": candidate.description,
            "tags": candidate.tags,
            "sizes": [
                [size.url, size.width, size.height, size.name, size.watermarked] for size in candidate.sizes
            ],
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
