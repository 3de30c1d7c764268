"""LLaVA: one tile, always as many rows."""

from __future__ import annotations

from typing import Any

from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from tests import tiny
from tests.models.families.family import Family, decoder, token_id

SPECIALS = {"image_token": "<image>"}


def config() -> Any:
    """A CLIP tower of nine patches."""
    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=tiny.SIDE,
            patch_size=tiny.PATCH,
        ),
        text_config=decoder(LlamaConfig),
        image_token_index=token_id("<image>", SPECIALS),
        initializer_range=0.25,
    )


def image_processor() -> Any:
    """CLIP's, at the tower's size."""
    from transformers import CLIPImageProcessor

    size = {"height": tiny.SIDE, "width": tiny.SIDE}
    return CLIPImageProcessor(size={"shortest_edge": tiny.SIDE}, crop_size=size)


def processor(images: Any, tokenizer: Any, template: str) -> Any:
    """The class token is dropped and counted by the processor as additional."""
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=tiny.PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )


FAMILIES = [
    Family(
        name="llava",
        native=LlavaForConditionalGeneration,
        config=config,
        image_processor=image_processor,
        processor=processor,
        specials=SPECIALS,
        image_token="<image>",
        tokenizer_adds_bos=True,
    )
]
