"""Outlines of the shapes of the picture world, as polygons around the origin.

Owns geometry only: a shape's outline fits a circle of radius 1, y grows downwards. Colours,
places and pixels are the business of `world` and `render`.
"""

from __future__ import annotations

import math

Point = tuple[float, float]

SHAPES = (
    "circle",
    "square",
    "triangle",
    "star",
    "rectangle",
    "cross",
    "ellipse",
    "heart",
    "hexagon",
    "diamond",
)
# Shapes that look the same in any rotation or that a rotation would turn into another one.
TILT = {
    "circle": 0.0,
    "square": 14.0,
    "triangle": 20.0,
    "star": 30.0,
    "rectangle": 18.0,
    "cross": 16.0,
    "ellipse": 25.0,
    "heart": 15.0,
    "hexagon": 30.0,
    "diamond": 10.0,
}


def _ring(count: int, radius: float, turn: float) -> list[Point]:
    angles = (2 * math.pi * i / count + turn for i in range(count))
    return [(radius * math.cos(a), radius * math.sin(a)) for a in angles]


def _oval(stretch: float) -> list[Point]:
    return [(x, y / stretch) for x, y in _ring(48, 1.0, 0.0)]


def _box(stretch: float) -> list[Point]:
    w = 1 / math.hypot(1.0, 1 / stretch)
    h = w / stretch
    return [(-w, -h), (w, -h), (w, h), (-w, h)]


def _star(inner: float) -> list[Point]:
    outer_points = _ring(5, 1.0, -math.pi / 2)
    inner_points = _ring(5, inner, -math.pi / 2 + math.pi / 5)
    return [p for pair in zip(outer_points, inner_points, strict=True) for p in pair]


def _cross(arm: float) -> list[Point]:
    a, b = arm, math.sqrt(1 - arm * arm)
    corners = [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a)]
    return corners + [(-x, -y) for x, y in corners]


def _heart() -> list[Point]:
    points = []
    for i in range(40):
        t = 2 * math.pi * i / 40
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((x / 17, (-y - 2.5) / 17))
    return points


def _triangle(lean: float) -> list[Point]:
    base = math.sqrt(3) / 2
    return [(lean, -1.0), (base, 0.5), (-base, 0.5)]


def outline(shape: str, form: float) -> list[Point]:
    """Polygon of `shape` inside the unit circle; `form` in 0..1 varies its proportions."""
    match shape:
        case "circle":
            return _ring(48, 1.0, 0.0)
        case "square":
            return _box(1.0)
        case "triangle":
            return _triangle((form - 0.5) * 0.7)
        case "star":
            return _star(0.36 + 0.14 * form)
        case "rectangle":
            return _box(1.6 + 1.0 * form)
        case "cross":
            return _cross(0.24 + 0.12 * form)
        case "ellipse":
            return _oval(1.5 + 0.8 * form)
        case "heart":
            return _heart()
        case "hexagon":
            return _ring(6, 1.0, 0.0)
        case "diamond":
            return [(0.0, -1.0), (0.55 + 0.2 * form, 0.0), (0.0, 1.0), (-0.55 - 0.2 * form, 0.0)]
        case _:
            raise ValueError(f"shape: {shape!r} is not one of {', '.join(SHAPES)}")


def turned(points: list[Point], degrees: float) -> list[Point]:
    """The polygon rotated about the origin."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [(x * cos - y * sin, x * sin + y * cos) for x, y in points]
