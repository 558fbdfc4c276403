"""What the stand-in shows: a made-up Flickr and Getty, in which everything follows from a seed.

Every search finds photos of its own and some of another search's, uploaded over ten years, in every shape
that real answers come in: counts as text, sizes missing, HTML in descriptions, null captions, photos twice.
"""

import random
import threading
import zlib
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from io import BytesIO
from typing import Any

from mvsent.pairs import Label
from mvsent.standin.drawings import draw_picture
from mvsent.standin.tweets import write_tweet

FIRST_UPLOAD, LAST_UPLOAD = 1_262_304_000, 1_577_836_799
"""2010 to 2019, in seconds."""

MAX_RESULTS = 4000
"""Past so many results Flickr repeats a search's last page."""

SHARED = 0.08
"""The share of a search's photos that another search finds, too."""

TWICE, SAME_SECOND = 0.01, 0.03
"""The shares of results that are listed twice in a row, or uploaded in the same second as the one before."""

ODD = {
    "no-sizes": 0.01, "few-sizes": 0.1, "html": 0.3, "no-text": 0.04, "short": 0.06, "long": 0.03,
    "foreign": 0.06, "tiny": 0.02, "copy": 0.02, "no-id": 0.002, "odd-characters": 0.02, "contrary": 0.1,
}  # fmt: skip
"""How often a photo has each oddity; a contrary one has the opposite mood of the words that find it."""

SIZES = {"m": 500, "n": 320, "z": 640, "c": 800, "l": 1024}
SHAPES = ((4, 3), (3, 4), (1, 1), (3, 2))
FOREIGN = (
    "Ein schöner Tag am See mit der ganzen Familie und unseren Hunden im Sommer",
    "Una tarde tranquila en la plaza vieja del pueblo con todos nuestros amigos",
    "Une longue promenade dans la forêt avant que la pluie ne commence enfin",
)


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo of the made-up world. `odd` names its oddities; `picture` is the seed of what is drawn."""

    number: int
    mood: Label
    title: str
    text: str
    tags: tuple[str, ...]
    uploaded: int
    owner: str
    license: str
    width: int
    height: int
    picture: int
    odd: frozenset[str]


@dataclass(frozen=True, slots=True)
class Page:
    """A page of results: those shown, and how many the whole search has."""

    photos: tuple[Photo, ...]
    total: int
    pages: int


@dataclass
class World:
    """Photos by search, all made when they are asked for.

    Args:
        sentiments: of the searches that are known; the sign of any other one is that of a checksum.
        seed: of everything.
        photos: how many photos of its own or shared each search finds; or a number for each search.
        side: longest side in pixels of the largest picture.
        quirks: scales how often anything is odd; 0 is a world without surprises.
    """

    sentiments: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    photos: int | Mapping[str, int] = 120
    side: int = 1024
    quirks: float = 1.0

    def __post_init__(self) -> None:
        self._results: dict[tuple[str, str], list[Photo]] = {}
        self._lock = threading.Lock()

    def search_flickr(
        self,
        query: str,
        since: int,
        until: int,
        *,
        page: int,
        per_page: int,
        licenses: Set[str] | None = None,
    ) -> Page:
        """A page of the photos uploaded from `since` to `until`, inclusive; past the last one, that again."""
        found = [
            photo
            for photo in self.results("flickr", query)
            if since <= photo.uploaded <= until and (licenses is None or photo.license in licenses)
        ]
        pages = -(-len(found) // per_page)
        shown = max(1, min(page, pages, -(-MAX_RESULTS // per_page)))
        return Page(tuple(found[(shown - 1) * per_page : shown * per_page]), len(found), pages)

    def search_getty(self, phrase: str, family: str, *, page: int, page_size: int) -> Page:
        """A page of the images of a family; after the last one, nothing."""
        found = self.results(f"getty {family}", phrase)
        start = (page - 1) * page_size
        return Page(tuple(found[start : start + page_size]), len(found), -(-len(found) // page_size))

    def results(self, source: str, query: str) -> list[Photo]:
        """All that a search finds, oldest first; some photos are there twice."""
        with self._lock:
            if (source, query) not in self._results:
                self._results[source, query] = sorted(
                    self._find(source, query), key=lambda photo: photo.uploaded
                )
            return self._results[source, query]

    def sentiment(self, query: str) -> float:
        """The sentiment of a search, never 0."""
        known = self.sentiments.get(query, 0.0)
        return known or (1.0 if zlib.crc32(query.encode()) % 2 else -1.0)

    def _find(self, source: str, query: str) -> Iterator[Photo]:
        rng = self._chance(source, query)
        others = [other for other in sorted(self.sentiments) if other != query]
        for index in range(self._count(query)):
            shared = others and rng.random() < SHARED * self.quirks
            owner = rng.choice(others) if shared else query
            photo = self._photo(source, owner, rng.randrange(self._count(owner)) if shared else index)
            yield photo
            if rng.random() < TWICE * self.quirks:
                yield photo

    def _count(self, query: str) -> int:
        return self.photos if isinstance(self.photos, int) else self.photos.get(query, 0)

    def _chance(self, *what: object) -> random.Random:
        return random.Random(" ".join(map(str, (self.seed, *what))))

    def _photo(self, source: str, query: str, index: int) -> Photo:
        """The photo number `index` of a search's own."""
        rng = self._chance(source, query, index)
        odd = frozenset(name for name, share in ODD.items() if rng.random() < share * self.quirks)
        same_second = rng.random() < SAME_SECOND * self.quirks
        happy = (self.sentiment(query) > 0) != ("contrary" in odd)
        mood = Label.POSITIVE if happy else Label.NEGATIVE
        number = 10**10 + zlib.crc32(f"{self.seed} {source} {query}".encode()) * 10**6 + index
        picture = number - 1 if "copy" in odd and index else number
        width, height = SHAPES[picture % len(SHAPES)]
        longest = 40 if "tiny" in odd else self.side
        return Photo(
            number=number,
            mood=mood,
            title=write_tweet(mood, number).split(",")[0][:60],
            text=_describe(mood, query, number, odd, rng),
            tags=tuple(query.split()),
            uploaded=self._uploaded(source, query, index - 1 if same_second and index else index),
            owner=f"{1000 + rng.randrange(9000)}@N00",
            license=str(rng.randrange(11)),
            width=longest * width // max(width, height),
            height=longest * height // max(width, height),
            picture=picture,
            odd=odd,
        )

    def _uploaded(self, source: str, query: str, index: int) -> int:
        return self._chance(source, query, index, "uploaded").randint(FIRST_UPLOAD, LAST_UPLOAD)


