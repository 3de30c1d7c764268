"""The image processor of a family's releases, for a folder that has a model's config and no more.

Sizes come from the config; what only ``preprocessor_config.json`` would say (how large a picture
may become, into how many tiles it is cut) is that of the published checkpoints. What is counted
with it is to be called assumed.
"""

from __future__ import annotations

from typing import Any

from dyvte.models.adapter import ModelAdapter
from dyvte.models.decoder import DecoderAdapter, NativeAdapter
from dyvte.models.vision.images import ImageProcessor, resize_to_tower
from dyvte.models.vision.towers import side_of

QWEN2_PIXELS = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16384}
QWEN3_PIXELS = {"shortest_edge": 65536, "longest_edge": 16777216}
MOST_TILES = 12  # InternVL 2 to 3


def assumed_processor(adapter: ModelAdapter) -> ImageProcessor | None:
    """None for a family that is not known here."""
    if adapter.family == "vila" and isinstance(adapter, DecoderAdapter):
        return ImageProcessor(_square(adapter.model.vision_tower.config), resize_to_tower)
    if not isinstance(adapter, NativeAdapter):
        return None
    processor = _processor(adapter.family, adapter.model.config)
    if processor is None:
        return None
    return ImageProcessor(processor, settings=adapter.image_settings, low=adapter.low_detail)


def _square(vision: Any) -> Any:
    from transformers import SiglipImageProcessorPil

    return SiglipImageProcessorPil(size={"height": vision.image_size, "width": vision.image_size})


def _processor(family: str, config: Any) -> Any | None:
    import transformers as hf  # some of these warn of a missing torchvision on import

    vision = config.vision_config
    if family.startswith("qwen"):
        return hf.Qwen2VLImageProcessorPil(
            patch_size=vision.patch_size,
            temporal_patch_size=vision.temporal_patch_size,
            merge_size=vision.spatial_merge_size,
            size=QWEN3_PIXELS if family.startswith("qwen3") else QWEN2_PIXELS,
        )
    side = side_of(vision.image_size)
    square = {"height": side, "width": side}
    edge = {"shortest_edge": side}
    pinpoints = getattr(config, "image_grid_pinpoints", None)
    match family:
        case "llava":
            return hf.CLIPImageProcessorPil(size=edge, crop_size=square)
        case "llava_next":
            return hf.LlavaNextImageProcessorPil(
                size=edge, crop_size=square, image_grid_pinpoints=pinpoints
            )
        case "llava_onevision":
            return hf.LlavaOnevisionImageProcessorPil(size=square, image_grid_pinpoints=pinpoints)
        case "internvl":
            return hf.GotOcr2ImageProcessorPil(size=square, max_patches=MOST_TILES)
    return None
