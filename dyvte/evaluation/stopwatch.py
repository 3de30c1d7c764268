"""How long prefill and decode take under each setting, measured so that settings compare.

A few prompts, one at a time, every setting on the same prompt before the next prompt comes, in an
order that rotates: what else runs on the machine then falls on all settings alike. Medians.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from dyvte.evaluation.settings import Setting
from dyvte.model import Model
from dyvte.offline import generate
from dyvte.params import SamplingParams
from dyvte.prompt import Prompt

Seconds = dict[str, float]


def timed(
    model: Model,
    prompts: Sequence[Prompt],
    settings: Sequence[Setting],
    sampling: SamplingParams,
    rounds: int,
    tick: Callable[[], None],
) -> list[Seconds]:
    """Medians over rounds and prompts, per setting: seconds of ``prefill``, ``decode``, ``token``.

    ``token`` is decode per token after the first; ``prefill_ratio`` the median of each prompt's
    ratio to ``settings[0]`` in the same round. ``tick`` is called after every prompt.
    """
    prefill: list[list[float]] = [[] for _ in settings]
    decode: list[list[float]] = [[] for _ in settings]
    token: list[list[float]] = [[] for _ in settings]
    for turn in range(rounds):
        for number, prompt in enumerate(prompts):
            for step in range(len(settings)):
                index = (step + number + turn) % len(settings)
                options = settings[index].of(prompt.conversation)
                (result,) = generate(model, prompt, sampling, options)
                times, gaps = result.stats.timings, result.stats.itl
                prefill[index].append(times.prefill)
                decode[index].append(times.decode)
                token[index] += gaps
            tick()
    return [
        {
            "prefill": median(prefill[i]),
            "prefill_ratio": median(
                own / off for own, off in zip(prefill[i], prefill[0], strict=True)
            ),
            "decode": median(decode[i]),
            "token": median(token[i]) if token[i] else 0.0,
        }
        for i in range(len(settings))
        if prompts
    ]
