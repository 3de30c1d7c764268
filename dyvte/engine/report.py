"""The account of one finished request, from its trace and its clock."""

from __future__ import annotations

from dyvte.engine.sequence import RequestState
from dyvte.engine.stats import ExitOutcome, RequestStats, Timings
from dyvte.exits.policy import Gate, Off, exit_of
from dyvte.exits.state import State
from dyvte.flops import FlopsReport, request_flops
from dyvte.kv_cache import KVCache
from dyvte.models.adapter import ModelAdapter
from dyvte.params import PruneOptions
from dyvte.trace import SequenceTrace


def request_stats(model: ModelAdapter, cache: KVCache, state: RequestState) -> RequestStats:
    """Everything that is told about a request: FLOPs, KV bytes, exit, times."""
    trace = state.trace or SequenceTrace()
    policy, prune = exit_of(state.policy), state.options.prune
    gate = policy if isinstance(policy, (Gate, State)) else None
    return RequestStats(
        policy=state.options.policy,
        outcome=_outcome(state, trace),
        num_layers=model.decoder.num_layers,
        prompt_tokens=state.layout.rows,
        completion_tokens=sum(len(choice.token_ids) for choice in state.choices),
        visual_tokens=state.layout.visual_rows,
        flops=request_flops_of(model, state),
        timings=_timings(state),
        aggressiveness=gate.aggressiveness if gate else None,
        min_layer=gate.min_layer if gate else None,
        max_layer=gate.max_layer if gate else None,
        exit_layer=trace.exit_layer,
        prune=PruneOptions.of(prune).method if prune else None,
        kept_visual=tuple(trace.kept_visual(state.layout.visual_rows)),
        kv_bytes=state.kv_rows_held * cache.row_bytes,
        kv_bytes_saved=(state.kv_rows_full - state.kv_rows_held) * cache.row_bytes,
        tokens_per_layer=tuple(trace.tokens_per_layer),
        kv_tokens_per_layer=state.kv_after_prefill,
        gate_logits=tuple((reading.keep, reading.exit) for reading in trace.readings),
        gates_read=trace.gates_read,
        gates_nan=trace.gates_nan,
        cached_tokens=max(trace.cached_per_layer, default=0),
        image_hit=state.image_hit,
        prefix_hit=state.prefix_hit,
        itl=tuple(state.gaps),
    )


def request_flops_of(model: ModelAdapter, state: RequestState) -> FlopsReport:
    """The request under its policy and as if nothing had left. The prefill counts once."""
    trace = state.trace or SequenceTrace()
    gates = trace.rule_flops
    if model.gates is not None:
        gates += sum(map(model.gates.flops, trace.gates_asked))
    rows = model.decoder.spared(trace.tokens_per_layer, trace.cached_per_layer)
    return request_flops(
        model.decoder,
        vision=state.layout.vision_flops,
        prompt_tokens=state.layout.rows,
        tokens_per_layer=trace.tokens_per_layer,
        decode_steps=[max(0, choice.sampled - 1) for choice in state.choices],
        gates=gates,
        avoided_by_cache=state.vision_flops_spared + rows,
        scored_rows=len(state.prompt_logprobs or ()),
    )


def _outcome(state: RequestState, trace: SequenceTrace) -> ExitOutcome:
    if not state.layout.spans:
        return ExitOutcome.NO_IMAGE
    if isinstance(exit_of(state.policy), Off):
        return ExitOutcome.OFF
    return ExitOutcome.NO_EXIT if trace.exit_layer is None else ExitOutcome.EXITED


def _timings(state: RequestState) -> Timings:
    clock = state.clock
    first = clock.first_token or clock.arrived
    last = clock.last_token or first
    return Timings(
        queue=(clock.admitted or clock.arrived) - clock.arrived,
        vision=clock.vision,
        prefill=clock.prefill,
        ttft=first - clock.arrived,
        decode=last - first,
        total=last - clock.arrived,
    )
