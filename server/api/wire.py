"""What all request bodies share: strictness, and how a field of two forms tells them apart."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

EXACT = 2**53  # beyond, a number written with a point may stand for its neighbour


class Wire(BaseModel):
    """Base of all: no coercion, no unknown fields. A whole number is one however it is written."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _whole_numbers(cls, value: Any) -> Any:
        """``4.0`` is an integer to JSON Schema, by which OpenAI describes its fields."""
        if not isinstance(value, dict):
            return value
        return {
            name: int(each) if isinstance(each, float) and _is_whole(each) else each
            for name, each in value.items()
        }


def _is_whole(number: float) -> bool:
    return number.is_integer() and abs(number) <= EXACT


def _truth(value: object) -> object:
    if not isinstance(value, bool):
        raise ValueError("input should be true or false")
    return value


# Python's 0 and 1 equal False and True, which a bare Literal goes by.
OnlyFalse = Annotated[Literal[False], BeforeValidator(_truth)]
OnlyTrue = Annotated[Literal[True], BeforeValidator(_truth)]


def form_of(value: object) -> str:
    """The tag of a field that is text or a list of parts."""
    return "parts" if isinstance(value, (list, tuple)) else "text"
