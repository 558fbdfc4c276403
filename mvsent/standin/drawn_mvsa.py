"""A drawn dataset in the layout of MVSA: every case of the label rules, and every kind of damage.

Simulated annotators see the mood of a tweet and of its picture, and sometimes err. So the labels are as noisy
as people's; the true moods are not stored in the folder.
"""

import random
from collections.abc import Sequence
from enum import Enum, auto
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from mvsent.pairs import Label
from mvsent.standin.drawings import draw_picture
from mvsent.standin.tweets import write_tweet

N_ANNOTATORS = 3
ACCURACY = 0.86
"""Share of an annotator's votes that name the true mood; most errors name a neighbouring label."""

AGREE, WITH_NEUTRAL = 0.72, 0.18
"""Shares of the rows whose tweet and picture have one mood, or one mood and neutral; the rest conflict."""

RETWEETS = 0.06
"""Share of rows that repeat the tweet of an earlier row, as in the real dataset."""

CHINESE_COMPUTERS = 0.2
"""Share of texts stored in GB18030, as in the real dataset."""

Vote = tuple[Label, Label]
"""One annotator's labels: of the text, of the image."""


class Damage(Enum):
    """Damage to a row's files."""

    NONE = auto()
    PICTURE_MISSING = auto()
    PICTURE_EMPTY = auto()
    PICTURE_TRUNCATED = auto()
    PICTURE_IS_HTML = auto()
    TEXT_MISSING = auto()


class Row(NamedTuple):
    """One pair to draw. `tweet` and `picture` are seeds."""

    id: str
    text_mood: Label
    image_mood: Label
    votes: tuple[Vote, ...]
    tweet: int
    picture: int
    retweet: bool
    encoding: str
    damage: Damage


def plan(n_rows: int, seed: int) -> list[Row]:
    """Plan `n_rows` rows with ids "1", "2", …; the first ones cover every label case and kind of damage.

    >>> rows = plan(40, seed=0)
    >>> rows == plan(40, seed=0), rows == plan(40, seed=1)
    (True, False)
    """
    rng = random.Random(f"mvsa {seed}")
    rows: list[Row] = []
    for number in range(n_rows):
        if number < len(CASES):
            votes, damage = CASES[number]
            text_mood, image_mood = votes[0]
        else:
            text_mood, image_mood = _moods(rng)
            seen = ((_seen(rng, text_mood), _seen(rng, image_mood)) for _ in range(N_ANNOTATORS))
            votes, damage = tuple(seen), Damage.NONE
        twin = None
        if rng.random() < RETWEETS and (same := [row.tweet for row in rows if row.text_mood is text_mood]):
            twin = rng.choice(same)
        rows.append(
            Row(
                id=str(number + 1),
                text_mood=text_mood,
                image_mood=image_mood,
                votes=votes,
                tweet=number + 100_000 * seed if twin is None else twin,
                picture=number + 100_000 * seed,
                retweet=twin is not None,
                encoding="gb18030" if rng.random() < CHINESE_COMPUTERS else "utf-8",
                damage=damage,
            )
        )
    return rows


NEG, NEU, POS = Label
AGREED: tuple[Vote, ...] = ((POS, POS),) * N_ANNOTATORS
CASES: Sequence[tuple[tuple[Vote, ...], Damage]] = (
    (AGREED, Damage.NONE),
    (((NEG, NEG), (NEG, NEG), (NEU, NEG)), Damage.NONE),  # agree, by majority
    (((NEU, NEU), (NEU, NEU), (NEU, NEU)), Damage.NONE),
    (((NEU, POS), (NEU, POS), (NEU, POS)), Damage.NONE),  # polar + neutral → positive
    (((NEG, NEU), (NEG, NEU), (NEG, NEU)), Damage.NONE),  # polar + neutral → negative
    (((POS, NEG), (POS, NEG), (POS, NEG)), Damage.NONE),  # conflict
    (((NEG, POS), (NEG, POS), (NEG, NEU)), Damage.NONE),  # conflict
    (((POS, POS), (NEU, POS), (NEG, POS)), Damage.NONE),  # no majority for the text
    (((NEG, NEG), (NEG, NEU), (NEG, POS)), Damage.NONE),  # no majority for the image
    *((AGREED, damage) for damage in Damage if damage is not Damage.NONE),
)
"""Votes and damage of the first rows: the cases that label rules and checks must distinguish."""