def _describe(mood: Label, query: str, number: int, odd: frozenset[str], rng: random.Random) -> str:
    """The description of a photo, as its owner may have typed it."""
    if "no-text" in odd:
        return ""
    if "short" in odd:
        return rng.choice(("My dog", "IMG_2041", "so nice!", "🌅"))
    if "foreign" in odd:
        return rng.choice(FOREIGN)
    text = f"{write_tweet(mood, number)}. A {query} seen on our way home that day."
    if "long" in odd:
        text = " ".join(write_tweet(mood, number + step) for step in range(1, 16))
    if "html" in odd:
        text = f'<b>{text}</b>\n\n<a href="https://example.com/album" rel="nofollow">my album &amp; more</a>'
    return f"{text}\u200b\x07 caf&eacute; \ud83d" if "odd-characters" in odd else text


def flickr_photo(photo: Photo, images: str) -> dict[str, Any]:
    """The photo as `photos.search` lists it, numbers sometimes as text; `images` is the pictures' host."""
    text = photo.number % 3 == 0
    listed: dict[str, Any] = {
        "owner": photo.owner,
        "ownername": f"owner {photo.owner[:4]}",
        "title": photo.title,
        "tags": " ".join(photo.tags),
        "description": {"_content": photo.text},
        "license": photo.license,
        "dateupload": str(photo.uploaded),
        "ispublic": 1,
    }
    if "no-id" not in photo.odd:
        listed["id"] = str(photo.number)
    for name, (width, height) in _sizes(photo).items():
        listed[f"url_{name}"] = picture_url(photo, images, width, height)
        listed[f"width_{name}"] = str(width) if text else width
        listed[f"height_{name}"] = str(height) if text else height
    return listed


def getty_image(photo: Photo, images: str) -> dict[str, Any]:
    """The photo as Getty's search lists it, its caption null where it has none."""
    sizes = [("comp", 612), ("preview", 412), ("thumb", 170)]
    return {
        "id": str(photo.number),
        "title": photo.title,
        "caption": photo.text or None,
        "artist": f"artist {photo.owner[:4]}",
        "license_model": "royaltyfree",
        "date_created": datetime.fromtimestamp(photo.uploaded, UTC).isoformat(),
        "max_dimensions": {"width": photo.width, "height": photo.height},
        "display_sizes": [
            {"is_watermarked": False, "name": name, "uri": picture_url(photo, images, *_fit(photo, side))}
            for name, side in sizes
            if "no-sizes" not in photo.odd and ("few-sizes" not in photo.odd or name == "thumb")
        ],
        "referral_destinations": [{"site_name": "gettyimages", "uri": f"{images}/pages/{photo.number}"}],
    }


def _sizes(photo: Photo) -> dict[str, tuple[int, int]]:
    if "no-sizes" in photo.odd:
        return {}
    longest = max(photo.width, photo.height)
    names = [name for name, side in SIZES.items() if side <= longest]
    if "few-sizes" in photo.odd:
        names = names[:1]
    sizes = {name: _fit(photo, SIZES[name]) for name in names}
    return sizes if sizes and photo.number % 4 else sizes | {"o": (photo.width, photo.height)}


def _fit(photo: Photo, side: int) -> tuple[int, int]:
    """Width and height within `side`, never larger than the photo."""
    longest = max(photo.width, photo.height)
    share = min(side, longest) / longest
    return max(1, round(photo.width * share)), max(1, round(photo.height * share))


def picture_url(photo: Photo, images: str, width: int, height: int) -> str:
    """Where the stand-in shows a photo: its path says all that is needed to draw it."""
    return f"{images}/images/{photo.number}/{photo.mood}-{photo.picture}-{width}x{height}.jpg"


DRAWN_SIDE = 320
"""Pixels; larger pictures are drawn in this size and scaled up, which costs a fraction."""


@lru_cache(maxsize=1024)
def draw_jpeg(mood: Label, picture: int, width: int, height: int) -> bytes:
    """A JPEG of width × height pixels, the same bytes every time; all sizes show the same scene."""
    share = min(1.0, DRAWN_SIDE / max(width, height))
    shape = (max(1, round(width * share)), max(1, round(height * share)))
    drawn = draw_picture(mood, picture, shape)
    data = BytesIO()
    drawn.resize((width, height)).save(data, "JPEG", quality=85)
    return data.getvalue()
