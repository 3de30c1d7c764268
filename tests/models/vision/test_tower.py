"""Towers and projectors through the CPU kernels against ``transformers``' own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    InternVLVisionConfig,
    InternVLVisionModel,
    LlavaForConditionalGeneration,
    SiglipVisionConfig,
    SiglipVisionModel,
)

import dyvte
from dyvte.kernels import ops
from dyvte.models.decoder import DecoderAdapter
from dyvte.models.families.vila import DownsampleProjector
from dyvte.models.linear import PanelLinear, bytes_to_hold
from dyvte.models.parts import origin_of, parameters_by_part
from dyvte.models.vision import encoder, tower
from dyvte.models.vision.tower import FusedTower
from tests import tiny
from tests.models.families import qwen_vl
from tests.models.families.everyone import FAMILIES
from tests.models.test_fused import shake

pytestmark = pytest.mark.skipif(not ops.available(), reason="needs a C++ compiler")

SHAPE = {"num_hidden_layers": 3, "image_size": 15, "patch_size": 4}  # an edge that no patch sees
NARROW = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, **SHAPE}
WIDE = {"hidden_size": 96, "intermediate_size": 128, "num_attention_heads": 3, **SHAPE}
INTERN = {"initializer_range": 0.25, "image_size": 16, "layer_scale_init_value": 0.7}

Make = Callable[[], Any]
TOWERS: dict[str, Make] = {
    "clip": lambda: CLIPVisionModel(CLIPVisionConfig(**NARROW)),
    "clip, wide": lambda: CLIPVisionModel(CLIPVisionConfig(**WIDE)),
    "clip with gelu": lambda: CLIPVisionModel(CLIPVisionConfig(**WIDE, hidden_act="gelu")),
    "siglip": lambda: SiglipVisionModel(SiglipVisionConfig(**NARROW)),
    "siglip, wide": lambda: SiglipVisionModel(SiglipVisionConfig(**WIDE)),
    "internvit": lambda: InternVLVisionModel(InternVLVisionConfig(**(WIDE | INTERN))),
    "internvit 6b": lambda: InternVLVisionModel(
        InternVLVisionConfig(**(WIDE | INTERN), use_qk_norm=True, norm_type="rms_norm")
    ),
    "internvit with biases": lambda: InternVLVisionModel(
        InternVLVisionConfig(**(NARROW | INTERN), attention_bias=True)
    ),
}


QWEN = {family.name for family in qwen_vl.FAMILIES}


class Holder(nn.Module):
    """What families hold a tower in."""

    def __init__(self, held: Any) -> None:
        super().__init__()
        self.vision_tower = held


def both(name: str) -> tuple[Any, Any]:
    """``transformers``' tower, and what is put in its place."""
    torch.manual_seed(0)
    plain = TOWERS[name]().eval()
    shake(plain)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.copy_(parameter.bfloat16())
    holder = Holder(deepcopy(plain))
    tower.replace(holder, PanelLinear)
    assert isinstance(holder.vision_tower, FusedTower)
    return plain, holder.vision_tower


def close(found: Tensor, expected: Tensor, exact: Tensor) -> None:
    """About as far from double precision as ``transformers`` is."""
    apart = (expected - exact).abs().max() * 4 + exact.abs().max() * 1e-6
    assert (found - exact).abs().max() < apart


