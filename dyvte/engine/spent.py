"""What a request had cost when it was given up: nobody's reply tells it, the metrics do.

Finished steps are counted, as ``dyvte.engine.report`` counts them; a step that raised is not.
"""

from __future__ import annotations

from dyvte.engine.report import request_flops_of
from dyvte.engine.runner import Prefill
from dyvte.engine.sequence import RequestState
from dyvte.flops import FlopsReport
from dyvte.models.adapter import ModelAdapter
from dyvte.trace import SequenceTrace


def spent_flops(model: ModelAdapter, state: RequestState, group: Prefill | None) -> FlopsReport:
    """The request so far; ``group`` is the prefill in flight, which may be its own."""
    if state.trace is not None:
        return request_flops_of(model, state)
    trace, ran = _in_flight(state, group)
    vision = state.layout.vision_flops if state.image_rows or state.prefix_hit else 0
    shape, rows = model.decoder, trace.tokens_per_layer[:ran]
    gates = trace.rule_flops
    if model.gates is not None:
        gates += sum(map(model.gates.flops, trace.gates_asked))
    return FlopsReport(
        vision=vision,
        prefill=shape.prefill(rows),
        gates=gates,
        baseline=vision + shape.prefill([state.layout.rows] * ran),
        avoided_by_cache=(vision if state.vision_flops_spared else 0)
        + shape.spared(rows, trace.cached_per_layer),
    )


def _in_flight(state: RequestState, group: Prefill | None) -> tuple[SequenceTrace, int]:
    """Of a prefill on its way through the layers: its trace, and how many have run."""
    if group is not None and group.loop is not None:
        for sequence, trace in zip(group.sequences, group.loop.traces, strict=True):
            if sequence.owner is state:
                return trace, group.loop.layer
    return SequenceTrace(), 0
