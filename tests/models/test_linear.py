"""The forms of linear layers against ``nn.Linear``, by themselves and inside a served model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import LlavaForConditionalGeneration

import dyvte
from dyvte import cpu
from dyvte.attention import SdpaAttention, register
from dyvte.errors import OptionError
from dyvte.exits.policy import Off
from dyvte.forward import forward
from dyvte.kernels import ops
from dyvte.kv_cache import RunCache
from dyvte.models import linear as forms
from dyvte.models.adapter import ModelAdapter
from dyvte.models.families.llava import LlavaAdapter
from dyvte.models.linear import Int8Linear, PackedLinear, PanelLinear, RowsLinear, prepare
from dyvte.models.parts import origin_of, parameters_by_part
from dyvte.models.vision import tower
from dyvte.packing import pack
from dyvte.pages import PageLedger
from tests import tiny

needs_int8 = pytest.mark.skipif(not cpu.computes_int8(), reason="needs a CPU with VNNI or AMX")
needs_kernels = pytest.mark.skipif(not ops.available(), reason="needs a C++ compiler")
ROWS = (1, 2, 3, 4, 5, 16, 44, 319, 320, 321, 400)


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def linear(inputs: int, outputs: int, bias: bool, dtype: torch.dtype = torch.float32) -> nn.Linear:
    torch.manual_seed(inputs)
    return nn.Linear(inputs, outputs, bias=bias).to(dtype)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", ROWS)
def test_float32_by_rows_is_the_plain_product(rows: int, bias: bool) -> None:
    plain = linear(96, 130, bias)
    hidden = torch.randn(1, rows, 96)
    torch.testing.assert_close(RowsLinear(plain)(hidden), plain(hidden), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", ROWS)
def test_packed_bfloat16_is_the_plain_product(rows: int, bias: bool) -> None:
    plain = linear(96, 130, bias, torch.bfloat16)
    hidden = torch.randn(1, rows, 96, dtype=torch.bfloat16)
    torch.testing.assert_close(PackedLinear(plain)(hidden), plain(hidden), atol=0.02, rtol=0.02)


@needs_int8
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", ROWS)
def test_int8_is_the_product_of_what_was_rounded(rows: int, dtype: torch.dtype) -> None:
    plain = linear(96, 130, True, dtype)
    hidden = torch.randn(2, rows, 96).to(dtype)
    rounded = [
        (whole.double() * scale.double()).reshape(like.shape)
        for like in (hidden, plain.weight)
        for whole, scale in [forms.quantize(like.float().reshape(-1, 96))]
    ]
    expected = rounded[0] @ rounded[1].T + plain.bias.double()
    out = Int8Linear(plain)(hidden)
    assert out.dtype == dtype
    close = 1e-5 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(out.double(), expected, atol=close, rtol=close)
    exact = plain.double()(hidden.double())
    assert (out.double() - exact).abs().max() < 0.1 * exact.std()


def test_quantize_reaches_127_in_every_row_and_bears_rows_of_zeros() -> None:
    whole, scale = forms.quantize(torch.tensor([[1.0, -4.0, 2.0], [0.0, 0.0, 0.0]]))
    assert whole.tolist() == [[32, -127, 64], [0, 0, 0]]
    torch.testing.assert_close(scale[0, 0], torch.tensor(4.0 / 127))


@needs_int8
@settings(deadline=None, max_examples=30)
@given(rows=st.integers(1, 90), start=st.integers(0, 89), seed=st.integers(0, 9))
def test_an_int8_row_has_the_same_bits_in_any_company(rows: int, start: int, seed: int) -> None:
    product = Int8Linear(linear(64, 48, True))
    hidden = torch.randn(90, 64, generator=torch.Generator().manual_seed(seed)) * (1 + seed)
    part = slice(min(start, 90 - rows), min(start, 90 - rows) + rows)
    assert torch.equal(product(hidden[part]), product(hidden)[part])


def test_float32_by_rows_takes_gradients() -> None:
    with torch.inference_mode(False):
        product = RowsLinear(linear(8, 8, False))
        product(torch.randn(16, 8)).sum().backward()
        assert product.weight.grad is not None


@needs_kernels
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", ROWS)
def test_float32_in_panels_is_the_plain_product(rows: int, bias: bool) -> None:
    plain = linear(96, 130, bias)
    hidden = torch.randn(1, rows, 96)
    product = PanelLinear(plain)
    torch.testing.assert_close(product(hidden), plain(hidden), atol=1e-5, rtol=1e-5)
    assert torch.equal(product.to_dense(), plain.weight)


@needs_kernels
def test_panels_pass_gradients_on_to_the_rows() -> None:
    with torch.inference_mode(False):
        plain = linear(96, 130, True)
        product, found = PanelLinear(plain), torch.randn(2, 5, 96, requires_grad=True)
        expected = found.detach().clone().requires_grad_()
        product(found).square().sum().backward()
        plain(expected).square().sum().backward()
        assert found.grad is not None
        torch.testing.assert_close(found.grad, expected.grad, atol=1e-4, rtol=1e-5)
        assert not product.weight.requires_grad


def adapter(folder: Path, dtype: torch.dtype) -> LlavaAdapter:
    model = LlavaForConditionalGeneration.from_pretrained(
        folder, dtype=dtype, attn_implementation=register()
    )
    return LlavaAdapter(model.eval())


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU that has it all but kernels of ours, and for models of any size."""
    monkeypatch.setattr(forms, "SMALLEST", 0)
    monkeypatch.setattr(cpu, "has_avx512", lambda: True)
    monkeypatch.setattr(cpu, "computes_bf16", lambda: True)
    monkeypatch.setattr(ops, "available", lambda: False)


