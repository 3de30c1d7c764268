"""Low detail: an image's fewest rows, and the class's own answer about them, in every family.

The reference is the family's own class over the same processed images. That of the tiled LLaVAs
reads from an image's size how many tiles it was given; a canvas without extent makes it one.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

import dyvte
from dyvte import ExitOptions, PromptError, SamplingParams
from dyvte.engine.image_cache import content_key
from dyvte.prompt import IMAGE, Prompt
from tests.e2e.in_process import connected
from tests.e2e.pictures import ask, png
from tests.models.families.everyone import FAMILIES
from tests.models.families.family import Made, picture, token_id
from tests.test_flop_counter import counted

TOKENS = 5
GREEDY = SamplingParams(max_tokens=TOKENS, min_tokens=TOKENS, temperature=0, return_logits=True)
FIRST = SamplingParams(max_tokens=1, temperature=0, return_logits=True)
OFF = ExitOptions(policy="off")
ONE, OTHER = picture(48, 40, 1), picture(30, 50, 2)
NEXT, ONEVISION = "llava_next", "llava_onevision"
LOW_ROWS = {"llava": 9, NEXT: 10, ONEVISION: 10}  # the others have four
Shown = tuple[Image.Image, str]


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    family = request.param
    return Made(family, family.save(tmp_path_factory.mktemp(family.name)))


def asked(made: Made, *shown: Shown) -> Prompt:
    parts = [{"type": "image", "image": image, "detail": detail} for image, detail in shown]
    text = {"type": "text", "text": "what?"}
    return made.model.prompt([{"role": "user", "content": [*parts, text]}])


def images_of(prompt: Prompt) -> dict[str, Any]:
    assert prompt.images is not None
    return dict(prompt.images)


def rows_of(made: Made, *shown: Shown) -> list[int]:
    return made.model.adapter.visual_rows(images_of(asked(made, *shown)))


def as_the_class_takes_it(made: Made, prompt: Prompt) -> dict[str, Any]:
    """The same rows and pixels; only this project counts tiles of images by name."""
    image = token_id(made.family.image_token, made.family.specials)
    rows = made.model.adapter.layout(prompt).token_ids
    ids = torch.tensor([[image if token == IMAGE else token for token in rows]])
    images = {k: v for k, v in images_of(prompt).items() if k not in ("num_tiles", "num_patches")}
    kinds = {"mm_token_type_ids": (ids == image).int()} if "image_grid_thw" in images else {}
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **kinds, **images}


def pixels(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: inputs[name] for name in ("pixel_values", "image_sizes")}


def answers_as_the_class(made: Made, prompt: Prompt) -> None:
    inputs = as_the_class_takes_it(made, prompt)
    expected = made.reference.generate(
        **inputs, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False, pad_token_id=3
    )
    result = dyvte.generate(made.model, prompt, GREEDY, OFF)[0]
    assert result.token_ids == expected[0, inputs["input_ids"].shape[1] :].tolist()
    assert result.logits is not None
    torch.testing.assert_close(result.logits[0], made.logits(inputs)[0], atol=2e-4, rtol=0)


def test_low_is_the_fewest_rows_and_high_and_auto_are_all(made: Made) -> None:
    [low], [high], [auto] = (rows_of(made, (ONE, detail)) for detail in ("low", "high", "auto"))
    assert low == LOW_ROWS.get(made.family.name, 4)
    assert high == auto
    assert low == high if made.family.name == "llava" else low < high


def test_the_image_cache_needs_no_word_of_detail(made: Made) -> None:
    low, high, auto = (
        content_key(images_of(asked(made, (ONE, each)))) for each in ("low", "high", "auto")
    )
    assert high == auto
    assert (low == high) is (made.family.name == "llava")


def test_low_detail_is_the_classes_own_generate(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = asked(made, (ONE, "low"))
    if made.family.name in (NEXT, ONEVISION):
        monkeypatch.setattr(made.reference.config, "image_grid_pinpoints", [[0, 0]])
    answers_as_the_class(made, prompt)


def test_details_of_one_prompt_are_each_images_own(made: Made) -> None:
    mixed = asked(made, (ONE, "low"), (OTHER, "high"), (ONE, "low"))
    [rows] = made.model.adapter.encode_images([images_of(mixed)])
    assert [len(each) for each in rows] == rows_of(
        made, (ONE, "low"), (OTHER, "high"), (ONE, "low")
    )
    for ours, shown in zip(rows, [(ONE, "low"), (OTHER, "high"), (ONE, "low")], strict=True):
        if made.family.name == ONEVISION:  # which tiles no image that is one of several
            shown = (shown[0], "low")
        [[alone]] = made.model.adapter.encode_images([images_of(asked(made, shown))])
        torch.testing.assert_close(ours, alone, atol=2e-5, rtol=0)


def test_a_prompt_of_mixed_details_is_the_classes_own(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LLaVA-NeXT's class takes no such images in one run: it gets its own rows of each."""
    shown = [(ONE, "low"), (OTHER, "high")]
    prompt = asked(made, *shown)
    if made.family.name != NEXT:
        answers_as_the_class(made, prompt)
        return
    inputs = as_the_class_takes_it(made, prompt)
    ids, config = inputs["input_ids"], made.reference.config
    with torch.inference_mode():
        embedded = made.reference.get_input_embeddings()(ids)
        given = [as_the_class_takes_it(made, asked(made, each)) for each in shown]
        [high] = made.reference.get_image_features(**pixels(given[1])).pooler_output
        monkeypatch.setattr(config, "image_grid_pinpoints", [[0, 0]])
        [low] = made.reference.get_image_features(**pixels(given[0])).pooler_output
        embedded[ids == config.image_token_id] = torch.cat([low, high])
        expected = made.reference(inputs_embeds=embedded).logits[0, -1:]
    result = dyvte.generate(made.model, prompt, FIRST, OFF)[0]
    assert result.logits is not None
    torch.testing.assert_close(result.logits, expected, atol=2e-4, rtol=0)


