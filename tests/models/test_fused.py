"""A layer through the CPU kernels against ``transformers``' own, and what is served through it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

import dyvte
from dyvte.kernels import ops
from dyvte.kernels.layer import DecodeLayer
from dyvte.models import fused
from dyvte.models.decoder import DecoderAdapter
from dyvte.models.fused import FusedLayer, Joined
from dyvte.models.linear import PanelLinear
from dyvte.models.workspace import Workspace
from dyvte.offline import Result
from tests import tiny
from tests.models.families import qwen_vl
from tests.models.families.family import CONVERSATIONS, Family

pytestmark = pytest.mark.skipif(not ops.available(), reason="needs a C++ compiler")
PICTURE = Path(__file__).parents[2] / "docs" / "picture.png"


def shake(model: Any) -> None:
    """Biases and norms, which begin as zeros and ones, say something."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bias" in name or "norm" in name:
                parameter += torch.randn_like(parameter) * 0.3


@dataclass(frozen=True)
class Llava:
    """LLaVA over another decoder; ``wide``: projections that can lie side by side."""

    decoder: type[Any]
    settings: dict[str, Any]
    wide: bool

    def save(self, folder: Path) -> Path:
        """Weights and processor."""
        more = {**self.settings, "head_dim": 32 if self.wide else 8}
        shape = tiny.config(self.decoder, **more)
        if self.wide:
            shape.text_config.intermediate_size = 64
        torch.manual_seed(0)
        model = LlavaForConditionalGeneration(shape).eval()
        shake(model)
        model.generation_config.eos_token_id = tiny.EOS
        model.save_pretrained(folder)
        tiny.save_processor(folder)
        return folder


BIASES = {"attention_bias": True, "mlp_bias": True}
MODELS: dict[str, Llava | Family] = {
    "llama": Llava(LlamaConfig, {}, False),
    "llama, wide, with biases": Llava(LlamaConfig, BIASES, True),
    "mistral": Llava(MistralConfig, {}, True),
    "qwen2": Llava(Qwen2Config, {}, False),
    "qwen2, wide": Llava(Qwen2Config, {}, True),
    "qwen3": Llava(Qwen3Config, {}, False),
    **{family.name: replace(family, prepare=shake) for family in qwen_vl.FAMILIES},
}


class Attends:
    """A context that keeps nothing: all rows are one prompt."""

    deepstack = read = None

    def single_runs(self) -> None:
        """None of a cache."""

    def attend(self, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, scale: float) -> Tensor:
        query, keys, values = (x.transpose(0, 1) for x in (q_THD, k_TKD, v_TKD))
        out = F.scaled_dot_product_attention(
            query, keys, values, is_causal=True, scale=scale, enable_gqa=True
        )
        return out.transpose(0, 1)


class Counted:
    """A layer's one call, counted."""

    def __init__(self, decode: DecodeLayer, calls: list[int]) -> None:
        self.decode, self.calls = decode, calls

    def __call__(self, hidden: Tensor, *others: Any) -> Tensor:
        self.calls.append(len(hidden))
        return self.decode(hidden, *others)


def adapter_of(model: dyvte.Model) -> DecoderAdapter:
    assert isinstance(model.adapter, DecoderAdapter)
    return model.adapter


