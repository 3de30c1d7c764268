"""InternVL chat's own outputs, reproduced from its own layout: three decoders, both shuffles.

`internvl-original/README.md` says how the numbers were made. There is no tokenizer: prompts are
random ids, and templates are compared as text.
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
from dyvte import ExitOptions, ModelError, Prompt, PromptError, Result
from dyvte.models.prompts.conversation_formats import internvl_format
from dyvte.models.prompts.conversations import ConversationChat
from tests import tiny
from tests.golden.reference import (
    FEATURES,
    GREEDY,
    LOGITS,
    PIXELS,
    collapsed,
    dense_logits,
    picture,
)
from tests.models.families.family import says

HERE = Path(__file__).parent / "internvl-original"
CASES = json.loads((HERE / "cases.json").read_text())
NAMES = [f"{case['variant']}_{case['case']}" for case in CASES]
VARIANTS = sorted({case["variant"] for case in CASES})


@cache
def model(variant: str) -> dyvte.Model:
    return dyvte.load(HERE / variant / "checkpoint", device="cpu", dtype="float32")


def expected_of(case: dict[str, Any]) -> dict[str, Tensor]:
    return load_file(HERE / case["variant"] / f"{case['case']}.safetensors")


def prompt_of(case: dict[str, Any]) -> Prompt:
    tensors = expected_of(case)
    ids = collapsed(tensors["input_ids"][0].tolist(), case["img_context_token_id"])
    return Prompt(ids, {key: tensors[key] for key in ("pixel_values", "num_tiles")})


def assert_as_original(result: Result, case: dict[str, Any]) -> None:
    expected = expected_of(case)
    assert result.tokens_per_layer == [expected["input_ids"].shape[1]] * 3
    assert result.token_ids == expected["generated_ids"].tolist()
    assert result.logits is not None
    last = expected["logits_last20"][-1]
    torch.testing.assert_close(result.logits[0], last, atol=LOGITS, rtol=0)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_case_alone(case: dict[str, Any]) -> None:
    [result] = dyvte.generate(model(case["variant"]), prompt_of(case), GREEDY)
    assert_as_original(result, case)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_pictures_become_the_originals_tiles_and_rows(case: dict[str, Any]) -> None:
    expected, asked = expected_of(case), model(case["variant"])
    assert asked.process_images is not None
    images = asked.process_images([picture(HERE / name) for name in case["images"]])
    assert images["num_tiles"].tolist() == case["num_tiles"]
    pixels = expected["pixel_values"]
    torch.testing.assert_close(images["pixel_values"], pixels, atol=PIXELS, rtol=0)
    [[rows]] = asked.adapter.encode_images([images])
    features = expected["image_features"].flatten(0, 1)
    torch.testing.assert_close(rows, features, atol=FEATURES, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_all_cases_in_one_packed_batch_and_with_exits(variant: str) -> None:
    cases = [case for case in CASES if case["variant"] == variant]
    asked, prompts = model(variant), [prompt_of(case) for case in cases]
    both = Prompt(
        [*prompts[0].token_ids, *prompts[1].token_ids],
        {
            key: torch.cat([torch.as_tensor((p.images or {})[key]) for p in prompts])
            for key in ("pixel_values", "num_tiles")
        },
    )
    layers = [None, None, 0, 1, 1]
    exits = [
        ExitOptions(policy="off")
        if layer is None
        else ExitOptions(policy="fixed", exit_layer=layer)
        for layer in layers
    ]
    packed = [*prompts, *prompts, both]
    results = dyvte.generate(asked, packed, GREEDY, exits)
    for result, case in zip(results, cases, strict=False):
        assert_as_original(result, case)
    native: Any = asked.adapter.model  # type: ignore[attr-defined]
    for result, prompt, layer in list(zip(results, packed, layers, strict=True))[2:]:
        oracle = dense_logits(
            asked,
            prompt,
            native.model.language_model,
            native.lm_head,
            result.token_ids[:-1],
            layer,
        )
        assert result.exit_layer == layer
        assert result.logits is not None
        torch.testing.assert_close(result.logits, oracle, atol=LOGITS, rtol=0)


class _Characters:
    """A tokenizer whose ids are code points and which knows an image's frame."""

    bos_token_id = None
    added_tokens_decoder: dict[int, Any] = {}  # noqa: RUF012

    def get_vocab(self) -> dict[str, int]:
        return {"<img>": 1, "</img>": 2}

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) for letter in text]}


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_messages_become_the_originals_text(case: dict[str, Any]) -> None:
    """The original writes ``<image>`` first and puts the image in its frame there later."""
    config = json.loads((HERE / case["variant"] / "checkpoint" / "config.json").read_text())
    chat = ConversationChat(_Characters(), internvl_format(config["template"]))
    question = says("user", tiny_picture(), "What is in the picture?")
    ids = chat.encode([question])
    text = "".join("<image>" if i < 0 else chr(i) for i in ids)
    assert text.replace("<img><image></img>", "<image>") == case["prompt_text"]
    assert "<img><image></img>\n" in text


