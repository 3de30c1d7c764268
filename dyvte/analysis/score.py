"""How good answers stay when the image is forced out after a layer, the same for every question.

Right is what the caller's ``Grade`` says where a sample carries an answer, and the answer given
without an exit where it carries none. Agreement with that answer, token by token, is kept for all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dyvte.data import Sample
from dyvte.engine.build import EngineConfig
from dyvte.model import Model
from dyvte.offline import Result, generate
from dyvte.params import ExitOptions, SamplingParams
from dyvte.prompt import Prompt

Grade = Callable[[str, Sample], bool]
OFF = ExitOptions(policy="off")


@dataclass(frozen=True, slots=True)
class Forced:
    """One sample at every forced exit layer: is it right, and does it agree with no exit?

    Keys are layers; ``whole`` is the answer without an exit, ``right`` None where nothing says
    what is right.
    """

    whole: bool | None
    right: dict[int, bool] | None
    agrees: dict[int, bool]


def forced(
    model: Model,
    prompt: Prompt,
    sample: Sample,
    layers: Sequence[int],
    max_tokens: int,
    grade: Grade,
) -> Forced:
    """Answer once without an exit and once per layer, greedily, in one batch.

    Raises PromptError.
    """
    settings = [OFF, *(ExitOptions(policy="fixed", exit_layer=layer) for layer in layers)]
    sampling = SamplingParams(max_tokens=max_tokens, temperature=0)
    config = EngineConfig(max_num_seqs=len(settings))
    whole, *cut = generate(model, [prompt] * len(settings), sampling, settings, config=config)
    agrees = {layer: _same(result, whole) for layer, result in zip(layers, cut, strict=True)}
    if not sample.answers:
        return Forced(None, None, agrees)
    right = {layer: grade(result.text, sample) for layer, result in zip(layers, cut, strict=True)}
    return Forced(grade(whole.text, sample), right, agrees)


def _same(one: Result, other: Result) -> bool:
    return one.token_ids == other.token_ids and one.finish_reason == other.finish_reason
