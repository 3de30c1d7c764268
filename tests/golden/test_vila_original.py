"""VILA-1.5's own outputs of June 2024, reproduced from its own folder layout.

`vila-original/README.md` says how the numbers were made. The grid is odd, so that its padding
shows; `image_features_head_order` are the same rows in the order of the code since December 2024.
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
from torch import Tensor

import dyvte
from dyvte import ExitOptions, ModelError, OptionError, Prompt, Result
from dyvte.models.checkpoints.opened import read_config
from dyvte.models.originals.vila import token_order
from dyvte.models.prompts.conversation_formats import LLAMA_3, VICUNA_V1
from dyvte.models.prompts.conversations import ConversationChat
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

HERE = Path(__file__).parent / "vila-original"
CASES = json.loads((HERE / "cases.json").read_text())
NAMES = [case["case"] for case in CASES]
FORMATS = {"vicuna_v1": VICUNA_V1, "llama_3": LLAMA_3}


@cache
def model() -> dyvte.Model:
    return dyvte.load(HERE / "checkpoint", device="cpu", dtype="float32")


def expected_of(case: dict[str, Any]) -> dict[str, Tensor]:
    return load_file(HERE / f"{case['case']}.safetensors")


def prompt_of(case: dict[str, Any]) -> Prompt:
    tensors = expected_of(case)
    images = {"pixel_values": tensors["pixel_values"]}
    return Prompt(tensors["input_ids"][0].tolist(), images)


def messages_of(case: dict[str, Any]) -> list[dict[str, Any]]:
    pictures = [picture(HERE / name) for name in case["images"]]
    return [says("user", *pictures, case["question"].removeprefix("<image>\n"))]


def assert_as_original(result: Result, case: dict[str, Any]) -> None:
    expected = expected_of(case)
    assert result.tokens_per_layer == [case["n_positions"]] * 3
    assert result.token_ids == expected["generated_ids"].tolist()
    assert result.logits is not None
    torch.testing.assert_close(result.logits[0], expected["logits"][-1], atol=LOGITS, rtol=0)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_case_alone(case: dict[str, Any]) -> None:
    [result] = dyvte.generate(model(), prompt_of(case), GREEDY)
    assert_as_original(result, case)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_pictures_become_the_originals_pixels_and_rows(case: dict[str, Any]) -> None:
    expected = expected_of(case)
    process = model().process_images
    assert process is not None
    images = process([picture(HERE / name) for name in case["images"]])
    torch.testing.assert_close(
        images["pixel_values"], expected["pixel_values"], atol=PIXELS, rtol=0
    )
    [[rows]] = model().adapter.encode_images([images])
    torch.testing.assert_close(rows, expected["image_features"][0], atol=FEATURES, rtol=0)


def test_all_cases_in_one_packed_batch_and_with_exits() -> None:
    """The same prompts leave after different layers beside those that never do."""
    prompts = [prompt_of(case) for case in CASES]
    layers = [None, None, 0, 1]
    exits = [
        ExitOptions(policy="off")
        if layer is None
        else ExitOptions(policy="fixed", exit_layer=layer)
        for layer in layers
    ]
    results = dyvte.generate(model(), [*prompts, *prompts], GREEDY, exits)
    for result, case in zip(results, CASES, strict=False):
        assert_as_original(result, case)
    vila: Any = model().adapter.model  # type: ignore[attr-defined]
    for result, prompt, layer in zip(results[2:], prompts, layers[2:], strict=True):
        oracle = dense_logits(
            model(), prompt, vila.llm.model, vila.llm.lm_head, result.token_ids[:-1], layer
        )
        assert result.exit_layer == layer
        assert result.logits is not None
        torch.testing.assert_close(result.logits, oracle, atol=LOGITS, rtol=0)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_messages_become_the_originals_ids(case: dict[str, Any]) -> None:
    """The tiny tokenizer knows none of llama_3's specials: there they are text."""
    chat = ConversationChat(model().tokenizer, FORMATS[case["template"]])
    assert chat.encode(messages_of(case)) == prompt_of(case).token_ids


@pytest.mark.anyio
async def test_a_picture_over_http_is_answered_as_by_the_original() -> None:
    [case, _] = CASES
    question = case["question"].removeprefix("<image>\n")
    reply = await answer_over_http(
        HERE / "checkpoint", question, *[(HERE / name).read_bytes() for name in case["images"]]
    )
    ids = expected_of(case)["generated_ids"].tolist()
    assert reply["choices"][0]["message"]["content"] == model().text(ids)
    assert reply["usage"]["prompt_tokens"] == case["n_positions"]
    assert reply["usage"]["prompt_tokens_details"]["image_tokens"] == case["tokens_per_image"]


