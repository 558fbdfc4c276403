"""A drawn metadata dump in YFCC100M's tab-separated layout, so that tests and examples need no real one.

Words, tags and lengths are roughly those of the real dump; ids, people and pictures are invented.
"""

import bz2
import gzip
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote_plus

from mvsent.pairs import Label

_WORDS = """the of and in at on with from for a my our new first day view street park beach lake river house
city night morning summer winter trip party wedding family friends canon nikon iphone square
2010 2011 2012 london paris tokyo berlin california europe travel nature water sky tree garden
museum church station bridge market concert festival train mountain island harbor cat bird car"""
COMMON = tuple(_WORDS.split())
FOREIGN = ("夕焼け", "東京タワー", "Straße", "Montréal", "été", "Москва", "“quoted”", "L’hiver")
SENTENCES = (
    "Seen on our way home through the old town that afternoon",
    "We had walked for hours before the clouds let some light through",
    "Taken from the bridge with a friend, just before the rain began",
    'One of a series; the others are <a href="http://www.flickr.com/photos/x/">in the album</a> &amp; more',
)
LICENSES = (
    ("Attribution-NonCommercial-ShareAlike License", "by-nc-sa"),
    ("Attribution-NonCommercial-NoDerivs License", "by-nc-nd"),
    ("Attribution License", "by"),
    ("Attribution-ShareAlike License", "by-sa"),
    ("Attribution-NoDerivs License", "by-nd"),
    ("Attribution-NonCommercial License", "by-nc"),
)
FIRST_ID = 2_000_000_000


@dataclass(frozen=True)
class DumpDrawing:
    """How a dump is drawn.

    Attributes:
        queries: query → sentiment; some rows contain one.
        pair_share: share of the rows that contain one in the title, and of those that have it among the tags.
        pictures: address of a stand-in that draws the pictures; empty: Flickr's host, where there are none.
        columns: 23 or 25.
    """

    queries: Mapping[str, float]
    pair_share: float = 0.01
    pictures: str = ""
    columns: int = 23
    seed: int = 0


def draw_lines(drawing: DumpDrawing, n_rows: int) -> Iterator[str]:
    """Lines of a dump; one in a hundred is a video."""
    rng = random.Random(f"dump {drawing.seed}")
    queries = list(drawing.queries)
    # One word in twenty is that of a pair, so that many rows have one without the other. Most of them are
    # nouns, as among real tags.
    of_pairs = [word for query in queries for word in (*query.split(), *query.split()[-1:] * 2)]
    words = [*COMMON * max(1, 19 * len(of_pairs) // len(COMMON)), *of_pairs]
    for number in range(n_rows):
        yield "\t".join(_row(drawing, rng, words, queries, number)) + "\n"


def _row(
    drawing: DumpDrawing, rng: random.Random, words: Sequence[str], queries: Sequence[str], number: int
) -> list[str]:
    chance = rng.random
    title = (
        f"IMG_{rng.randrange(10_000)}"
        if chance() < 0.3
        else " ".join(rng.choices(words, k=rng.randint(1, 5)))
    )
    if chance() < 0.1:
        title = rng.choice(FOREIGN)
    tags = rng.choices(words, k=rng.randint(2, 18)) if chance() < 0.68 else []
    query = rng.choice(queries)
    if chance() < drawing.pair_share:
        title = f"{title} {query.title()}"
    if chance() < drawing.pair_share:
        tags += rng.choice((query.split(), [query.replace(" ", "")], [query]))
    description = (
        f"{rng.choice(SENTENCES)}, {rng.choice(words)} {rng.choice(words)}." if chance() < 0.35 else ""
    )
    if drawing.pictures:
        description = description or f"{rng.choice(SENTENCES)}."
    id, owner = str(FIRST_ID + number * 7), f"{rng.randrange(10**7, 10**8)}@N0{rng.randrange(9)}"
    license, code = rng.choice(LICENSES)
    server, secret = str(rng.randrange(1, 9000)), f"{rng.randrange(16**10):010x}"
    is_video = chance() < 0.01
    place = f"http://farm{1 + number % 9}.staticflickr.com/{server}/{id}_{secret}.jpg"
    if drawing.pictures:
        mood = Label.POSITIVE if drawing.queries[query] > 0 else Label.NEGATIVE
        place = f"{drawing.pictures}/images/{id}/{mood}-{number}-160x120.jpg"
    uploaded = rng.randrange(1_080_000_000, 1_400_000_000)
    row = [
        *(id, owner, f"person+{number % 5000}", "2010-05-01 12:00:00.0", str(uploaded), "Canon+EOS"),
        *(quote_plus(title), quote_plus(description), ",".join(map(quote_plus, tags)), "", "", "", ""),
        *(f"http://www.flickr.com/photos/{owner}/{id}/", place, license),
        *(
            f"http://creativecommons.org/licenses/{code}/2.0/",
            server,
            str(1 + number % 9),
            secret,
            f"{secret}o",
        ),
        *("jpg", str(int(is_video))),
    ]
    return row if drawing.columns == 23 else [str(number), row[0], f"{number:032x}", *row[1:]]


def draw_dump(path: Path, drawing: DumpDrawing, n_rows: int) -> Path:
    """Write a dump, compressed if the name ends with .bz2 or .gz."""
    opened = {".bz2": bz2.open, ".gz": gzip.open}.get(path.suffix, open)
    with opened(path, "wt", encoding="utf-8", newline="\n") as file:
        file.writelines(draw_lines(drawing, n_rows))
    return path
