"""The words between the engine and whoever asked: a request in, token events out.

The engine speaks token ids; text is presentation and lives with the caller. Knows no torch.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from dyvte.engine.stats import EngineSnapshot, Observer, RequestStats
from dyvte.exits.presets import PresetRecord as PresetRecord
from dyvte.params import ExitOptions, FinishReason, SamplingParams
from dyvte.prompt import Message, Prompt
from dyvte.structured import StructuredOutput
from dyvte.tools import Tool


@dataclass(frozen=True, slots=True)
class Checked:
    """What ``Engine.check`` found to fit: ``prompt_tokens``, visual rows counted.

    ``kept`` is the engine's own, and spares ``submit`` the same work on the event loop.
    """

    prompt_tokens: int
    kept: object = None


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One request: a prompt, how to sample it, and how deep its image goes.

    ``exits`` None takes the engine's default. ``request_id`` is the caller's and appears in logs.
    Caches are shared between requests of one ``cache_salt`` alone. ``checked`` is what the engine
    said of this prompt, sampling and exits; without it they are checked when submitted.
    """

    request_id: str
    prompt: Prompt
    sampling: SamplingParams = field(default_factory=SamplingParams)
    exits: ExitOptions | None = None
    cache_salt: str = ""
    checked: Checked | None = None


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """log P of the chosen token and of the most likely ones, best first (natural logarithm)."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One token of choice ``index``.

    ``finish_reason`` is set on a choice's last event; its ``token_id`` is None there if nothing
    is to be shown (the end-of-sequence token is never shown). ``stats`` comes on the very last
    event of the request. ``prompt`` is on each choice's first event where it was asked for: the
    prompt's tokens from the second on.
    """

    index: int
    token_id: int | None
    logprobs: TokenLogprobs | None = None
    finish_reason: FinishReason | None = None
    stats: RequestStats | None = None
    prompt: tuple[TokenLogprobs, ...] | None = None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a loaded model is and offers; nothing here changes while it runs.

    ``policies`` are the exit policies that a request may name, ``prune_methods`` the pruning
    methods that may go before one; ``presets`` maps an alias
    ("safe", "balanced", "aggressive") to its options and ``records`` to what was measured of it;
    ``default_exits`` is used where a request says nothing. ``conversation_presets`` and
    ``conversation_default`` say where a prompt of several user turns is treated otherwise.
    ``max_model_len`` counts prompt rows (visual included) plus new tokens.
    ``strips_leading_space``: the tokenizer puts one space in front of an answer's first word
    ("▁Yes"), which is not part of the answer. ``weights`` is the form of the decoder's linear
    layers as ``dyvte.load`` takes it, or the library that rounded them before they were stored.
    """

    family: str
    num_layers: int
    vocab_size: int
    max_model_len: int
    dtype: str
    device: str
    attention: str
    policies: tuple[str, ...]
    default_exits: ExitOptions
    presets: Mapping[str, ExitOptions] = field(default_factory=dict)
    conversation_presets: Mapping[str, ExitOptions] = field(default_factory=dict)
    conversation_default: ExitOptions | None = None
    records: Mapping[str, PresetRecord] = field(default_factory=dict)
    has_gates: bool = False
    calibrated: bool = False
    exits_hint: str | None = None
    strips_leading_space: bool = False
    prune_methods: tuple[str, ...] = ()
    weights: str = "auto"


class TokenStream(Protocol):
    """What ``Engine.submit`` returns; any async generator of event lists is one."""

    def __aiter__(self) -> AsyncIterator[Sequence[TokenEvent]]:
        """Itself."""

    async def __anext__(self) -> Sequence[TokenEvent]:
        """The events of the next step that said something about this request."""

    async def aclose(self) -> None:
        """Abort the request within a step if it still runs. May be called twice."""


class Engine(Protocol):
    """What a server needs of an engine. ``dyvte.engine.handle.AsyncEngine`` is the real one.

    ``prepare`` and ``decode`` may be called from any thread; ``submit`` from the event loop.
    Closing the iterator of ``submit`` (or cancelling its task) aborts the request within a step.
    """

    @property
    def info(self) -> ModelInfo:
        """What is loaded."""

    @property
    def alive(self) -> bool:
        """False once the engine thread has died."""

    def prepare(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> Prompt:
        """Chat template, tokens, processed images. Blocking. Raises PromptError."""

    def tokenize(self, text: str, special: bool = True) -> list[int]:
        """Ids of plain text, in which nothing becomes a special token; ``special``: with what the
        tokenizer puts around it. Blocking. Raises PromptError."""

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """The text of ids, specials written out. Blocking. Raises PromptError."""

    def check(self, prompt: Prompt, sampling: SamplingParams, exits: ExitOptions | None) -> Checked:
        """Would they be taken? The result goes into the request.

        Raises PromptError (too long, …) or OptionError (does not fit this model) without
        submitting anything.
        """

    def resolve(self, exits: ExitOptions | None, conversation: bool = False) -> ExitOptions:
        """What ``exits`` means on this model: defaults filled in, ``max_risk`` turned into its
        calibrated aggressiveness, so that a caller can cap the values that will be in force.
        ``conversation``: the prompt has several user turns, whose risk is measured apart.

        Raises OptionError.
        """

    def compile(self, wanted: StructuredOutput) -> None:
        """Make a structured output ready for its requests. Blocking, from any thread.

        A request whose form was not compiled is compiled beside its prefill, and fails alone.
        Raises OptionError("structured_output").
        """

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes a token stands for (specials: empty)."""

    def submit(self, request: EngineRequest) -> TokenStream:
        """Yield lists of events as steps finish. Raises QueueFull, EngineStopped, RequestFailed."""

    def finish(self, request_id: str, index: int) -> None:
        """End choice ``index`` as STOP within a step: the caller saw a stop string in its text.

        Unlike closing the iterator this is a regular end: the choice's last event and, with the
        request's very last one, the stats still come. An unknown id or ended choice is ignored.
        """

    def snapshot(self) -> EngineSnapshot:
        """How busy it is now."""

    def observe(self, observer: Observer) -> None:
        """Tell ``observer`` of every step and every finished request."""

    async def start(self) -> None:
        """Start the engine thread and warm up; returns when the first request may come."""

    async def drain(self, timeout_s: float) -> bool:
        """Refuse new requests, wait for the running; True if all finished in time."""

    async def stop(self) -> None:
        """Abort what runs and end the thread."""
