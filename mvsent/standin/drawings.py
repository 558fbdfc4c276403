"""Drawn pictures, so that the demo needs neither a network nor real people's photographs.

The mood decides colours, weather, faces and objects; the seed decides the rest. The same mood, seed and size
always give the same picture.
"""

import math
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageOps

from mvsent.pairs import Label

OVERSAMPLING = 2
"""Pictures are drawn larger by this factor and scaled down, which smooths their edges."""

BORROWED_COLOURS = 0.25
"""Share of pictures with the colours of any mood, so that colour alone does not give the mood away."""

Colour = tuple[int, int, int]


class Palette(NamedTuple):
    """The colours of one picture, from the top of the sky to the ground, and an accent."""

    sky: Colour
    horizon: Colour
    ground: Colour
    accent: Colour


PALETTES: dict[Label, Sequence[Palette]] = {
    Label.POSITIVE: (
        Palette((74, 158, 240), (200, 234, 255), (112, 192, 72), (255, 205, 40)),
        Palette((255, 170, 90), (255, 226, 150), (150, 190, 80), (244, 84, 92)),
        Palette((120, 205, 235), (255, 225, 235), (140, 210, 120), (255, 120, 170)),
    ),
    Label.NEUTRAL: (
        Palette((176, 190, 200), (218, 222, 222), (160, 158, 146), (96, 120, 140)),
        Palette((205, 198, 184), (228, 224, 214), (150, 140, 124), (120, 96, 72)),
        Palette((158, 178, 172), (206, 214, 208), (130, 140, 132), (76, 104, 110)),
    ),
    Label.NEGATIVE: (
        Palette((34, 38, 48), (92, 96, 104), (46, 48, 46), (150, 26, 30)),
        Palette((58, 42, 52), (112, 92, 96), (52, 40, 38), (96, 16, 24)),
        Palette((22, 30, 40), (70, 82, 92), (36, 44, 48), (190, 170, 90)),
    ),
}


