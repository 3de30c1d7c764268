"""LLaVA through our forward against ``transformers``' own, on the same random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    GraniteConfig,
    LlamaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    SiglipVisionConfig,
)

import dyvte
from dyvte import ExitOptions, ModelError, Prompt, PromptError, SamplingParams
from dyvte.prompt import IMAGE
from tests import tiny

OFF = ExitOptions(policy="off")
GREEDY = SamplingParams(max_tokens=10, temperature=0, ignore_eos=True, return_logits=True)
PROMPTS = {
    "one image": tiny.prompt(1),
    "two images": tiny.prompt(2, images=2),
    "text only": tiny.prompt(3, images=0),
    "nothing after the image": tiny.prompt(4, after=0),
    "image first": tiny.prompt(5, before=0),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_no_exit_is_the_models_own_logits(
    name: str, tiny_model: dyvte.Model, reference: Any
) -> None:
    result = tiny.alone(tiny_model, PROMPTS[name], sampling=GREEDY, exits=OFF)
    with torch.no_grad():
        expected = reference(**tiny.native_inputs(PROMPTS[name])).logits[0, -1]
    assert result.logits is not None
    torch.testing.assert_close(result.logits[0], expected, atol=5e-5, rtol=0)


@pytest.mark.parametrize("name", PROMPTS)
def test_greedy_ids_are_those_of_generate(
    name: str, tiny_model: dyvte.Model, reference: Any
) -> None:
    inputs = tiny.native_inputs(PROMPTS[name])
    expected = reference.generate(
        **inputs,
        attention_mask=torch.ones_like(inputs["input_ids"]),
        max_new_tokens=10,
        min_new_tokens=10,
        do_sample=False,
        pad_token_id=3,
    )
    result = tiny.alone(
        tiny_model,
        PROMPTS[name],
        sampling=SamplingParams(max_tokens=10, temperature=0, min_tokens=10),
        exits=OFF,
    )
    assert result.token_ids == expected[0, inputs["input_ids"].shape[1] :].tolist()


def test_image_features_are_the_models_own(tiny_model: dyvte.Model, reference: Any) -> None:
    images = tiny.prompt(7, images=3).images
    assert images is not None
    [rows] = tiny_model.adapter.encode_images([images])
    with torch.no_grad():
        expected = reference.get_image_features(pixel_values=images["pixel_values"]).pooler_output
    for ours, theirs in zip(rows, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("prompt", "what"),
    [
        (Prompt([1, IMAGE, 7]), "placeholders"),
        (Prompt([1, 7], {"pixel_values": torch.zeros(1, 3, 12, 12)}), "placeholders"),
        (Prompt([1, IMAGE], {"pixel_values": torch.zeros(1, 3, 14, 14)}), "shape"),
        (Prompt([1, IMAGE], {"pixels": torch.zeros(1, 3, 12, 12)}), "pixel_values"),
        (Prompt([1, tiny.VOCAB]), "vocabulary"),
        (Prompt([1, -3]), "vocabulary"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(
    prompt: Prompt, what: str, tiny_model: dyvte.Model
) -> None:
    with pytest.raises(PromptError, match=what):
        dyvte.generate(tiny_model, prompt)


def test_gates_of_another_width_are_refused(tiny_folder: Path) -> None:
    gates = Path(__file__).parents[2] / "golden/dyvte-llava/cases/gates_exit0.safetensors"
    with pytest.raises(ModelError, match="gates"):
        dyvte.load(tiny_folder, gates=gates)


DECODERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "grouped llama": (LlamaConfig, {}),
    "wide heads": (LlamaConfig, {"head_dim": 16}),
    "mistral": (MistralConfig, {"sliding_window": 30, "head_dim": 8}),
    "qwen2, with biases": (Qwen2Config, {}),
    "scaled beyond the context only": (
        LlamaConfig,
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}},
    ),
    "qwen3, with norms of queries": (Qwen3Config, {"head_dim": 8}),
}


@pytest.mark.parametrize("name", DECODERS)
def test_other_decoders_are_the_models_own_logits(name: str, tmp_path: Path) -> None:
    decoder, settings = DECODERS[name]
    tiny.save_model(tmp_path, tiny.config(decoder, **settings))
    model = dyvte.load(tmp_path, device="cpu", dtype="float32")
    reference = LlavaForConditionalGeneration.from_pretrained(
        tmp_path, attn_implementation="eager"
    ).eval()
    result = tiny.alone(model, PROMPTS["one image"], sampling=GREEDY, exits=OFF)
    inputs = tiny.native_inputs(PROMPTS["one image"])
    with torch.no_grad():
        expected = reference(**inputs).logits[0, -1]
    assert result.logits is not None
    torch.testing.assert_close(result.logits[0], expected, atol=5e-5, rtol=0)


def test_rotary_embeddings_that_change_with_the_batch_are_refused(tmp_path: Path) -> None:
    scaled = {
        **{"rope_type": "longrope", "rope_theta": 10000.0, "factor": 2.0},
        **{"short_factor": [1.0] * 4, "long_factor": [2.0] * 4},
        "original_max_position_embeddings": 64,
    }
    tiny.save_model(tmp_path, tiny.config(rope_parameters=scaled))
    with pytest.raises(ModelError, match="longrope"):
        dyvte.load(tmp_path, device="cpu", dtype="float32")


def test_a_sliding_window_is_the_longest_context(tmp_path: Path) -> None:
    """Our attention is full; inside the window that is the same."""
    tiny.save_model(tmp_path, tiny.config(MistralConfig, sliding_window=30, head_dim=8))
    model = dyvte.load(tmp_path, device="cpu", dtype="float32")
    assert model.adapter.max_positions == 30
    with pytest.raises(PromptError, match="context is 30"):
        dyvte.generate(model, tiny.prompt(0, images=3), GREEDY)


@pytest.mark.parametrize(
    ("part", "kind"), [("text_config", "granite"), ("vision_config", "siglip_vision_model")]
)
def test_parts_that_need_more_than_their_layers_are_refused(
    part: str, kind: str, tmp_path: Path, tiny_folder: Path
) -> None:
    """Granite scales embeddings and logits outside its layers: right shapes, wrong answers."""
    shape = tiny.config()
    if part == "text_config":
        shape = tiny.config(GraniteConfig)
    else:
        shape.vision_config = SiglipVisionConfig(
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=tiny.SIDE,
            patch_size=tiny.PATCH,
        )
    tiny.save_model(tmp_path, shape)
    with pytest.raises(ModelError, match=kind):
        dyvte.load(tmp_path, device="cpu", dtype="float32")
