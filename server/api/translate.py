"""OpenAI's words → the engine's: messages, sampling, exits. OpenAI's vocabulary ends here.

A second protocol would add a file beside this one. Nothing is decoded or computed: an image is
still a URL, with the path under which an error will name it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dyvte.engine.events import Engine
from dyvte.params import ExitOptions, SamplingParams
from dyvte.tools import Tool
from server.api.errors import bad_request
from server.api.exits import Headers, choose_exits
from server.api.form import Form, choose_form
from server.api.messages import (
    AssistantMessage,
    ImagePart,
    Message,
    RefusalPart,
    TextPart,
    ToolMessage,
)
from server.api.sampling import check_sampling, over, sampling_of
from server.api.schema import ChatRequest
from server.api.tools import calls_of, check_conversation, choose_tools
from server.settings import Settings


@dataclass(frozen=True, slots=True)
class ImageSource:
    """An image as the client gave it; ``path`` is how an error names it."""

    url: str
    detail: str
    path: str


@dataclass(frozen=True, slots=True)
class ChatJob:
    """A chat request in the engine's words.

    ``messages`` hold an ``ImageSource`` where an image belongs. ``form_param`` is the client's
    name of what asked for a structured output; ``asked_form`` is the client's own form, where
    tools make that output more than it. ``calls_lead``: an answer that does not begin with a call
    holds none.
    """

    model: str
    messages: tuple[Mapping[str, Any], ...]
    sampling: SamplingParams
    exits: ExitOptions
    report: str
    stream: bool
    include_usage: bool
    continuous_usage: bool = False
    form_param: str = ""
    asked_form: Form | None = None
    tools: tuple[Tool, ...] = ()
    calls_lead: bool = False

    @property
    def images(self) -> tuple[ImageSource, ...]:
        """All images in order."""
        return tuple(
            part["image"]
            for message in self.messages
            if isinstance(message["content"], list)
            for part in message["content"]
            if part["type"] == "image"
        )


def translate(
    request: ChatRequest, headers: Headers, engine: Engine, settings: Settings
) -> ChatJob:
    """The job that ``request`` asks for. Raises ApiError (400)."""
    _check_limits(request, settings)
    check_sampling(request, engine, settings)
    asked = choose_form(request.response_format, request.structured_outputs)
    check_conversation(request)
    choice = choose_tools(request, asked)
    form = choice.form
    logprobs = (request.top_logprobs or 0) if request.logprobs else None
    sampling = sampling_of(request, form, _max_tokens(request), logprobs)
    options = request.stream_options
    return ChatJob(
        model=request.model,
        messages=tuple(_message(m, i) for i, m in enumerate(request.messages)),
        sampling=sampling,
        exits=choose_exits(request, headers, engine, settings),
        report=(request.dyvte.report if request.dyvte else None) or "summary",
        stream=bool(request.stream),
        include_usage=bool(options and options.include_usage),
        continuous_usage=bool(options and options.continuous_usage_stats),
        form_param=form.param if form else "",
        asked_form=asked,
        tools=choice.tools,
        calls_lead=choice.calls_lead,
    )


def _check_limits(request: ChatRequest, settings: Settings) -> None:
    """What must hold before anything is copied."""
    if len(request.messages) > settings.max_messages:
        raise over("messages", "messages", settings.max_messages)
    images = sum(
        isinstance(part, ImagePart)
        for message in request.messages
        if isinstance(message.content, list)
        for part in message.content
    )
    if images > settings.max_images:
        raise over("messages", "images", settings.max_images)
    if request.top_logprobs is not None and not request.logprobs:
        raise bad_request("'top_logprobs' needs 'logprobs' to be true.", "top_logprobs")


def _max_tokens(request: ChatRequest) -> int | None:
    new, old = request.max_completion_tokens, request.max_tokens
    if new is not None and old is not None and new != old:
        raise bad_request(
            "'max_tokens' is the old name of 'max_completion_tokens'; give one of them.",
            "max_tokens",
        )
    return old if new is None else new


def _message(message: Message, index: int) -> Mapping[str, Any]:
    role = "system" if message.role == "developer" else message.role
    content: str | list[Mapping[str, Any]]
    if isinstance(message.content, list):
        content = [
            _part(part, f"messages[{index}].content[{j}].image_url")
            for j, part in enumerate(message.content)
        ]
    else:
        refusal = message.refusal if isinstance(message, AssistantMessage) else None
        content = message.content or refusal or ""
    made: dict[str, Any] = {"role": role, "content": content}
    if isinstance(message, AssistantMessage) and message.tool_calls:
        made["tool_calls"] = calls_of(message, index)
    name = None if isinstance(message, ToolMessage) else message.name
    return made | ({"name": name} if name else {})


def _part(part: TextPart | ImagePart | RefusalPart, path: str) -> Mapping[str, Any]:
    if isinstance(part, ImagePart):
        detail = part.image_url.detail or "auto"
        return {"type": "image", "image": ImageSource(part.image_url.url, detail, path)}
    text = part.refusal if isinstance(part, RefusalPart) else part.text
    return {"type": "text", "text": text}
