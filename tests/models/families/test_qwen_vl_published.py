"""Qwen-VL folders as they are published: older files, and real sizes without weights.

Sizes are those of the models' public configs (Qwen/Qwen2.5-VL-7B-Instruct and
Qwen/Qwen3-VL-8B-Instruct).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

import dyvte
from dyvte import ExitOptions, SamplingParams
from dyvte.flops import request_flops
from dyvte.models import registry
from tests import tiny
from tests.models.families.family import CONVERSATIONS
from tests.models.families.qwen_vl import FAMILIES

TOKENS = {
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
}


@dataclass(frozen=True)
class Published:
    """A model's public config and image settings, and what is known of it."""

    config: dict[str, Any]
    pictures: dict[str, Any]
    parameters: int
    rows: int  # of a picture of 1280 × 720
    longest: int  # side of its grid, in rows


QWEN2_5_VL_7B = Published(
    config={
        "model_type": "qwen2_5_vl",
        **TOKENS,
        "hidden_act": "silu",
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "max_position_embeddings": 128000,
        "max_window_layers": 28,
        "num_attention_heads": 28,
        "num_hidden_layers": 28,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "vision_config": {
            "depth": 32,
            "fullatt_block_indexes": [7, 15, 23, 31],
            "hidden_size": 1280,
            "in_chans": 3,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": 3584,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
        },
        "vocab_size": 152064,
    },
    pictures={
        "image_processor_type": "Qwen2VLImageProcessor",
        "min_pixels": 3136,
        "max_pixels": 12845056,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
    },
    parameters=8_292_166_656,
    rows=26 * 46,
    longest=46,
)
QWEN3_VL_8B = Published(
    config={
        "model_type": "qwen3_vl",
        **{name: value for name, value in TOKENS.items() if name[:3] not in ("bos", "eos")},
        "text_config": {
            "model_type": "qwen3_vl_text",
            "attention_bias": False,
            "bos_token_id": 151643,
            "eos_token_id": 151645,
            "head_dim": 128,
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "max_position_embeddings": 262144,
            "num_attention_heads": 32,
            "num_hidden_layers": 36,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-06,
            "rope_scaling": {
                "mrope_interleaved": True,
                "mrope_section": [24, 20, 20],
                "rope_type": "default",
            },
            "rope_theta": 5000000,
            "vocab_size": 151936,
        },
        "tie_word_embeddings": False,
        "vision_config": {
            "model_type": "qwen3_vl",
            "deepstack_visual_indexes": [8, 16, 24],
            "depth": 27,
            "hidden_size": 1152,
            "in_channels": 3,
            "intermediate_size": 4304,
            "num_heads": 16,
            "num_position_embeddings": 2304,
            "out_hidden_size": 4096,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
    },
    pictures={
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "size": {"longest_edge": 16777216, "shortest_edge": 65536},
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    },
    parameters=8_767_123_696,
    rows=22 * 40,
    longest=40,
)


@pytest.mark.parametrize(
    "published", [QWEN2_5_VL_7B, QWEN3_VL_8B], ids=["Qwen2.5-VL-7B", "Qwen3-VL-8B"]
)
def test_real_sizes_are_known_without_weights(published: Published, tmp_path: Path) -> None:
    """Parts, positions and FLOPs of a picture of 1280 × 720 and a short question."""
    (tmp_path / "config.json").write_text(json.dumps(published.config))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(published.pictures))
    opened = registry.build_model(tmp_path, torch.bfloat16)
    adapter = opened.adapter
    assert adapter.parameter_bytes() == 2 * published.parameters
    assert adapter.max_positions in (128000, 262144)
    assert adapter.eos_token_ids == {151645}
    assert opened.process_images is not None
    images = opened.process_images([Image.new("RGB", (1280, 720))])
    asked = dyvte.Prompt([*range(15), dyvte.IMAGE, *range(40)], images)
    layout = adapter.layout(asked)
    assert layout.visual_rows == published.rows
    assert layout.delta == published.longest - published.rows
    shape, rows = adapter.decoder, layout.rows
    report = request_flops(
        shape,
        vision=layout.vision_flops,
        prompt_tokens=rows,
        tokens_per_layer=[rows] * shape.num_layers,
        decode_steps=[0],
    )
    # Every weight of a matrix product once per row that it meets, and the attention between rows.
    model: Any = adapter
    decoder, tower = model.model.model.language_model, model.model.model.visual
    attention = 4 * rows**2 * shape.q_dim * shape.num_layers
    assert report.prefill == 2 * rows * _weights(decoder.layers) + attention
    merged = _weights(tower.merger) + _weights(getattr(tower, "deepstack_merger_list", []))
    patches = 4 * published.rows
    least = 2 * patches * _weights([tower.patch_embed, *tower.blocks]) + 2 * published.rows * merged
    assert least < layout.vision_flops < 1.5 * least


def _weights(modules: Any) -> int:
    """Parameters of the matrix products inside."""
    kinds = (nn.Linear, nn.Conv3d)
    several = [modules] if isinstance(modules, nn.Module) else modules
    parts = [part for module in several for part in module.modules() if isinstance(part, kinds)]
    return sum(part.weight.numel() for part in parts)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_older_files_say_the_same(family: Any, tmp_path: Path) -> None:
    """Text settings beside the tower's, limits as pixels, the template in a file of its own."""
    folder = family.save(tmp_path)
    today = _answer(folder)
    config = json.loads((folder / "config.json").read_text())
    if family.name != "qwen3_vl":
        text = config.pop("text_config")
        rope = text.pop("rope_parameters")
        text["rope_theta"] = rope["rope_theta"]
        text["rope_scaling"] = {"type": "mrope", "mrope_section": rope["mrope_section"]}
        config = {**text, **config}
    config["vision_config"]["model_type"] = family.name
    (folder / "config.json").write_text(json.dumps(config))
    pictures = json.loads((folder / "preprocessor_config.json").read_text())
    size = pictures.pop("size")
    limits = {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
    pictures |= {**limits, "image_processor_type": "Qwen2VLImageProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures))
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    assert _answer(folder) == today


def _answer(folder: Path) -> tuple[list[int], list[int]]:
    model = dyvte.load(folder, device="cpu", dtype="float32")
    asked = model.prompt(CONVERSATIONS["two images"])
    sampling = SamplingParams(max_tokens=4, temperature=0, ignore_eos=True)
    result = tiny.alone(model, asked, sampling=sampling, exits=ExitOptions(policy="off"))
    return result.token_ids, result.tokens_per_layer
