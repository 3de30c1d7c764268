"""The request as OpenAI defines it, and our ``dyvte`` object: untrusted shape ends here.

Strict: unknown fields, wrong types and what this server does not do are errors that name the
field. Every optional field may be an explicit null, which means its default. Knows no engine;
what fits the model is decided behind ``server.api.translate``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from server.api.messages import Message, ToolChoiceField, ToolObject
from server.api.wire import OnlyFalse, Wire, form_of

INT64 = 2**63


class StreamOptions(Wire):
    """Padding against traffic analysis is not done. ``continuous_usage_stats`` is vLLM's: every
    chunk says the usage so far."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: OnlyFalse | None = None


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
    Discriminator(form_of),
]
TokenId = Annotated[int, Field(ge=0)]
TokenKey = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
Bias = Annotated[float, Field(ge=-100, le=100)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class TokenFields(Wire):
    """How tokens are chosen, and what else is said in the same words on all routes."""

    model: str
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
    stream: bool | None = None
    structured_outputs: StructuredOutputs | None = None
    user: str | None = None
    dyvte: DyvteObject | None = None


class SamplingFields(TokenFields):
    """What completions of text and of chats share: how much is answered, in what form."""

    max_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stream_options: StreamOptions | None = None
    response_format: Annotated[ResponseFormat, Field(discriminator="type")] | None = None

    @property
    def user_turns(self) -> int:
        """How often the user asks; exits of a conversation are measured apart."""
        return 1


class ServiceFields(Wire):
    """Fields of OpenAI's service without effect on the answer."""

    safety_identifier: Annotated[str, Field(max_length=64)] | None = None
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] | None = None
    service_tier: Literal["auto", "default"] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: Literal["in_memory", "24h"] | None = None
    prompt_cache_options: CacheOptions | None = None


class ChatRequest(SamplingFields, ServiceFields):
    """The body of ``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1)]

    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None

    # The answer's form
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[list[ToolObject], Field(max_length=128)] | None = None
    tool_choice: ToolChoiceField | None = None
    parallel_tool_calls: bool | None = None
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] | None = None

    store: OnlyFalse | None = None

    @property
    def user_turns(self) -> int:
        """Messages of the user."""
        return sum(message.role == "user" for message in self.messages)
