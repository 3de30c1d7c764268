"""InternVL: tiles with a thumbnail, pixel shuffle; towers with and without q/k norms."""

from __future__ import annotations

from functools import partial
from typing import Any

from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVisionConfig,
    Qwen2Config,
    Qwen3Config,
)

from tests.models.families.family import Family, decoder, token_id, without_video

SPECIALS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
SIDE, PATCH = 16, 4
ROWS = (SIDE // PATCH) ** 2 // 4


def config(text: Any, tower: dict[str, Any], layer: int = -1) -> Any:
    """Sixteen patches and four rows a tile."""
    return InternVLConfig(
        vision_config=InternVLVisionConfig(
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=SIDE,
            patch_size=PATCH,
            initializer_range=0.25,
            layer_scale_init_value=1.0,
            **tower,
        ),
        text_config=text,
        image_token_id=token_id("<IMG_CONTEXT>", SPECIALS),
        image_seq_length=ROWS,
        vision_feature_layer=layer,
        tie_word_embeddings=False,
        initializer_range=0.25,
    )


def image_processor() -> Any:
    """As the family's folders save it: the tiles are asked for by the whole processor."""
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    return GotOcr2ImageProcessorPil(size={"height": SIDE, "width": SIDE}, max_patches=6)


def processor(images: Any, tokenizer: Any, template: str) -> Any:
    """The family's own, without its part for videos."""
    return without_video(InternVLProcessor)(
        image_processor=images,
        tokenizer=tokenizer,
        image_seq_length=ROWS,
        chat_template=template,
    )


def family(name: str, text: Any, tower: dict[str, Any], layer: int = -1) -> Family:
    """The large tower (6B) has RMS norms and norms of its queries and keys."""
    return Family(
        name=name,
        native=InternVLForConditionalGeneration,
        config=partial(config, text, tower, layer),
        image_processor=image_processor,
        processor=processor,
        specials=SPECIALS,
        image_token="<IMG_CONTEXT>",
    )


LARGE = {"norm_type": "rms_norm", "use_qk_norm": True, "attention_bias": False}
FAMILIES = [
    family("internvl, qwen2", decoder(Qwen2Config), {"attention_bias": True}),
    family("internvl, qwen3, large tower", decoder(Qwen3Config, head_dim=8), LARGE, layer=-2),
]
