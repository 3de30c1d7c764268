"""Does a request fit the model and the pool? Asked before it is admitted, from any thread."""

from __future__ import annotations

from dyvte.engine.scheduler import Scheduler
from dyvte.engine.sequence import Fit
from dyvte.errors import OptionError, PromptTooLong
from dyvte.exits.resolve import resolve
from dyvte.model import Model
from dyvte.params import ExitOptions, SamplingParams
from dyvte.prompt import Prompt


def fit(
    model: Model,
    scheduler: Scheduler,
    max_model_len: int,
    prompt: Prompt,
    sampling: SamplingParams,
    exits: ExitOptions | None,
) -> Fit:
    """Expand and validate. Raises PromptError, OptionError."""
    adapter = model.adapter
    layout = adapter.layout(prompt)
    grants, conversation = model.grants, prompt.conversation
    options = exits or grants.default_for(conversation)
    policy = resolve(options, grants, conversation)
    room = max_model_len - layout.rows
    if room < 1 or (sampling.max_tokens is not None and sampling.max_tokens > room):
        asked = "" if sampling.max_tokens is None else f" + {sampling.max_tokens} new tokens"
        raise PromptTooLong(
            f"the prompt has {layout.rows} tokens ({layout.visual_rows} visual){asked}; "
            f"this model's context is {max_model_len}"
        )
    ledger = scheduler.ledger
    pages = ledger.pages_for(layout.rows + 1) * ledger.num_layers
    most = min(scheduler.limits.max_num_seqs, ledger.num_pages // pages)
    if sampling.n > most:
        raise OptionError("n", f"{sampling.n} choices do not fit at once; at most {most} do")
    _check_ids(sampling, adapter.decoder.vocab_size)
    if sampling.prompt_logprobs is not None and layout.spans:
        raise OptionError("prompt_logprobs", "are there for prompts without images only")
    return Fit(prompt, sampling, exits, layout, options, policy)


def _check_ids(sampling: SamplingParams, vocab_size: int) -> None:
    """Ids are looked up in the logits later, where a wrong one would end the engine."""
    for token in sampling.stop_token_ids:
        if not 0 <= token < vocab_size:
            raise OptionError("stop_token_ids", f"{token} is not in the vocabulary of {vocab_size}")
    for token in sampling.logit_bias:
        if token >= vocab_size:
            raise OptionError("logit_bias", f"{token} is not in the vocabulary of {vocab_size}")
    if max(sampling.logprobs or 0, sampling.prompt_logprobs or 0) > vocab_size:
        raise OptionError("top_logprobs", f"{sampling.logprobs} exceeds the vocabulary")
