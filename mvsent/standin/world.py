"""Photos of a made-up Flickr and Getty; everything follows from a seed.

Every search returns photos of its own and some of another search's, uploaded over ten years, with the
irregularities of real answers: counts as text, missing sizes, HTML in descriptions, null captions, repeats.
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
"""2010 to 2019, in seconds since 1970."""

MAX_RESULTS = 4000
"""Beyond this many results Flickr repeats the last page of a search."""

SHARED = 0.08
"""Share of a search's photos that another search returns, too."""

TWICE, SAME_SECOND = 0.01, 0.03
"""Shares of results that are listed twice in a row, or uploaded in the same second as the one before."""

ODD = {
    "no-sizes": 0.01, "few-sizes": 0.1, "html": 0.3, "no-text": 0.04, "short": 0.06, "long": 0.03,
    "foreign": 0.06, "tiny": 0.02, "copy": 0.02, "no-id": 0.002, "odd-characters": 0.02, "contrary": 0.1,
}  # fmt: skip
"""Oddity → share of photos that have it. A contrary photo has the opposite mood of its query."""

REALITY = {
    "one-word": 0.3, "album": 0.2, "moderate": 0.05, "watermarked": 1.0, "titled": 0.15, "untagged": 0.15,
    "prolific": 0.15,
}  # fmt: skip
"""Oddity → share of photos that have it where the world is like reality: text and tags have one word of the
query; the photo is one of an album, of one owner with one text; it is hidden from calls without a login; all
its sizes but the thumbnail have Getty's watermark; its title names the query; its tags do not; its owner has
many photos of the query, with texts of their own."""

N_LICENSES, N_REAL_LICENSES = 11, 17
SIZES = {"m": 500, "n": 320, "z": 640, "c": 800, "l": 1024}
SHAPES = ((4, 3), (3, 4), (1, 1), (3, 2))
FOREIGN = (
    "Ein schöner Tag am See mit der ganzen Familie und unseren Hunden im Sommer",
    "Una tarde tranquila en la plaza vieja del pueblo con todos nuestros amigos",
    "Une longue promenade dans la forêt avant que la pluie ne commence enfin",
)


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo of the made-up world. `odd` names its oddities; `picture` is the seed of its drawing."""

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
    """A page of results, with the totals of the whole search."""

    photos: tuple[Photo, ...]
    total: int
    pages: int


@dataclass
class World:
    """Photos by search, generated on demand.

    Args:
        sentiments: query → sentiment; the sign of any other query is that of a checksum.
        seed: seed of everything random.
        photos: number of photos that each search returns; or query → number.
        side: longest side of the largest picture, in pixels.
        quirks: factor on the rates of all oddities; 0: none.
        like_reality: whether photos also have the oddities of REALITY, and Creative Commons 4.0.
    """

    sentiments: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    photos: int | Mapping[str, int] = 120
    side: int = 1024
    quirks: float = 1.0
    like_reality: bool = False

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
        sort: str = "date-posted-asc",
        moderate: bool = False,
        disorder_s: int = 0,
    ) -> Page:
        """A page of the photos uploaded from `since` to `until`, inclusive; the last page again beyond it.

        Args:
            sort: as Flickr names it; any order but that of upload is a made-up one.
            moderate: whether photos of moderate content are shown, too.
            disorder_s: up to so many seconds, photos are listed as if they were uploaded earlier.
        """
        photos = [
            photo
            for photo in self.results("flickr", query)
            if since <= photo.uploaded <= until
            and (licenses is None or photo.license in licenses)
            and (moderate or "moderate" not in photo.odd)
        ]
        if disorder_s:
            photos.sort(key=lambda photo: photo.uploaded - photo.number * 7919 % disorder_s)
        if not sort.startswith("date-posted"):
            photos.sort(key=lambda photo: zlib.crc32(f"{sort} {photo.number}".encode()))
        elif sort.endswith("desc"):
            photos.reverse()
        pages = -(-len(photos) // per_page)
        shown = max(1, min(page, pages, -(-MAX_RESULTS // per_page)))
        return Page(tuple(photos[(shown - 1) * per_page : shown * per_page]), len(photos), pages)

    def search_getty(
        self, phrase: str, family: str, *, page: int, page_size: int, newest: bool = False, wide: bool = False
    ) -> Page:
        """A page of the images of a family; an empty one beyond the last.

        Args:
            newest: whether the newest come first.
            wide: whether images of another phrase are among them.
        """
        images = self.results(f"getty {family}", phrase)
        if wide and (others := sorted(set(self.sentiments) - {phrase})):
            images = images + self.results(f"getty {family}", others[len(phrase) % len(others)])
        if newest:
            images = images[::-1]
        start = (page - 1) * page_size
        return Page(tuple(images[start : start + page_size]), len(images), -(-len(images) // page_size))

    def results(self, source: str, query: str) -> list[Photo]:
        """All results of a search, oldest first; some photos occur twice."""
        with self._lock:
            if (source, query) not in self._results:
                self._results[source, query] = sorted(
                    self._find(source, query), key=lambda photo: photo.uploaded
                )
            return self._results[source, query]

    def sentiment(self, query: str) -> float:
        """The sentiment of a query, never 0."""
        known = self.sentiments.get(query, 0.0)
        return known or (1.0 if zlib.crc32(query.encode()) % 2 else -1.0)

    def _find(self, source: str, query: str) -> Iterator[Photo]:
        rng = self._chance(source, query)
        others = [other for other in sorted(self.sentiments) if other != query]
        for index in range(self._count(query)):
            # Photos of other queries, some of the other sign, so that labels conflict.
            shared = others and rng.random() < SHARED * self.quirks
            owner = rng.choice(others) if shared else query
            photo = self._photo(source, owner, rng.randrange(self._count(owner)) if shared else index)
            yield photo
            if rng.random() < TWICE * self.quirks:
                yield photo

    def _count(self, query: str) -> int:
        return self.photos if isinstance(self.photos, int) else self.photos.get(query, 0)

    def _chance(self, *what: object) -> random.Random:
        # Seeded by text, and not by a hash, which differs between processes.
        return random.Random(" ".join(map(str, (self.seed, *what))))

    def _photo(self, source: str, query: str, index: int) -> Photo:
        """Photo number `index` of a query."""
        rng = self._chance(source, query, index)
        odd = frozenset(name for name, share in ODD.items() if rng.random() < share * self.quirks)
        if self.like_reality:  # by chances of its own, so that the rest stays as it is
            real = self._chance(source, query, index, "reality")
            odd |= {name for name, share in REALITY.items() if real.random() < share * self.quirks}
        same_second = rng.random() < SAME_SECOND * self.quirks
        happy = (self.sentiment(query) > 0) != ("contrary" in odd)
        mood = Label.POSITIVE if happy else Label.NEGATIVE
        number = 10**10 + zlib.crc32(f"{self.seed} {source} {query}".encode()) * 10**6 + index
        picture = number - 1 if "copy" in odd and index else number
        width, height = SHAPES[picture % len(SHAPES)]
        longest = 40 if "tiny" in odd else self.side
        shown = query.rsplit(maxsplit=1)[-1] if "one-word" in odd else query
        title, text = write_tweet(mood, number).split(",")[0][:60], _describe(mood, shown, number, odd, rng)
        owner = f"{1000 + rng.randrange(9000)}@N00"
        license = str(rng.randrange(N_LICENSES))
        if self.like_reality:
            license = str(number % N_REAL_LICENSES)
        if "titled" in odd:
            title = f"{shown.capitalize()} at home"
        if "prolific" in odd:
            owner = f"{1000 + zlib.crc32(query[::-1].encode()) % 9000}@N02"
        if "album" in odd:
            owner = f"{1000 + zlib.crc32(query.encode()) % 9000}@N01"
            title, text = "Our holidays", f"All pictures of our holidays in the north, with a {shown} or two"
        return Photo(
            number=number,
            mood=mood,
            title=title,
            text=text,
            tags=("home", "travel") if "untagged" in odd else tuple(shown.split()),
            # Drawn anew, not read from the photo before it: no photo depends on which were asked for earlier.
            uploaded=self._chance(
                source, query, index - 1 if same_second and index else index, "uploaded"
            ).randint(FIRST_UPLOAD, LAST_UPLOAD),
            owner=owner,
            license=license,
            width=longest * width // max(width, height),
            height=longest * height // max(width, height),
            picture=picture,
            odd=odd,
        )


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
    """The photo as Flickr's search lists it; numbers are sometimes text. `images` is the picture host."""
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