def logits(model: ModelAdapter, rows: int) -> torch.Tensor:
    """Of one prompt of text, through the layer loop."""
    shape = model.decoder
    cache = RunCache(
        PageLedger(64, 64, shape.num_layers), shape.num_kv_heads, shape.head_dim, model.dtype
    )
    cache.ledger.reserve(0, rows)
    layout = model.layout(tiny.prompt(1, images=0, before=rows - 5))
    return forward(model, pack([model.part(0, layout, [])]), cache, [Off()], SdpaAttention()).logits


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize(
    ("weights", "dtype", "form", "close"),
    [
        ("auto", torch.float32, RowsLinear, 3e-5),
        ("auto", torch.bfloat16, PackedLinear, 0.15),
        pytest.param("int8", torch.float32, Int8Linear, 2.0, marks=needs_int8),
    ],
)
def test_a_prepared_model_computes_what_it_did(
    weights: str, dtype: torch.dtype, form: type[nn.Module], close: float, tiny_folder: Path
) -> None:
    model = adapter(tiny_folder, dtype)
    before = [logits(model, rows) for rows in (5, 40)]
    prepare(model, weights)
    layers = model.model.model.language_model.layers
    kinds = {type(each) for each in layers.modules() if hasattr(each, "in_features")}
    assert kinds == {form}
    for expected, rows in zip(before, (5, 40), strict=True):
        torch.testing.assert_close(logits(model, rows), expected, atol=close, rtol=0.02)


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_exact_forms_keep_bytes_parts_and_origin(dtype: torch.dtype, tiny_folder: Path) -> None:
    model = adapter(tiny_folder, dtype)
    facts = [model.parameter_bytes(), parameters_by_part(model), origin_of(model, "tiny")]
    names = [name for name, _ in model.model.named_parameters()]
    prepare(model)
    assert facts == [model.parameter_bytes(), parameters_by_part(model), origin_of(model, "tiny")]
    assert names == [name for name, _ in model.model.named_parameters()]


@pytest.mark.usefixtures("everywhere")
def test_a_head_that_shares_the_embedding_goes_on_sharing_it(tiny_folder: Path) -> None:
    model = adapter(tiny_folder, torch.bfloat16)
    head = model.model.lm_head
    head.weight = model.model.model.language_model.embed_tokens.weight
    prepare(model)
    assert model.model.lm_head is head
    assert logits(model, 9).shape == (1, tiny.VOCAB)


def in_16_bit(model: LlavaAdapter, dtype: torch.dtype) -> None:
    """As loaded in float32 from a checkpoint in ``dtype``; panels of it without a rest."""
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.copy_(parameter.to(dtype))


