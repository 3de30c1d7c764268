"""The picture world: scenes of coloured shapes and printed words, drawn from a seed.

Owns what can be in a picture and where. Knows no pixels (`render`), no words about the scene
(`questions`) and no tensors. Lengths are in units of the square root of the canvas area, places
are fractions of the canvas, so that a scene is the same at any resolution.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from dyvte.demo.palette import COLORS, RGB, contrast, luminance, pastel, shade
from dyvte.demo.shapes import SHAPES, TILT

SIZES = {"small": (0.12, 0.17), "medium": (0.22, 0.30), "large": (0.38, 0.56)}
HUGE = (0.62, 0.92)
COUNT_WEIGHTS = (4, 24, 20, 18, 14, 11, 9)
WORDS = (
    *("stop", "go", "open", "exit", "hello", "yes", "no", "cat", "dog", "sun", "moon", "tree"),
    *("fish", "bird", "milk", "tea", "cafe", "book", "sale", "taxi", "bus", "hot", "cold"),
    *("love", "home", "park", "shop", "zoo", "ice", "key"),
)
MIN_CONTRAST = 170.0
FONTS = 5


@dataclass(frozen=True, slots=True)
class Thing:
    """One object: name, look and place. `extent` is its diameter in canvas units."""

    shape: str
    color: str
    size: str
    x: float
    y: float
    extent: float
    rgb: RGB
    form: float
    angle: float
    outlined: bool
    border: RGB | None

    @property
    def region(self) -> str:
        return region(self.x, self.y)


@dataclass(frozen=True, slots=True)
class Print:
    """A printed word or number. `height` is the font size in canvas units."""

    text: str
    shown: str
    x: float
    y: float
    height: float
    rgb: RGB
    color: str
    font: int

    @property
    def is_number(self) -> bool:
        return self.text.isdigit()


@dataclass(frozen=True, slots=True)
class Background:
    """`color` is None where the colour has no settled name. `other` ends the gradient."""

    rgb: RGB
    other: RGB
    angle: float
    noise: float
    color: str | None

    @property
    def tone(self) -> str | None:
        """light, dark, or None where people would disagree."""
        low, high = sorted((luminance(self.rgb), luminance(self.other)))
        return "light" if low > 170 else "dark" if high < 95 else None


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture before it is drawn. `aspect` is width over height."""

    aspect: float
    background: Background
    things: tuple[Thing, ...]
    printed: Print | None

    @property
    def span(self) -> tuple[float, float]:
        """Width and height in canvas units."""
        return math.sqrt(self.aspect), 1 / math.sqrt(self.aspect)


def region(x: float, y: float) -> str:
    """Name of the cell of a 3x3 grid over the picture."""
    row = "top" if y < 1 / 3 else "bottom" if y > 2 / 3 else ""
    column = "left" if x < 1 / 3 else "right" if x > 2 / 3 else ""
    return f"{row} {column}".strip() or "center"


def _background(rng: random.Random) -> Background:
    roll = rng.random()
    name: str | None
    if roll < 0.40:
        name = "white"
    elif roll < 0.50:
        name = "black"
    elif roll < 0.80:
        name = rng.choice(COLORS)
    else:
        name = None
    rgb = shade(name, rng) if name else pastel(rng)
    other = rgb
    if rng.random() < 0.25:
        amount = rng.uniform(0.12, 0.4)
        goal = 0 if luminance(rgb) > 128 else 255
        other = (_mix(rgb[0], goal, amount), _mix(rgb[1], goal, amount), _mix(rgb[2], goal, amount))
        name = name if name in {"red", "green", "blue"} else None
    noise = rng.uniform(1.0, 9.0) if rng.random() < 0.35 else 0.0
    return Background(rgb, other, rng.uniform(0, 360), noise, name)


def _mix(value: int, goal: int, amount: float) -> int:
    return round(value + (goal - value) * amount)


def _visible(name: str, ground: Background, rng: random.Random) -> RGB | None:
    for _ in range(4):
        rgb = shade(name, rng)
        if min(contrast(rgb, ground.rgb), contrast(rgb, ground.other)) > MIN_CONTRAST:
            return rgb
    return None


