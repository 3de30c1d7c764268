"""Random-weight LLaVAs of fixed shapes, for measuring time and memory without any download.

A CLIP tower at 336 px and patch 14 gives 576 visual tokens, as in LLaVA-1.5; the decoder is a
narrow Llama. Complete with processor, tokenizer and chat template, so that every program that
reads a LLaVA folder can read these. Their answers are noise: measure with ``ignore_eos``.

    python -m benchmarks.model --preset bench-small --out runs/models/bench-small
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

import dyvte
from dyvte.bench.workload import WORDS
from dyvte.models.checkpoints.opened import implementations
from dyvte.models.families.llava import LlavaAdapter
from dyvte.models.quantized import give_form

IMAGE_SIZE, PATCH_SIZE = 336, 14
UNK, BOS, EOS, PAD, IMAGE = "<unk>", "<s>", "</s>", "<pad>", "<image>"
SPECIAL_TOKENS = [UNK, BOS, EOS, PAD, IMAGE]
CONTEXT = 4096
SYLLABLES = (
    "ba ce di fo gu ha je ki lo mu na pe qui ro su ta ve wi xo yu za bren cal dor fin".split()
)
PSEUDO_WORDS = 20_000

CHAT_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
{{- message['role'] | upper }}: {% if message['content'] is string %}
{{- message['content'] }}
{%- else %}
{%- for part in message['content'] %}
{%- if part['type'] == 'image' %}{{ '<image>\\n' }}{% endif %}
{%- endfor %}
{%- for part in message['content'] %}
{%- if part['type'] == 'text' %}{{ part['text'] }}{% endif %}
{%- endfor %}
{%- endif %}
{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}ASSISTANT:{% endif %}"""


@dataclass(frozen=True, slots=True)
class Tower:
    """One stack of transformer layers."""

    hidden: int
    intermediate: int
    layers: int
    heads: int


@dataclass(frozen=True, slots=True)
class Preset:
    """The shape of one model.

    ``vocab`` are the tokenizer's tokens, ``table`` the rows of the embedding (as many, if None).
    """

    vision: Tower
    text: Tower
    vocab: int
    image_size: int = IMAGE_SIZE
    table: int | None = None

    @property
    def image_tokens(self) -> int:
        """Visual tokens of one picture."""
        return (self.image_size // PATCH_SIZE) ** 2


PRESETS = {
    # 18 M parameters: the program's own overhead shows.
    "bench-tiny": Preset(Tower(128, 512, 4, 4), Tower(384, 1024, 8, 6), 4096),
    # 0.25 B parameters: prefill is bound by arithmetic, decode by memory, as in larger models.
    "bench-small": Preset(Tower(384, 1536, 12, 6), Tower(1024, 2816, 16, 16), 8192),
    # The same with 144 visual tokens a picture, for prompts of few and of many.
    "bench-small-144": Preset(Tower(384, 1536, 12, 6), Tower(1024, 2816, 16, 16), 8192, 168),
    # LLaVA-1.5-7B's shape, for a GPU: 14 GB of bfloat16 (made in float32: 28 GB of memory).
    "llava-7b": Preset(Tower(1024, 4096, 24, 16), Tower(4096, 11008, 32, 32), 8192, table=32064),
}


def ensure(preset: str, folder: Path, dtype: str = "bfloat16") -> Path:
    """``folder`` with the model of ``preset`` in it, made now if it is not there."""
    if not (folder / "config.json").exists():
        make(PRESETS[preset], folder, dtype, seed=0)
    return folder


def drawn(name: str, device: torch.device, dtype: str, seed: int) -> dyvte.Model:
    """The model of a preset, its weights drawn where they stay; it takes ids and pixels alone."""
    torch.manual_seed(seed)
    config = _config(PRESETS[name], image_token_id=SPECIAL_TOKENS.index(IMAGE))
    with device:
        model = LlavaForConditionalGeneration._from_config(
            config, dtype=getattr(torch, dtype), attn_implementation=implementations()
        )
    adapter = LlavaAdapter(model.eval())
    give_form(adapter, "auto")
    return dyvte.Model(adapter, name)


def make(preset: Preset, folder: Path, dtype: str, seed: int) -> None:
    """Write the model to ``folder``. Repeats exactly for a seed."""
    torch.manual_seed(seed)
    tokenizer = _tokenizer(preset.vocab)
    config = _config(preset, image_token_id=SPECIAL_TOKENS.index(IMAGE))
    model = LlavaForConditionalGeneration(config).to(getattr(torch, dtype)).eval()
    model.generation_config = GenerationConfig(do_sample=False, **_special_ids(tokenizer))
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": preset.image_size},
            crop_size={"height": preset.image_size, "width": preset.image_size},
        ),
        tokenizer=tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE,
        chat_template=CHAT_TEMPLATE,
    )
    folder.mkdir(parents=True, exist_ok=True)
    processor.save_pretrained(folder)
    model.save_pretrained(folder, max_shard_size="20GB")
    _as_published(folder / "model.safetensors")


