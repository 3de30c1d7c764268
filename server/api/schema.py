"""The request as OpenAI defines it, and our ``dyvte`` object: untrusted shape ends here.

Strict: unknown fields, wrong types and what this server does not do are errors that name the
field. Every optional field may be an explicit null, which means its default. Knows no engine;
what fits the model is decided behind ``server.api.translate``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

INT64 = 2**63


class Wire(BaseModel):
    """Base of all: no coercion, no unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


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


def _form(value: object) -> str:
    return "parts" if isinstance(value, (list, tuple)) else "text"


UserPart = Annotated[TextPart | ImagePart, Field(discriminator="type")]
AssistantPart = Annotated[TextPart | RefusalPart, Field(discriminator="type")]
SystemPart = Annotated[TextPart, Field()]

UserContent = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[UserPart], Field(min_length=1), Tag("parts")],
    Discriminator(_form),
]
SystemContent = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[SystemPart], Field(min_length=1), Tag("parts")],
    Discriminator(_form),
]
AssistantContent = Annotated[
    Annotated[str | None, Tag("text")]
    | Annotated[list[AssistantPart], Field(min_length=1), Tag("parts")],
    Discriminator(_form),
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


class StreamOptions(Wire):
    """Only ``include_usage``; padding against traffic analysis is not done."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class TextFormat(Wire):
    """Free text."""

    type: Literal["text"]


class JsonObjectFormat(Wire):
    """Any JSON object."""

    type: Literal["json_object"]


class JsonSchema(Wire):
    """``strict`` or not, the answer keeps to the schema."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class JsonSchemaFormat(Wire):
    """JSON of a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = TextFormat | JsonObjectFormat | JsonSchemaFormat


class StructuredOutputs(Wire):
    """vLLM's way to ask for a form: exactly one of these."""

    json_: Annotated[dict[str, Any] | str | None, Field(alias="json")] = None
    json_object: bool | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None


class CacheOptions(Wire):
    """Hints about prompt caching."""

    mode: Literal["implicit", "explicit"] | None = None
    ttl: Literal["30m"] | None = None


class PruneObject(Wire):
    """Visual tokens that leave before the exit."""

    method: str
    layer: int | None = None
    ratio: float | None = None
    stages: list[Annotated[list[float], Field(min_length=2, max_length=2)]] | None = None


class DyvteObject(Wire):
    """How deep this request's image goes, and how much of that to report."""

    policy: str | None = None
    aggressiveness: float | None = None
    exit_layer: int | None = None
    min_layer: int | None = None
    max_layer: int | None = None
    max_risk: float | None = None
    prune: PruneObject | None = None
    report: Literal["none", "summary", "full"] | None = None


MetadataKey = Annotated[str, Field(max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]
StopText = Annotated[str, Field(min_length=1, max_length=512)]
Stop = Annotated[
    Annotated[StopText, Tag("text")] | Annotated[list[StopText], Tag("parts")],
    Discriminator(_form),
]
TokenId = Annotated[int, Field(ge=0)]
TokenKey = Annotated[str, Field(pattern=r"^\d{1,9}$")]
Bias = Annotated[float, Field(ge=-100, le=100)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class ChatRequest(Wire):
    """The body of ``POST /v1/chat/completions``."""

    model: str
    messages: Annotated[list[Message], Field(min_length=1)]

    # Length and sampling
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-INT64, lt=INT64)] | None = None
    stop: Stop | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=64)] | None = None
    ignore_eos: bool | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    logit_bias: Annotated[dict[TokenKey, Bias], Field(max_length=1024)] | None = None

    # The answer's form
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: Annotated[ResponseFormat, Field(discriminator="type")] | None = None
    structured_outputs: StructuredOutputs | None = None
    tools: Annotated[list[ToolObject], Field(max_length=128)] | None = None
    tool_choice: ToolChoiceField | None = None
    parallel_tool_calls: bool | None = None
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] | None = None

    # Service fields without effect on the answer
    user: str | None = None
    safety_identifier: Annotated[str, Field(max_length=64)] | None = None
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: Literal["in_memory", "24h"] | None = None
    prompt_cache_options: CacheOptions | None = None

    dyvte: DyvteObject | None = None
