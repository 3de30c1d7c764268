"""The structured answer as a pydantic model, for clients that take one."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Thing(BaseModel):
    """A coloured shape."""

    model_config = ConfigDict(extra="forbid")

    color: Literal["red", "green", "blue"]
    shape: Literal["circle", "square"]
