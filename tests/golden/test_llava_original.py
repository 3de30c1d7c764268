"""The original LLaVA-1.5 code's own outputs, reproduced from its own folder layout.

`llava-original/README.md` says how the numbers were made: one case with a chat prompt, one that
is an image and a line break, one without an image.
"""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import dyvte
from dyvte import ExitOptions, ModelError, Prompt, Result, SamplingParams
from tests.golden.reference import answer_over_http, dense_logits

HERE = Path(__file__).parent / "llava-original"
CASES = json.loads((HERE / "cases.json").read_text())
NAMES = [case["case"] for case in CASES]
GREEDY = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True, return_logits=True)


@cache
def model() -> dyvte.Model:
    return dyvte.load(HERE / "checkpoint", device="cpu", dtype="float32")


def expected_of(case: dict[str, Any]) -> dict[str, Tensor]:
    return load_file(HERE / f"{case['case']}.safetensors")


def prompt_of(case: dict[str, Any]) -> Prompt:
    tensors = expected_of(case)
    images = {"pixel_values": tensors["pixel_values"]} if case["images"] else None
    return Prompt(tensors["input_ids"][0].tolist(), images)


def assert_as_original(result: Result, case: dict[str, Any]) -> None:
    expected = expected_of(case)
    assert result.tokens_per_layer == [case["n_positions"]] * 4
    assert result.token_ids == expected["generated_ids"].tolist()
    assert result.logits is not None
    torch.testing.assert_close(result.logits[0], expected["logits"][-1], atol=2e-4, rtol=0)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_case_alone(case: dict[str, Any]) -> None:
    [result] = dyvte.generate(model(), prompt_of(case), GREEDY)
    assert_as_original(result, case)


def test_all_cases_in_one_packed_batch() -> None:
    results = dyvte.generate(model(), [prompt_of(case) for case in CASES], GREEDY)
    for result, case in zip(results, CASES, strict=True):
        assert_as_original(result, case)


def test_exits_in_one_batch_are_the_dense_model_with_visual_keys_masked() -> None:
    layers = [1, 2, 0]
    prompts = [prompt_of(CASES[0]), prompt_of(CASES[1]), prompt_of(CASES[1])]
    exits = [ExitOptions(policy="fixed", exit_layer=layer) for layer in layers]
    results = dyvte.generate(model(), prompts, GREEDY, exits)
    native: Any = model().adapter.model  # type: ignore[attr-defined]
    decoder, head = native.model.language_model, native.lm_head
    for result, prompt, layer in zip(results, prompts, layers, strict=True):
        oracle = dense_logits(model(), prompt, decoder, head, result.token_ids[:-1], layer)
        assert result.logits is not None
        torch.testing.assert_close(result.logits, oracle, atol=2e-4, rtol=0)


@pytest.mark.anyio
async def test_a_picture_over_http_is_answered_as_by_the_original() -> None:
    case = CASES[0]
    question = case["question"].removeprefix("<image>\n")
    data = (HERE / case["images"][0]).read_bytes()
    reply = await answer_over_http(HERE / "checkpoint", question, data)
    ids = expected_of(case)["generated_ids"].tolist()
    assert reply["choices"][0]["message"]["content"] == model().text(ids)
    assert reply["usage"]["prompt_tokens"] == case["n_positions"]


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    (".", {"mm_projector_type": "cabstractor"}, "cabstractor"),
    (".", {"mm_projector_type": "linear"}, "mm_projector_type 'linear'"),
    (".", {"mm_projector_type": "mlp3x_gelu"}, "mlp3x_gelu"),
    (".", {"mm_vision_select_layer": 5}, "layer 5 of it is selected"),
    (".", {"mm_vision_select_feature": "cls"}, "mm_vision_select_feature 'cls'"),
    (".", {"model_type": "llava_mistral"}, "llava_mistral"),
    (".", {"image_aspect_ratio": "anyres"}, "anyres"),
    (".", {"mm_use_im_start_end": True}, "mm_use_im_start_end"),
    (".", {"mm_vision_tower": "./elsewhere"}, "elsewhere"),
    ("vision_tower", {"model_type": "siglip_vision_model"}, "siglip_vision_model"),
]


@pytest.mark.parametrize(("part", "changes", "what"), REFUSED, ids=[r[2] for r in REFUSED])
def test_what_is_not_supported_is_refused_before_a_weight_is_read(
    part: str, changes: dict[str, Any], what: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(HERE / "checkpoint", tmp_path / "model")
    path = folder / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    for weights in folder.rglob("*.safetensors"):
        weights.write_bytes(b"not weights")
    with pytest.raises(ModelError, match=what):
        dyvte.load(folder, device="cpu", dtype="float32")


def test_pictures_become_the_originals_pixels() -> None:
    pictures = [Image.open(HERE / "img0.png"), Image.open(HERE / "img2.png")]
    process = model().process_images
    assert process is not None
    for picture, name in zip(pictures, ("c0", "c2"), strict=True):
        expected = load_file(HERE / f"{name}.safetensors")["pixel_values"]
        pixels = process([picture])["pixel_values"]
        torch.testing.assert_close(pixels, expected.reshape(pixels.shape), atol=1e-6, rtol=0)


def test_messages_become_the_originals_prompt() -> None:
    case = CASES[0]
    question = case["question"].removeprefix("<image>\n")
    picture = Image.open(HERE / "img0.png")
    parts = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
    prompt = model().prompt([{"role": "user", "content": parts}])
    assert prompt.token_ids == prompt_of(case).token_ids


def test_weights_are_read_and_not_made_up() -> None:
    """``transformers`` would take the folder as native and fill it at random with a warning."""
    state = load_file(HERE / "checkpoint" / "model-00001-of-00002.safetensors")
    name = "model.embed_tokens.weight"
    state |= load_file(HERE / "checkpoint" / "model-00002-of-00002.safetensors")
    table = model().adapter.embed_tokens(torch.arange(400))
    torch.testing.assert_close(table, state[name].float(), atol=0, rtol=0)
