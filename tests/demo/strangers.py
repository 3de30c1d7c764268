"""Pictures as a stranger would draw them, with plain Pillow calls, and what they would ask.

Shares nothing with `dyvte.demo.world`: other sizes, other placing, other words.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from PIL import Image, ImageDraw, ImageFont

Case = tuple[Callable[[], Image.Image], list[tuple[str, str]]]


def _page(size: tuple[int, int], color: str | tuple[int, int, int] = "white") -> Image.Image:
    return Image.new("RGB", size, color)


def _star(cx: float, cy: float, r: float) -> list[tuple[float, float]]:
    turns = [(i * math.pi / 5 - math.pi / 2, r if i % 2 == 0 else r * 0.42) for i in range(10)]
    return [(cx + radius * math.cos(a), cy + radius * math.sin(a)) for a, radius in turns]


def red_circle() -> Image.Image:
    page = _page((400, 300))
    ImageDraw.Draw(page).ellipse((140, 90, 260, 210), fill="red")
    return page


def blue_square_on_yellow() -> Image.Image:
    page = _page((640, 480), "yellow")
    ImageDraw.Draw(page).rectangle((40, 40, 200, 200), fill="blue")
    return page


def big_star() -> Image.Image:
    page = _page((1024, 1024), "black")
    ImageDraw.Draw(page).polygon(_star(512, 520, 430), fill="gold")
    return page


def outlined_triangle() -> Image.Image:
    page = _page((500, 500))
    ImageDraw.Draw(page).polygon([(380, 60), (300, 200), (460, 200)], outline="green", width=9)
    return page


def three_circles() -> Image.Image:
    page = _page((600, 300), (240, 240, 240))
    draw = ImageDraw.Draw(page)
    for x in (40, 250, 460):
        draw.ellipse((x, 100, x + 100, 200), fill="purple")
    return page


def two_kinds() -> Image.Image:
    page = _page((512, 384), "lightblue")
    draw = ImageDraw.Draw(page)
    draw.ellipse((40, 130, 160, 250), fill="orange")
    draw.rectangle((350, 130, 470, 250), fill="black")
    return page


def small_dot() -> Image.Image:
    page = _page((300, 300))
    ImageDraw.Draw(page).ellipse((240, 240, 285, 285), fill="black")
    return page


def word() -> Image.Image:
    page = _page((480, 320))
    ImageDraw.Draw(page).text((130, 100), "STOP", fill="red", font=ImageFont.load_default(90))
    return page


def four_things() -> Image.Image:
    page = _page((800, 800))
    draw = ImageDraw.Draw(page)
    draw.rectangle((60, 60, 260, 260), fill="green")
    draw.ellipse((540, 60, 740, 260), fill="red")
    draw.polygon([(160, 540), (60, 740), (260, 740)], fill="blue")
    draw.polygon(_star(640, 650, 110), fill="pink")
    return page


def brown_wide() -> Image.Image:
    page = _page((300, 300), "white")
    ImageDraw.Draw(page).rectangle((50, 120, 250, 190), fill="brown")
    return page


def tall_page() -> Image.Image:
    page = _page((300, 520), (30, 30, 60))
    draw = ImageDraw.Draw(page)
    draw.ellipse((90, 40, 210, 160), fill="white")
    draw.rectangle((90, 360, 210, 480), fill="cyan")
    return page


def empty() -> Image.Image:
    return _page((320, 240))


CASES: list[Case] = [
    (
        red_circle,
        [
            ("What color is the circle?", "red"),
            ("What shape is the red object?", "circle"),
            ("How many objects are there?", "1"),
            ("Is there a blue square?", "no"),
            ("Whats the colour of that round thing?", "red"),
            ("Where is the circle?", "center"),
        ],
    ),
    (
        blue_square_on_yellow,
        [
            ("What color is the square?", "blue"),
            ("Is there a blue square?", "yes"),
            ("Where is the square?", "top left"),
            ("What colour does the background have?", "yellow"),
            ("could you name the figure in this image", "square"),
        ],
    ),
    (big_star, [("What shape is it?", "star"), ("What color is the star?", "yellow")]),
    (
        outlined_triangle,
        [
            ("What shape is the green object?", "triangle"),
            ("Where is the triangle?", "top right"),
            ("color of triangle", "green"),
        ],
    ),
    (
        three_circles,
        [
            ("How many circles are there?", "3"),
            ("How many objects are there?", "3"),
            ("What color are the circles?", "purple"),
            ("How many purple circles can be seen in this photo?", "3"),
        ],
    ),
    (
        two_kinds,
        [
            ("Is the circle left of the square?", "yes"),
            ("What is to the right of the circle?", "a black square"),
            ("How many objects are there?", "2"),
            ("Do you spot an orange circle?", "yes"),
            ("What shape is the black object?", "square"),
        ],
    ),
    (
        small_dot,
        [
            ("Where is the circle?", "bottom right"),
            ("What color is it?", "black"),
            ("How many red objects are there?", "0"),
        ],
    ),
    (word, [("What does it say?", "stop"), ("Which word is printed there?", "stop")]),
    (
        four_things,
        [
            ("How many objects are there?", "4"),
            ("Where is the star?", "bottom right"),
            ("What color is the triangle?", "blue"),
            ("What is at the top left?", "a green square"),
            ("How many red objects are there?", "1"),
            ("Is the star above the circle?", "no"),
            ("What shape is the pink thing?", "star"),
        ],
    ),
    (
        brown_wide,
        [("What shape is the brown object?", "rectangle"), ("What color is the shape?", "brown")],
    ),
    (
        tall_page,
        [
            ("What color is the square?", "cyan"),
            ("Where is the circle?", "top"),
            ("What is below the circle?", "a cyan square"),
            ("Is the background light or dark?", "dark"),
        ],
    ),
    (empty, [("How many objects are there?", "0"), ("Is there a star?", "no")]),
]
