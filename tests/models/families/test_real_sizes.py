"""Real sizes on the meta device: every part is found, and what the model costs is known.

Sizes are those of the published configs; parameters are compared with what the model cards say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    InternVLConfig,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaNextConfig,
    LlavaOnevisionConfig,
    MistralConfig,
    Qwen2Config,
    SiglipVisionConfig,
)

from dyvte.flops import DecoderShape
from dyvte.models.checkpoints.meta import on_meta
from dyvte.models.checkpoints.native import native_adapter
from dyvte.models.decoder import NativeAdapter

CLIP_L = {
    **{"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24},
    **{"num_attention_heads": 16, "image_size": 336, "patch_size": 14, "projection_dim": 768},
}
SO400M = {
    **{"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 26},
    **{"num_attention_heads": 16, "image_size": 384, "patch_size": 14, "vision_use_head": False},
}


def vicuna(layers: int, width: int, inner: int, heads: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=32064,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=4096,
    )


def internlm2_7b() -> LlamaConfig:
    """As InternVL2.5-8B carries it."""
    return LlamaConfig(
        vocab_size=92553,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=32768,
    )


def mistral_7b() -> MistralConfig:
    return MistralConfig(vocab_size=32064, max_position_embeddings=32768, sliding_window=None)


def qwen2_7b() -> Qwen2Config:
    return Qwen2Config(
        vocab_size=152128,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        use_sliding_window=False,
    )


def pixels(*shape: int, **more: Any) -> dict[str, Any]:
    return {"pixel_values": torch.empty(*shape, device="meta"), **more}


@dataclass(frozen=True)
class Real:
    """A config's parts, an image of some size as processed, and what is known of the model."""

    kind: Any
    vision: Any
    text: Any
    images: dict[str, Any]
    decoder: DecoderShape
    billions: float  # parameters
    rows: int

    def adapter(self) -> NativeAdapter:
        """The family's, over a model without weights."""
        parts = {"vision_config": self.vision, "text_config": self.text}
        config = self.kind(**parts, eos_token_id=2, tie_word_embeddings=False)
        family = native_adapter(config.to_dict())
        assert family is not None
        return family(on_meta(family.native, config, torch.bfloat16))


REAL = {
    "LLaVA-1.5-7B": Real(
        LlavaConfig,
        CLIPVisionConfig(**CLIP_L),
        vicuna(32, 4096, 11008, 32),
        pixels(1, 3, 336, 336),
        DecoderShape(32, 4096, 11008, 32, 32, 128, 32064),
        7.06,
        576,
    ),
    "LLaVA-1.5-13B": Real(
        LlavaConfig,
        CLIPVisionConfig(**CLIP_L),
        vicuna(40, 5120, 13824, 40),
        pixels(1, 3, 336, 336),
        DecoderShape(40, 5120, 13824, 40, 40, 128, 32064),
        13.35,
        576,
    ),
    "LLaVA-1.6-Mistral-7B": Real(
        LlavaNextConfig,
        CLIPVisionConfig(**CLIP_L),
        mistral_7b(),
        pixels(1, 5, 3, 336, 336, image_sizes=torch.tensor([[672, 672]])),
        DecoderShape(32, 4096, 14336, 32, 8, 128, 32064),
        7.57,
        576 + 48 * 49,
    ),
    "LLaVA-OneVision-7B": Real(
        LlavaOnevisionConfig,
        SiglipVisionConfig(**SO400M),
        qwen2_7b(),
        pixels(1, 10, 3, 384, 384, image_sizes=torch.tensor([[1152, 1152]])),
        DecoderShape(28, 3584, 18944, 28, 4, 128, 152128),
        8.03,
        729 + 81 * 82,
    ),
    "InternVL2.5-8B": Real(
        InternVLConfig,
        InternVLVisionConfig(attention_bias=True),
        internlm2_7b(),
        pixels(13, 3, 448, 448, num_patches=torch.tensor([13])),
        DecoderShape(32, 4096, 14336, 32, 8, 128, 92553),
        8.08,
        13 * 256,
    ),
}


@pytest.mark.parametrize("name", REAL)
def test_an_adapter_needs_only_a_config(name: str) -> None:
    real = REAL[name]
    adapter = real.adapter()
    assert adapter.device.type == "meta"
    assert adapter.decoder == real.decoder
    assert adapter.parameter_bytes() / 2e9 == pytest.approx(real.billions, rel=0.005)
    assert adapter.visual_rows(real.images) == [real.rows]
    assert adapter.vision_flops(real.images) > 0


def test_what_llava_costs_is_what_the_paper_prints() -> None:
    """Tower, projector and decoder over 576 visual and 64 other rows: 8.8 T and 16.8 T."""
    for name, printed in (("LLaVA-1.5-7B", 8.8e12), ("LLaVA-1.5-13B", 16.8e12)):
        real = REAL[name]
        adapter = real.adapter()
        prefill = adapter.decoder.prefill([real.rows + 64] * adapter.decoder.num_layers)
        assert adapter.vision_flops(real.images) + prefill == pytest.approx(printed, rel=0.015)
