"""Pictures of scenes, and which patch shows which object.

Owns pixels. Drawing uses Pillow alone; fonts beyond Pillow's own are used when matplotlib is
there (training), so that a machine without it still draws every scene.
"""

from __future__ import annotations

import functools
import io
import math
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dyvte.demo.shapes import Point, outline, turned
from dyvte.demo.world import Background, Print, Scene, Thing

PIXELS = 192
PATCH = 16
GRID = PIXELS // PATCH
PRINT_ID = 7
INK_CELLS = 64
MASK_CELLS = 100
PAD = 127
_FONT_FILES = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif.ttf", "DejaVuSansMono.ttf")


@dataclass(frozen=True, slots=True)
class Camera:
    """How a scene is taken: longest side in pixels, light, and compression (0 = none)."""

    side: int
    gain: float = 1.0
    offset: float = 0.0
    jpeg: int = 0

    @classmethod
    def sample(cls, seed: int) -> Camera:
        rng = random.Random(seed * 7919 + 1)
        side = rng.choice((128, 192, 224, 256, 256, 320, 384, 384, 480))
        gain, offset = (1.0, 0.0)
        if rng.random() < 0.4:
            gain, offset = rng.uniform(0.88, 1.06), rng.uniform(-10, 10)
        jpeg = rng.randint(45, 90) if rng.random() < 0.15 else 0
        return cls(side, gain, offset, jpeg)


@functools.lru_cache(maxsize=512)
def _font(index: int, pixels: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    if index < len(_FONT_FILES):
        try:
            import matplotlib

            folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
            return ImageFont.truetype(str(folder / _FONT_FILES[index]), pixels)
        except (ImportError, OSError):
            pass
    return ImageFont.load_default(size=pixels)


def _polygon(thing: Thing, scene: Scene, unit: float) -> list[Point]:
    width, height = scene.span
    cx, cy, radius = thing.x * width * unit, thing.y * height * unit, thing.extent * unit / 2
    points = turned(outline(thing.shape, thing.form), thing.angle)
    return [(cx + radius * x, cy + radius * y) for x, y in points]


def _ground(ground: Background, size: tuple[int, int], noise_seed: int) -> Image.Image:
    if ground.rgb == ground.other and not ground.noise:
        return Image.new("RGB", size, ground.rgb)
    width, height = size
    dx, dy = math.cos(math.radians(ground.angle)), math.sin(math.radians(ground.angle))
    xs = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None, :]
    ys = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None]
    ramp = np.clip((xs * dx + ys * dy) / (abs(dx) + abs(dy)) + 0.5, 0, 1)[..., None]
    first = np.asarray(ground.rgb, dtype=np.float32)
    second = np.asarray(ground.other, dtype=np.float32)
    field = first + (second - first) * ramp
    if ground.noise:
        generator = np.random.default_rng(noise_seed)
        grain = generator.standard_normal((height, width, 1), dtype=np.float32)
        field = field + grain * ground.noise
    return Image.fromarray(np.clip(field, 0, 255).astype(np.uint8))


