"""What becomes of a sampled token: is it shown, does it end its sequence, and why."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dyvte.engine.events import TokenEvent, TokenLogprobs
from dyvte.engine.sequence import RequestState, Sequence
from dyvte.errors import EngineError
from dyvte.model import Model
from dyvte.params import FinishReason
from dyvte.sampling import log_probs, top_of


@dataclass(frozen=True, slots=True)
class Emission:
    """An event for the request that ``state`` is, or the error that ended it."""

    state: RequestState
    event: TokenEvent
    error: EngineError | None = None


def accept(
    model: Model,
    sequence: Sequence,
    token: int,
    logits: Tensor,
    logprobs: TokenLogprobs | None,
    max_rows: int,
    now: float,
) -> TokenEvent:
    """Add a token to its sequence and say what to tell. Mutates ``sequence`` and its clock.

    ``logprobs`` that a request asks for are computed from ``logits`` where they are not given.
    """
    params = sequence.owner.sampling
    sequence.sampled += 1
    _tick(sequence, now)
    if params.return_logits:
        sequence.logits.append(logits.float().cpu())
    scored = sequence.owner.prompt_logprobs if sequence.sampled == 1 else None
    ended = token in params.stop_token_ids
    ended |= token in model.adapter.eos_token_ids and not params.ignore_eos
    if ended or params.max_tokens == 0:
        reason = FinishReason.LENGTH if params.max_tokens == 0 else FinishReason.STOP
        sequence.finish_reason = reason
        return TokenEvent(sequence.index, None, finish_reason=reason, prompt=scored)
    sequence.token_ids.append(token)
    if sequence.constraint is not None:
        sequence.constraint.accept(token)
    sequence.finish_reason = _finish(model, sequence, max_rows)
    return TokenEvent(
        sequence.index,
        token,
        logprobs or _logprobs(logits, token, params.logprobs),
        sequence.finish_reason,
        prompt=scored,
    )


def _tick(sequence: Sequence, now: float) -> None:
    clock = sequence.owner.clock
    clock.first_token = clock.first_token or now
    clock.last_token = now
    if sequence.last_token_at is not None:
        sequence.owner.gaps.append(now - sequence.last_token_at)
    sequence.last_token_at = now


def _finish(model: Model, sequence: Sequence, max_rows: int) -> FinishReason | None:
    """Stop strings count only in the text after the first ``min_tokens`` tokens."""
    params = sequence.owner.sampling
    count = len(sequence.token_ids)
    if params.stop and model.token_bytes is not None and count > params.min_tokens:
        longest = max(len(stop.encode()) for stop in params.stop)
        fresh = model.token_bytes(sequence.token_ids[-1])
        if count == 1 and model.token_bytes.strips_leading_space:
            fresh = fresh.removeprefix(b" ")
        seen = sequence.tail + fresh
        sequence.tail = seen[-longest:]
        if any(stop.encode() in seen for stop in params.stop):
            return FinishReason.STOP
    if sequence.constraint is not None and sequence.constraint.finished:
        return FinishReason.STOP
    if params.max_tokens is not None and count >= params.max_tokens:
        return FinishReason.LENGTH
    return FinishReason.LENGTH if sequence.rows >= max_rows else None


def _logprobs(logits: Tensor, token: int, count: int | None) -> TokenLogprobs | None:
    if count is None:
        return None
    values = log_probs(logits[None])
    return TokenLogprobs(float(values[0, token]), top_of(values, count)[0])