@pytest.fixture(scope="module")
def even_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose outputs come in whole panels of any processor."""
    shape = tiny.config(head_dim=32)
    shape.text_config.intermediate_size, shape.text_config.vocab_size = 64, 288
    shape.vision_config.hidden_size, shape.vision_config.intermediate_size = 32, 64
    folder = tmp_path_factory.mktemp("even")
    tiny.save_model(folder, shape)
    return folder


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_16_bit_checkpoint_stays_16_bit_in_a_float32_model(
    dtype: torch.dtype, even_folder: Path
) -> None:
    model = adapter(even_folder, torch.float32)
    in_16_bit(model, dtype)
    before, expected = model.decoder_bytes(), logits(model, 9)
    whole = model.parameter_bytes()
    norms = (2 * tiny.LAYERS + 1) * tiny.HIDDEN * 4
    multiplied = [*(each.weight for each in model.linears()), *tower.weights(model.model)]
    halved = sum(weight.numel() * 2 for weight in multiplied)
    prepare(model)
    assert isinstance(model.model.lm_head, PanelLinear)
    assert model.decoder_bytes() - norms == (before - norms) / 2
    assert whole - model.parameter_bytes() == halved
    torch.testing.assert_close(logits(model, 9), expected, atol=3e-5, rtol=1e-5)


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_panels_keep_parts_origin_names_and_a_float32_checkpoint_s_bytes(
    dtype: torch.dtype, even_folder: Path
) -> None:
    model = adapter(even_folder, torch.float32)
    in_16_bit(model, dtype)
    facts = [parameters_by_part(model), origin_of(model, "tiny")]
    names = [name for name, _ in model.model.named_parameters()]
    size = model.parameter_bytes()
    prepare(model)
    assert facts == [parameters_by_part(model), origin_of(model, "tiny")]
    assert names == [name for name, _ in model.model.named_parameters()]
    assert (model.parameter_bytes() == size) == (dtype == torch.float32)


@pytest.mark.skipif(not ops.available(), reason="needs a C++ compiler")
def test_a_head_that_shares_the_embedding_is_copied_into_panels(tiny_folder: Path) -> None:
    model = adapter(tiny_folder, torch.float32)
    embedding = model.model.model.language_model.embed_tokens
    model.model.lm_head.weight = embedding.weight
    before, expected = model.parameter_bytes(), logits(model, 9)
    prepare(model)
    assert model.model.lm_head.weight is embedding.weight
    copied = model.parameter_bytes() - before
    assert copied >= embedding.weight.numel() * 4
    torch.testing.assert_close(logits(model, 9), expected, atol=3e-5, rtol=1e-5)


@needs_int8
def test_int8_rounds_neither_head_nor_tower(tiny_folder: Path) -> None:
    model = adapter(tiny_folder, torch.float32)
    prepare(model, "int8")
    assert not isinstance(model.model.lm_head, Int8Linear)
    kinds = {type(each) for each in model.model.model.vision_tower.modules()}
    assert kinds & {nn.Linear, PanelLinear}
    assert Int8Linear not in kinds


@needs_int8
def test_int8_is_smaller_and_tells_no_origin(even_folder: Path) -> None:
    model = adapter(even_folder, torch.float32)
    before = model.parameter_bytes(), model.decoder_bytes()
    prepare(model, "int8")
    assert model.decoder_bytes() < 0.6 * before[1]
    assert before[0] - model.parameter_bytes() == before[1] - model.decoder_bytes()
    assert origin_of(model, "tiny") is None


def test_plain_is_left_alone(tiny_folder: Path) -> None:
    model = dyvte.load(tiny_folder, dtype="float32", weights="plain").adapter
    assert isinstance(model, LlavaAdapter)
    kinds = {type(each) for each in model.model.modules()}
    assert nn.Linear in kinds
    assert not kinds & {PanelLinear, RowsLinear, PackedLinear, Int8Linear}


def test_forms_that_cannot_be_had_are_refused(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OptionError, match="'int4' is none of auto, plain, int8"):
        dyvte.load(tiny_folder, weights="int4")
    monkeypatch.setattr(cpu, "computes_int8", lambda: False)
    with pytest.raises(OptionError, match="needs a CPU with VNNI"):
        dyvte.load(tiny_folder, device="cpu", weights="int8")


FORMS = ["auto", pytest.param("int8", marks=needs_int8)]


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("weights", FORMS)
def test_prompts_get_the_same_tokens_and_exits_alone_and_in_any_batch(
    weights: str, tiny_folder: Path
) -> None:
    model = dyvte.load(tiny_folder, dtype="float32", weights=weights)
    prompts = [tiny.prompt(seed, images=seed % 3, after=2 + 7 * seed) for seed in range(7)]
    sampling = dyvte.SamplingParams(max_tokens=6, temperature=0, ignore_eos=True)
    alone = [dyvte.generate(model, each, sampling, {"policy": "gate"})[0] for each in prompts]

    @settings(deadline=None, max_examples=12)
    @given(chosen=st.lists(st.integers(0, len(prompts) - 1), min_size=2, max_size=7))
    def together(chosen: list[int]) -> None:
        batch = dyvte.generate(model, [prompts[i] for i in chosen], sampling, {"policy": "gate"})
        for index, result in zip(chosen, batch, strict=True):
            assert result.token_ids == alone[index].token_ids
            assert result.exit_layer == alone[index].exit_layer

    together()
