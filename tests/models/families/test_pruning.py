"""Pruning before the exit on every native family: positions and deepstack follow what stays."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import dyvte
from dyvte import ExitOptions, PruneOptions, SamplingParams
from tests import tiny
from tests.models.families.everyone import FAMILIES
from tests.models.families.family import CONVERSATIONS, Family, Made

GREEDY = SamplingParams(max_tokens=3, min_tokens=3, temperature=0, return_logits=True)
METHODS = {
    "fastv": PruneOptions("fastv", layer=2, ratio=0.5),
    "pyramiddrop": PruneOptions("pyramiddrop", stages=((1, 0.6), (3, 0.3))),
    "dart": PruneOptions("dart", layer=2, ratio=0.5),
    "v2drop": PruneOptions("v2drop", stages=((2, 0.5),)),
    "divprune": PruneOptions("divprune", ratio=0.5),
}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_all_methods_in_one_batch_are_each_alone(family: Family, tmp_path: Path) -> None:
    model = Made(family, family.save(tmp_path)).model
    whole = model.prompt(CONVERSATIONS["two images"])
    exits = [
        *(ExitOptions("off", prune=method) for method in METHODS.values()),
        ExitOptions("fixed", exit_layer=2, prune=METHODS["divprune"]),
        ExitOptions("off"),
    ]
    together = dyvte.generate(model, [whole] * len(exits), GREEDY, exits)
    layout = model.adapter.layout(whole)
    for each, asked in zip(together, exits, strict=True):
        [alone] = dyvte.generate(model, whole, GREEDY, asked)
        assert each.token_ids == alone.token_ids
        assert each.kept_visual == alone.kept_visual
        assert each.kv_tokens_per_layer == each.tokens_per_layer
        assert each.logits is not None
        assert alone.logits is not None
        torch.testing.assert_close(each.logits, alone.logits, atol=2e-4, rtol=0)
    text = layout.rows - layout.visual_rows
    assert together[-1].tokens_per_layer == [layout.rows] * tiny.LAYERS
    assert together[-2].tokens_per_layer[-1] == text
    for pruned in together[: len(METHODS)]:
        assert text < pruned.tokens_per_layer[-1] < layout.rows
        assert pruned.logits is not None
        assert not torch.allclose(pruned.logits[0], together[-1].logits[0], atol=1e-3)  # type: ignore[index]
