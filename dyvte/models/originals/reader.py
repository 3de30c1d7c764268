"""What a module of this package offers: recognise a folder, open it, build it without weights.

The registry holds the modules themselves. ``build`` and ``native_weights`` may be missing: then
`dyvte check` needs the weights, and `dyvte convert` has nothing to write.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from transformers import GenerationConfig

from dyvte.exits.gate import GateBank
from dyvte.models.checkpoints.opened import Opened
from dyvte.models.prompts.conversations import Conversation


class Reader(Protocol):
    """One original layout. ``LAYOUT`` names it to people (``"LLaVA-1.5's original"``)."""

    LAYOUT: str

    def is_original(self, config: dict[str, Any]) -> bool:
        """True for a config of that layout; no other file is looked at."""

    def open_original(
        self,
        folder: Path,
        config: dict[str, Any],
        device: torch.device,
        dtype: torch.dtype,
        allow_pickle: bool = False,
    ) -> Opened:
        """Load the weights onto ``device``. Raises ModelError."""


@runtime_checkable
class Builder(Protocol):
    """A reader that needs nothing but configs to say what a model is."""

    def build(self, folder: Path, config: dict[str, Any], dtype: torch.dtype) -> Opened:
        """As ``open_original``, but on the meta device: no weight is read. Raises ModelError.

        Tokenizer and chat format are None; gates are those inside the weights, if these are there.
        """


@dataclass(frozen=True, slots=True)
class NativeWeights:
    """A checkpoint in the words of a class of ``transformers``.

    ``state`` has the names that the class's parameters have and the types in which the tensors
    are stored; they may still lie in their files. ``image_processor`` is one of
    ``transformers``' that gives the original's pixels. What is None the folder does not say.
    """

    config: Any
    state: Mapping[str, Tensor]
    gates: GateBank | None
    generation: GenerationConfig | None = None
    tokenizer: Any | None = None
    conversation: Conversation | None = None
    image_processor: Any | None = None


@runtime_checkable
class Converter(Protocol):
    """A reader whose models ``transformers`` has a class for."""

    def native_weights(
        self, folder: Path, config: dict[str, Any], allow_pickle: bool = False
    ) -> NativeWeights:
        """The checkpoint under native names. Raises ModelError for what has none."""