def _draw_thing(draw: ImageDraw.ImageDraw, thing: Thing, points: list[Point], unit: float) -> None:
    stroke = max(2, round(thing.extent * unit * (0.05 + 0.05 * thing.form)))
    loop = [*points, points[0], points[1]]
    if thing.outlined:
        draw.line(loop, fill=thing.rgb, width=stroke, joint="curve")
        return
    draw.polygon(points, fill=thing.rgb)
    if thing.border is not None:
        draw.line(loop, fill=thing.border, width=max(1, stroke // 2), joint="curve")


def _draw_print(draw: ImageDraw.ImageDraw, item: Print, scene: Scene, unit: float) -> None:
    fill = item.rgb if draw.mode == "RGB" else 255
    width, height = scene.span
    spot = (item.x * width * unit, item.y * height * unit)
    font = _font(item.font, max(8, round(item.height * unit)))
    draw.text(spot, item.shown, fill=fill, font=font, anchor="mm")


def render(scene: Scene, camera: Camera, noise_seed: int = 0) -> Image.Image:
    """The picture in its own size: the longest side has `camera.side` pixels."""
    unit = camera.side / max(scene.span)
    size = (max(1, round(scene.span[0] * unit)), max(1, round(scene.span[1] * unit)))
    picture = _ground(scene.background, size, noise_seed)
    draw = ImageDraw.Draw(picture)
    for thing in scene.things:
        _draw_thing(draw, thing, _polygon(thing, scene, unit), unit)
    if scene.printed is not None:
        _draw_print(draw, scene.printed, scene, unit)
    if camera.gain != 1.0 or camera.offset:
        gain, offset = camera.gain, camera.offset
        picture = picture.point(
            [min(255, max(0, round(v * gain + offset))) for v in range(256)] * 3
        )
    if camera.jpeg:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=camera.jpeg)
        picture = Image.open(buffer).convert("RGB")
    return picture


def to_square(picture: Image.Image) -> NDArray[np.uint8]:
    """[PIXELS, PIXELS, 3], padded in the middle like the model's image processor does it."""
    scale = PIXELS / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    square = Image.new("RGB", (PIXELS, PIXELS), (PAD, PAD, PAD))
    small = picture if picture.size == size else picture.resize(size, Image.Resampling.BICUBIC)
    square.paste(small, ((PIXELS - size[0]) // 2, (PIXELS - size[1]) // 2))
    return np.asarray(square)


def patch_owners(scene: Scene) -> NDArray[np.uint8]:
    """[GRID, GRID]: 0 for background, i + 1 for thing i, PRINT_ID for the printed word."""
    fine = 4
    side = GRID * fine
    unit = side / max(scene.span)
    left = (side - scene.span[0] * unit) / 2
    top = (side - scene.span[1] * unit) / 2
    cover = np.zeros((PRINT_ID + 1, GRID, GRID), dtype=np.float32)
    shapes: list[tuple[int, list[Point]]] = [
        (i + 1, _polygon(thing, scene, unit)) for i, thing in enumerate(scene.things)
    ]
    if scene.printed is not None:
        item = scene.printed
        x, y = item.x * scene.span[0] * unit, item.y * scene.span[1] * unit
        w, h = 0.3 * item.height * len(item.text) * unit, 0.38 * item.height * unit
        shapes.append((PRINT_ID, [(x - w, y - h), (x + w, y - h), (x + w, y + h), (x - w, y + h)]))
    for owner, points in shapes:
        mask = Image.new("L", (side, side))
        ImageDraw.Draw(mask).polygon([(x + left, y + top) for x, y in points], fill=1)
        cover[owner] = np.asarray(mask).reshape(GRID, fine, GRID, fine).mean((1, 3))
    cover[0] = 0.18
    owners: NDArray[np.uint8] = cover.argmax(0).astype(np.uint8)
    for owner, _ in shapes:
        if cover[owner].any():
            owners.flat[int(cover[owner].argmax())] = owner
    return owners


def ink(scene: Scene) -> NDArray[np.bool_]:
    """[GRID * GRID, INK_CELLS]: which cells of each patch are drawn on, whatever the colour."""
    fine = round(INK_CELLS**0.5)
    side = GRID * fine
    unit = side / max(scene.span)
    canvas = Image.new("L", (round(scene.span[0] * unit), round(scene.span[1] * unit)))
    draw = ImageDraw.Draw(canvas)
    for thing in scene.things:
        points = _polygon(thing, scene, unit)
        if thing.outlined:
            stroke = max(2, round(thing.extent * unit * (0.05 + 0.05 * thing.form)))
            draw.line([*points, points[0], points[1]], fill=255, width=stroke)
        else:
            draw.polygon(points, fill=255)
    if scene.printed is not None:
        _draw_print(draw, scene.printed, scene, unit)
    square = Image.new("L", (side, side))
    square.paste(canvas, ((side - canvas.width) // 2, (side - canvas.height) // 2))
    cells = np.asarray(square).reshape(GRID, fine, GRID, fine).transpose(0, 2, 1, 3) > 110
    return cells.reshape(GRID * GRID, INK_CELLS)


def frames(scene: Scene, owners: NDArray[np.uint8]) -> NDArray[np.float32]:
    """[GRID * GRID, 3]: from a patch to the middle of its object, and the object's extent.

    In shares of the padded square; zero where there is no object.
    """
    table = np.zeros((PRINT_ID + 1, 3), dtype=np.float32)
    longest = max(scene.span)
    width, height = scene.span[0] / longest, scene.span[1] / longest
    for i, thing in enumerate(scene.things):
        x, y = (1 - width) / 2 + thing.x * width, (1 - height) / 2 + thing.y * height
        table[i + 1] = x, y, thing.extent / longest
    ys, xs = np.divmod(np.arange(GRID * GRID), GRID)
    places = np.stack([(xs + 0.5) / GRID, (ys + 0.5) / GRID, np.zeros(GRID * GRID)], 1)
    flat = owners.reshape(-1)
    there = ((flat > 0) & (flat < PRINT_ID))[:, None]
    return ((table[flat] - places) * there).astype(np.float32)


def masks(scene: Scene) -> NDArray[np.float32]:
    """[PRINT_ID + 1, MASK_CELLS]: coverage of each thing's outline in its own square frame."""
    cells, fine = round(MASK_CELLS**0.5), 3
    side = cells * fine
    table = np.zeros((PRINT_ID + 1, MASK_CELLS), dtype=np.float32)
    for i, thing in enumerate(scene.things):
        points = turned(outline(thing.shape, thing.form), thing.angle)
        mask = Image.new("L", (side, side))
        ImageDraw.Draw(mask).polygon(
            [((x + 1) * side / 2, (y + 1) * side / 2) for x, y in points], 1
        )
        covered = np.asarray(mask).reshape(cells, fine, cells, fine).mean((1, 3))
        table[i + 1] = covered.reshape(-1)
    return table
