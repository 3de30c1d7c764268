"""The engine as one breath: plan, run, postprocess. Synchronous; one thread calls it.

Used as it is by offline generation and, behind a thread and queues, by the server. A request
that goes wrong fails alone; ``dyvte.engine.stepping`` runs its batch mates again without it.
Longer than most files: planning, choosing and ending all turn on the same few dictionaries.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable
from collections.abc import Sequence as Seq

import torch

from dyvte.constraints.constraint import Constraint, Grammars
from dyvte.engine.choosing import Choice, Draft
from dyvte.engine.events import EngineRequest, TokenEvent
from dyvte.engine.fitting import fit
from dyvte.engine.foreseen import foreseen
from dyvte.engine.output import Emission, accept
from dyvte.engine.plan import Plan, Work
from dyvte.engine.prefix_cache import PrefixCache
from dyvte.engine.report import request_stats
from dyvte.engine.runner import Output, Runner
from dyvte.engine.scheduler import Scheduler
from dyvte.engine.sequence import Fit, RequestState, Sequence
from dyvte.engine.spent import spent_flops
from dyvte.engine.stats import EngineSnapshot, RequestStats, StepStats
from dyvte.engine.stepping import Ran, Stepper
from dyvte.errors import DyvteError, GrammarFailed, RequestFailed
from dyvte.model import Model
from dyvte.pages import OutOfPages
from dyvte.params import ExitOptions, FinishReason, SamplingParams
from dyvte.prompt import Prompt

log = logging.getLogger("dyvte.engine")

NOT_FINITE = "the model's highest logit is not a finite number"


class EngineCore:
    """Sequences, scheduler and runner. Only ``check``, ``fit``, ``grammars`` are thread-safe."""

    def __init__(
        self,
        model: Model,
        runner: Runner,
        scheduler: Scheduler,
        max_model_len: int,
        grammars: Grammars,
        prefixes: PrefixCache | None = None,
    ) -> None:
        self.model = model
        self.runner = runner
        self.scheduler = scheduler
        self.max_model_len = max_model_len
        self.grammars = grammars
        self.prefixes = PrefixCache(runner.cache) if prefixes is None else prefixes
        scheduler.cached_rows, scheduler.cost = self.prefixes.rows, self._cost
        self.last_step = StepStats()
        self._ids = itertools.count()
        self._sequences: dict[int, Sequence] = {}
        self._failed: list[Emission] = []
        self._stepper = Stepper(runner, self.prefixes, self._fail_in_step)

    @property
    def has_work(self) -> bool:
        """True if a step would do something."""
        return self.scheduler.has_work

    def heed(self, interrupted: Callable[[], bool]) -> None:
        """End a long step that nobody decodes in as soon as ``interrupted`` says so.

        It is asked between pieces of the work, from the thread that steps.
        """
        self._stepper.interrupted = interrupted

    def seconds_waiting(self) -> float:
        """What the prefills in line may take, by what was learned here; 0 before anything was."""
        shape, seconds = self.model.adapter.decoder, self.runner.pace.layers.seconds or 0.0
        rows = [work.rows for work in self.scheduler.waiting]
        return seconds * shape.num_layers * sum(shape.layer(count, count) for count in rows)

    def check(self, request: EngineRequest) -> RequestState:
        """Expand and validate without admitting, unless that was done before (``checked``).

        Raises PromptError, OptionError.
        """
        known = request.checked.kept if request.checked else None
        if not isinstance(known, Fit) or not known.is_of(request):
            known = self.fit(request.prompt, request.sampling, request.exits)
        return RequestState(request, known.layout, known.options, known.policy)

    def fit(self, prompt: Prompt, sampling: SamplingParams, exits: ExitOptions | None) -> Fit:
        """Expand and validate. Raises PromptError, OptionError.

        A structured output is not compiled here (``grammars.compile``): that takes time.
        """
        return fit(self.model, self.scheduler, self.max_model_len, prompt, sampling, exits)

    def add(self, state: RequestState, background: bool = False) -> None:
        """Put a checked request at the end of the line.

        The prefill of one in the ``background`` is always cut to the step's budget.
        """
        state.choices = [
            Sequence.of(state, next(self._ids), index, self._constraint(state))
            for index in range(state.sampling.n)
        ]
        for choice in state.choices:
            self._sequences[choice.seq] = choice
        state.prefix_key = self.prefixes.key(state)
        first, copies = state.choices[0], len(state.choices)
        self.scheduler.add(Work(first.seq, first.rows, copies, background, state.prefix_key))

    def _constraint(self, state: RequestState) -> Constraint | None:
        wanted = state.sampling.structured_output
        return None if wanted is None else self.grammars.begin(wanted)

    def abort(self, state: RequestState) -> None:
        """Drop a request wherever it is; its pages are free when this returns."""
        self._close_account(state)
        for choice in state.choices:
            if choice.finish_reason is None:
                choice.finish_reason = FinishReason.ABORT
            self._forget(choice)

    def finish_choice(self, state: RequestState, index: int) -> list[Emission]:
        """End one choice as STOP from outside (its text holds a stop string)."""
        choices = [
            choice
            for choice in state.choices
            if choice.index == index and choice.sampled and choice.finish_reason is None
        ]
        for choice in choices:
            choice.finish_reason = FinishReason.STOP
            self._end(choice)
        reason = FinishReason.STOP
        return [Emission(state, TokenEvent(c.index, None, finish_reason=reason)) for c in choices]

    @torch.inference_mode()
    def step(self) -> list[Emission]:
        """Run one step and return what it said, in sequence order."""
        began = time.perf_counter()
        plan = self.scheduler.plan(self.runner.cache.lengths, self.runner.pace.light)
        for seq in sorted(plan.preempted, reverse=True):
            self._preempt(seq)
        if plan.idle:
            return []
        ran = self._run(plan)
        said = self._postprocess(ran.outputs)
        emissions, self._failed = [*self._failed, *said], []
        spent = self.runner.settle()
        self.last_step = StepStats(
            prefill_rows=ran.prefill_rows,
            decode_rows=len(plan.decode),
            seconds=time.perf_counter() - began,
            gate_seconds=spent.gates,
            vision_seconds=spent.vision,
        )
        return emissions

    def _run(self, plan: Plan) -> Ran:
        decodes = self._alive(plan.decode)
        if plan.passing:
            return self._stepper.run_passing(self._alive(plan.passing), decodes)
        work = self.runner.pace.budget(plan.background) if plan.bounded else None
        return self._stepper.step(self._alive(plan.group), decodes, work)

    def _cost(self, seq: int) -> int | None:
        """FLOPs of a waiting sequence's layers; None if images have to be encoded before."""
        sequence = self._sequences[seq]
        source = self.prefixes.source(sequence)
        if source is None and sequence.owner.layout.spans and sequence.owner.image_rows is None:
            return None
        return foreseen(self.model.adapter.decoder, sequence, source)

    def _alive(self, seqs: Seq[int]) -> list[Sequence]:
        return [self._sequences[seq] for seq in seqs]

    def spent(self, state: RequestState) -> int:
        """FLOPs that the group in flight has run, if the request is in it."""
        return sum(self._stepper.spent(choice) for choice in state.choices)

    def snapshot(self) -> EngineSnapshot:
        """How busy it is now. May be called from other threads: reads only."""
        scheduler, cache = self.scheduler, self.runner.cache
        saved = 0
        for seq in list(scheduler.running):
            sequence = self._sequences.get(seq)
            if sequence is None:
                continue  # it has just ended in the engine's thread
            rows = cache.lengths(seq)
            saved += len(rows) * sequence.owner.full_rows(rows) - sum(rows)
        return EngineSnapshot(
            running=len(scheduler.running) + len(scheduler.group) + len(scheduler.passing),
            waiting=len(scheduler.waiting),
            kv_usage=scheduler.ledger.usage,
            kv_bytes_saved=saved * cache.row_bytes,
        )

    def _postprocess(self, outputs: Seq[Output]) -> list[Emission]:
        """Choose tokens, settle prefills, fork choices, end what ends."""
        if not outputs:
            return []
        eos = self.model.adapter.eos_token_ids
        drafted = Draft([(out.sequence, out.logits) for out in outputs], eos).read()
        emissions = [
            self._fail(choice.sequence.owner, ArithmeticError(NOT_FINITE))
            for choice in drafted
            if not choice.usable and choice.sequence.finish_reason is None
        ]
        for out in outputs:
            if out.trace is not None:
                self.prefixes.let_go(out.sequence.seq)
        # Only now: a request that failed takes its other choices of this step with it.
        chosen: list[Choice] = []
        forks: list[tuple[Sequence, torch.Tensor]] = []
        for out, choice in zip(outputs, drafted, strict=True):
            if out.sequence.finish_reason is not None:
                continue
            try:
                if out.trace is not None:
                    self._settle(out)
                forks += self._forks(out)
                chosen.append(choice)
            except Exception as error:
                emissions.append(self._fail(out.sequence.owner, error))
        alive = [pair for pair in forks if pair[0].finish_reason is None]
        more = Draft(alive, eos).read() if alive else []
        return emissions + self._accepted(_beside(chosen, more))

    def _settle(self, out: Output) -> None:
        sequence, cache = out.sequence, self.runner.cache
        rows = cache.lengths(sequence.seq)
        self.scheduler.prefilled(sequence.seq, rows)
        self.prefixes.note(sequence, out.passage)
        owner = sequence.owner
        if owner.trace is None:
            owner.trace = out.trace
            owner.kv_after_prefill = tuple(rows)

    def _forks(self, out: Output) -> list[tuple[Sequence, torch.Tensor]]:
        """After the first prefill of n > 1 the other choices, with the logits that they share."""
        if out.trace is None or out.sequence.index or out.sequence.sampled:
            return []
        pairs: list[tuple[Sequence, torch.Tensor]] = []
        for child in out.sequence.owner.choices[1:]:
            try:
                self.runner.cache.fork(out.sequence.seq, child.seq)
                self.scheduler.join(child.seq)
                pairs.append((child, out.logits))
            except OutOfPages:
                self.scheduler.wait_again(self._work(child))
        return pairs

    def _accepted(self, choices: Seq[Choice]) -> list[Emission]:
        """One failure takes its request's other choices along."""
        emissions = [
            self._fail(each.sequence.owner, each.token)
            for each in choices
            if isinstance(each.token, Exception) and each.sequence.finish_reason is None
        ]
        now = time.perf_counter()
        return emissions + [
            self._accept(each, each.token, now)
            for each in choices
            if not isinstance(each.token, Exception) and each.sequence.finish_reason is None
        ]

    def _accept(self, choice: Choice, token: int, now: float) -> Emission:
        sequence, longest = choice.sequence, self.max_model_len
        try:
            event = accept(
                self.model, sequence, token, choice.logits, choice.logprobs, longest, now
            )
        except Exception as error:
            return self._fail(sequence.owner, error)
        if event.finish_reason is not None:
            self._end(sequence)
        return Emission(sequence.owner, event)

    def _end(self, sequence: Sequence) -> None:
        owner = sequence.owner
        rows = self.runner.cache.lengths(sequence.seq)
        owner.kv_rows_held += sum(rows)
        owner.kv_rows_full += len(rows) * owner.full_rows(rows)
        self._forget(sequence)

    def _forget(self, sequence: Sequence) -> None:
        self._stepper.leave(sequence)
        self.prefixes.retire(sequence)
        self.scheduler.remove(sequence.seq)
        self.runner.cache.release(sequence.seq)
        self._sequences.pop(sequence.seq, None)
        if sequence.owner.done:
            sequence.owner.image_rows = None

    def _fail_in_step(self, state: RequestState, error: Exception) -> None:
        self._failed.append(self._fail(state, error))

    def _fail(self, state: RequestState, error: Exception) -> Emission:
        """End a request whose own step raised; the cause goes to the log, not to the user."""
        log.error("request %s failed: %s", state.request.request_id, error, exc_info=error)
        self._close_account(state)
        for choice in state.choices:
            choice.finish_reason = choice.finish_reason or FinishReason.ERROR
            self._forget(choice)
        known = isinstance(error, DyvteError)
        message = str(error) if known else "the model could not process this request"
        kind = GrammarFailed if isinstance(error, GrammarFailed) else RequestFailed
        failure = kind(message, state.request.request_id)
        return Emission(state, TokenEvent(0, None, finish_reason=FinishReason.ERROR), failure)

    def _close_account(self, state: RequestState) -> None:
        """What a request that is given up has cost so far, unless it had ended."""
        if state.spent is None and not state.done:
            state.spent = spent_flops(self.model.adapter, state, self._stepper.prefill)

    def _preempt(self, seq: int) -> None:
        sequence = self._sequences[seq]
        self.prefixes.lost(seq)
        group = [self._sequences[work.seq] for work in self.scheduler.group]
        if any(each.source is not None and each.source.memory.seq == seq for each in group):
            self._stepper.restart()
        self.scheduler.wait_again(self._work(sequence))

    def _work(self, sequence: Sequence) -> Work:
        return Work(sequence.seq, sequence.rows, prefix=sequence.owner.prefix_key)

    def stats_of(self, state: RequestState) -> RequestStats:
        """The account of a finished request."""
        return request_stats(self.model.adapter, self.runner.cache, state)


def _beside(first: Seq[Choice], forks: Seq[Choice]) -> list[Choice]:
    """Every fork behind the first choice of its request, which it was forked from."""
    found: list[Choice] = []
    for one in first:
        found.append(one)
        if not one.sequence.index:
            found += [each for each in forks if each.sequence.owner is one.sequence.owner]
    return found
