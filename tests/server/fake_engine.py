"""The one double of the engine: scripted tokens, errors and slowness, no torch.

Ids 0..255 are bytes, so that any text can be scripted; ``IMAGE_ROWS`` rows stand for an image.
What a test wants to see afterwards (requests taken, aborts, choices ended) is kept in lists.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from dyvte.engine.events import Checked, EngineRequest, ModelInfo, TokenEvent, TokenLogprobs
from dyvte.engine.stats import (
    EngineSnapshot,
    ExitOutcome,
    Observer,
    RequestStats,
    StepStats,
    Timings,
)
from dyvte.errors import DyvteError, EngineStopped, OptionError, PromptError, QueueFull
from dyvte.flops import FlopsReport
from dyvte.params import ExitOptions, FinishReason, SamplingParams
from dyvte.prompt import IMAGE, Message, Prompt
from dyvte.structured import StructuredOutput
from dyvte.tools import Tool

IMAGE_ROWS = 9
NUM_LAYERS = 6
INFO = ModelInfo(
    family="fake",
    num_layers=NUM_LAYERS,
    vocab_size=256,
    max_model_len=512,
    dtype="float32",
    device="cpu",
    attention="none",
    policies=("gate", "fixed", "off"),
    prune_methods=("fastv",),
    default_exits=ExitOptions(aggressiveness=0.5),
    presets={
        "off": ExitOptions(policy="off"),
        "safe": ExitOptions(aggressiveness=0.25),
        "balanced": ExitOptions(aggressiveness=0.5),
        "aggressive": ExitOptions(aggressiveness=0.75),
    },
    has_gates=True,
    exits_hint="calibrate the gates",
)


@dataclass
class FakeEngine:
    """Answers every request with ``answer``, one byte a token, ``step_s`` apart."""

    answer: bytes = b"Hello, world."
    step_s: float = 0.0
    info: ModelInfo = INFO
    alive: bool = True
    capacity: int = 100
    fail_submit: DyvteError | None = None
    fail_after: tuple[int, Exception] | None = None
    load_s: float = 0.0
    risks: Mapping[bool, float] = field(default_factory=dict)  # max_risk by "a conversation?"
    messages: list[Sequence[Message]] = field(default_factory=list)
    requests: list[EngineRequest] = field(default_factory=list)
    tools: list[Sequence[Tool]] = field(default_factory=list)
    compiled: list[StructuredOutput] = field(default_factory=list)
    finished: list[tuple[str, int]] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    running: set[str] = field(default_factory=set)
    observers: list[Observer] = field(default_factory=list)
    given: int = 0  # steps that were taken from it
    draining: bool = False
    stopped: bool = False

    def prepare(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> Prompt:
        self.messages.append(messages)
        self.tools.append(tools)
        ids: list[int] = []
        for message in messages:
            content = message["content"]
            if isinstance(content, str):
                content = [{"type": "text", "text": content}]
            for part in content:
                image = part["type"] == "image"
                ids.extend([IMAGE] if image else part["text"].encode())
        return Prompt(ids or [32])

    def tokenize(self, text: str, special: bool = True) -> list[int]:
        return [1, *text.encode()] if special else list(text.encode())

    def detokenize(self, token_ids: Sequence[int]) -> str:
        return bytes(token_ids).decode(errors="replace").replace("\x01", "<s>")

    def check(self, prompt: Prompt, sampling: SamplingParams, exits: ExitOptions | None) -> Checked:
        rows = len(prompt.token_ids) + prompt.num_images * (IMAGE_ROWS - 1)
        if rows + (sampling.max_tokens or 1) > self.info.max_model_len:
            raise PromptError(f"the prompt has {rows} tokens; the context is 512")
        self.resolve(exits)
        return Checked(rows)

    def resolve(self, exits: ExitOptions | None, conversation: bool = False) -> ExitOptions:
        options = exits or self.info.default_exits
        if options.policy not in self.info.policies:
            raise OptionError("policy", "this model has no gates; serve with --gates")
        if options.max_risk is not None:
            found = self.risks.get(conversation)
            if found is None:
                raise OptionError("max_risk", "these gates have no calibration")
            return replace(options, max_risk=None, aggressiveness=found)
        if options.policy == "gate" and options.aggressiveness is None:
            return replace(options, aggressiveness=0.5)
        return options

    def compile(self, wanted: StructuredOutput) -> None:
        self.compiled.append(wanted)
        if wanted.text == "(":
            raise OptionError("structured_output", "cannot be compiled: unclosed group")
        if wanted.text == "slow":
            time.sleep(0.3)

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id]) if token_id != 1 else b""

    def submit(self, request: EngineRequest) -> AsyncGenerator[Sequence[TokenEvent], None]:
        if self.draining or self.stopped:
            raise EngineStopped("draining")
        if len(self.running) >= self.capacity:
            raise QueueFull("full", retry_after_s=2.5)
        if self.fail_submit is not None:
            raise self.fail_submit
        self.requests.append(request)
        return self._run(request)

    async def _run(self, request: EngineRequest) -> AsyncGenerator[Sequence[TokenEvent], None]:
        self.running.add(request.request_id)
        try:
            async for events in self._steps(request):
                yield events
        except (GeneratorExit, asyncio.CancelledError):
            if request.request_id in self.running:
                self.aborted.append(request.request_id)
            raise
        finally:
            self.running.discard(request.request_id)

    async def _steps(self, request: EngineRequest) -> AsyncGenerator[Sequence[TokenEvent], None]:
        sampling, done = request.sampling, 0
        scored = _scores(request)
        tokens = list(self.answer[: sampling.max_tokens])
        for step, token in enumerate(tokens):
            await asyncio.sleep(self.step_s)
            if self.stopped:
                raise EngineStopped("stopped")
            if self.fail_after is not None and step == self.fail_after[0]:
                raise self.fail_after[1]
            ended = {i for name, i in self.finished if name == request.request_id}
            if len(ended) == sampling.n:
                break
            done += 1
            self.given += 1
            yield [
                TokenEvent(
                    index,
                    token,
                    logprobs=_logprobs(token, sampling.logprobs),
                    prompt=None if step else scored,
                )
                for index in range(sampling.n)
                if index not in ended
            ]
        rows = self.check(request.prompt, sampling, request.exits).prompt_tokens
        cut = sampling.max_tokens is not None and len(self.answer) > sampling.max_tokens
        reason = FinishReason.LENGTH if cut else FinishReason.STOP
        first = None if done else scored
        events = [
            TokenEvent(i, None, finish_reason=reason, prompt=first) for i in range(sampling.n)
        ]
        stats = account(rows, request, done)
        for observer in self.observers:
            observer.on_step(StepStats(seconds=0.01, gate_seconds=0.001, vision_seconds=0.002))
            observer.on_finish(stats)
        self.running.discard(request.request_id)
        yield [*events[:-1], replace(events[-1], stats=stats)]

    def finish(self, request_id: str, index: int) -> None:
        self.finished.append((request_id, index))

    def snapshot(self) -> EngineSnapshot:
        return EngineSnapshot(running=len(self.running), kv_usage=0.25, kv_bytes_saved=7)

    def observe(self, observer: Observer) -> None:
        self.observers.append(observer)

    async def start(self) -> None:
        await asyncio.sleep(self.load_s)

    async def drain(self, timeout_s: float) -> bool:
        self.draining = True
        return not self.running

    async def stop(self) -> None:
        self.stopped = True


def _logprobs(token: int, count: int | None) -> TokenLogprobs | None:
    if count is None:
        return None
    top = tuple((token + i, -0.5 - i) for i in range(count))
    return TokenLogprobs(-0.5, top)


def _scores(request: EngineRequest) -> tuple[TokenLogprobs, ...] | None:
    wanted, ids = request.sampling.prompt_logprobs, request.prompt.token_ids
    if wanted is None:
        return None
    return tuple(score for token in ids[1:] if (score := _logprobs(token, wanted)))


def account(rows: int, request: EngineRequest, steps: int) -> RequestStats:
    """Stats as an engine would give them: visual tokens leave after layer 2."""
    exits = request.exits or INFO.default_exits
    visual = request.prompt.num_images * IMAGE_ROWS
    exited = bool(visual) and exits.policy != "off"
    layer = (2 if exits.exit_layer is None else exits.exit_layer) if exited else None
    kept = NUM_LAYERS if layer is None else layer + 1
    lengths = (rows,) * kept + (rows - visual,) * (NUM_LAYERS - kept)
    outcome = ExitOutcome.EXITED if exited else ExitOutcome.OFF
    return RequestStats(
        policy=exits.policy,
        outcome=outcome if visual else ExitOutcome.NO_IMAGE,
        num_layers=NUM_LAYERS,
        prompt_tokens=rows,
        completion_tokens=steps * request.sampling.n,
        visual_tokens=visual,
        flops=FlopsReport(10, sum(lengths), steps, 1, 2, baseline=13 + rows * NUM_LAYERS + steps),
        timings=Timings(0.001, 0.002, 0.003, 0.006, 0.01, 0.016),
        aggressiveness=exits.aggressiveness,
        min_layer=exits.min_layer,
        max_layer=exits.max_layer,
        exit_layer=layer,
        kv_bytes=100,
        kv_bytes_saved=40,
        tokens_per_layer=lengths,
        kv_tokens_per_layer=lengths,
        gate_logits=((0.5, -0.5), (float("nan"), 1.0)),
        gates_read=2,
        gates_nan=1,
        itl=(0.01, 0.02),
    )
