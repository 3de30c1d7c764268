"""What a JSON schema costs per token: ``python -m benchmarks.structured [--schemas 500]``.

Random schemas (``benchmarks.schemas``), each answered by one sequence of a mixed batch, at
temperature 1. Two times per token: what the engine's thread spent on the constraint (waiting for
the mask, blanking logits, accepting the token), which is the latency added, and what the worker
spent on the mask beside the forward. Every finished answer is validated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch
from jsonschema import Draft202012Validator
from llguidance import LLMatcher
from torch import Tensor

import dyvte
from benchmarks.machine import Origin
from benchmarks.schemas import random_schema
from dyvte.constraints import matcher
from dyvte.constraints.constraint import Constraint
from dyvte.engine.build import EngineConfig, build_core
from dyvte.engine.core import EngineCore
from dyvte.engine.events import EngineRequest
from dyvte.engine.sequence import RequestState
from dyvte.engine.sequence import Sequence as Choice
from dyvte.params import FinishReason

LONGEST = 512


class Costs:
    """Seconds of single events, collected by wrapping the functions that spend them."""

    def __init__(self) -> None:
        self.compile: list[float] = []
        self.engine: list[float] = []
        self.mask: list[float] = []
        self._scores, self._next_mask = Choice.scores, matcher.next_mask

    def install(self) -> None:
        """From now on everything is measured; for this process only."""
        Choice.scores = self._timed_scores()  # type: ignore[method-assign, assignment]
        matcher.next_mask = self._timed_mask  # type: ignore[assignment]

    def _timed_scores(self) -> Callable[[Choice, Tensor, frozenset[int]], Tensor]:
        original, spent = self._scores, self.engine

        def scores(choice: Choice, logits: Tensor, eos: frozenset[int]) -> Tensor:
            if choice.constraint is None:
                return original(choice, logits, eos)
            if not isinstance(choice.constraint, Timed):
                choice.constraint = Timed(choice.constraint)
            began = time.perf_counter()
            made = original(choice, logits, eos)
            spent.append(time.perf_counter() - began + choice.constraint.accepting)
            return made

        return scores

    def _timed_mask(self, at: LLMatcher, vocab_size: int) -> Tensor:
        began = time.perf_counter()
        made = self._next_mask(at, vocab_size)
        self.mask.append(time.perf_counter() - began)
        return made


class Timed:
    """A constraint that knows how long its last ``accept`` took."""

    def __init__(self, inner: Constraint) -> None:
        self.inner = inner
        self.accepting = 0.0

    @property
    def finished(self) -> bool:
        return self.inner.finished

    def mask(self) -> Tensor:
        return self.inner.mask()

    def accept(self, token: int) -> None:
        began = time.perf_counter()
        self.inner.accept(token)
        self.accepting = time.perf_counter() - began


def main(argv: Sequence[str] | None = None) -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--schemas", type=int, default=500)
    parser.add_argument("--batch", type=int, default=8)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    model, costs = dyvte.load(args.model), Costs()
    core = build_core(model, EngineConfig(max_num_seqs=args.batch))
    prompt = model.prompt([{"role": "user", "content": "describe it as JSON"}])
    costs.install()
    states = []
    for seed in range(args.schemas):
        wanted = dyvte.StructuredOutput.json(random_schema(seed))
        began = time.perf_counter()
        core.grammars.compile(wanted)
        costs.compile.append(time.perf_counter() - began)
        sampling = dyvte.SamplingParams(max_tokens=LONGEST, seed=seed, structured_output=wanted)
        states.append(core.check(EngineRequest(str(seed), prompt, sampling)))
    for first in range(0, len(states), args.batch):
        _answer(core, states[first : first + args.batch])
    report = {
        "origin": str(Origin.here(sys.argv, 0, "cpu")),
        "schemas": args.schemas,
        **_judged(model, states),
        "compile_ms": _spread(costs.compile),
        "engine_ms_per_token": _spread(costs.engine),
        "worker_ms_per_mask": _spread(costs.mask),
    }
    print(json.dumps(report, indent=1, ensure_ascii=False))


def _answer(core: EngineCore, states: Sequence[RequestState]) -> None:
    for state in states:
        core.add(state)
    while core.has_work:
        for emission in core.step():
            if emission.error is not None:
                raise emission.error


def _judged(model: dyvte.Model, states: Sequence[RequestState]) -> dict[str, int]:
    """How many answers finished, and how many of those the schema refuses."""
    finished = invalid = tokens = 0
    for seed, state in enumerate(states):
        (choice,) = state.choices
        tokens += len(choice.token_ids)
        if choice.finish_reason is FinishReason.STOP:
            finished += 1
            answer = json.loads(model.text(choice.token_ids))
            invalid += not Draft202012Validator(random_schema(seed)).is_valid(answer)
    return {"finished": finished, "invalid": invalid, "tokens": tokens}


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    """Median and tail in milliseconds."""
    cuts = statistics.quantiles(seconds, n=100)
    return {
        "median": round(statistics.median(seconds) * 1000, 4),
        "p95": round(cuts[94] * 1000, 3),
        "p99": round(cuts[98] * 1000, 3),
    }


if __name__ == "__main__":
    main()
