"""The demo model's architecture: a stock LLaVA, small enough to train on two CPU cores.

Owns the configuration and the initial weights. d = 192, 144 visual rows per image (192 px, patch
16, CLS dropped), 12 decoder layers of which training at first uses a few (see `recipe`).
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import nn
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from dyvte.demo.render import GRID, PATCH, PIXELS
from dyvte.demo.tokenizer import BOS, CHAT_TEMPLATE, EOS, IMAGE, PAD

VISUAL_ROWS = GRID * GRID
LAYERS = 12
WIDTH = 192
HEADS = 6


def config(vocab: int, layers: int = LAYERS) -> LlavaConfig:
    """The LLaVA configuration; `vocab` is the tokenizer's size."""
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=4,
        image_size=PIXELS,
        patch_size=PATCH,
        projection_dim=128,
        hidden_act="gelu",
    )
    text = LlamaConfig(
        vocab_size=vocab,
        hidden_size=WIDTH,
        intermediate_size=512,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=WIDTH // HEADS,
        max_position_embeddings=2048,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE,
        image_seq_length=VISUAL_ROWS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )


def _places(width: int) -> torch.Tensor:
    """[GRID * GRID, width]: sines and cosines of a patch's row and column.

    Stock CLIP starts from tiny random places, which take a tower of this size long to find.
    """
    steps = torch.arange(GRID, dtype=torch.float32)[:, None]
    rates = math.pi / GRID * 2 ** torch.linspace(0, 3.2, width // 4)
    waves = torch.cat([(steps * rates).sin(), (steps * rates).cos()], 1)
    rows = waves[:, None].expand(-1, GRID, -1)
    columns = waves[None].expand(GRID, -1, -1)
    return 0.5 * torch.cat([rows, columns], -1).reshape(GRID * GRID, width)


def build(vocab: int, seed: int) -> LlavaForConditionalGeneration:
    """A fresh model in float32 whose new layers start close to doing nothing.

    Queries start equal to keys and outputs to transposed values in each head, so attention first
    looks for rows like itself and copies them ("mimetic" initialisation, arXiv 2305.09828).
    """
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config(vocab)).float()
    decoder = model.model.language_model
    with torch.no_grad():
        places = model.model.vision_tower.embeddings.position_embedding.weight
        places[1:] = _places(places.shape[1])
        nn.init.normal_(decoder.embed_tokens.weight, std=1 / math.sqrt(WIDTH))
        for layer in decoder.layers:
            attention, mlp = layer.self_attn, layer.mlp
            for linear in (attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj):
                nn.init.normal_(linear.weight, std=1 / math.sqrt(WIDTH))
            noise = torch.randn_like(attention.k_proj.weight) / math.sqrt(WIDTH)
            attention.q_proj.weight.copy_(0.7 * attention.k_proj.weight + 0.7 * noise)
            attention.o_proj.weight.copy_(0.15 * attention.v_proj.weight.T)
            nn.init.normal_(mlp.down_proj.weight, std=0.1 / math.sqrt(512))
    return model


def processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """Pads a picture to a square on gray, resizes it, and makes one token per visual row."""
    image_processor = LlavaImageProcessorPil(
        do_pad=True,
        size={"height": PIXELS, "width": PIXELS},
        do_center_crop=False,
        crop_size={"height": PIXELS, "width": PIXELS},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=CHAT_TEMPLATE,
    )


def export(
    model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path
) -> None:
    """Write `folder` as a native LLaVA folder in bfloat16; `model` itself is not changed."""
    folder.mkdir(parents=True, exist_ok=True)
    half = LlavaForConditionalGeneration(model.config)
    half.load_state_dict(model.state_dict())
    half.tie_weights()
    half.to(torch.bfloat16)
    half.config.dtype = "bfloat16"
    half.generation_config = GenerationConfig(
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, do_sample=False, max_new_tokens=96
    )
    half.save_pretrained(folder)
    processor(tokenizer).save_pretrained(folder)