class _Layout:
    """Boxes placed so far; refuses overlaps and places that straddle two named regions."""

    def __init__(self, span: tuple[float, float]) -> None:
        self.span = span
        self.boxes: list[tuple[float, float, float, float]] = []

    def place(
        self, half_w: float, half_h: float, rng: random.Random, tries: int = 25
    ) -> tuple[float, float] | None:
        width, height = self.span
        margin = 0.01
        if 2 * (half_w + margin) > width or 2 * (half_h + margin) > height:
            return None
        for _ in range(tries):
            x = rng.uniform(half_w + margin, width - half_w - margin)
            y = rng.uniform(half_h + margin, height - half_h - margin)
            if (
                self._vague(x / width)
                or self._vague(y / height)
                or self._hits(x, y, half_w, half_h)
            ):
                continue
            self.boxes.append((x, y, half_w, half_h))
            return x / width, y / height
        return None

    @staticmethod
    def _vague(fraction: float) -> bool:
        return min(abs(fraction - 1 / 3), abs(fraction - 2 / 3)) < 0.03

    def _hits(self, x: float, y: float, w: float, h: float) -> bool:
        gap = 0.025
        return any(
            abs(x - bx) < w + bw + gap and abs(y - by) < h + bh + gap
            for bx, by, bw, bh in self.boxes
        )


def _printed(layout: _Layout, ground: Background, rng: random.Random) -> Print | None:
    text = rng.choice(WORDS) if rng.random() < 0.55 else str(rng.randrange(100))
    shown = rng.choice((text, text.upper(), text.capitalize()))
    color = rng.choice(COLORS)
    rgb = _visible(color, ground, rng)
    height = rng.uniform(0.16, 0.36)
    height = min(height, 0.8 * layout.span[0] / (0.66 * len(text)))
    spot = layout.place(0.34 * height * len(text), 0.5 * height, rng)
    if rgb is None or spot is None:
        return None
    return Print(text, shown, *spot, height, rgb, color, rng.randrange(FONTS))


def _thing(
    layout: _Layout, ground: Background, names: tuple[str, str], alone: bool, rng: random.Random
) -> Thing | None:
    shape, color = names
    rgb = _visible(color, ground, rng)
    if rgb is None:
        return None
    size = rng.choice(tuple(SIZES))
    extent = rng.uniform(*SIZES[size])
    if alone and rng.random() < 0.3:
        size, extent = "large", rng.uniform(*HUGE)
    spot = layout.place(extent / 2, extent / 2, rng)
    if spot is None:
        size, extent = "small", rng.uniform(*SIZES["small"])
        spot = layout.place(extent / 2, extent / 2, rng)
    if spot is None:
        return None
    angle = rng.uniform(-TILT[shape], TILT[shape]) if rng.random() < 0.6 else 0.0
    if shape in {"rectangle", "ellipse"} and rng.random() < 0.4:
        angle += 90
    if shape == "triangle" and rng.random() < 0.12:
        angle += 180
    outlined = rng.random() < (0.14 if size != "small" else 0.06)
    edge = shade(rng.choice(("black", "white")), rng)
    border = edge if not outlined and rng.random() < 0.12 and contrast(edge, rgb) > 250 else None
    return Thing(shape, color, size, *spot, extent, rgb, rng.random(), angle, outlined, border)


def sample_scene(seed: int) -> Scene:
    """The scene of this seed; the same seed gives the same scene on every machine."""
    rng = random.Random(seed)
    aspect = 1.0 if rng.random() < 0.5 else math.exp(rng.uniform(-0.65, 0.65))
    ground = _background(rng)
    layout = _Layout((math.sqrt(aspect), 1 / math.sqrt(aspect)))
    printed = _printed(layout, ground, rng) if rng.random() < 0.25 else None
    count = rng.choices(range(7), COUNT_WEIGHTS)[0]
    # A narrow choice of names makes repeats, which counting and hard negatives need.
    narrow = rng.random() < 0.35
    shapes = rng.sample(SHAPES, 2) if narrow else SHAPES
    colors = rng.sample(COLORS, 3) if narrow else COLORS
    things = []
    for _ in range(count):
        names = (rng.choice(shapes), rng.choice(colors))
        thing = _thing(layout, ground, names, count == 1 and printed is None, rng)
        if thing is None:
            names = (names[0], rng.choice(COLORS))
            thing = _thing(layout, ground, names, False, rng)
        if thing is not None:
            things.append(thing)
    return Scene(aspect, ground, tuple(things), printed)
