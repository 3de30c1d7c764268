"""Tiny random models, built by ``transformers`` itself, and prompts for them.

Weights are drawn wide enough that the picture changes the answer and that greedy choices are
decided by margins far above float32's noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

import dyvte
from dyvte.exits.files import GateCard, write_gates
from dyvte.exits.gate import GateBank
from dyvte.exits.state import StateScale
from dyvte.prompt import IMAGE, Prompt

LAYERS, HIDDEN, VOCAB, CONTEXT = 4, 32, 264, 256
SIDE, PATCH = 12, 4
VISUAL = (SIDE // PATCH) ** 2
SPECIALS = ("<unk>", "<s>", "</s>", "<pad>", "<image>")
BOS, EOS, IMAGE_ID = 1, 2, 4
TEMPLATE = (
    "<s>{% for message in messages %}{{ message['role'].upper() }}: "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% if message['role'] == 'assistant' %}</s>{% else %} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def config(decoder: type[PreTrainedConfig] = LlamaConfig, **settings: Any) -> LlavaConfig:
    """Four layers, grouped queries (4 heads, 2 key/value heads), 9 rows per picture."""
    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=SIDE,
            patch_size=PATCH,
        ),
        text_config=decoder(
            vocab_size=VOCAB,
            hidden_size=HIDDEN,
            intermediate_size=48,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
            bos_token_id=BOS,
            eos_token_id=EOS,
            initializer_range=0.25,
            **settings,
        ),
        image_token_index=IMAGE_ID,
        eos_token_id=EOS,
        initializer_range=0.25,
    )


def save_model(folder: Path, shape: LlavaConfig | None = None) -> None:
    """Weights and configuration alone, as ``transformers`` writes them."""
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(shape or config()).eval()
    model.generation_config.eos_token_id = EOS
    model.save_pretrained(folder)


def tokenizer() -> PreTrainedTokenizerFast:
    """Every byte is a token (GPT-2's alphabet); the specials come first."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {piece: index for index, piece in enumerate([*SPECIALS, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )


def save_processor(folder: Path) -> None:
    """Tokenizer, chat template and image processor."""
    from transformers import CLIPImageProcessor

    size = {"height": SIDE, "width": SIDE}
    pictures = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=size)
    processor = LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
        image_token="<image>",
    )
    processor.save_pretrained(folder)


def gates(seed: int = 1, inner: int = 8, layers: Sequence[int] = range(LAYERS)) -> GateBank:
    """Random gates whose margins vary between prompts and layers."""
    draw = torch.Generator().manual_seed(seed)
    w1 = {layer: torch.randn(inner, 2 * HIDDEN, generator=draw) * 0.3 for layer in layers}
    w2 = {layer: torch.randn(2, inner, generator=draw) * 0.2 for layer in layers}
    return GateBank(w1, w2)


def scale(signal: str = "mass_question", bias: float = 1.2) -> StateScale:
    """A state scale that fires for some prompts and layers and not for others."""
    layers = tuple(range(LAYERS))
    return StateScale(signal, layers, (-2.0,) * LAYERS, (-bias,) * LAYERS)


def save(folder: Path) -> Path:
    """A whole native folder: model, processor, gates."""
    save_model(folder)
    save_processor(folder)
    bank = gates()
    write_gates(folder / "gates", bank, GateCard(HIDDEN, LAYERS, tuple(sorted(bank.layers))))
    return folder


def prompt(seed: int = 0, images: int = 1, before: int = 3, after: int = 4) -> Prompt:
    """``before`` random ids, the pictures with one id between them, ``after`` random ids."""
    draw = torch.Generator().manual_seed(seed)

    def text(count: int) -> list[int]:
        return torch.randint(len(SPECIALS), VOCAB - 3, (count,), generator=draw).tolist()

    ids = [BOS, *text(before)]
    for index in range(images):
        ids += [*(text(1) if index else []), IMAGE]
    pixels = torch.randn(images, 3, SIDE, SIDE, generator=draw)
    return Prompt([*ids, *text(after)], {"pixel_values": pixels} if images else None)


def native_inputs(asked: Prompt) -> dict[str, Any]:
    """The same prompt as ``transformers`` takes it: each picture one placeholder per row."""
    ids: list[int] = []
    for token in asked.token_ids:
        ids += [IMAGE_ID] * VISUAL if token == IMAGE else [token]
    inputs: dict[str, Any] = {"input_ids": torch.tensor([ids])}
    if asked.images is not None:
        inputs["pixel_values"] = asked.images["pixel_values"]
    return inputs


def alone(model: dyvte.Model, asked: Prompt, **settings: Any) -> dyvte.Result:
    """One prompt by itself through the public library."""
    return dyvte.generate(model, asked, **settings)[0]
