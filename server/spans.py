"""A finished request as OpenTelemetry spans: one for all of it, one for each of its phases.

Names of attributes are those of OpenTelemetry's conventions for HTTP and generative AI, and below
``dyvte.`` ours. Numbers, settings and ids only: no prompt, no picture, no answer, no key.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from server.api.context import CLIENT_GONE, Answered, RequestRecord

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Tracer

OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/completions": "text_completion",
}
NS = 1_000_000_000

Attributes = dict[str, Any]
Phase = tuple[str, float, float, Attributes]


def write_spans(tracer: Tracer, parent: Context, path: str, record: RequestRecord) -> None:
    """The spans of a request that ends now."""
    from opentelemetry.trace import SpanKind, set_span_in_context
    from opentelemetry.trace.status import Status, StatusCode

    end = time.time_ns()
    begin = end - round(record.seconds * NS)
    attributes = request_attributes(path, record)
    span = tracer.start_span(
        span_name(path, record), parent, SpanKind.SERVER, attributes, start_time=begin
    )
    if not span.is_recording():
        return
    inside = set_span_in_context(span)
    for name, start_s, stop_s, about in phases(record):
        child = tracer.start_span(
            name, inside, attributes=about, start_time=begin + round(start_s * NS)
        )
        child.end(begin + round(stop_s * NS))
    if fault := fault_of(record):
        span.set_attribute("error.type", fault)
        if fault != str(record.status) or record.status >= 500:
            span.set_status(Status(StatusCode.ERROR))
    span.end(end)


def span_name(path: str, record: RequestRecord) -> str:
    """``chat demo``; without the model for a request that did not come so far."""
    model = record.notes.get("model")
    return f"{OPERATIONS[path]} {model}" if model else f"POST {path}"


def fault_of(record: RequestRecord) -> str | None:
    """What went wrong: a status, or how the answer broke off."""
    if record.client_gone:
        return "client_gone"
    if record.status >= 400:
        return str(record.status)
    return None if record.answers else "no_answer"  # a stream that ended with an error event


def request_attributes(path: str, record: RequestRecord) -> Attributes:
    """What the span of the whole request says."""
    found: Attributes = {
        "http.request.method": "POST",
        "http.route": path,
        "http.response.status_code": CLIENT_GONE if record.client_gone else record.status,
        "gen_ai.operation.name": OPERATIONS[path],
        "gen_ai.provider.name": "dyvte",
        "dyvte.request_id": record.request_id,
        **_noted(record.notes),
    }
    if record.answers:
        found |= _usage(record)
    if len(record.answers) == 1:
        found |= _account(record.answers[0])
    return {name: value for name, value in found.items() if value is not None}


def _noted(notes: Mapping[str, object]) -> Attributes:
    names = {
        "model": "gen_ai.request.model",
        "stream": "gen_ai.request.stream",
        "reply": "gen_ai.response.id",
        "prompt_tokens": "gen_ai.usage.input_tokens",
        "images": "dyvte.images",
        "client": "dyvte.client",
    }
    return {names[key]: value for key, value in notes.items() if key in names}


def _usage(record: RequestRecord) -> Attributes:
    answers, sampling = record.answers, record.answers[0].sampling
    first = min(each.before_submit + each.stats.timings.ttft for each in answers)
    return {
        "gen_ai.request.max_tokens": sampling.max_tokens,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.request.choice.count": sampling.n,
        "gen_ai.response.model": record.notes.get("model"),
        "gen_ai.response.finish_reasons": [
            reason for each in answers for reason in each.finish_reasons
        ],
        "gen_ai.usage.output_tokens": sum(each.completion_tokens for each in answers),
        "gen_ai.usage.cache_read.input_tokens": sum(each.stats.cached_tokens for each in answers),
        "gen_ai.response.time_to_first_chunk": first,
    }


def _account(answered: Answered) -> Attributes:
    stats, flops = answered.stats, answered.stats.flops
    return {
        "dyvte.policy": stats.policy,
        "dyvte.aggressiveness": stats.aggressiveness,
        "dyvte.prune": stats.prune,
        "dyvte.exit_outcome": stats.outcome.value,
        "dyvte.exit_layer": stats.exit_layer,
        "dyvte.num_layers": stats.num_layers,
        "dyvte.visual_tokens": stats.visual_tokens,
        "dyvte.flops.total": flops.total,
        "dyvte.flops.baseline": flops.baseline,
        "dyvte.flops.saved": flops.saved,
        "dyvte.flops.saved_ratio": flops.saved_ratio,
        "dyvte.flops.avoided_by_cache": flops.avoided_by_cache,
        "dyvte.kv_bytes": stats.kv_bytes,
        "dyvte.kv_bytes_saved": stats.kv_bytes_saved,
    }


def phases(record: RequestRecord) -> Iterator[Phase]:
    """Name, seconds from arrival to begin and end, attributes."""
    for at, answered in enumerate(record.answers):
        stats, timings = answered.stats, answered.stats.timings
        submitted = answered.before_submit
        if at == 0:  # the prompts of one request are prepared together
            began = max(0.0, submitted - answered.preprocess)
            yield "dyvte.preprocess", began, submitted, {}
        admitted, first = submitted + timings.queue, submitted + timings.ttft
        yield "dyvte.queue", submitted, admitted, {}
        prefill: Attributes = {
            "gen_ai.usage.input_tokens": stats.prompt_tokens,
            "dyvte.visual_tokens": stats.visual_tokens,
            "dyvte.vision_seconds": timings.vision,
        }
        if stats.exit_layer is not None:
            prefill["dyvte.exit_layer"] = stats.exit_layer
        yield "dyvte.prefill", admitted, first, prefill
        made: Attributes = {"gen_ai.usage.output_tokens": answered.completion_tokens}
        yield "dyvte.decode", first, submitted + timings.total, made
