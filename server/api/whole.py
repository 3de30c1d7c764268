"""A whole answer: all deltas of a generation gathered into one ``chat.completion``."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, field

from server.api.reply import Choice, Logprobs, ReplyContext
from server.detokenize import ShownToken
from server.generate import Generation


@dataclass(slots=True)
class _Gathered:
    text: list[str] = field(default_factory=list)
    tokens: list[ShownToken] = field(default_factory=list)


async def whole_reply(generation: Generation, context: ReplyContext) -> bytes:
    """The body of the answer. Raises EngineError."""
    gathered = [_Gathered() for _ in range(context.num_choices)]
    async with aclosing(generation.deltas()) as deltas:
        async for step in deltas:
            for delta in step:
                gathered[delta.index].text.append(delta.text)
                gathered[delta.index].tokens.extend(delta.tokens)
    choices = [_choice(index, choice, generation, context) for index, choice in enumerate(gathered)]
    return context.completion(choices, generation)


def _choice(
    index: int, gathered: _Gathered, generation: Generation, context: ReplyContext
) -> Choice:
    logprobs: Logprobs | None = None
    if context.logprobs:
        logprobs = context.logprobs_of(tuple(gathered.tokens))
    return {
        "index": index,
        "message": {"role": "assistant", "content": "".join(gathered.text), "refusal": None},
        "logprobs": logprobs,
        "finish_reason": generation.finish_reasons[index].value,
    }
