"""Each pruning method against a slow oracle on ``transformers``' own full matrices."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import dyvte
from dyvte import ExitOptions, OptionError, PruneOptions, SamplingParams
from dyvte.exits.prune.methods import prune_rule
from dyvte.exits.prune.rule import kept_rows
from tests import tiny

ONE_TOKEN = SamplingParams(max_tokens=1, temperature=0, ignore_eos=True)


@dataclass
class Full:
    """One prompt through ``transformers`` with everything kept."""

    reference: Any
    asked: dyvte.Prompt

    def __post_init__(self) -> None:
        with torch.inference_mode():
            self.out = self.reference(
                **tiny.native_inputs(self.asked), output_attentions=True, output_hidden_states=True
            )
        ids = tiny.native_inputs(self.asked)["input_ids"][0]
        self.visual = (ids == tiny.IMAGE_ID).nonzero()[:, 0].tolist()

    def attention(self, layer: int) -> Tensor:
        """``[V]``: last row of the full causal matrix, mean over heads."""
        row: Tensor = self.out.attentions[layer][0].mean(0)[-1]
        return row[self.visual]

    def hidden(self, layer: int) -> Tensor:
        """``[n, d]``: the residual stream before ``layer``."""
        rows: Tensor = self.out.hidden_states[layer][0]
        return rows

    def keys(self, layer: int) -> Tensor:
        """``[K, n, D]`` as the layer cached them."""
        cached: Tensor = self.out.past_key_values.layers[layer].keys[0]
        return cached


def best(score: Sequence[float], count: int) -> list[int]:
    """Indices of the highest, ascending."""
    return sorted(sorted(range(len(score)), key=lambda i: -score[i])[:count])


def cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.dot(a, b) / a.norm() / b.norm())


def fastv(full: Full, layer: int, count: int) -> list[int]:
    return best(full.attention(layer - 1).tolist(), count)


def pyramiddrop(full: Full, layer: int, count: int) -> list[int]:
    return best(full.attention(layer).tolist(), count)


def v2drop(full: Full, layer: int, count: int) -> list[int]:
    moved = (full.hidden(layer) - full.hidden(layer - 1)).norm(dim=-1)[full.visual]
    return best(moved.tolist(), count)


def dart(full: Full, layer: int, count: int) -> list[int]:
    norm = full.keys(layer - 1).abs().sum((0, 2)).tolist()
    hidden, visual = full.hidden(layer), full.visual
    own = sorted(range(len(visual)), key=lambda i: -norm[visual[i]])[: min(4, count)]
    text = range(visual[-1] + 1, len(norm))
    asked = sorted(text, key=lambda row: -norm[row])[:4]
    pivots, kept = [*(visual[i] for i in own), *asked], set(own)
    left = count - len(own)
    for i, pivot in enumerate(pivots):
        share = left // (len(pivots) - i)
        free = [j for j in range(len(visual)) if j not in kept]
        free.sort(key=lambda j: cosine(hidden[pivot], hidden[visual[j]]))
        kept.update(free[:share])
        left -= share
    return sorted(kept)


def divprune(full: Full, layer: int, count: int) -> list[int]:
    rows = full.hidden(0)[full.visual]
    apart = [[1 - cosine(a, b) for b in rows] for a in rows]
    nearest = [min(x for j, x in enumerate(line) if j != i) for i, line in enumerate(apart)]
    kept = [max(range(len(rows)), key=lambda i: nearest[i])]
    while len(kept) < count:
        free = [i for i in range(len(rows)) if i not in kept]
        kept.append(max(free, key=lambda i: min(apart[i][j] for j in kept)))
    return sorted(kept)


ORACLES: dict[str, tuple[Callable[[Full, int, int], list[int]], PruneOptions]] = {
    "fastv": (fastv, PruneOptions("fastv", layer=2, ratio=0.5)),
    "fastv from 1": (fastv, PruneOptions("fastv", layer=1, ratio=0.3)),
    "pyramiddrop": (pyramiddrop, PruneOptions("pyramiddrop", stages=((2, 0.5),))),
    "pyramiddrop at once": (pyramiddrop, PruneOptions("pyramiddrop", stages=((0, 0.4),))),
    "v2drop": (v2drop, PruneOptions("v2drop", stages=((2, 0.5),))),
    "dart": (dart, PruneOptions("dart", layer=2, ratio=0.3)),
    "divprune": (divprune, PruneOptions("divprune", ratio=0.6)),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("name", ORACLES)
def test_what_stays_is_what_the_full_matrices_say(
    name: str, images: int, seed: int, tiny_model: dyvte.Model, reference: Any
) -> None:
    oracle, options = ORACLES[name]
    asked = tiny.prompt(seed, images=images, after=6)
    exits = ExitOptions(policy="off", prune=options)
    [result] = dyvte.generate(tiny_model, asked, ONE_TOKEN, exits)
    [(layer, rows)] = result.kept_visual
    full = Full(reference, asked)
    [(_, share)] = prune_rule(options, tiny.LAYERS).stages
    assert list(rows) == oracle(full, layer, kept_rows(len(full.visual), share))


def test_stages_prune_what_the_stage_before_left(tiny_model: dyvte.Model) -> None:
    prune = PruneOptions("pyramiddrop", stages=((1, 0.5), (2, 0.5), (3, 0.0)))
    [result] = dyvte.generate(
        tiny_model, tiny.prompt(1), ONE_TOKEN, ExitOptions(policy="off", prune=prune)
    )
    kept = [set(rows) for _, rows in result.kept_visual]
    assert [len(each) for each in kept] == [5, 3, 0]
    assert kept[0] > kept[1] > kept[2]
    assert result.tokens_per_layer == [17, 13, 11, 8]


def test_published_defaults_at_32_layers() -> None:
    def stages(method: str) -> list[tuple[int, float]]:
        return list(prune_rule(PruneOptions(method), 32).stages)

    assert stages("fastv") == [(2, 0.5)]
    assert stages("pyramiddrop") == [(8, 0.5), (16, 0.5), (24, 0.5)]
    assert stages("v2drop") == [(3, 0.5), (17, 0.5), (22, 0.0)]
    assert stages("divprune") == [(0, 0.5)]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (PruneOptions("fastv", layer=0), "prune.layer"),
        (PruneOptions("fastv", layer=4), "prune.layer"),
        (PruneOptions("fastv", stages=((1, 0.5),)), "prune.stages"),
        (PruneOptions("pyramiddrop", layer=2), "prune.layer"),
        (PruneOptions("pyramiddrop", stages=((2, 1.5),)), "prune.stages"),
        (PruneOptions("pyramiddrop", stages=((2, math.nan),)), "prune.stages"),
        (PruneOptions("pyramiddrop", stages=((2, 0.5), (1, 0.5))), "prune.stages"),
        (PruneOptions("pyramiddrop", ratio=0.5, stages=((2, 0.5),)), "prune.ratio"),
        (PruneOptions("v2drop", stages=((0, 0.5),)), "prune.stages"),
        (PruneOptions("divprune", layer=1), "prune.layer"),
        (PruneOptions("random"), "prune.method"),
    ],
    ids=repr,
)
def test_settings_that_make_no_sense_name_their_field(options: PruneOptions, field: str) -> None:
    with pytest.raises(OptionError) as caught:
        prune_rule(options, tiny.LAYERS)
    assert caught.value.field == field
