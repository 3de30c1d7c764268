"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: images of any size, three positions a row, deepstack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.qwen2_5_vl import Qwen2_5_VLProcessor
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig
from transformers.models.qwen2_vl import Qwen2VLProcessor
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLTextConfig
from transformers.models.qwen3_vl import Qwen3VLProcessor
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig

from dyvte.prompt import IMAGE, Prompt
from tests import tiny
from tests.models.families.family import Family, decoder, token_id, without_video

SPECIALS = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
TOKENS = {
    f"{name}_token_id": token_id(f"<|{token}|>", SPECIALS)
    for name, token in {
        "image": "image_pad",
        "video": "video_pad",
        "vision_start": "vision_start",
        "vision_end": "vision_end",
    }.items()
}
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
WIDE = {"initializer_range": 0.25}


def qwen2_vl() -> Any:
    """A tower that attends to whole images."""
    vision = {"embed_dim": 16, "hidden_size": tiny.HIDDEN, "depth": 2, "num_heads": 2}
    return Qwen2VLConfig(
        text_config=decoder(Qwen2VLTextConfig, rope_parameters=dict(ROPE)),
        vision_config={**vision, "mlp_ratio": 2, "patch_size": tiny.PATCH, **WIDE},
        **TOKENS,
        **WIDE,
    )


def qwen2_5_vl() -> Any:
    """Two of three blocks attend in windows of 2 × 2 merged rows."""
    vision = {"hidden_size": 16, "out_hidden_size": tiny.HIDDEN, "depth": 3, "num_heads": 2}
    window = {"window_size": 4 * tiny.PATCH, "fullatt_block_indexes": [1]}
    return Qwen2_5_VLConfig(
        text_config=decoder(Qwen2_5_VLTextConfig, rope_parameters=dict(ROPE)),
        vision_config={
            **vision,
            **window,
            "intermediate_size": 20,
            "patch_size": tiny.PATCH,
            **WIDE,
        },
        **TOKENS,
        **WIDE,
    )


def qwen3_vl() -> Any:
    """Deepstack after the decoder's first three of four layers."""
    vision = {"hidden_size": 16, "out_hidden_size": tiny.HIDDEN, "depth": 4, "num_heads": 2}
    stack = {"deepstack_visual_indexes": [0, 1, 2], "num_position_embeddings": 16}
    rope = {**ROPE, "mrope_interleaved": True}
    return Qwen3VLConfig(
        text_config=decoder(Qwen3VLTextConfig, head_dim=8, rope_parameters=rope),
        vision_config={
            **vision,
            **stack,
            "intermediate_size": 20,
            "patch_size": tiny.PATCH,
            **WIDE,
        },
        **TOKENS,
        **WIDE,
    )


def image_processor() -> Any:
    """All three families': between 4 and 20 rows of 8 × 8 pixels an image."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    row = (2 * tiny.PATCH) ** 2
    size = {"shortest_edge": 4 * row, "longest_edge": 20 * row}
    return Qwen2VLImageProcessorPil(size=size, patch_size=tiny.PATCH)


def processor(kind: Any) -> Callable[[Any, Any, str], Any]:
    """The family's own, without its part for videos."""

    def make(images: Any, tokenizer: Any, template: str) -> Any:
        return without_video(kind)(images, tokenizer, chat_template=template)

    return make


def family(name: str, native: Any, config: Callable[[], Any], processor_class: Any) -> Family:
    """One of the three: they share tokens, template and image processor."""
    return Family(
        name=name,
        native=native,
        config=config,
        image_processor=image_processor,
        processor=processor(processor_class),
        specials=SPECIALS,
        image_token="<|image_pad|>",
        image_text="<|vision_start|><|image_pad|><|vision_end|>",
    )


FAMILIES = [
    family("qwen2_vl", Qwen2VLForConditionalGeneration, qwen2_vl, Qwen2VLProcessor),
    family("qwen2_5_vl", Qwen2_5_VLForConditionalGeneration, qwen2_5_vl, Qwen2_5_VLProcessor),
    family("qwen3_vl", Qwen3VLForConditionalGeneration, qwen3_vl, Qwen3VLProcessor),
]

MERGE = 2
PATCH_INPUTS = 3 * 2 * tiny.PATCH**2
START, END, PAD = (TOKENS[f"{name}_token_id"] for name in ("vision_start", "vision_end", "image"))
Grids = Sequence[tuple[int, int, int]]
GRIDS: dict[str, Grids] = {
    "wide": [(1, 4, 10)],
    "high, then small": [(1, 12, 4), (1, 2, 2)],
    "three": [(1, 4, 6), (1, 6, 4), (1, 8, 8)],
    "frames": [(3, 4, 6)],
}


def prompt(seed: int, grids: Grids, before: int = 2, after: int = 3) -> Prompt:
    """Random ids and random pictures in those grids, each between its two tokens."""
    draw = torch.Generator().manual_seed(seed)

    def text(count: int) -> list[int]:
        return torch.randint(20, 270, (count,), generator=draw).tolist()

    ids = [1, *text(before)]
    for index in range(len(grids)):
        ids += [*(text(1) if index else []), START, IMAGE]
        ids += [END] if after or index + 1 < len(grids) else []
    pixels = torch.randn(sum(t * h * w for t, h, w in grids), PATCH_INPUTS, generator=draw)
    return Prompt([*ids, *text(after)], images_of(pixels, grids) if grids else None)


def images_of(pixels: Any, grids: Any) -> dict[str, Any]:
    return {"pixel_values": pixels, "image_grid_thw": torch.as_tensor(grids)}


def native_inputs(asked: Prompt) -> dict[str, Any]:
    """The same prompt as the class takes it."""
    rows = iter([] if asked.images is None else asked.images["image_grid_thw"].prod(1).tolist())
    ids: list[int] = []
    for token in asked.token_ids:
        ids += [PAD] * (next(rows) // MERGE**2) if token == IMAGE else [token]
    tensor = torch.tensor([ids])
    kinds = {"mm_token_type_ids": (tensor == PAD).int()}
    return {"input_ids": tensor, **kinds, **(asked.images or {})}
