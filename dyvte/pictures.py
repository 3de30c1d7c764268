"""A decoded picture in any of Pillow's modes → RGB, the same through the library and over HTTP.

Knows no torch and no model.
"""

from __future__ import annotations

from PIL import Image

_DEEP = ("I", "I;16", "I;16L", "I;16B", "F")


def rgb(image: Image.Image) -> Image.Image:
    """RGB over white; 16-bit greys keep their high byte instead of being clipped."""
    if image.mode == "RGB":
        return image
    if image.mode in _DEEP:
        return image.convert("F").point(lambda v: v / 257).convert("L").convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGB", layer.size, "white")
        white.paste(layer, mask=layer.getchannel("A"))
        return white
    return image.convert("RGB")
