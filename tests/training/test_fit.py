"""Fitting gates: they learn what can be learnt, and the same seed gives the same gates."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dyvte.errors import OptionError
from dyvte.training.fit import FitConfig, fit

CONFIG = FitConfig(inner=32, lr=1e-2, epochs=40, seed=3)


def _separable(count: int = 600) -> tuple[Tensor, Tensor]:
    """Layer 0: the label is the sign of a feature. Layer 1: always exit."""
    generator = torch.Generator().manual_seed(0)
    status = torch.randn(count, 2, 8, generator=generator)
    label = torch.stack([status[:, 0, 0] > 0, torch.ones(count, dtype=torch.bool)], dim=1)
    return status, label


def test_gates_learn_a_separable_rule() -> None:
    result = fit(*_separable(), CONFIG)
    first, second = result.layers
    assert first.accuracy > 0.9
    assert second.recall == 1.0


def test_the_same_seed_gives_the_same_gates() -> None:
    one, two = fit(*_separable(), CONFIG), fit(*_separable(), CONFIG)
    assert all(torch.equal(one.gates.w1[layer], two.gates.w1[layer]) for layer in (0, 1))


def test_one_example_is_refused() -> None:
    status, label = _separable(1)
    with pytest.raises(OptionError, match="at least two"):
        fit(status, label, CONFIG)
