"""LlamaIndex's ``OpenAILike``."""

# mypy: ignore-errors

from __future__ import annotations

from typing import Any

from checks import API_KEY, BASE_URL, LONGER, MAX_TOKENS, MODEL, PICTURE, QUESTION, TOOL, report
from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from thing import Thing

model = OpenAILike(
    model=MODEL,
    api_base=BASE_URL,
    api_key=API_KEY,
    is_chat_model=True,
    is_function_calling_model=True,
    should_use_structured_outputs=True,
    max_tokens=MAX_TOKENS,
    temperature=0,
)


def ask(text: str) -> list[ChatMessage]:
    picture = ImageBlock(image=PICTURE.read_bytes(), image_mimetype="image/png")
    return [ChatMessage(role="user", blocks=[picture, TextBlock(text=text)])]


def image() -> str:
    return str(model.chat(ask(QUESTION)).message.content)


def stream() -> list[str]:
    return [chunk.delta or "" for chunk in model.stream_chat(ask(LONGER))]


def tools() -> tuple[str, dict[str, Any]]:
    paint = FunctionTool.from_defaults(fn=Thing, name=TOOL, fn_schema=Thing)
    reply = model.chat_with_tools([paint], chat_history=ask(QUESTION), tool_required=True)
    call = model.get_tool_calls_from_response(reply)[0]
    return call.tool_name, call.tool_kwargs


def structured() -> dict[str, Any]:
    return dict(model.as_structured_llm(Thing).chat(ask(QUESTION)).raw.model_dump())


report(image, stream, tools, structured)
