"""What all request bodies share: strictness, and how a field of two forms tells them apart."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Wire(BaseModel):
    """Base of all: no coercion, no unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def form_of(value: object) -> str:
    """The tag of a field that is text or a list of parts."""
    return "parts" if isinstance(value, (list, tuple)) else "text"
