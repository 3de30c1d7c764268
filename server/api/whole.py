"""A whole answer: all deltas of a generation gathered into one ``chat.completion``."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, field

from server.api.calls import call_id, finish_of
from server.api.chat_objects import AssistantReply, Choice, Logprobs, ToolCall
from server.api.reply import ReplyContext
from server.detokenize import ShownToken
from server.generate import Generation
from server.toolcalls import ToolCallReader


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
    message = _message("".join(gathered.text), context)
    calls = len(message.get("tool_calls", ()))
    return {
        "index": index,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": finish_of(generation.finish_reasons[index], calls),
    }


def _message(text: str, context: ReplyContext) -> AssistantReply:
    if not context.tool_names:
        return {"role": "assistant", "content": text, "refusal": None}
    reader = ToolCallReader(context.tool_names, context.calls_lead)
    said: list[str] = []
    calls: list[ToolCall] = []
    for part in [*reader.push(text), *reader.flush()]:
        if isinstance(part, str):
            said.append(part)
        elif part.name is not None:
            function: ToolCall = {
                "id": call_id(),
                "type": "function",
                "function": {"name": part.name, "arguments": part.arguments},
            }
            calls.append(function)
        else:
            calls[part.index]["function"]["arguments"] += part.arguments
    content = "".join(said)
    message: AssistantReply = {
        "role": "assistant",
        "content": content if content or not calls else None,
        "refusal": None,
    }
    if calls:
        message["tool_calls"] = calls
    return message