@pytest.mark.parametrize(("dtype", "close"), [("float32", 1e-5), ("bfloat16", 0.04)])
@pytest.mark.parametrize("name", MODELS)
def test_a_fused_layer_is_that_of_transformers(
    name: str, dtype: str, close: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the rows and angles that its model is given in earnest, up to ``close`` of the largest.

    In bfloat16 either is as far from float32, a hundredth or two.
    """
    folder = MODELS[name].save(tmp_path)
    plain = dyvte.load(folder, dtype=dtype, weights="plain")
    own, ours = adapter_of(plain), adapter_of(dyvte.load(folder, dtype=dtype))
    assert all(isinstance(each, FusedLayer) for each in ours._fused)
    run, seen = own.run_layer, []

    def both(layer: int, hidden: Tensor, rotary: Any, context: Any) -> Tensor:
        before = hidden.clone()
        expected = run(layer, hidden, rotary, Attends())
        found = ours.run_layer(layer, hidden, rotary, Attends())
        apart = close * max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(found, expected, atol=apart, rtol=0)
        assert torch.equal(hidden, before)
        seen.append(len(hidden))
        return run(layer, hidden, rotary, context)

    monkeypatch.setattr(own, "run_layer", both)
    prompt = plain.prompt(CONVERSATIONS["one image"])
    dyvte.generate(plain, prompt, dyvte.SamplingParams(max_tokens=2, temperature=0))
    assert len(seen) == 2 * tiny.LAYERS
    assert max(seen) > 20
    assert min(seen) == 1


@pytest.mark.parametrize("name", ["llama", "llama, wide, with biases", "qwen2, wide"])
def test_projections_are_joined_where_their_panels_fit(name: str, tmp_path: Path) -> None:
    adapter = adapter_of(dyvte.load(MODELS[name].save(tmp_path), dtype="float32"))
    for layer in adapter._layers:
        attention, made = layer.self_attn, FusedLayer(layer, Workspace())
        linears = (attention.q_proj, attention.k_proj, attention.v_proj)
        fits = not any(each.out_features % ops.panel() for each in linears)
        assert (made.query_key_value.panels is not None) == fits
        assert (made.decode is not None) == fits
        assert fits or "wide" not in name


@pytest.mark.parametrize(
    "name", [name for name in MODELS if "wide" in name or name not in ("llama", "mistral", "qwen2")]
)
def test_a_decode_step_in_one_call_has_the_bits_of_many(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = dyvte.load(MODELS[name].save(tmp_path), dtype="float32")
    layers = [each for each in adapter_of(model)._fused if isinstance(each, FusedLayer)]
    assert len(layers) == tiny.LAYERS
    prompts = [model.prompt(CONVERSATIONS[each]) for each in ("one image", "text only")]
    asked = dyvte.SamplingParams(max_tokens=6, temperature=0, ignore_eos=True, return_logits=True)

    def logits() -> list[Tensor]:
        found = [each.logits for each in dyvte.generate(model, prompts, asked)]
        return [each for each in found if each is not None]

    calls: list[int] = []
    single = [each.decode for each in layers if each.decode is not None]
    for each in layers:
        if each.decode is not None:
            monkeypatch.setattr(each, "decode", Counted(each.decode, calls))
    found = logits()
    assert len(calls) == 5 * len(single)
    for each in layers:
        monkeypatch.setattr(each, "decode", None)
    assert all(map(torch.equal, found, logits()))
    assert len(calls) == 5 * len(single)
    assert single or "wide" not in name


def panel_linear(outputs: int, bias: bool, dtype: torch.dtype = torch.bfloat16) -> PanelLinear:
    linear = nn.Linear(24, outputs, bias=bias)
    with torch.no_grad():
        linear.weight.copy_(linear.weight.to(dtype))
    return PanelLinear(linear)


@pytest.mark.parametrize(
    ("make", "fits"),
    [
        (lambda p: [panel_linear(2 * p, True), panel_linear(p, False)], True),
        (lambda p: [panel_linear(2 * p, False), panel_linear(p, False)], True),
        (lambda p: [panel_linear(p, True), panel_linear(p + 1, True)], False),
        (lambda p: [panel_linear(p, True), panel_linear(p, True, torch.float32)], False),
    ],
    ids=["one has a bias", "no bias", "half a panel", "two types"],
)
@torch.inference_mode()
def test_joined_products_are_each_one_s_bits_over_memory_held_once(
    make: Callable[[int], list[PanelLinear]], fits: bool
) -> None:
    torch.manual_seed(0)
    linears, rows = make(ops.panel()), torch.randn(5, 24)
    dense = [each.to_dense().clone() for each in linears]
    expected = torch.cat([each(rows) for each in linears], 1)
    joined = Joined(*linears)
    assert (joined.panels is not None) == fits
    assert torch.equal(torch.cat(joined(rows), 1), expected)
    assert torch.equal(torch.cat([each(rows) for each in linears], 1), expected)
    for each, before in zip(linears, dense, strict=True):
        assert torch.equal(each.to_dense(), before)
    places = {each.weight.untyped_storage().data_ptr() for each in linears}
    if joined.panels is not None:
        assert places == {joined.panels.data.untyped_storage().data_ptr()}


def test_layers_of_another_kind_and_other_activations_run_as_they_are(tmp_path: Path) -> None:
    folder = Llava(LlamaConfig, {"hidden_act": "gelu"}, False).save(tmp_path)
    adapter = adapter_of(dyvte.load(folder, dtype="float32"))
    assert adapter._fused == [None] * tiny.LAYERS
    layer = adapter._layers[0]
    layer.mlp.act_fn = nn.SiLU()
    assert fused.layer(layer, torch.float32, Workspace()) is not None
    assert fused.layer(layer, torch.bfloat16, Workspace()) is None  # its norms are not
    other = type("OtherLayer", (nn.Module,), {"mlp": layer.mlp})()
    assert fused.layer(other, torch.float32, Workspace()) is None


def test_plain_weights_run_the_model_s_own_layers(plain_model: dyvte.Model) -> None:
    adapter = adapter_of(plain_model)
    assert adapter._fused == [None] * tiny.LAYERS
    assert not any(isinstance(each, PanelLinear) for each in adapter.model.modules())


EXITS: dict[str, Any] = {
    "off": {"policy": "off"},
    "gate": {"policy": "gate"},
    "fixed": {"policy": "fixed", "exit_layer": 1},
    "pruned": {"policy": "off", "prune": {"method": "fastv", "layer": 1, "ratio": 0.5}},
}
GREEDY = dyvte.SamplingParams(max_tokens=8, temperature=0, ignore_eos=True, return_logits=True)


def same(found: list[Result], expected: list[Result]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.token_ids == other.token_ids
        assert one.exit_layer == other.exit_layer
        assert one.kv_tokens_per_layer == other.kv_tokens_per_layer
        torch.testing.assert_close(one.logits, other.logits, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("exits", EXITS)
def test_a_tiny_model_answers_and_exits_as_plain_does(
    exits: str, tiny_model: dyvte.Model, plain_model: dyvte.Model
) -> None:
    prompts = [tiny.prompt(seed, images=seed % 3, after=2 + 5 * seed) for seed in range(6)]
    found = dyvte.generate(tiny_model, prompts, GREEDY, EXITS[exits])
    same(found, dyvte.generate(plain_model, prompts, GREEDY, EXITS[exits]))


def test_the_demo_model_answers_and_exits_as_plain_does() -> None:
    found = []
    for weights in ("auto", "plain"):
        model = dyvte.load("demo", dtype="float32", device="cpu", weights=weights)
        asked = ("What color is the circle?", "How many shapes are there?")
        content = [
            [{"type": "image", "image": Image.open(PICTURE)}, {"type": "text", "text": text}]
            for text in asked
        ]
        prompts = [model.prompt([{"role": "user", "content": each}]) for each in content]
        sampling = replace(GREEDY, ignore_eos=False)
        answers = [dyvte.generate(model, prompts, sampling, {"policy": p}) for p in ("gate", "off")]
        found.append([each for both in answers for each in both])
    same(*found)
    assert any(each.exit_layer is not None for each in found[0])


def test_rows_have_the_same_bits_alone_and_in_any_batch(tiny_model: dyvte.Model) -> None:
    """Logits of prompts without pictures (a tower's rows go through torch), beside any others."""
    prompts = [tiny.prompt(seed, images=seed % 2, after=2 + 9 * seed) for seed in range(7)]
    off = EXITS["off"]
    alone = [dyvte.generate(tiny_model, each, GREEDY, off)[0].logits for each in prompts]

    @settings(max_examples=12)
    @given(chosen=st.lists(st.integers(0, len(prompts) - 1), min_size=2, max_size=8))
    def together(chosen: list[int]) -> None:
        batch = dyvte.generate(tiny_model, [prompts[i] for i in chosen], GREEDY, off)
        for index, result in zip(chosen, batch, strict=True):
            found, expected = result.logits, alone[index]
            assert found is not None
            assert expected is not None
            if index % 2 == 0:
                assert torch.equal(found, expected)
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)

    together()