def draw_picture(mood: Label, seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Draw an RGB picture of `size` (width, height) pixels that expresses `mood`.

    >>> draw_picture(Label.POSITIVE, seed=1).tobytes() == draw_picture(Label.POSITIVE, seed=1).tobytes()
    True
    """
    rng = random.Random(f"picture {mood} {seed}")  # text seeds alike in every process
    borrowed = rng.random() < BORROWED_COLOURS
    palette = rng.choice(PALETTES[rng.choice(list(Label)) if borrowed else mood])
    sketch = Sketch(rng, palette, mood, (size[0] * OVERSAMPLING, size[1] * OVERSAMPLING))
    scene: Callable[[Sketch], None] = rng.choice((_landscape, _landscape, _faces, _things))
    scene(sketch)
    return sketch.image.resize(size, Image.Resampling.LANCZOS)


class Sketch:
    """A picture being drawn. Coordinates are shares of width and height."""

    def __init__(self, rng: random.Random, palette: Palette, mood: Label, size: tuple[int, int]) -> None:
        self.rng, self.palette, self.mood = rng, palette, mood
        self.width, self.height = size
        gradient = Image.linear_gradient("L").resize(size)
        self.image = ImageOps.colorize(gradient, palette.sky, palette.horizon)
        self.pen = ImageDraw.Draw(self.image)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The pixel at (x, y), each 0..1."""
        return x * self.width, y * self.height

    def disc(self, x: float, y: float, radius: float, fill: Colour) -> None:
        """Draw a filled circle; `radius` is a share of the height."""
        self.pen.ellipse(self._around(x, y, radius, radius), fill=fill)

    def oval(self, x: float, y: float, wide: float, high: float, fill: Colour) -> None:
        """Draw a filled ellipse; its two radii are shares of the height."""
        self.pen.ellipse(self._around(x, y, wide, high), fill=fill)

    def arc(
        self, x: float, y: float, radius: float, *, angles: tuple[int, int], fill: Colour, width: float
    ) -> None:
        """Draw an arc between two angles (degrees, clockwise from three o'clock)."""
        self.pen.arc(self._around(x, y, radius, radius), *angles, fill=fill, width=self.thickness(width))

    def line(self, *points: tuple[float, float], fill: Colour, width: float) -> None:
        """Draw joined lines; `width` is a share of the height."""
        self.pen.line([self.at(*point) for point in points], fill=fill, width=self.thickness(width))

    def shape(self, *points: tuple[float, float], fill: Colour) -> None:
        """Draw a filled polygon."""
        self.pen.polygon([self.at(*point) for point in points], fill=fill)

    def thickness(self, share: float) -> int:
        """The width of a line in pixels, at least one."""
        return max(1, round(share * self.height))

    def near(self, colour: Colour, spread: int = 25) -> Colour:
        """A random colour near `colour`."""
        shift = self.rng.randint(-spread, spread)
        red, green, blue = (min(255, max(0, c + shift + self.rng.randint(-8, 8))) for c in colour)
        return red, green, blue

    def _around(self, x: float, y: float, wide: float, high: float) -> tuple[float, float, float, float]:
        cx, cy = self.at(x, y)
        return (
            cx - wide * self.height,
            cy - high * self.height,
            cx + wide * self.height,
            cy + high * self.height,
        )


def _landscape(sketch: Sketch) -> None:
    """Sky with weather, hills, and what stands on them."""
    rng = sketch.rng
    weather = {Label.POSITIVE: _sun, Label.NEUTRAL: _haze, Label.NEGATIVE: _storm}
    plants = {Label.POSITIVE: _flower, Label.NEUTRAL: _house, Label.NEGATIVE: _bare_tree}
    weather[sketch.mood](sketch)
    for _ in range(rng.randint(2, 3)):
        sketch.oval(rng.random(), rng.uniform(1.0, 1.15), 0.75, 0.38, sketch.near(sketch.palette.ground))
    for _ in range(rng.randint(4, 8)):
        plants[sketch.mood](sketch, rng.uniform(0.05, 0.95), rng.uniform(0.78, 0.95))


def _sun(sketch: Sketch) -> None:
    x, y, radius = (
        sketch.rng.uniform(0.15, 0.85),
        sketch.rng.uniform(0.15, 0.35),
        sketch.rng.uniform(0.08, 0.15),
    )
    yellow = (255, 232, 96)
    for ray in range(12):
        turn = math.tau * ray / 12
        reach = 1.9 * radius * sketch.height / sketch.width
        sketch.line(
            (x, y), (x + reach * math.cos(turn), y + 1.9 * radius * math.sin(turn)), fill=yellow, width=0.012
        )
    sketch.disc(x, y, radius, yellow)
    if sketch.rng.random() < 0.4:
        for band, colour in enumerate(((230, 60, 60), (250, 190, 60), (90, 190, 90), (80, 130, 230))):
            sketch.arc(0.5, 0.95, 0.7 - 0.03 * band, angles=(180, 360), fill=colour, width=0.03)


def _haze(sketch: Sketch) -> None:
    for _ in range(sketch.rng.randint(2, 4)):
        _cloud(sketch, sketch.near(sketch.palette.horizon, 12))


def _storm(sketch: Sketch) -> None:
    rng = sketch.rng
    for _ in range(rng.randint(3, 5)):
        _cloud(sketch, sketch.near(sketch.palette.sky, 18))
    if rng.random() < 0.4:
        x = rng.uniform(0.2, 0.8)
        sketch.line(
            (x, 0.2), (x - 0.05, 0.4), (x + 0.02, 0.42), (x - 0.06, 0.68), fill=(250, 240, 170), width=0.016
        )
    for _ in range(90):
        x, y = rng.random(), rng.random()
        sketch.line((x, y), (x - 0.012, y + 0.06), fill=(128, 142, 160), width=0.005)


def _cloud(sketch: Sketch, fill: Colour) -> None:
    x, y = sketch.rng.random(), sketch.rng.uniform(0.08, 0.32)
    for _ in range(5):
        sketch.oval(x + sketch.rng.uniform(-0.1, 0.1), y + sketch.rng.uniform(-0.03, 0.03), 0.14, 0.07, fill)


def _flower(sketch: Sketch, x: float, y: float) -> None:
    sketch.line((x, y), (x, y + 0.12), fill=(50, 130, 50), width=0.012)
    petals = sketch.near(sketch.palette.accent, 40)
    for petal in range(6):
        turn = math.tau * petal / 6
        sketch.disc(x + 0.022 * math.cos(turn), y + 0.03 * math.sin(turn), 0.022, petals)
    sketch.disc(x, y, 0.018, (255, 240, 150))


def _house(sketch: Sketch, x: float, y: float) -> None:
    high = sketch.rng.uniform(0.15, 0.5)
    wall = sketch.near(sketch.palette.accent, 30)
    sketch.shape((x - 0.06, y), (x - 0.06, y - high), (x + 0.06, y - high), (x + 0.06, y), fill=wall)
    for row in range(int(high / 0.09)):
        for column in (-0.035, 0.005):
            top = y - high + 0.03 + 0.09 * row
            pane = (x + column, top), (x + column + 0.028, top + 0.04)
            sketch.pen.rectangle([sketch.at(*pane[0]), sketch.at(*pane[1])], fill=(214, 220, 216))


def _bare_tree(sketch: Sketch, x: float, y: float) -> None:
    _branch(sketch, (x, y), turn=-math.pi / 2, length=sketch.rng.uniform(0.12, 0.2), forks=4)


def _branch(sketch: Sketch, start: tuple[float, float], *, turn: float, length: float, forks: int) -> None:
    end = start[0] + length * math.cos(turn) * 0.6, start[1] + length * math.sin(turn)
    sketch.line(start, end, fill=(18, 14, 12), width=0.004 * (forks + 1))
    if forks:
        for side in (-1, 1):
            lean = turn + side * sketch.rng.uniform(0.25, 0.6)
            _branch(sketch, end, turn=lean, length=length * 0.68, forks=forks - 1)


def _faces(sketch: Sketch) -> None:
    """One to three faces that smile, wait or frown."""
    count = sketch.rng.randint(1, 3)
    for index in range(count):
        x = (index + 0.5) / count + sketch.rng.uniform(-0.04, 0.04)
        _face(sketch, x, sketch.rng.uniform(0.42, 0.6), sketch.rng.uniform(0.62, 0.95) * 0.38 / count**0.55)


def _face(sketch: Sketch, x: float, y: float, radius: float) -> None:
    skin = sketch.near(
        sketch.rng.choice(((250, 208, 120), (226, 172, 130), (150, 104, 74), (244, 196, 170))), 15
    )
    sketch.shape(
        (x - 0.2, 1.1), (x - 0.05, y), (x + 0.05, y), (x + 0.2, 1.1), fill=sketch.near(sketch.palette.accent)
    )
    sketch.oval(x, y - radius * 0.25, radius * 1.1, radius * 1.05, sketch.near((70, 48, 36), 40))
    sketch.disc(x, y, radius, skin)
    dark, across = (40, 28, 26), radius * sketch.height / sketch.width
    for side in (-0.4, 0.4):
        sketch.disc(x + side * across, y - 0.2 * radius, 0.11 * radius, dark)
        if sketch.mood is Label.NEGATIVE:
            inner, outer = (
                (x + 0.45 * side * across, y - 0.55 * radius),
                (x + 1.5 * side * across, y - 0.38 * radius),
            )
            sketch.line(inner, outer, fill=dark, width=0.07 * radius)
            sketch.oval(x + side * across, y + 0.12 * radius, 0.06 * radius, 0.13 * radius, (120, 180, 230))
    if sketch.mood is Label.POSITIVE:
        sketch.arc(x, y + 0.1 * radius, 0.55 * radius, angles=(15, 165), fill=dark, width=0.1 * radius)
    elif sketch.mood is Label.NEGATIVE:
        sketch.arc(x, y + 0.85 * radius, 0.5 * radius, angles=(205, 335), fill=dark, width=0.1 * radius)
    else:
        mouth = y + 0.45 * radius
        sketch.line((x - 0.35 * across, mouth), (x + 0.35 * across, mouth), fill=dark, width=0.1 * radius)


def _things(sketch: Sketch) -> None:
    """Balloons and hearts, or a tidy table, or a broken heart among splinters."""
    {Label.POSITIVE: _party, Label.NEUTRAL: _table, Label.NEGATIVE: _breakage}[sketch.mood](sketch)


def _party(sketch: Sketch) -> None:
    rng = sketch.rng
    colours = ((240, 70, 80), (255, 190, 50), (90, 180, 90), (80, 140, 240), (220, 110, 220))
    for _ in range(60):
        sketch.disc(rng.random(), rng.random(), 0.01, rng.choice(colours))
    for _ in range(rng.randint(4, 7)):
        x, y, colour = rng.uniform(0.1, 0.9), rng.uniform(0.15, 0.6), rng.choice(colours)
        sketch.line((x, y), (x + rng.uniform(-0.05, 0.05), y + 0.4), fill=(250, 250, 250), width=0.006)
        sketch.oval(x, y, 0.1, 0.13, colour)
        sketch.disc(x - 0.03, y - 0.04, 0.022, (255, 240, 240))
    for _ in range(rng.randint(1, 3)):
        _heart(sketch, rng.uniform(0.15, 0.85), rng.uniform(0.65, 0.85), 0.09, (235, 50, 80))


def _heart(sketch: Sketch, x: float, y: float, size: float, fill: Colour) -> None:
    across = size * sketch.height / sketch.width
    for side in (-0.48, 0.48):
        sketch.disc(x + side * across, y - 0.3 * size, 0.55 * size, fill)
    sketch.shape((x - across, y - 0.12 * size), (x + across, y - 0.12 * size), (x, y + size), fill=fill)


def _table(sketch: Sketch) -> None:
    rng, palette = sketch.rng, sketch.palette
    sketch.shape((0, 0.62), (1, 0.62), (1, 1), (0, 1), fill=palette.ground)
    for _ in range(rng.randint(3, 6)):
        x, high, wide = rng.uniform(0.08, 0.9), rng.uniform(0.08, 0.35), rng.uniform(0.03, 0.09)
        base, colour = rng.uniform(0.66, 0.85), sketch.near(palette.accent, 45)
        sketch.shape(
            (x - wide, base), (x - wide, base - high), (x + wide, base - high), (x + wide, base), fill=colour
        )
        sketch.line(
            (x - wide, base - high / 2), (x + wide, base - high / 2), fill=palette.horizon, width=0.01
        )
    cup = rng.uniform(0.2, 0.8)
    sketch.arc(cup + 0.07, 0.8, 0.05, angles=(270, 90), fill=(236, 236, 230), width=0.02)
    sketch.shape(
        (cup - 0.06, 0.72), (cup + 0.06, 0.72), (cup + 0.045, 0.9), (cup - 0.045, 0.9), fill=(236, 236, 230)
    )


def _breakage(sketch: Sketch) -> None:
    rng = sketch.rng
    x, y = rng.uniform(0.35, 0.65), rng.uniform(0.4, 0.55)
    _heart(sketch, x, y, 0.26, sketch.near(sketch.palette.accent, 20))
    crack = [(x + 0.03 * (-1) ** step, y - 0.3 + 0.1 * step) for step in range(7)]
    sketch.line(*crack, fill=sketch.palette.sky, width=0.035)
    for _ in range(rng.randint(10, 20)):
        a, b, s = rng.random(), rng.uniform(0.6, 1.0), rng.uniform(0.02, 0.06)
        sketch.shape(
            (a, b), (a + s, b - s / 2), (a + s / 3, b + s), fill=sketch.near(sketch.palette.horizon, 40)
        )
