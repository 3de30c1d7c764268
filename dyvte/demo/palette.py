"""Named colours of the picture world: what a person would call red, brown or cyan.

Owns the ranges (hue in degrees, saturation and value in 0..1), the plain web constants that
strangers type, and contrast. Knows nothing of scenes.
"""

from __future__ import annotations

import colorsys
import random
from dataclasses import dataclass

RGB = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Tint:
    """One named colour: ranges to draw from, and constants that carry the name outright."""

    hue: tuple[float, float]
    saturation: tuple[float, float]
    value: tuple[float, float]
    constants: tuple[RGB, ...]


PALETTE: dict[str, Tint] = {
    "red": Tint((-8, 7), (0.8, 1), (0.78, 1), ((255, 0, 0), (220, 20, 60), (229, 38, 38))),
    "orange": Tint((23, 39), (0.85, 1), (0.92, 1), ((255, 165, 0), (255, 140, 0))),
    "yellow": Tint((51, 62), (0.7, 1), (0.9, 1), ((255, 255, 0), (255, 215, 0))),
    "green": Tint((95, 150), (0.6, 1), (0.4, 0.95), ((0, 128, 0), (0, 255, 0), (34, 139, 34))),
    "cyan": Tint((174, 190), (0.65, 1), (0.8, 1), ((0, 255, 255), (0, 206, 209))),
    "blue": Tint((210, 242), (0.72, 1), (0.55, 1), ((0, 0, 255), (30, 144, 255), (0, 0, 139))),
    "purple": Tint((268, 302), (0.6, 1), (0.42, 0.8), ((128, 0, 128), (138, 43, 226))),
    "pink": Tint((322, 351), (0.24, 0.6), (0.94, 1), ((255, 192, 203), (255, 105, 180))),
    "brown": Tint((12, 30), (0.6, 0.88), (0.35, 0.6), ((165, 42, 42), (139, 69, 19))),
    "black": Tint((0, 360), (0, 0.3), (0, 0.1), ((0, 0, 0), (10, 10, 10))),
    "white": Tint((0, 360), (0, 0.03), (0.96, 1), ((255, 255, 255), (250, 250, 250))),
    "gray": Tint((0, 360), (0, 0.06), (0.4, 0.68), ((128, 128, 128), (105, 105, 105))),
}
COLORS = tuple(PALETTE)


def shade(name: str, rng: random.Random) -> RGB:
    """A concrete colour that carries `name`."""
    tint = PALETTE[name]
    if rng.random() < 0.35:
        return rng.choice(tint.constants)
    hue = (rng.uniform(*tint.hue) % 360) / 360
    r, g, b = colorsys.hsv_to_rgb(hue, rng.uniform(*tint.saturation), rng.uniform(*tint.value))
    return round(r * 255), round(g * 255), round(b * 255)


def pastel(rng: random.Random) -> RGB:
    """A colour without a settled name, very light or very dark: for backgrounds only."""
    light = rng.random() < 0.6
    value = rng.uniform(0.85, 1.0) if light else rng.uniform(0.1, 0.35)
    saturation = rng.uniform(0.03, 0.22) if light else rng.uniform(0.0, 0.7)
    r, g, b = colorsys.hsv_to_rgb(rng.random(), saturation, value)
    return round(r * 255), round(g * 255), round(b * 255)


def luminance(rgb: RGB) -> float:
    """Perceived lightness in 0..255 (Rec. 601 weights)."""
    return 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]


def contrast(a: RGB, b: RGB) -> float:
    """Distance in 0..~765 that weighs channels roughly as the eye does ("redmean")."""
    mean = (a[0] + b[0]) / 2
    red, green, blue = a[0] - b[0], a[1] - b[1], a[2] - b[2]
    squares = (2 + mean / 256) * red**2 + 4 * green**2 + (2 + (255 - mean) / 256) * blue**2
    return float(squares**0.5)