def test_rows_come_row_by_row_from_newer_code_with_a_line_break_behind() -> None:
    newer = dyvte.load(HERE / "checkpoint", device="cpu", dtype="float32", token_order="rows")
    prompt, expected = prompt_of(CASES[0]), expected_of(CASES[0])
    assert prompt.images is not None
    [[rows]] = newer.adapter.encode_images([prompt.images])
    order = expected["image_features_head_order"][0]
    torch.testing.assert_close(rows, order, atol=FEATURES, rtol=0)
    layout = newer.adapter.layout(prompt)
    [span] = layout.spans
    behind = layout.token_ids[span.stop : span.stop + 3]
    assert list(behind) == newer.tokenizer("\n")["input_ids"]  # type: ignore[misc]
    assert layout.visual_rows == 16
    assert layout.rows == CASES[0]["n_positions"] + 3


def changed(tmp_path: Path, part: str = ".", **changes: Any) -> Path:
    folder = tmp_path / "model"
    if not folder.exists():
        shutil.copytree(HERE / "checkpoint", folder)
    path = folder / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def order_of(folder: Path) -> str:
    return token_order(folder, read_config(folder))[0]


def test_the_order_follows_the_checkpoints_age(tmp_path: Path) -> None:
    assert order_of(HERE / "checkpoint") == "columns"
    encoder = '{"_target_": "llava.model.encoders.BasicImageEncoder"}'
    assert order_of(changed(tmp_path / "a", image_encoder=encoder)) == "rows"
    assert order_of(changed(tmp_path / "b", "llm", transformers_version="4.46.0")) == "rows"
    assert order_of(changed(tmp_path / "c", "llm", transformers_version="4.36.2")) == "columns"
    assert order_of(changed(tmp_path / "d", token_order="rows")) == "rows"


def test_the_order_chosen_is_told() -> None:
    [note] = model().notes
    assert "columns" in note


def test_an_order_for_another_layout_is_refused() -> None:
    with pytest.raises(OptionError, match="token_order"):
        dyvte.load(HERE.parent / "llava-original" / "checkpoint", token_order="rows")
    with pytest.raises(OptionError, match="token_order"):
        dyvte.load(HERE / "checkpoint", token_order="diagonal")


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("mm_projector", {"mm_projector_type": "mlp_downsample_3x3_fix"}, "mlp_downsample_3x3_fix"),
    ("mm_projector", {"mm_projector_type": "mlp2x_gelu"}, "mlp2x_gelu"),
    ("vision_tower", {"model_type": "clip_vision_model"}, "clip_vision_model"),
    ("llm", {"architectures": ["GemmaForCausalLM"]}, "GemmaForCausalLM"),
    (".", {"s2": True}, "s2"),
    (".", {"image_aspect_ratio": "dynamic"}, "dynamic"),
    (".", {"token_order": "diagonal"}, "diagonal"),
    (".", {"mm_vision_select_feature": "patch"}, "mm_vision_select_feature"),
]


@pytest.mark.parametrize(("part", "changes", "what"), REFUSED, ids=[r[2] for r in REFUSED])
def test_what_is_not_supported_is_refused_before_a_weight_is_read(
    part: str, changes: dict[str, Any], what: str, tmp_path: Path
) -> None:
    folder = changed(tmp_path, part, **changes)
    for weights in folder.rglob("*.safetensors"):
        weights.write_bytes(b"not weights")
    with pytest.raises(ModelError, match=what):
        dyvte.load(folder, device="cpu", dtype="float32")


@pytest.mark.parametrize("part", ["llm", "vision_tower", "mm_projector"])
def test_a_missing_part_is_named(part: str, tmp_path: Path) -> None:
    folder = changed(tmp_path)
    shutil.rmtree(folder / part)
    with pytest.raises(ModelError, match=f"{part}/config.json is missing"):
        dyvte.load(folder, device="cpu", dtype="float32")


def test_tensors_of_another_part_are_refused(tmp_path: Path) -> None:
    folder = changed(tmp_path)
    shutil.copy(folder / "llm" / "model.safetensors", folder / "vision_tower" / "model.safetensors")
    with pytest.raises(ModelError, match=r"vision_tower/: unknown tensor"):
        dyvte.load(folder, device="cpu", dtype="float32")