def _as_published(path: Path) -> None:
    """Name the tower's weights as published LLaVAs do, which vLLM insists on."""
    short, long = "vision_tower.", "vision_tower.vision_model."
    tensors = {
        name if name.startswith(long) else name.replace(short, long, 1): tensor
        for name, tensor in load_file(path).items()
    }
    save_file(tensors, path, metadata={"format": "pt"})


def _config(preset: Preset, image_token_id: int) -> LlavaConfig:
    vision, text = preset.vision, preset.text
    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=vision.hidden,
            intermediate_size=vision.intermediate,
            num_hidden_layers=vision.layers,
            num_attention_heads=vision.heads,
            projection_dim=vision.hidden,
            image_size=preset.image_size,
            patch_size=PATCH_SIZE,
        ),
        text_config=LlamaConfig(
            hidden_size=text.hidden,
            intermediate_size=text.intermediate,
            num_hidden_layers=text.layers,
            num_attention_heads=text.heads,
            num_key_value_heads=text.heads,
            head_dim=text.hidden // text.heads,
            vocab_size=preset.table or preset.vocab,
            max_position_embeddings=CONTEXT,
            rms_norm_eps=1e-5,
            bos_token_id=SPECIAL_TOKENS.index(BOS),
            eos_token_id=SPECIAL_TOKENS.index(EOS),
            pad_token_id=SPECIAL_TOKENS.index(PAD),
            tie_word_embeddings=False,
        ),
        image_token_index=image_token_id,
        image_seq_length=preset.image_tokens,
        projector_hidden_act="gelu",
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )


def _special_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    return {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")
    }


def _tokenizer(vocab: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of exactly ``vocab`` tokens, the same on every machine."""
    bpe = Tokenizer(BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_text(), trainer)
    assert bpe.get_vocab_size() == vocab, "the text is too poor for this vocabulary"
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        unk_token=UNK,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        padding_side="left",
        model_max_length=CONTEXT,
        extra_special_tokens={"image_token": IMAGE},
    )


def _text() -> Iterator[str]:
    """The words that `dyvte bench` asks with, and invented ones to fill the vocabulary."""
    yield from [f" {' '.join(WORDS)} USER: ASSISTANT: SYSTEM:"] * 50
    draw = random.Random(0)
    for _ in range(PSEUDO_WORDS):
        yield " " + "".join(draw.choices(SYLLABLES, k=draw.randint(2, 4)))


def main() -> None:
    """Write one preset to a folder."""
    parser = argparse.ArgumentParser(description="Make a random-weight LLaVA.")
    parser.add_argument("--preset", choices=PRESETS, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    make(PRESETS[args.preset], args.out, args.dtype, args.seed)
    print(f"{args.preset} ({args.dtype}, seed {args.seed}) in {args.out}")


if __name__ == "__main__":
    main()
