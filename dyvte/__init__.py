"""DyVTE: multimodal generation in which every request decides how deep its image goes.

``dyvte.load`` and ``dyvte.generate`` answer prompts offline; ``dyvte.engine`` batches them for a
server. Importing this package loads no torch: names are fetched when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dyvte.errors import DyvteError, EngineError, ModelError, OptionError, PromptError
from dyvte.params import ExitOptions, FinishReason, PruneOptions, SamplingParams
from dyvte.prompt import IMAGE, Prompt
from dyvte.structured import StructuredOutput

if TYPE_CHECKING:
    from dyvte.model import Model as Model
    from dyvte.model import build as build
    from dyvte.model import load as load
    from dyvte.offline import Result as Result
    from dyvte.offline import generate as generate

__version__ = "0.1.0"

_LAZY = {
    "load": "model",
    "build": "model",
    "Model": "model",
    "generate": "offline",
    "Result": "offline",
}

__all__ = [
    "IMAGE",
    "DyvteError",
    "EngineError",
    "ExitOptions",
    "FinishReason",
    "Model",
    "ModelError",
    "OptionError",
    "Prompt",
    "PromptError",
    "PruneOptions",
    "Result",
    "SamplingParams",
    "StructuredOutput",
    "build",
    "generate",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'dyvte' has no attribute {name!r}")
    return getattr(importlib.import_module(f"dyvte.{_LAZY[name]}"), name)