def pictures(plain: Any, count: int) -> Tensor:
    side = plain.config.image_size
    shape = (side, side) if isinstance(side, int) else side
    return torch.randn(count, 3, *shape, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("asked", [True, -1, -2, 1, [0], [1, -1], [-2, 1], [-4]])
@pytest.mark.parametrize("name", TOWERS)
@torch.inference_mode()
def test_the_states_asked_for_are_those_of_transformers(name: str, asked: Any) -> None:
    plain, ours = both(name)
    double = deepcopy(plain).double()
    for count in (1, 3):
        pixels = pictures(plain, count)
        given = pixels.clone()
        expected = plain(pixels, output_hidden_states=asked)
        exact = double(pixels.double(), output_hidden_states=asked)
        found = ours(pixels, output_hidden_states=asked)
        states = found.hidden_states, expected.hidden_states, exact.hidden_states
        assert [*map(len, states)] == [4, 4, 4]
        for state, own, best in zip(*states, strict=True):
            assert (state is None) == (own is None)
            if state is not None:
                close(state, own, best)
        if found.hidden_states[-1] is not None:
            close(*(each.last_hidden_state for each in (found, expected, exact)))
        assert torch.equal(pixels, given)


@pytest.mark.parametrize("name", TOWERS)
@torch.inference_mode()
def test_a_picture_has_the_same_bits_alone_and_beside_others(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where its rows go through an MLP in several blocks, or some beside another's."""
    plain, ours = both(name)
    pixels = pictures(plain, 5)
    alone = [ours(each[None], output_hidden_states=True).hidden_states for each in pixels]
    for rows in (encoder.BLOCK_ROWS, 13):
        monkeypatch.setattr(encoder, "BLOCK_ROWS", rows)
        for chosen in ([0, 1, 2, 3, 4], [3, 1], [2, 2, 0]):
            together = ours(pixels[chosen], output_hidden_states=True).hidden_states
            for level, states in enumerate(together):
                for index, state in zip(chosen, states, strict=True):
                    assert torch.equal(state, alone[index][level][0])


@torch.inference_mode()
def test_what_a_run_gave_stays_when_the_next_is_computed_in_the_same_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dyvte.models.workspace.LEAST", 0)
    plain, ours = both("clip, wide")
    first = ours(pictures(plain, 2), output_hidden_states=True).hidden_states
    kept = [each.clone() for each in first]
    ours(pictures(plain, 3), output_hidden_states=True)
    assert all(map(torch.equal, first, kept))


@torch.inference_mode()
def test_layers_behind_the_deepest_state_asked_for_are_not_run() -> None:
    plain, ours = both("clip")
    ran: list[int] = []
    for index in range(3):
        ours._run[index] = lambda *_, index=index: ran.append(index)
    for asked, expected in ((-2, [0, 1]), ([1, 0], [0]), ([0], []), (True, [0, 1, 2])):
        ran.clear()
        ours(pictures(plain, 1), output_hidden_states=asked)
        assert ran == expected


def test_a_tower_that_is_not_known_is_left_as_it_is() -> None:
    changed = CLIPVisionModel(CLIPVisionConfig(**NARROW, hidden_act="relu"))
    for each in (changed, CLIPVisionModel(CLIPVisionConfig(**NARROW)).bfloat16()):
        holder = Holder(each)
        assert [*tower.weights(holder)] == []
        tower.replace(holder, PanelLinear)
        assert holder.vision_tower is each
        assert not any(isinstance(module, PanelLinear) for module in each.modules())


@pytest.mark.parametrize("order", ["rows", "columns"])
@torch.inference_mode()
def test_vila_s_projector_is_computed_as_it_was(order: str) -> None:
    torch.manual_seed(0)
    model = nn.Module()
    model.mm_projector = DownsampleProjector(16, 40, order)
    features = torch.randn(2, 25, 16)
    expected = model.mm_projector(features)
    tower.replace(model, PanelLinear)
    assert sum(isinstance(each, PanelLinear) for each in model.mm_projector.modules()) == 2
    torch.testing.assert_close(model.mm_projector(features), expected, atol=2e-6, rtol=1e-5)


def test_gradients_pass_an_activation_in_the_product() -> None:
    rows = torch.randn(5, 24, requires_grad=True)
    for name in ops.ACTIVATIONS:
        made = PanelLinear(nn.Linear(24, 20), name)
        made(rows).sum().backward()
        assert rows.grad is not None
        with torch.no_grad():
            torch.testing.assert_close(made(rows.detach()), made(rows), atol=1e-5, rtol=1e-5)


def adapter_of(folder: Path, weights: str) -> DecoderAdapter:
    found = dyvte.load(folder, device="cpu", dtype="float32", weights=weights).adapter
    assert isinstance(found, DecoderAdapter)
    return found


def llava_folder(
    folder: Path, levels: int | Sequence[int], strategy: str = "default", layers: int = 2
) -> Path:
    """LLaVA that reads some levels of its tower."""
    shape = tiny.config()
    shape.vision_feature_layer, shape.vision_feature_select_strategy = levels, strategy
    shape.vision_config.num_hidden_layers = layers
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(shape).eval()
    shake(model)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("strategy", ["default", "full"])
@pytest.mark.parametrize("levels", [-1, -2, 0, 1, [-2, 1, 3], [3, -1], [-1, -1]])
def test_llava_s_images_are_encoded_as_by_transformers(
    levels: Any, strategy: str, tmp_path: Path
) -> None:
    folder = llava_folder(tmp_path, levels, strategy, layers=4)
    plain, ours = (adapter_of(folder, weights) for weights in ("plain", "auto"))
    images = [{"pixel_values": torch.randn(n, 3, tiny.SIDE, tiny.SIDE)} for n in (2, 0, 1)]
    expected, found = plain.encode_images(images), ours.encode_images(images)
    assert [len(each) for each in found] == [2, 0, 1]
    for rows, own in zip(chain(*found), chain(*expected), strict=True):
        torch.testing.assert_close(rows, own, atol=5e-5, rtol=1e-5)
    [[alone]] = ours.encode_images(images[2:])
    assert torch.equal(alone, found[2][0])


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_family_keeps_names_parts_and_origin(family: Any, tmp_path: Path) -> None:
    """And those whose tower is not computed here keep all of it."""
    family.save(tmp_path)
    plain, ours = (adapter_of(tmp_path, weights) for weights in ("plain", "auto"))
    assert [n for n, _ in plain.model.named_parameters()] == [
        n for n, _ in ours.model.named_parameters()
    ]
    assert parameters_by_part(plain) == parameters_by_part(ours)
    assert origin_of(plain, "tiny") == origin_of(ours, "tiny")
    towers = [each for each in ours.model.modules() if isinstance(each, FusedTower)]
    assert len(towers) == (0 if family.name in QWEN else 1)
    prepared = ours.parameter_bytes()
    built = dyvte.model.build(tmp_path, device="cpu", dtype="float32").adapter
    assert bytes_to_hold(built, None) >= prepared


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_tower_is_held_once_and_in_the_smallest_type(dtype: torch.dtype, tmp_path: Path) -> None:
    """And as many bytes as were foretold."""
    folder = llava_folder(tmp_path, -2)
    if dtype == torch.bfloat16:
        model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=dtype)
        model.save_pretrained(folder)
    ours = adapter_of(folder, "auto")
    inside = [each for each in ours.model.modules() if isinstance(each, FusedTower)]
    kinds = {type(each) for each in inside[0].modules()}
    assert not kinds & {nn.Linear, nn.Conv2d}
    built = dyvte.model.build(folder, device="cpu", dtype="float32").adapter
    assert bytes_to_hold(built, dtype) == ours.parameter_bytes()
