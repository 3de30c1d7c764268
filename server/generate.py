"""Token events of one request → text deltas of its choices, until all have ended.

Knows the engine's events and the detokenizer, and nothing of HTTP: streamed and whole answers
read the same deltas. Leaving the loop early closes the engine's iterator, which aborts.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from dyvte.engine.events import Engine, EngineRequest, TokenEvent, TokenLogprobs
from dyvte.engine.stats import RequestStats
from dyvte.errors import EngineStopped, RequestFailed
from dyvte.params import FinishReason, SamplingParams
from server.deadline import in_time
from server.detokenize import Detokenizer, Piece, ShownToken


@dataclass(frozen=True, slots=True)
class Delta:
    """What one step added to choice ``index``; ``finish_reason`` is set on its last delta."""

    index: int
    text: str = ""
    tokens: tuple[ShownToken, ...] = ()
    finish_reason: FinishReason | None = None


class Generation:
    """One request on its way through the engine. ``stats`` is there after the last delta,
    ``prompt_logprobs`` with the first where they were asked for.

    ``deadline`` is when it must be done, on the event loop's clock. ``continues_text``: the space
    before the first word belongs to it.
    """

    def __init__(
        self,
        engine: Engine,
        request: EngineRequest,
        deadline: float | None = None,
        continues_text: bool = False,
    ) -> None:
        sampling = request.sampling
        self._engine = engine
        self._request = request
        self._deadline = deadline
        self._choices = [
            Detokenizer(
                engine.token_bytes,
                sampling.stop,
                sampling.min_tokens,
                engine.info.strips_leading_space and not continues_text,
            )
            for _ in range(sampling.n)
        ]
        self.finish_reasons: dict[int, FinishReason] = {}
        self.stats: RequestStats | None = None
        self.prompt_logprobs: tuple[TokenLogprobs, ...] = ()

    @property
    def each(self) -> Sequence[Generation]:
        """Itself: what several generations together are made of."""
        return (self,)

    @property
    def sampling(self) -> SamplingParams:
        """How its tokens are chosen."""
        return self._request.sampling

    @property
    def completion_tokens(self) -> int:
        """Tokens of all choices: the engine's count, or ours where a stop string cut one."""
        if self.stats is None or any(choice.stopped for choice in self._choices):
            return sum(choice.num_tokens for choice in self._choices)
        return self.stats.completion_tokens

    async def deltas(self) -> AsyncGenerator[list[Delta], None]:
        """One list per step that changed some text. Raises EngineError, Overdue."""
        async with aclosing(self._engine.submit(self._request)) as stream:
            steps = aiter(stream)
            while (events := await in_time(anext(steps, None), self._deadline)) is not None:
                changed = [delta for event in events for delta in self._take(event)]
                if changed:
                    yield changed
                if self.stats is not None:
                    break
        if len(self.finish_reasons) < len(self._choices):
            raise EngineStopped("the engine ended a request without finishing it")

    def _take(self, event: TokenEvent) -> Sequence[Delta]:
        if event.stats is not None:
            self.stats = event.stats
        if event.prompt is not None:
            self.prompt_logprobs = event.prompt
        if event.index in self.finish_reasons:
            return ()
        self._check(event)
        choice = self._choices[event.index]
        piece = Piece()
        if event.token_id is not None:
            piece = choice.push(event.token_id, event.logprobs)
        reason = event.finish_reason
        if piece.stopped:
            reason = FinishReason.STOP
            if event.finish_reason is None:
                self._engine.finish(self._request.request_id, event.index)
        elif reason is not None:
            rest = choice.flush()
            piece = Piece(piece.text + rest.text, piece.tokens + rest.tokens)
        if reason is not None:
            self.finish_reasons[event.index] = reason
        if not piece.text and not piece.tokens and reason is None:
            return ()
        return (Delta(event.index, piece.text, piece.tokens, reason),)

    def _check(self, event: TokenEvent) -> None:
        if event.finish_reason is FinishReason.ABORT:
            raise EngineStopped("the engine gave up the request")
        if event.finish_reason is FinishReason.ERROR:
            raise RequestFailed("the request's step failed", self._request.request_id)
