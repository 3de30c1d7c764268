"""What all request bodies share: strictness, and how a field of two forms tells them apart."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


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
            name: int(each) if isinstance(each, float) and each.is_integer() else each
            for name, each in value.items()
        }


def form_of(value: object) -> str:
    """The tag of a field that is text or a list of parts."""
    return "parts" if isinstance(value, (list, tuple)) else "text"
