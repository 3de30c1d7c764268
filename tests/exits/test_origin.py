"""When two models are the same to gates: by a sample of weights that survives 16-bit types."""

from __future__ import annotations

import pytest
import torch

from dyvte.exits.origin import Origin


def hexed(values: torch.Tensor) -> str:
    halves = values.to(torch.bfloat16).view(torch.int16).tolist()
    return "".join(f"{half & 0xFFFF:04x}" for half in halves)


def origin(values: torch.Tensor, family: str = "llava", name: str = "one") -> Origin:
    return Origin(family, name, hexed(values))


WEIGHTS = 0.02 * torch.randn(96, generator=torch.Generator().manual_seed(0))


def test_names_are_for_people() -> None:
    """An InternVL chat model is "internvl" once it is converted."""
    assert origin(WEIGHTS).same_model(origin(WEIGHTS, family="vila", name="copy"))
    assert "'one'" in str(origin(WEIGHTS))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_another_type_is_the_same_model(dtype: torch.dtype) -> None:
    assert origin(WEIGHTS).same_model(origin(WEIGHTS.to(dtype).float()))


def test_twice_rounded_is_the_same_model() -> None:
    """A float32 checkpoint loaded in float16 rounds otherwise than straight to bfloat16."""
    many = torch.randn(20000, generator=torch.Generator().manual_seed(1)) * 0.02
    assert hexed(many) != hexed(many.half())
    assert origin(many).same_model(origin(many.half()))


@pytest.mark.parametrize("step", [1e-3, 1e-4])
def test_further_training_makes_another_model(step: float) -> None:
    moved = WEIGHTS + step * torch.randn(96, generator=torch.Generator().manual_seed(2))
    assert not origin(WEIGHTS).same_model(origin(moved))


def test_fewer_numbers_are_another_model() -> None:
    assert not origin(WEIGHTS).same_model(origin(WEIGHTS[:48]))


@pytest.mark.parametrize("weights", ["3c0", "xyzw", 5])
def test_what_is_no_sample_is_refused(weights: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        Origin.of({"family": "llava", "name": "one", "weights": weights})
