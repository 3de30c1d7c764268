"""Claims that hold for every native family, each on a tiny random model of it.

The reference is the family's own class, fed by the family's own processor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
import pytest
import torch

import dyvte
from dyvte import ExitOptions, SamplingParams
from dyvte.engine.build import EngineConfig
from dyvte.exits.policy import Fixed, Gate, Off, Policy
from dyvte.prompt import IMAGE
from server.__main__ import open_engine
from server.app import create_app
from server.settings import Settings
from tests import tiny
from tests.e2e.pictures import ask, png
from tests.models.families.everyone import FAMILIES
from tests.models.families.family import CONVERSATIONS, EOS, PICTURED, PLAIN, Made, picture, says
from tests.test_flop_counter import counted
from tests.test_forward import Bench

TOKENS = 6
GREEDY = SamplingParams(max_tokens=TOKENS, min_tokens=TOKENS, temperature=0, return_logits=True)
TOLERANCE = 2e-4
LAYERS = range(tiny.LAYERS)


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    family = request.param
    return Made(family, family.save(tmp_path_factory.mktemp(family.name)))


def answer(made: Made, name: str, **exits: Any) -> dyvte.Result:
    prompt = made.model.prompt(CONVERSATIONS[name])
    return dyvte.generate(made.model, prompt, GREEDY, ExitOptions(**exits))[0]


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_prompts_are_those_of_the_familys_own_processor(name: str, made: Made) -> None:
    messages = CONVERSATIONS[name]
    assert made.expanded(messages) == made.inputs(messages)["input_ids"][0].tolist()


def test_specials_that_a_user_types_stay_text(made: Made) -> None:
    specials = made.family.specials.values()
    typed = says("user", picture(40, 30), f"a {' '.join(specials)}</s>?")
    plain = says("user", picture(40, 30), "a ?")
    theirs, ours = ([*made.model.prompt([each]).token_ids] for each in (typed, plain))
    added = list(range(len(PLAIN) + len(specials)))
    assert [i for i in theirs if i in (*added, IMAGE)] == [i for i in ours if i in (*added, IMAGE)]
    assert len(theirs) == len(ours) + len("".join(specials)) + len(specials) - 1 + len("</s>")


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_no_exit_is_the_classes_own_generate(name: str, made: Made) -> None:
    result = answer(made, name, policy="off")
    inputs = made.inputs(CONVERSATIONS[name])
    expected = made.reference.generate(
        **inputs, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False, pad_token_id=3
    )
    assert result.token_ids == expected[0, inputs["input_ids"].shape[1] :].tolist()
    assert result.logits is not None
    torch.testing.assert_close(result.logits[0], made.logits(inputs)[0], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", PICTURED)
def test_an_exit_is_the_class_with_visual_keys_masked_behind_it(
    name: str, layer: int, made: Made
) -> None:
    """Prefill and every decode step, against one run over the whole sequence."""
    result = answer(made, name, policy="fixed", exit_layer=layer)
    inputs = made.inputs(CONVERSATIONS[name])
    expected = made.logits(inputs, result.token_ids[:-1], exit_layer=layer)
    assert result.exit_layer == layer
    assert result.logits is not None
    # Where min_tokens forbids the end of sequence our logits say so; the class was not told.
    allowed = torch.arange(expected.shape[1]) != EOS
    torch.testing.assert_close(
        result.logits[:, allowed], expected[:, allowed], atol=TOLERANCE, rtol=0
    )


@pytest.mark.parametrize("name", PICTURED)
def test_an_early_exit_changes_the_logits(name: str, made: Made) -> None:
    """Else the tests above would say nothing."""
    inputs = made.inputs(CONVERSATIONS[name])
    whole, cut = made.logits(inputs), made.logits(inputs, exit_layer=0)
    assert float((whole - cut).abs().max()) > 100 * TOLERANCE


MIXED: list[tuple[str, dict[str, Any]]] = [
    ("one image", {"policy": "off"}),
    ("two images", {"policy": "fixed", "exit_layer": 0}),
    ("text only", {"policy": "off"}),
    ("two turns", {"policy": "gate", "aggressiveness": 0.5}),
    ("two images", {"policy": "gate", "aggressiveness": 0.4}),
    ("one image", {"policy": "fixed", "exit_layer": 2}),
]


def test_a_mixed_batch_is_each_alone(made: Made) -> None:
    """In steps so small that prefills run beside the decodes of those that came before."""
    prompts = [made.model.prompt(CONVERSATIONS[name]) for name, _ in MIXED]
    exits = [ExitOptions(**options) for _, options in MIXED]
    alone = [
        dyvte.generate(made.model, prompt, GREEDY, each)[0]
        for prompt, each in zip(prompts, exits, strict=True)
    ]
    for config in (EngineConfig(), EngineConfig(max_step_rows=128, page_size=16)):
        together = dyvte.generate(made.model, prompts, GREEDY, exits, config=config)
        assert [each.token_ids for each in together] == [each.token_ids for each in alone]
        assert [each.exit_layer for each in together] == [each.exit_layer for each in alone]


def test_images_of_several_prompts_are_encoded_in_one_run_as_one_by_one(made: Made) -> None:
    images = [made.model.prompt(CONVERSATIONS[name]).images for name in PICTURED]
    given = [each for each in images if each is not None]
    together = made.model.adapter.encode_images(given)
    for each, rows in zip(given, together, strict=True):
        [alone] = made.model.adapter.encode_images([each])
        assert [len(image) for image in rows] == made.model.adapter.visual_rows(each)
        for ours, theirs in zip(rows, alone, strict=True):
            torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", PICTURED)
def test_images_encoded_in_parts_are_the_images_whole(name: str, made: Made) -> None:
    adapter, images = made.model.adapter, made.model.prompt(CONVERSATIONS[name]).images
    assert images is not None
    parts = adapter.split_images(images)
    assert sum(map(adapter.vision_flops, parts)) == adapter.vision_flops(images)
    joined = adapter.join_images(images, [adapter.encode_images([part])[0] for part in parts])
    [whole] = adapter.encode_images([images])
    for ours, theirs in zip(joined, whole, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    "policy", [Off(), Fixed(0), Fixed(2), Gate(0.5, frozenset(LAYERS))], ids=repr
)
def test_lengths_of_the_cache_are_the_trace(policy: Policy, made: Made) -> None:
    bench = Bench(made.model)
    prompts = [made.model.prompt(messages) for messages in CONVERSATIONS.values()]
    out = bench.run(bench.prefill(prompts), [policy] * len(prompts))
    for seq, (trace, layout) in enumerate(zip(out.traces, bench.layouts, strict=True)):
        text = layout.rows - layout.visual_rows
        stays = tiny.LAYERS if trace.exit_layer is None else trace.exit_layer + 1
        expected = [layout.rows if layer < stays else text for layer in LAYERS]
        assert trace.tokens_per_layer == bench.cache.lengths(seq) == expected


@pytest.mark.parametrize("name", PICTURED)
def test_vision_flops_are_what_torch_counts(name: str, made: Made) -> None:
    """In eager attention: torch has no formula for the CPU's flash SDPA, nor for our kernels."""
    prompt = made.model.prompt(CONVERSATIONS[name])
    adapter: Any = made.plain.adapter
    vision = adapter.model.config.vision_config
    before, vision._attn_implementation = vision._attn_implementation, "eager"
    try:
        total = counted(lambda: adapter.encode_images([prompt.images]))
    finally:
        vision._attn_implementation = before
    assert adapter.layout(prompt).vision_flops == total > 0


@pytest.mark.anyio
async def test_a_picture_is_answered_over_http_with_the_folders_gates(made: Made) -> None:
    given = {"model": str(made.folder), "device": "cpu", "dtype": "float32"}
    settings = Settings.model_validate(given | {"served_model_name": "tiny"})
    app = create_app(settings, lambda: open_engine(settings))
    transport = httpx.ASGITransport(app)
    body: Mapping[str, Any] = {
        "model": "tiny",
        "messages": ask("what is it?", png((50, 30))),
        "max_tokens": 4,
        "temperature": 0,
        "ignore_eos": True,
        "dyvte": {"policy": "gate", "aggressiveness": 1.0, "min_layer": 1},
    }
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        await app.state.loading
        reply = await client.post("/v1/chat/completions", json=body)
    assert reply.status_code == 200, reply.text
    account = reply.json()["dyvte"]
    assert account["exit_layer"] == 1
    assert account["visual_tokens"] > 0
    assert account["flops"]["saved"] > 0
