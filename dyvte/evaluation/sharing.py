"""Answers of many settings for few runs.

After its prefill an answer depends on the sample, the visual rows that a pruning method kept and
the exit layer alone, not on who chose that layer. So one run that reads every gate and never
exits tells where each gate setting would leave, and each (sample, pruning, exit layer) is
generated once, however many settings arrive there. Settings that are neither `off`, `fixed` nor
`gate` are run as they are. `straight` runs everything as it is; in float32 both give the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from dyvte.evaluation.answer import Answer
from dyvte.evaluation.settings import Setting
from dyvte.exits.policy import ExitPolicy, Fixed, Gate, GateReading, Off, exit_of
from dyvte.exits.resolve import resolve
from dyvte.exits.vtw import Vtw
from dyvte.flops import gate_flops
from dyvte.model import Model
from dyvte.offline import generate
from dyvte.params import ExitOptions, PruneOptions, SamplingParams
from dyvte.prompt import Prompt

Prune = PruneOptions | None
Key = tuple[int, Prune, int | None]  # sample, pruning, exit layer
Job = tuple[int, ExitOptions]


def straight(
    model: Model, asked: Sequence[Prompt], settings: Sequence[Setting], sampling: SamplingParams
) -> list[list[Answer]]:
    """``[settings][asked]``: every setting really run."""
    jobs = [(i, s.of(each.conversation)) for s in settings for i, each in enumerate(asked)]
    answers = iter(_run(model, asked, jobs, sampling))
    return [[next(answers)[0] for _ in asked] for _ in settings]


def shared(
    model: Model, asked: Sequence[Prompt], settings: Sequence[Setting], sampling: SamplingParams
) -> list[list[Answer]]:
    """``[settings][asked]``: every distinct outcome run once."""
    pool = _Pool(model, asked, sampling)
    jobs = [[(i, s.of(each.conversation)) for i, each in enumerate(asked)] for s in settings]
    pool.read_gates(job for row in jobs for job in row)
    plans = [[pool.plan(*job) for job in row] for row in jobs]
    pool.fill(plan for row in plans for plan in row)
    return [[pool.answer(plan) for plan in row] for row in plans]


@dataclass(frozen=True, slots=True)
class _Plan:
    """Where one answer comes from: a key of the pool, or a run of its own; FLOPs of its gates."""

    key: Key | Job
    gates: int = 0


@dataclass(slots=True)
class _Pool:
    """Answers so far, and every gate's reading for each (sample, pruning)."""

    model: Model
    asked: Sequence[Prompt]
    sampling: SamplingParams
    found: dict[Key | Job, Answer] = field(default_factory=dict)
    readings: dict[tuple[int, Prune], list[tuple[int, GateReading]]] = field(default_factory=dict)

    def read_gates(self, jobs: Iterable[Job]) -> None:
        """Ask all gates of the samples that need it; NaN asks each gate and lets none fire."""
        wanted = {(i, _prune(o)): None for i, o in jobs if type(self._exit(i, o)) is Gate}
        asking = [(i, ExitOptions(aggressiveness=math.nan, prune=prune)) for i, prune in wanted]
        runs = _run(self.model, self.asked, asking, self.sampling)
        layers = sorted(self.model.grants.gated_layers)
        for (i, prune), (answer, logits) in zip(wanted, runs, strict=True):
            readings = [GateReading(keep, leave) for keep, leave in logits]
            told = list(zip(layers, readings, strict=False))  # none at all without an image
            self.readings[i, prune] = told
            self.found[i, prune, None] = answer.asked(-self._cost(layer for layer, _ in told))

    def plan(self, sample: int, options: ExitOptions) -> _Plan:
        """Where the answer of one sample under some options comes from."""
        prune, policy = _prune(options), self._exit(sample, options)
        # By type: a class that another package derives from these may decide otherwise.
        if type(policy) is Off:
            return _Plan((sample, prune, None))
        if type(policy) in (Fixed, Vtw):
            assert isinstance(policy, Fixed), "both are"
            return _Plan((sample, prune, policy.exit_layer))
        if type(policy) is not Gate:
            return _Plan((sample, options))
        asked = []
        for layer, reading in self.readings[sample, prune]:
            if policy.may_fire(layer):
                asked.append(layer)
                if policy.decide(layer, reading):
                    return _Plan((sample, prune, layer), self._cost(asked))
        return _Plan((sample, prune, None), self._cost(asked))

    def _exit(self, sample: int, options: ExitOptions) -> ExitPolicy:
        return exit_of(resolve(options, self.model.grants, self.asked[sample].conversation))

    def fill(self, plans: Iterable[_Plan]) -> None:
        """Generate what is still missing, everything packed together."""
        missing = list(dict.fromkeys(plan.key for plan in plans if plan.key not in self.found))
        jobs = [_job(key) for key in missing]
        runs = _run(self.model, self.asked, jobs, self.sampling)
        for key, (answer, _) in zip(missing, runs, strict=True):
            self.found[key] = answer

    def answer(self, plan: _Plan) -> Answer:
        """The answer, with its own gates on the account."""
        answer = self.found[plan.key]
        return answer.asked(plan.gates) if plan.gates else answer

    def _cost(self, layers: Iterable[int]) -> int:
        bank = self.model.gates
        assert bank is not None, "only gated settings ask"
        return sum(gate_flops(bank.hidden_size, bank.inner(layer)) for layer in layers)


def _prune(options: ExitOptions) -> Prune:
    return None if options.prune is None else PruneOptions.of(options.prune)


def _job(key: Key | Job) -> Job:
    """The run that a key stands for."""
    if len(key) == 2:
        return key
    sample, prune, layer = key
    if layer is None:
        return sample, ExitOptions(policy="off", prune=prune)
    return sample, ExitOptions(policy="fixed", exit_layer=layer, prune=prune)


def _run(
    model: Model, asked: Sequence[Prompt], jobs: Sequence[Job], sampling: SamplingParams
) -> list[tuple[Answer, tuple[tuple[float, float], ...]]]:
    """Answers and gate logits, all jobs in one packed run."""
    if not jobs:
        return []
    results = generate(model, [asked[i] for i, _ in jobs], sampling, [o for _, o in jobs])
    return [(Answer.of(result), result.stats.gate_logits) for result in results]
