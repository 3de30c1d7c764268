"""LLaVA-NeXT: any-resolution tiles over a CLIP tower."""

from __future__ import annotations

from typing import Any

from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
)

from tests import tiny
from tests.models.families.family import Family, decoder, token_id

SPECIALS = {"image_token": "<image>"}
SIDE = tiny.SIDE
CANVASES = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE], [SIDE, 3 * SIDE]]


def config() -> Any:
    """Nine patches a tile, up to five tiles; features of the layer before the last."""
    return LlavaNextConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=SIDE,
            patch_size=tiny.PATCH,
        ),
        text_config=decoder(LlamaConfig),
        image_token_index=token_id("<image>", SPECIALS),
        image_grid_pinpoints=CANVASES,
        initializer_range=0.25,
    )


def image_processor() -> Any:
    """The family's, at the tower's size."""
    from transformers.models.llava_next.image_processing_pil_llava_next import (
        LlavaNextImageProcessorPil,
    )

    return LlavaNextImageProcessorPil(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_grid_pinpoints=CANVASES,
    )


def processor(images: Any, tokenizer: Any, template: str) -> Any:
    """The class token is dropped and counted by the processor as additional."""
    return LlavaNextProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=tiny.PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )


FAMILIES = [
    Family(
        name="llava_next",
        native=LlavaNextForConditionalGeneration,
        config=config,
        image_processor=image_processor,
        processor=processor,
        specials=SPECIALS,
        image_token="<image>",
    )
]
