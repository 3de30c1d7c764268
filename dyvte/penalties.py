"""What a request adds to the logits before a token is chosen from them: bias and penalties.

Definitions, in the order in which they act on the logits z of one row:

- logit bias (OpenAI): z_i += b_i;
- repetition penalty (CTRL, arXiv 1909.05858, as ``transformers`` and vLLM apply it): ids that the
  prompt's text or the answer holds: z_i / p where z_i > 0, else z_i * p;
- frequency and presence penalty (OpenAI): z_i -= f * c_i, and -= q where c_i > 0, with c_i how
  often the answer holds i.

A row sees its own sequence only, so a batch changes nothing. Visual tokens have no ids and count
as nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from dyvte.params import SamplingParams
from dyvte.transfer import upload


class Penalties:
    """Bias and penalties of one sequence; mutated as its answer grows."""

    def __init__(self, params: SamplingParams, prompt_ids: Iterable[int]) -> None:
        self._params = params
        self._seen = {token for token in prompt_ids if token >= 0}
        self._counts: Counter[int] = Counter()
        self._counted = 0

    def apply(self, logits_V: Tensor, answer_ids: Sequence[int]) -> Tensor:
        """The logits to choose from: float32 ``[V]``, a new tensor.

        ``answer_ids`` are all tokens of the answer so far; those counted before are not read again.
        """
        fresh = answer_ids[self._counted :]
        self._counts.update(fresh)
        self._seen.update(fresh)
        self._counted = len(answer_ids)
        scores = logits_V.to(torch.float32, copy=True)
        if self._params.logit_bias:
            ids = _ids(self._params.logit_bias, scores)
            scores[ids] += upload([*self._params.logit_bias.values()], torch.float32, scores.device)
        if self._params.repetition_penalty != 1.0 and self._seen:
            ids = _ids(sorted(self._seen), scores)
            held, penalty = scores[ids], self._params.repetition_penalty
            scores[ids] = torch.where(held > 0, held / penalty, held * penalty)
        if self._counts and (self._params.frequency_penalty or self._params.presence_penalty):
            ids = _ids(self._counts, scores)
            times = upload([*self._counts.values()], torch.float32, scores.device)
            scores[ids] -= self._params.frequency_penalty * times + self._params.presence_penalty
        return scores


def _ids(tokens: Iterable[int], like: Tensor) -> Tensor:
    return upload([*tokens], torch.int64, like.device)
