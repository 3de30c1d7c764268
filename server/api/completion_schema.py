"""Bodies of ``/v1/completions`` (OpenAI's) and of ``/tokenize``, ``/detokenize`` (vLLM's)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Discriminator, Field, Tag

from server.api.messages import Message, ToolObject
from server.api.schema import SamplingFields, TokenId
from server.api.wire import OnlyTrue, Wire

Ids = Annotated[list[TokenId], Field(min_length=1)]


def prompt_form(value: object) -> str:
    """The tag of a prompt: one or several, of text or of ids."""
    if not isinstance(value, (list, tuple)):
        return "text"
    first = value[0] if value else ""
    if isinstance(first, (list, tuple)):
        return "many_ids"
    return "many_texts" if isinstance(first, str) else "ids"


PromptField = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[Ids, Tag("ids")]
    | Annotated[list[str], Field(min_length=1), Tag("many_texts")]
    | Annotated[list[Ids], Field(min_length=1), Tag("many_ids")],
    Discriminator(prompt_form),
]


class CompletionRequest(SamplingFields):
    """The body of ``POST /v1/completions``. Text only; ``logprobs`` is a number here."""

    prompt: PromptField
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None
    add_special_tokens: bool | None = None


class TokenizeRequest(Wire):
    """The body of ``POST /tokenize``: a prompt, or messages as a chat would take them."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    tools: Annotated[list[ToolObject], Field(max_length=128)] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: OnlyTrue | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(Wire):
    """The body of ``POST /detokenize``."""

    model: str | None = None
    tokens: list[TokenId]
