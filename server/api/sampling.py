"""OpenAI's sampling fields → ``SamplingParams``: names, defaults and limits of all routes."""

from __future__ import annotations

from dyvte.engine.events import Engine
from dyvte.errors import OptionError
from dyvte.params import SamplingParams
from server.api.errors import ApiError, bad_request, option_error
from server.api.form import Form
from server.api.schema import SamplingFields
from server.settings import Settings

# OpenAI accepts top_p 0, which leaves the most likely token; the engine wants a share above 0.
SMALLEST_TOP_P = 1e-6


def over(param: str, what: str, limit: int) -> ApiError:
    """400: more of something than the operator allows."""
    return bad_request(f"Invalid '{param}': at most {limit} {what} are allowed here.", param)


def check_sampling(request: SamplingFields, engine: Engine, settings: Settings) -> None:
    """Limits that must hold before anything is copied. Raises ApiError (400)."""
    if (request.n or 1) > settings.max_n:
        raise over("n", "choices", settings.max_n)
    if isinstance(request.stop, list) and len(request.stop) > settings.max_stop:
        raise over("stop", "stop strings", settings.max_stop)
    if request.stream_options is not None and not request.stream:
        raise bad_request("'stream_options' needs 'stream' to be true.", "stream_options")
    for name, ids in (
        ("stop_token_ids", request.stop_token_ids or ()),
        ("logit_bias", map(int, request.logit_bias or ())),
    ):
        if max(ids, default=0) >= engine.info.vocab_size:
            limit = engine.info.vocab_size - 1
            raise bad_request(f"Invalid '{name}': ids go up to {limit}.", name)


def sampling_of(
    request: SamplingFields, form: Form | None, max_tokens: int | None, logprobs: int | None
) -> SamplingParams:
    """OpenAI's defaults where the request says nothing. Raises ApiError (400).

    ``max_tokens`` None: as many as fit; ``logprobs`` None: none are reported.
    """
    stop = request.stop or ()
    try:
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=_or(request.temperature, 1.0),
            top_p=max(SMALLEST_TOP_P, _or(request.top_p, 1.0)),
            top_k=max(0, request.top_k or 0),
            min_p=request.min_p or 0.0,
            seed=request.seed,
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            stop_token_ids=tuple(request.stop_token_ids or ()),
            min_tokens=request.min_tokens or 0,
            ignore_eos=bool(request.ignore_eos),
            n=request.n or 1,
            logprobs=logprobs,
            frequency_penalty=request.frequency_penalty or 0.0,
            presence_penalty=request.presence_penalty or 0.0,
            repetition_penalty=_or(request.repetition_penalty, 1.0),
            logit_bias={int(key): bias for key, bias in (request.logit_bias or {}).items()},
            structured_output=form.wanted if form else None,
        )
    except OptionError as error:
        raise option_error(error) from error


def _or(value: float | None, default: float) -> float:
    return default if value is None else float(value)
