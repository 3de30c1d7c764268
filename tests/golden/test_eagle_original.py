"""The original EAGLE code's own outputs, reproduced from its own folder layout.

`eagle-original/README.md` says how the numbers were made: five towers, one 1024 x 1024 picture,
1024 visual rows of a prompt of 1112.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import dyvte
from dyvte import Prompt, Result, SamplingParams
from dyvte.exits.policy import Off
from dyvte.forward import advance, start
from tests.golden.reference import answer_over_http
from tests.test_forward import Bench

HERE = Path(__file__).parent / "eagle-original"
[CASE] = json.loads((HERE / "cases.json").read_text())
TOWERS = ("clip-448", "convnext-1024", "sam-1024", "det-1024", "pix2struct-1024")
WIDTHS = (16, 24, 32, 32, 16)
GREEDY = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True, return_logits=True)
QUESTION = CASE["prompt"].split("<image>\n")[1].removesuffix(" ASSISTANT:")


@cache
def model() -> dyvte.Model:
    return dyvte.load(HERE / "checkpoint", device="cpu", dtype="float32")


@cache
def expected() -> dict[str, Tensor]:
    return load_file(HERE / "c0.safetensors")


@cache
def pictures() -> tuple[Image.Image, Image.Image]:
    return Image.open(HERE / "img0.png"), Image.open(HERE / "img1.png")


def asking(*images: Image.Image, question: str = QUESTION) -> Prompt:
    """A prompt from messages, as the server makes it."""
    parts: list[dict[str, Any]] = [{"type": "image", "image": image} for image in images]
    parts.append({"type": "text", "text": question})
    return model().prompt([{"role": "user", "content": parts}])


@cache
def pixels() -> Tensor:
    process = model().process_images
    assert process is not None
    found: Tensor = process([pictures()[0]])["pixel_values"]
    return found


def assert_as_original(result: Result) -> None:
    assert result.tokens_per_layer == [CASE["n_positions"]] * 3
    assert result.token_ids == expected()["generated_ids"].tolist()
    assert result.logits is not None
    last = expected()["logits_last20"][-1]
    torch.testing.assert_close(result.logits[0], last, atol=2e-4, rtol=0)


def test_messages_become_the_originals_prompt() -> None:
    assert asking(pictures()[0]).token_ids == expected()["input_ids"][0].tolist()


def test_a_picture_becomes_the_originals_pixels() -> None:
    every = CASE["pixel_values_shape"][-1] // expected()["pixel_values_every16"].shape[-1]
    assert list(pixels().shape) == CASE["pixel_values_shape"]
    stored = expected()["pixel_values_every16"]
    torch.testing.assert_close(pixels()[..., ::every, ::every], stored, atol=1e-6, rtol=0)


def test_another_picture_is_padded_with_the_mean_colour_and_resized() -> None:
    """400 x 300: an eighth of the square's rows above and below are padding."""
    process = model().process_images
    assert process is not None
    [padded] = process([pictures()[1]])["pixel_values"]
    colour = torch.tensor([122, 116, 104]) / 255
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])
    edge = ((colour - mean) / std)[:, None, None]
    for band in (padded[:, :120], padded[:, -120:]):
        torch.testing.assert_close(band, edge.expand_as(band), atol=1e-5, rtol=0)
    inside = padded[:, 136:-136]
    assert not torch.isclose(inside, edge, atol=1e-3).all(0).any(1).all()


@pytest.mark.parametrize("index", range(5), ids=TOWERS)
@torch.inference_mode()
def test_each_tower_gives_the_originals_channels(index: int) -> None:
    adapter: Any = model().adapter
    tower = adapter.model.towers[index]
    first = sum(WIDTHS[:index])
    channels = expected()["vision_features"][:, first : first + WIDTHS[index]]
    assert tower.name == TOWERS[index]
    torch.testing.assert_close(tower(pixels())[0], channels, atol=2e-5, rtol=0)


def test_image_features_are_the_originals() -> None:
    [[rows]] = model().adapter.encode_images([{"pixel_values": pixels()}])
    torch.testing.assert_close(rows, expected()["image_features"], atol=5e-5, rtol=0)


@torch.inference_mode()
def test_logits_of_the_last_rows_are_the_originals() -> None:
    bench = Bench(model())
    batch = bench.prefill([asking(pictures()[0])])
    state = start(model().adapter, batch, [Off()])
    advance(model().adapter, state, bench.cache, bench.attention, 3)
    logits = model().adapter.head(state.batch.hidden[-20:])
    torch.testing.assert_close(logits, expected()["logits_last20"], atol=2e-4, rtol=0)


def test_case_alone() -> None:
    [result] = dyvte.generate(model(), asking(pictures()[0]), GREEDY)
    assert_as_original(result)


def test_case_in_one_packed_batch_with_others() -> None:
    first, second = pictures()
    prompts = [asking(second), asking(first), asking(question="And now?")]
    assert_as_original(dyvte.generate(model(), prompts, GREEDY)[1])


@pytest.mark.anyio
async def test_a_picture_over_http_is_answered_as_by_the_original() -> None:
    reply = await answer_over_http(HERE / "checkpoint", QUESTION, (HERE / "img0.png").read_bytes())
    ids = expected()["generated_ids"].tolist()
    assert reply["choices"][0]["message"]["content"] == model().text(ids)
    assert reply["usage"]["prompt_tokens"] == CASE["n_positions"]
    assert reply["usage"]["prompt_tokens_details"]["image_tokens"] == 1024
