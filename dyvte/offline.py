"""Offline generation: the engine's own steps, driven to the end in this thread."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dyvte.attention import AttentionBackend
from dyvte.engine.build import EngineConfig, build_core
from dyvte.engine.core import EngineCore
from dyvte.engine.events import EngineRequest, TokenLogprobs
from dyvte.engine.sequence import RequestState
from dyvte.engine.sequence import Sequence as Choice
from dyvte.engine.stats import RequestStats
from dyvte.errors import EngineError, OptionError
from dyvte.flops import FlopsReport
from dyvte.model import Model
from dyvte.params import ExitOptions, FinishReason, SamplingParams
from dyvte.prompt import Prompt

Exits = ExitOptions | Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Result:
    """One answer, and the account of what its image cost.

    ``tokens_per_layer`` are the rows that each layer ran at prefill, ``kv_tokens_per_layer`` the
    rows whose keys and values each layer kept of them. ``gate_logits`` is ``[gates asked, 2]``
    float32 (keep, exit) or None; ``kept_visual`` one ``(layer, rows)`` per pruning: which of the
    prompt's visual rows (counted from 0) went on into ``layer``; ``logits`` ``[tokens, vocab]``
    float32, row i chose token i. ``prompt_logprobs`` are those of the prompt's tokens from the
    second on, where the sampling asks for them.
    """

    token_ids: list[int]
    text: str
    finish_reason: FinishReason
    exit_layer: int | None
    tokens_per_layer: list[int]
    kv_tokens_per_layer: list[int]
    gate_logits: Tensor | None
    kept_visual: tuple[tuple[int, tuple[int, ...]], ...]
    logits: Tensor | None
    flops: FlopsReport
    stats: RequestStats = field(repr=False)
    prompt_logprobs: tuple[TokenLogprobs, ...] | None = field(default=None, repr=False)
    choices: list[Result] = field(default_factory=list, repr=False)


def generate(
    model: Model,
    prompts: Prompt | Sequence[Prompt],
    sampling: SamplingParams | Sequence[SamplingParams] | None = None,
    exits: Exits | Sequence[Exits] = None,
    *,
    config: EngineConfig | None = None,
    attention: AttentionBackend | None = None,
) -> list[Result]:
    """Answer all prompts, packed into as few batches as fit; results keep the prompts' order.

    ``sampling`` and ``exits`` are one for all or one per prompt. With ``n > 1`` a result is the
    first choice and ``choices`` holds the others. Raises PromptError, OptionError, RequestFailed.
    """
    several = [prompts] if isinstance(prompts, Prompt) else list(prompts)
    core = build_core(model, config, attention)
    params = _each(sampling or SamplingParams(), len(several), "sampling")
    options = _each(exits, len(several), "exits")
    states = []
    for index, (prompt, each, wish) in enumerate(zip(several, params, options, strict=True)):
        wanted = None if wish is None else ExitOptions.of(wish)
        states.append(core.check(EngineRequest(f"prompt-{index}", prompt, each, wanted)))
    for each in params:
        if each.structured_output is not None:
            core.grammars.compile(each.structured_output)
    for state in states:
        core.add(state)
    _run(core)
    return [_result(core, state) for state in states]


def _run(core: EngineCore) -> None:
    while core.has_work:
        for emission in core.step():
            if emission.error is not None:
                raise emission.error


def _each(value: Any, count: int, name: str) -> list[Any]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != count:
            raise OptionError(name, f"{len(value)} given for {count} prompts")
        return list(value)
    return list(itertools.repeat(value, count))


def _result(core: EngineCore, state: RequestState) -> Result:
    stats = core.stats_of(state)
    results = [_choice(core.model, choice, stats) for choice in state.choices]
    results[0].choices.extend(results[1:])
    return results[0]


def _choice(model: Model, choice: Choice, stats: RequestStats) -> Result:
    if choice.finish_reason is None:
        raise EngineError("the engine stopped before this prompt was answered")
    gates = torch.tensor(stats.gate_logits) if stats.gate_logits else None
    return Result(
        token_ids=list(choice.token_ids),
        text=_text(model, choice),
        finish_reason=choice.finish_reason,
        exit_layer=stats.exit_layer,
        tokens_per_layer=list(stats.tokens_per_layer),
        kv_tokens_per_layer=list(stats.kv_tokens_per_layer),
        gate_logits=gates,
        kept_visual=stats.kept_visual,
        logits=torch.stack(choice.logits) if choice.logits else None,
        flops=stats.flops,
        stats=stats,
        prompt_logprobs=choice.owner.prompt_logprobs,
    )


def _text(model: Model, choice: Choice) -> str:
    """The answer, without its stop string (looked for after the first ``min_tokens`` tokens)."""
    params = choice.owner.sampling
    text = model.text(choice.token_ids)
    exempt = len(model.text(choice.token_ids[: params.min_tokens])) if params.min_tokens else 0
    found = [at for at in (text.find(stop, exempt) for stop in params.stop) if at >= 0]
    return text[: min(found)] if found else text