def getty_image(photo: Photo, images: str, fields: Set[str]) -> dict[str, Any]:
    """The photo as Getty's search lists it, in the sizes among `fields`; the caption is null if absent."""
    sizes = [size for size in (("comp", 612), ("preview", 412), ("thumb", 170)) if size[0] in fields]
    return {
        "id": str(photo.number),
        "title": photo.title,
        "caption": photo.text or None,
        "artist": f"artist {photo.owner[:4]}",
        "license_model": "royaltyfree",
        "date_created": datetime.fromtimestamp(photo.uploaded, UTC).isoformat(),
        "max_dimensions": {"width": photo.width, "height": photo.height},
        "display_sizes": [
            {
                "is_watermarked": "watermarked" in photo.odd and name != "thumb",
                "name": name,
                "uri": picture_url(photo, images, *_fit(photo, side)),
            }
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
    """The address of a photo's picture; its path holds everything needed to draw it."""
    return f"{images}/images/{photo.number}/{photo.mood}-{photo.picture}-{width}x{height}.jpg"


DRAWN_SIDE = 320
"""Pixels; larger pictures are drawn at this size and scaled up, which is much faster."""


@lru_cache(maxsize=1024)
def draw_jpeg(mood: Label, picture: int, width: int, height: int) -> bytes:
    """Draw a JPEG of width × height pixels, the same bytes every time; all sizes show the same scene."""
    share = min(1.0, DRAWN_SIDE / max(width, height))
    shape = (max(1, round(width * share)), max(1, round(height * share)))
    drawn = draw_picture(mood, picture, shape)
    data = BytesIO()
    drawn.resize((width, height)).save(data, "JPEG", quality=85)
    return data.getvalue()