def test_the_flops_of_low_detail_are_what_torch_counts(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In eager attention: torch has no formula for the CPU's flash SDPA."""
    prompt, adapter = asked(made, (ONE, "low"), (OTHER, "high")), made.plain.adapter
    vision = adapter.model.config.vision_config  # type: ignore[attr-defined]
    monkeypatch.setattr(vision, "_attn_implementation", "eager")
    total = counted(lambda: adapter.encode_images([images_of(prompt)]))
    assert adapter.layout(prompt).vision_flops == total > 0


def test_a_batch_of_mixed_details_is_each_alone(made: Made) -> None:
    shown: list[list[Shown]] = [
        [(ONE, "low")],
        [(ONE, "high"), (OTHER, "low")],
        [(ONE, "auto")],
        [(OTHER, "low"), (ONE, "low")],
    ]
    prompts = [asked(made, *each) for each in shown]
    exits = [OFF, ExitOptions(policy="fixed", exit_layer=1), OFF, OFF]
    alone = [
        dyvte.generate(made.model, prompt, GREEDY, each)[0]
        for prompt, each in zip(prompts, exits, strict=True)
    ]
    together = dyvte.generate(made.model, prompts, GREEDY, exits)
    assert [each.token_ids for each in together] == [each.token_ids for each in alone]
    assert [each.tokens_per_layer for each in together] == [each.tokens_per_layer for each in alone]
    assert [each.flops for each in together] == [each.flops for each in alone]


@pytest.mark.anyio
async def test_usage_and_cost_over_http_follow_detail(made: Made) -> None:
    parts = ask("what?", png((48, 40)))
    async with connected(model=str(made.folder), served_model_name="tiny") as client:
        told: dict[str, tuple[int, int, float]] = {}
        for detail in ("low", "high"):
            parts[0]["content"][0]["image_url"]["detail"] = detail
            body = {"model": "tiny", "messages": parts, "max_tokens": 1}
            reply = (await client.post("/v1/chat/completions", json=body)).json()
            rows = reply["usage"]["prompt_tokens_details"]["image_tokens"]
            account = reply["dyvte"]
            told[detail] = rows, account["visual_tokens"], account["flops"]["vision"]
    low, high = told["low"], told["high"]
    assert low[:2] == (LOW_ROWS.get(made.family.name, 4),) * 2
    assert (
        low == high
        if made.family.name == "llava"
        else all(few < many for few, many in zip(low, high, strict=True))
    )


def test_another_word_is_refused_by_name(made: Made) -> None:
    for word in ("tiny", None, 3):
        with pytest.raises(PromptError, match=f"detail {word!r} of an image: use auto, low, high"):
            asked(made, (ONE, word))  # type: ignore[arg-type]