def draw_dataset(root: Path, *, n_rows: int, seed: int, n_annotators: int = N_ANNOTATORS) -> list[Row]:
    """Draw `n_rows` pairs into `root`: labelResultAll.txt and data/ID.jpg, data/ID.txt, as MVSA has them.

    Args:
        n_annotators: 3 as in MVSA-Multiple, or 1 as in MVSA-Single.

    Returns: the plan of every row.

    Raises: FileExistsError if `root` already has a data folder.
    """
    rows = plan(n_rows, seed)
    data = root / "data"
    data.mkdir(parents=True)
    for row in rows:
        picture = _picture_bytes(row)
        if picture is not None:
            (data / f"{row.id}.jpg").write_bytes(picture)
        if row.damage is not Damage.TEXT_MISSING:
            text = write_tweet(row.text_mood, row.tweet)
            if row.retweet:
                text = f"RT @friend{row.id}: {text}"
            if row.encoding == "gb18030":
                # Published tweets are often cut off; the ellipsis is A1 AD, which no UTF-8 reader accepts.
                text += " …"
            (data / f"{row.id}.txt").write_bytes(text.encode(row.encoding) + b"\r\n")
    (root / "labelResultAll.txt").write_text(label_file(rows, n_annotators), encoding="utf-8", newline="")
    return rows


def label_file(rows: Sequence[Row], n_annotators: int = N_ANNOTATORS) -> str:
    r"""Format labelResultAll.txt, with CRLF as published.

    >>> label_file(plan(1, seed=0), n_annotators=1)
    'ID\ttext,image\r\n1\tpositive,positive\r\n'
    """
    lines = [["ID"] + ["text,image"] * n_annotators]
    lines += [[row.id, *(f"{text},{image}" for text, image in row.votes[:n_annotators])] for row in rows]
    return "".join("\t".join(line) + "\r\n" for line in lines)


def _moods(rng: random.Random) -> tuple[Label, Label]:
    mood = rng.choices((NEG, NEU, POS), weights=(3, 2, 4))[0]
    kind = rng.random()
    if kind < AGREE:
        return mood, mood
    polar = rng.choice((NEG, POS))
    if kind < AGREE + WITH_NEUTRAL:
        return (polar, NEU) if rng.random() < 0.5 else (NEU, polar)
    return (NEG, POS) if polar is NEG else (POS, NEG)


def _seen(rng: random.Random, mood: Label) -> Label:
    """An annotator's label for a mood: mostly right, else a neighbour, rarely the opposite."""
    if rng.random() < ACCURACY:
        return mood
    if mood is NEU:
        return rng.choice((NEG, POS))
    return NEU if rng.random() < 0.8 else Label(2 - mood)


def _picture_bytes(row: Row) -> bytes | None:
    """The JPEG of a row, intact or damaged; None if the file is missing."""
    if row.damage is Damage.PICTURE_MISSING:
        return None
    if row.damage is Damage.PICTURE_EMPTY:
        return b""
    if row.damage is Damage.PICTURE_IS_HTML:
        return b"<!DOCTYPE html><html><body><h1>404 Not Found</h1></body></html>"
    stream = BytesIO()
    draw_picture(row.image_mood, row.picture).save(stream, "JPEG", quality=85)
    jpeg = stream.getvalue()
    return jpeg[: len(jpeg) // 2] if row.damage is Damage.PICTURE_TRUNCATED else jpeg
