"""The body of ``POST /v1/responses``, as OpenAI defines it, with this server's own fields beside.

What OpenAI knows and this server does not do is refused in ``server.api.validation``, before.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from server.api.messages import FunctionName
from server.api.responses.items import Item
from server.api.schema import JsonObjectFormat, ServiceFields, TextFormat, TokenFields
from server.api.wire import OnlyFalse, Wire, form_of

LOGPROBS = "message.output_text.logprobs"

# All but the log-probabilities are about items that cannot occur here: they ask for nothing.
Include = Literal[
    "message.output_text.logprobs",
    "message.input_image.image_url",
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
]


class NamedSchemaFormat(Wire):
    """JSON of a schema; ``strict`` or not, the answer keeps to it."""

    type: Literal["json_schema"]
    name: FunctionName
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class TextOptions(Wire):
    """The form of the answer."""

    format: (
        Annotated[TextFormat | JsonObjectFormat | NamedSchemaFormat, Field(discriminator="type")]
        | None
    ) = None
    verbosity: Literal["medium"] | None = None


class FunctionTool(Wire):
    """A function that the model may call; ``parameters`` is a JSON schema."""

    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    output_schema: None = None
    defer_loading: OnlyFalse | None = None
    allowed_callers: None = None


class FunctionChoice(Wire):
    """This function must be called."""

    type: Literal["function"]
    name: FunctionName


def _choice_form(value: object) -> str:
    return "word" if isinstance(value, str) else "named"


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("word")]
    | Annotated[FunctionChoice, Tag("named")],
    Discriminator(_choice_form),
]


class ReasoningOptions(Wire):
    """No model here reasons apart from its answer."""

    effort: Literal["none"] | None = None
    summary: None = None
    generate_summary: None = None
    context: None = None


class EventOptions(Wire):
    """Padding against traffic analysis is not done."""

    include_obfuscation: OnlyFalse | None = None


class ResponseRequest(TokenFields, ServiceFields):
    """The body. ``store`` may be true, which OpenAI takes for granted: the reply says that nothing
    is stored. ``max_tool_calls`` bounds tools that this server would call itself, of which there
    are none."""

    input: Annotated[
        Annotated[str, Tag("text")] | Annotated[list[Item], Field(min_length=1), Tag("parts")],
        Discriminator(form_of),
    ]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    include: list[Include] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    text: TextOptions | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=128)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: int | None = None
    reasoning: ReasoningOptions | None = None
    stream_options: EventOptions | None = None
    store: bool | None = None
    background: OnlyFalse | None = None
    truncation: Literal["disabled"] | None = None

    @property
    def logprobs(self) -> bool:
        """Whether the reply tells log-probabilities."""
        return LOGPROBS in (self.include or ())