def tiny_picture() -> Image.Image:
    return Image.new("RGB", (tiny.SIDE, tiny.SIDE))


def changed(tmp_path: Path, variant: str, **changes: Any) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(HERE / variant / "checkpoint", folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def test_a_tower_is_fitted_to_the_image_size_that_is_forced(tmp_path: Path) -> None:
    """Positions are interpolated once, which is what ``transformers`` does in each run."""
    folder = changed(tmp_path, "qwen2-ln", force_image_size=84)
    asked = dyvte.load(folder, device="cpu", dtype="float32")
    assert asked.process_images is not None
    images = asked.process_images([picture(HERE / "img1.png")])
    assert asked.adapter.visual_rows(images) == [36]
    [[rows]] = asked.adapter.encode_images([images])
    plain: Any = dyvte.load(
        HERE / "qwen2-ln" / "checkpoint", device="cpu", dtype="float32", weights="plain"
    )
    native = plain.adapter.model
    with torch.no_grad():
        expected = native.get_image_features(pixel_values=images["pixel_values"]).pooler_output
    torch.testing.assert_close(rows, expected[0], atol=FEATURES, rtol=0)


def test_tiles_that_do_not_add_up_are_refused() -> None:
    images = dict(prompt_of(CASES[0]).images or {}) | {"num_tiles": torch.tensor([2])}
    with pytest.raises(PromptError, match="tiles"):
        dyvte.generate(model(CASES[0]["variant"]), Prompt([1, -200, 5], images), GREEDY)


LLM = json.loads((HERE / "qwen2-ln" / "checkpoint" / "config.json").read_text())["llm_config"]
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"template": "mystery"}, "mystery"),
    ({"ps_version": "v3"}, "v3"),
    ({"llm_config": LLM | {"architectures": ["Phi3ForCausalLM"]}}, "Phi3ForCausalLM"),
    ({"vision_config": {"model_type": "eva"}}, "eva"),
    ({"select_layer": -5}, "layer -5 of it is selected"),
    ({"downsample_ratio": 0.2}, "downsample_ratio 0.2 divides"),
]


@pytest.mark.parametrize(("changes", "what"), REFUSED, ids=[each[1] for each in REFUSED])
def test_what_is_not_supported_is_refused_before_a_weight_is_read(
    changes: dict[str, Any], what: str, tmp_path: Path
) -> None:
    folder = changed(tmp_path, "qwen2-ln", **changes)
    (folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelError, match=what):
        dyvte.load(folder, device="cpu", dtype="float32")


def test_a_decoder_of_another_kind_in_the_files_is_refused(tmp_path: Path) -> None:
    """InternLM2's fused tensors under a config that says Qwen2."""
    folder = changed(tmp_path, "qwen2-ln")
    shutil.copy(HERE / "internlm2-ln" / "checkpoint" / "model.safetensors", folder)
    with pytest.raises(ModelError, match=r"attention\.w"):
        dyvte.load(folder, device="cpu", dtype="float32")
