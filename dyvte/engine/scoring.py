"""What the model gave each token of a prompt: log-probabilities from the rows of its prefill.

Only where a request asks for them: a head over all rows costs what decoding as many tokens does.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from dyvte.engine.events import TokenLogprobs
from dyvte.engine.sequence import Sequence
from dyvte.models.adapter import ModelAdapter
from dyvte.packing import PackedBatch
from dyvte.sampling import log_probs, top_of
from dyvte.transfer import upload

ROWS_AT_ONCE = 128  # logits of a long prompt side by side would be larger than the model


def scored(prefills: Seq[Sequence]) -> bool:
    """True if some of these want what ``score_prompts`` fills in."""
    return any(_wanted(each) is not None for each in prefills)


def _wanted(sequence: Sequence) -> int | None:
    """Of how many alternatives; None: nothing, or it is there."""
    owner = sequence.owner
    return None if owner.prompt_logprobs is not None else owner.sampling.prompt_logprobs


def score_prompts(model: ModelAdapter, batch: PackedBatch, prefills: Seq[Sequence]) -> None:
    """Fill in ``prompt_logprobs`` of the requests that want them and have none yet.

    ``batch`` holds the rows that the last layer left, the first segments those of ``prefills``,
    whose prompts have no images.
    """
    for sequence, start in zip(prefills, batch.starts, strict=False):
        owner = sequence.owner
        wanted = _wanted(sequence)
        if wanted is not None:
            ids = owner.request.prompt.token_ids
            hidden = batch.hidden[start : start + len(ids) - 1]
            owner.prompt_logprobs = tuple(_scored(model, hidden, ids[1:], wanted))


def _scored(
    model: ModelAdapter, hidden: Tensor, targets: Seq[int], count: int
) -> list[TokenLogprobs]:
    """Row i of ``hidden [T, d]`` predicts ``targets[i]``."""
    found: list[TokenLogprobs] = []
    for at in range(0, len(targets), ROWS_AT_ONCE):
        values = log_probs(model.head(hidden[at : at + ROWS_AT_ONCE]))
        ids = upload(targets[at : at + ROWS_AT_ONCE], torch.int64, values.device)
        own = values.gather(1, ids[:, None])[:, 0].tolist()
        found += map(TokenLogprobs, own, top_of(values, count))
    return found
