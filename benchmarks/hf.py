"""`transformers`' own ``generate`` on the inputs that our model gets, timed in the same terms."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from dyvte.prompt import Message


@dataclass(frozen=True, slots=True)
class HfTimes:
    """Seconds; ``prefill`` is the first token without the vision tower."""

    vision: float
    prefill: float
    step: float
    prompt_tokens: int


class HfModel:
    """One folder, loaded as a user of ``transformers`` would."""

    def __init__(self, folder: Path, dtype: str, device: str) -> None:
        self._processor: Any = AutoProcessor.from_pretrained(folder)
        self._model: Any = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=getattr(torch, dtype), attn_implementation="sdpa"
        )
        self._model = self._model.to(device).eval()

    def inputs(self, conversations: Sequence[Sequence[Message]]) -> Any:
        """The processor's tensors for one padded batch."""
        made = self._processor.apply_chat_template(
            [list(messages) for messages in conversations],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )
        return made.to(self._model.device, self._model.dtype)

    @torch.inference_mode()
    def time(self, inputs: Any, new_tokens: int) -> HfTimes:
        """Vision tower, first token and whole answer, each run for itself."""
        pixels = inputs["pixel_values"]
        vision = _seconds(lambda: self._model.model.get_image_features(pixels))
        first = _seconds(lambda: self._generate(inputs, 1))
        whole = _seconds(lambda: self._generate(inputs, new_tokens))
        return HfTimes(
            vision=vision,
            prefill=first - vision,
            step=(whole - first) / (new_tokens - 1),
            prompt_tokens=inputs["input_ids"].shape[1],
        )

    def _generate(self, inputs: Any, tokens: int) -> None:
        self._model.generate(
            **inputs, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False
        )


def _seconds(work: Callable[[], object]) -> float:
    _synchronize()
    began = time.perf_counter()
    work()
    _synchronize()
    return time.perf_counter() - began


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
