"""Which form the answer must have: ``response_format`` as OpenAI has it, ``structured_outputs`` as
vLLM has it, and under which name an error tells of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dyvte.errors import OptionError
from dyvte.structured import StructuredOutput
from server.api.errors import bad_request
from server.api.schema import JsonObjectFormat, JsonSchemaFormat, ResponseFormat, StructuredOutputs


@dataclass(frozen=True, slots=True)
class Form:
    """A form and the client's name of it, like ``response_format.json_schema.schema``."""

    wanted: StructuredOutput
    param: str


def choose_form(
    response_format: ResponseFormat | None, structured: StructuredOutputs | None
) -> Form | None:
    """The one that is given, None for free text. Raises ApiError (400)."""
    first, second = _of_format(response_format), _of_structured(structured)
    if first is not None and second is not None:
        raise bad_request(
            "'structured_outputs' cannot be combined with 'response_format'.", "structured_outputs"
        )
    return first or second


def form_error(param: str, reason: str) -> Exception:
    """400: a form that cannot be kept."""
    return bad_request(f"Invalid '{param}': {reason}.", param, "invalid_structured_output")


def _of_format(given: ResponseFormat | None) -> Form | None:
    if isinstance(given, JsonObjectFormat):
        return Form(StructuredOutput.json(), "response_format")
    if not isinstance(given, JsonSchemaFormat):
        return None
    param = "response_format.json_schema.schema"
    schema = given.json_schema.schema_
    try:
        return Form(StructuredOutput.json(True if schema is None else schema), param)
    except OptionError as error:
        raise form_error(param, error.message) from error


def _of_structured(given: StructuredOutputs | None) -> Form | None:
    said = given.model_dump(exclude_none=True, by_alias=True) if given is not None else {}
    if said.get("json_object") is False:
        del said["json_object"]
    if not said:
        return None
    if len(said) > 1:
        raise bad_request(
            f"Invalid 'structured_outputs': give one of {', '.join(said)}.", "structured_outputs"
        )
    ((name, value),) = said.items()
    makers: dict[str, Callable[[Any], StructuredOutput]] = {
        "json": StructuredOutput.json,
        "json_object": StructuredOutput.json,
        "regex": StructuredOutput.regex,
        "choice": StructuredOutput.choice,
        "grammar": StructuredOutput.grammar,
    }
    param = f"structured_outputs.{name}"
    try:
        return Form(makers[name](value), param)
    except OptionError as error:
        raise form_error(param, error.message) from error
