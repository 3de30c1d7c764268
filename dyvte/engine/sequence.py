"""A request inside the engine and the sequences (one per choice) that it becomes."""

from __future__ import annotations

import operator
import time
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dyvte.constraints.constraint import Constraint
from dyvte.engine.events import EngineRequest, TokenLogprobs
from dyvte.exits.policy import Chain, ExitPolicy, Fixed, Off, Policy
from dyvte.exits.prune.rule import Replay
from dyvte.flops import FlopsReport
from dyvte.models.adapter import PromptLayout
from dyvte.params import ExitOptions, FinishReason, SamplingParams
from dyvte.penalties import Penalties
from dyvte.prefix import Source
from dyvte.prompt import Prompt
from dyvte.sampling import generator_for
from dyvte.trace import SequenceTrace
from dyvte.transfer import moved


@dataclass(slots=True)
class Clock:
    """When things happened to a request (``time.perf_counter`` seconds), and what they took."""

    arrived: float = field(default_factory=time.perf_counter)
    admitted: float | None = None
    vision: float = 0.0
    prefill: float = 0.0
    first_token: float | None = None
    last_token: float | None = None


@dataclass(frozen=True, slots=True)
class Fit:
    """A prompt and its settings, found to fit the model: expanded and resolved."""

    prompt: Prompt
    sampling: SamplingParams
    exits: ExitOptions | None
    layout: PromptLayout
    options: ExitOptions
    policy: Policy

    def is_of(self, request: EngineRequest) -> bool:
        """True if it was these very objects that were looked at."""
        asked = (request.prompt, request.sampling, request.exits)
        return all(map(operator.is_, asked, (self.prompt, self.sampling, self.exits)))


@dataclass(slots=True)
class RequestState:
    """One request: its expanded prompt, its exit policy, its choices and its clock.

    ``image_hit``: were its images' rows there already? None: no cache was asked. ``prefix_hit``:
    the same of the rows up to its last image, which are found by ``prefix_key``. ``spent`` is
    there once it was given up.
    ``prompt_logprobs``: those of the prompt's tokens from the second on, once they are computed.
    """

    request: EngineRequest
    layout: PromptLayout
    options: ExitOptions
    policy: Policy
    clock: Clock = field(default_factory=Clock)
    choices: list[Sequence] = field(default_factory=list)
    image_rows: list[Tensor] | None = None
    image_hit: bool | None = None
    prefix_key: tuple[str, bytes, bytes] | None = None
    prefix_hit: bool | None = None
    trace: SequenceTrace | None = None
    kv_after_prefill: tuple[int, ...] = ()
    kv_rows_held: int = 0
    kv_rows_full: int = 0
    spent: FlopsReport | None = None
    gaps: list[float] = field(default_factory=list)
    prompt_logprobs: tuple[TokenLogprobs, ...] | None = None

    @property
    def sampling(self) -> SamplingParams:
        """How its tokens are chosen."""
        return self.request.sampling

    @property
    def images(self) -> Any:
        """Processed images as they came."""
        return self.request.prompt.images

    @property
    def vision_flops_spared(self) -> int:
        """What the vision tower did not have to compute for it."""
        return self.layout.vision_flops if self.image_hit or self.prefix_hit else 0

    def full_rows(self, held: Seq[int]) -> int:
        """Rows that every layer would hold had nothing left, where they now hold ``held``.

        The first layer's, and those that pruning took before it.
        """
        ran = self.trace.tokens_per_layer[0] if self.trace else self.layout.rows
        return held[0] + self.layout.rows - ran if held and held[0] else 0

    @property
    def done(self) -> bool:
        """True once every choice has ended."""
        return all(choice.finish_reason is not None for choice in self.choices)


@dataclass(slots=True)
class Sequence:
    """One choice. ``token_ids`` are shown tokens; ``sampled`` counts hidden end tokens as well.

    ``source``: until its prefill is over, where the rows of its prefix are taken from.
    """

    seq: int
    index: int
    owner: RequestState
    generator: torch.Generator
    token_ids: list[int] = field(default_factory=list)
    sampled: int = 0
    finish_reason: FinishReason | None = None
    tail: bytes = b""
    last_token_at: float | None = None
    logits: list[Tensor] = field(default_factory=list)
    penalties: Penalties | None = None
    constraint: Constraint | None = None
    source: Source | None = None

    @classmethod
    def of(
        cls, owner: RequestState, seq: int, index: int, constraint: Constraint | None = None
    ) -> Sequence:
        """A new choice with its own generator."""
        sampling = owner.sampling
        ids = owner.request.prompt.token_ids
        penalties = Penalties(sampling, ids) if sampling.adjusts else None
        generator = generator_for(sampling, index)
        return cls(seq, index, owner, generator, penalties=penalties, constraint=constraint)

    @property
    def rows(self) -> int:
        """Rows of prompt and generated tokens together."""
        return self.owner.layout.rows + len(self.token_ids)

    def ids_from(self, row: int) -> tuple[int, ...]:
        """Token ids of prompt and answer from a row on that lies in the prompt."""
        return (*self.owner.layout.token_ids[row:], *self.token_ids)

    @property
    def policy(self) -> Policy:
        """The request's policy at first; a recomputed sequence keeps the cuts and exit it had."""
        trace = self.owner.trace
        if trace is None:
            return self.owner.policy
        leave: ExitPolicy = Off() if trace.exit_layer is None else Fixed(trace.exit_layer)
        return Chain(Replay.of(trace.cuts), leave) if trace.cuts else leave

    def scores(self, logits_V: Tensor, eos: frozenset[int]) -> Tensor:
        """What its next token is chosen from: the model's logits, or an adjusted copy ``[V]``.

        With a constraint, what it does not allow is -inf. Raises GrammarFailed.
        """
        scores = logits_V
        if self.penalties is not None:
            scores = self.penalties.apply(logits_V, self.token_ids)
        if self.constraint is None:
            return scores
        allowed = self.constraint.mask()
        if early := self.forbidden(eos):
            later = allowed.clone()
            later[list(early)] = False
            if later.any():  # else the grammar wants an end now, and min_tokens yields
                allowed = later
        return scores.masked_fill(moved(~allowed, scores.device), float("-inf"))

    def may_choose(self, token: int) -> bool:
        """False if ``token`` breaks the constraint: the model gave -inf to all that it allows."""
        return self.constraint is None or bool(self.constraint.mask()[token])

    def forbidden(self, eos: frozenset[int]) -> Seq[int]:
        """Ids that must not be chosen yet: end tokens before ``min_tokens``."""
        params = self.owner.sampling
        if len(self.token_ids) >= params.min_tokens:
            return ()
        return [*eos, *params.stop_token_ids]
