"""LLaVA-OneVision: a single image in tiles over a SigLIP tower, several as one square each."""

from __future__ import annotations

from typing import Any

from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionProcessor,
    Qwen2Config,
    SiglipVisionConfig,
)

from tests import tiny
from tests.models.families.family import Family, decoder, token_id, without_video

SPECIALS = {"image_token": "<image>", "video_token": "<video>"}
SIDE = tiny.SIDE
CANVASES = [[SIDE * high, SIDE * wide] for high in (1, 2, 3) for wide in (1, 2, 3)]
RATIO = "anyres_max_4"


def config() -> Any:
    """Nine patches a tile; a grid of more than four tiles' rows is shrunk."""
    return LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=SIDE,
            patch_size=tiny.PATCH,
            vision_use_head=False,
        ),
        text_config=decoder(Qwen2Config),
        image_token_index=token_id("<image>", SPECIALS),
        video_token_index=token_id("<video>", SPECIALS),
        image_grid_pinpoints=CANVASES,
        vision_aspect_ratio=RATIO,
        initializer_range=0.25,
    )


def image_processor() -> Any:
    """The family's, at the tower's size."""
    from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
        LlavaOnevisionImageProcessorPil,
    )

    size = {"height": SIDE, "width": SIDE}
    return LlavaOnevisionImageProcessorPil(size=size, image_grid_pinpoints=CANVASES)


def processor(images: Any, tokenizer: Any, template: str) -> Any:
    """The family's own, without its part for videos."""
    return without_video(LlavaOnevisionProcessor)(
        image_processor=images,
        tokenizer=tokenizer,
        num_image_tokens=(SIDE // tiny.PATCH) ** 2,
        vision_feature_select_strategy="full",
        vision_aspect_ratio=RATIO,
        chat_template=template,
    )


FAMILIES = [
    Family(
        name="llava_onevision",
        native=LlavaOnevisionForConditionalGeneration,
        config=config,
        image_processor=image_processor,
        processor=processor,
        specials=SPECIALS,
        image_token="<image>",
        tokenizer_adds_bos=True,
    )
]
