"""From logits ``[S, V]`` to token ids ``[S]``.

Greedy rows take the highest logit. Sampled rows go through temperature, top-k, top-p and min-p
in that order, in float32, and are drawn by inverting the cumulative distribution at one uniform
number from the sequence's own generator: a seed's result does not depend on batch mates.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dyvte.params import SamplingParams
from dyvte.transfer import Fetch, upload

SMALLEST = torch.finfo(torch.float32).tiny


def generator_for(params: SamplingParams, choice: int = 0) -> torch.Generator:
    """A CPU generator: seeded (seed + choice) where asked, else from the system's entropy."""
    generator = torch.Generator()
    if params.seed is None:
        generator.seed()
    else:
        generator.manual_seed((params.seed + choice) % 2**63)
    return generator


def sample(
    logits_SV: Tensor,
    params: Sequence[SamplingParams],
    generators: Sequence[torch.Generator],
    forbidden: Sequence[Sequence[int]],
) -> Tensor:
    """Choose one token per row; ``forbidden[s]`` are ids that row s must not choose now.

    Returns int64 ``[S]`` on the CPU.
    """
    (chosen,) = Fetch(pick(logits_SV, params, uniforms(params, generators), forbidden)).get()
    return chosen


def uniforms(
    params: Sequence[SamplingParams], generators: Sequence[torch.Generator]
) -> list[float | None]:
    """The next number in 0..1 of each generator whose row is not greedy."""
    return [
        None if p.greedy else float(torch.rand((), generator=generator))
        for p, generator in zip(params, generators, strict=True)
    ]


def pick(
    logits_SV: Tensor,
    params: Sequence[SamplingParams],
    drawn: Sequence[float | None],
    forbidden: Sequence[Sequence[int]],
) -> Tensor:
    """As ``sample``, with numbers that were ``drawn`` before: the same pick the same tokens.

    They stay on the device, and nothing is read there.
    """
    scores = logits_SV.float()
    if any(forbidden):
        scores = scores.clone()
        for row, ids in enumerate(forbidden):
            if ids:
                scores[row].index_fill_(0, upload([*ids], torch.int64, scores.device), -torch.inf)
    chosen = scores.argmax(-1)
    for row, uniform in enumerate(drawn):
        if uniform is not None:
            chosen[row : row + 1] = _draw(scores[row], params[row], uniform)
    return chosen


def _draw(scores_V: Tensor, params: SamplingParams, uniform: float) -> Tensor:
    """``[1]``: an index of no dimension would be read back to the host before it is used."""
    ranked, ids = torch.sort(scores_V, descending=True, stable=True)
    # Below the best one first: a tiny temperature must not make inf - inf of the softmax.
    ranked = (ranked - ranked[0]) / max(params.temperature, SMALLEST)
    if params.top_k:
        ranked = ranked[: params.top_k]
    probs = ranked.softmax(-1)
    keep = torch.ones_like(probs, dtype=torch.bool)
    if params.top_p < 1.0:
        # A token stays if the mass before it is below top_p: the first always does.
        keep &= probs.cumsum(-1) - probs < params.top_p
    if params.min_p > 0.0:
        keep &= probs >= params.min_p * probs[0]
    cumulative = torch.where(keep, probs, 0.0).cumsum(-1)
    index = torch.searchsorted(cumulative, uniform * cumulative[-1:], right=True)
    last = (keep * torch.arange(len(keep), device=keep.device)).amax()
    return ids.index_select(0, index.clamp(max=last))


def log_probs(logits_SV: Tensor) -> Tensor:
    """log softmax in float32, before temperature: what ``logprobs`` reports."""
    return logits_SV.float().log_softmax(-1)


def top_of(log_probs_SV: Tensor, count: int) -> list[tuple[tuple[int, float], ...]]:
    """The ``count`` most likely ids of each row with their log-probabilities, best first."""
    if not count:
        return [()] * len(log_probs_SV)
    top = log_probs_SV.topk(count)
    rows = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return [tuple(zip(ids, values, strict=True)) for ids, values in rows]
