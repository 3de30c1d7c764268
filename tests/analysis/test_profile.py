"""W and entropies from the stream are their definitions on whole matrices."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import dyvte
from dyvte.analysis.profile import Profile, entropy
from dyvte.analysis.regions import Regions
from dyvte.params import ExitOptions
from tests import tiny
from tests.analysis.watching import matrices, watched


@pytest.mark.parametrize("images", [1, 2])
def test_weights_and_entropies_are_their_definitions(
    tiny_model: dyvte.Model, reference: Any, images: int
) -> None:
    prompt = tiny.prompt(5, images=images)
    layout = tiny_model.adapter.layout(prompt)
    profile = Profile(Regions.of(layout))
    watched(tiny_model, prompt, profile, budget=1)
    v = [row for span in layout.spans for row in range(span.start, span.stop)]
    t = [row for row in range(layout.spans[0].stop, layout.rows) if row not in v]
    for layer, matrix in zip(profile.layers(), matrices(reference, prompt), strict=True):
        assert layer.w_visual == pytest.approx(float(matrix[v][:, v].sum()) / len(v), rel=1e-4)
        assert layer.w_cross == pytest.approx(float(matrix[t][:, v].sum()) / len(t), rel=1e-4)
        assert layer.w_text == pytest.approx(float(matrix[t][:, t].sum()) / len(t), rel=1e-4)
        for keys, found in ((v, layer.cross_entropy), (t, layer.text_entropy)):
            shares = [(row / row.sum()).tolist() for row in matrix[t][:, keys]]
            bits = [-sum(p * math.log2(p) for p in row if p) for row in shares]
            assert found == pytest.approx(sum(bits) / len(t), rel=1e-4, abs=1e-5)


def test_above_the_exit_nothing_is_said_about_the_image(tiny_model: dyvte.Model) -> None:
    prompt = tiny.prompt(5)
    profile = Profile(Regions.of(tiny_model.adapter.layout(prompt)))
    watched(tiny_model, prompt, profile, exits=ExitOptions(policy="fixed", exit_layer=1))
    layers = profile.layers()
    assert [layer.w_cross is None for layer in layers] == [False, False, True, True]
    assert [layer.cross_entropy is None for layer in layers] == [False, False, True, True]
    assert all(layer.text_entropy > 0 for layer in layers)


def test_entropy_is_counted_in_bits_of_shares() -> None:
    rows = torch.tensor([[1.0, 1.0, 1.0, 1.0], [3.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert entropy(rows).tolist() == pytest.approx([2.0, 0.0, 0.0])
    assert entropy(torch.zeros(2, 0)).tolist() == [0.0, 0.0]


def test_a_prompt_without_an_image_has_no_regions(tiny_model: dyvte.Model) -> None:
    layout = tiny_model.adapter.layout(tiny.prompt(0, images=0))
    with pytest.raises(ValueError, match="image"):
        Regions.of(layout)
