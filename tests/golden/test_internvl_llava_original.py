"""InternVL-Chat 1.0's own outputs: LLaVA's layout around an InternViT.

`internvl-llava-original/README.md` says how the numbers were made.
"""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import dyvte
from dyvte import ExitOptions, Prompt
from tests.golden.reference import (
    FEATURES,
    GREEDY,
    LOGITS,
    PIXELS,
    answer_over_http,
    dense_logits,
    picture,
)
from tests.models.families.family import says

HERE = Path(__file__).parent / "internvl-llava-original"
[CASE] = json.loads((HERE / "cases.json").read_text())
EXPECTED = load_file(HERE / f"{CASE['case']}.safetensors")
QUESTION = "What is in the picture?"


@cache
def model() -> dyvte.Model:
    return dyvte.load(HERE / "checkpoint", device="cpu", dtype="float32")


def prompt() -> Prompt:
    return model().prompt([says("user", picture(HERE / CASE["images"][0]), QUESTION)])


def test_a_message_becomes_the_originals_ids_and_pixels() -> None:
    asked = prompt()
    assert asked.token_ids == EXPECTED["input_ids"][0].tolist()
    pixels = torch.as_tensor((asked.images or {})["pixel_values"])
    assert list(pixels.shape) == CASE["pixel_values_shape"]
    some = EXPECTED["pixel_values_every4"]
    torch.testing.assert_close(pixels[:, :, ::4, ::4], some, atol=PIXELS, rtol=0)


def test_image_features_are_the_originals() -> None:
    [[rows]] = model().adapter.encode_images([prompt().images or {}])
    torch.testing.assert_close(rows, EXPECTED["image_features"], atol=FEATURES, rtol=0)


def test_the_case_packed_with_another_and_with_exits() -> None:
    """The second picture is no square: it is padded with the mean colour."""
    other = model().prompt([says("user", picture(HERE / "img1.png"), "And here?")])
    exits = [
        ExitOptions(policy="off"),
        ExitOptions(policy="fixed", exit_layer=0),
        ExitOptions(policy="fixed", exit_layer=1),
    ]
    prompts = [prompt(), other, prompt()]
    results = dyvte.generate(model(), prompts, GREEDY, exits)
    native: Any = model().adapter.model  # type: ignore[attr-defined]
    for result, asked, layer in zip(results, prompts, (None, 0, 1), strict=True):
        oracle = dense_logits(
            model(),
            asked,
            native.model.language_model,
            native.lm_head,
            result.token_ids[:-1],
            layer,
        )
        assert result.logits is not None
        torch.testing.assert_close(result.logits, oracle, atol=LOGITS, rtol=0)
    assert results[0].tokens_per_layer == [CASE["n_positions"]] * 3
    assert results[0].logits is not None
    last = EXPECTED["logits_last20"][-1]
    torch.testing.assert_close(results[0].logits[0], last, atol=LOGITS, rtol=0)


@pytest.mark.anyio
async def test_a_picture_over_http_is_answered_as_by_the_library() -> None:
    [alone] = dyvte.generate(model(), prompt(), GREEDY, ExitOptions(policy="off"))
    data = (HERE / CASE["images"][0]).read_bytes()
    reply = await answer_over_http(HERE / "checkpoint", QUESTION, data)
    assert reply["choices"][0]["message"]["content"] == alone.text
    assert reply["usage"]["prompt_tokens"] == CASE["n_positions"]


def test_448_in_the_towers_name_makes_pictures_larger(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(HERE / "checkpoint", folder)
    (folder / "InternViT-6B-tiny").rename(folder / "InternViT-6B-448px-tiny")
    config = json.loads((folder / "config.json").read_text())
    config["mm_vision_tower"] = "./InternViT-6B-448px-tiny"
    (folder / "config.json").write_text(json.dumps(config))
    large = dyvte.load(folder, device="cpu", dtype="float32")
    asked = large.prompt([says("user", picture(HERE / "img1.png"), QUESTION)])
    assert large.adapter.layout(asked).visual_rows == 32 * 32
