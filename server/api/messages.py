"""Messages and tools of a chat request, as OpenAI defines them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from server.api.wire import Wire, form_of


class CacheBreakpoint(Wire):
    """A hint where a reusable prefix ends; prefixes are found without it."""

    mode: Literal["explicit"]


class TextPart(Wire):
    """``{"type": "text", "text": …}``."""

    type: Literal["text"]
    text: str
    prompt_cache_breakpoint: CacheBreakpoint | None = None


class RefusalPart(Wire):
    """What an earlier answer refused, in a conversation that goes on."""

    type: Literal["refusal"]
    refusal: str


class ImageUrl(Wire):
    """Where an image is (``data:``, or ``https:`` of a host that the operator named), and how
    finely to look at it."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(Wire):
    """``{"type": "image_url", "image_url": {"url": …}}``."""

    type: Literal["image_url"]
    image_url: ImageUrl
    prompt_cache_breakpoint: CacheBreakpoint | None = None


UserPart = Annotated[TextPart | ImagePart, Field(discriminator="type")]
AssistantPart = Annotated[TextPart | RefusalPart, Field(discriminator="type")]
SystemPart = Annotated[TextPart, Field()]

UserContent = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[UserPart], Field(min_length=1), Tag("parts")],
    Discriminator(form_of),
]
SystemContent = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[SystemPart], Field(min_length=1), Tag("parts")],
    Discriminator(form_of),
]
AssistantContent = Annotated[
    Annotated[str | None, Tag("text")]
    | Annotated[list[AssistantPart], Field(min_length=1), Tag("parts")],
    Discriminator(form_of),
]


FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class SystemMessage(Wire):
    """Instructions; "developer" is the newer name of the same role."""

    role: Literal["system", "developer"]
    content: SystemContent
    name: str | None = None


class UserMessage(Wire):
    """What the user says and shows."""

    role: Literal["user"]
    content: UserContent
    name: str | None = None


class CalledFunction(Wire):
    """``arguments`` is JSON, as the model wrote it."""

    name: FunctionName
    arguments: str


class ToolCall(Wire):
    """A call in an earlier answer."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class AssistantMessage(Wire):
    """An earlier answer."""

    role: Literal["assistant"]
    content: AssistantContent = None
    refusal: str | None = None
    name: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=128)] | None = None


class ToolMessage(Wire):
    """What a called function returned."""

    role: Literal["tool"]
    content: SystemContent
    tool_call_id: str


Message = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]


class Function(Wire):
    """A function that the model may call; ``parameters`` is a JSON schema."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolObject(Wire):
    """Functions are the only kind of tool."""

    type: Literal["function"]
    function: Function


class FunctionRef(Wire):
    """A function by its name."""

    name: FunctionName


class NamedTool(Wire):
    """This function must be called."""

    type: Literal["function"]
    function: FunctionRef


def _choice_form(value: object) -> str:
    return "word" if isinstance(value, str) else "named"


ToolChoiceField = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("word")]
    | Annotated[NamedTool, Tag("named")],
    Discriminator(_choice_form),
]
