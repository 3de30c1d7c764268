"""Plain text as prompts, without a chat template: tokenised and checked in worker threads."""

from __future__ import annotations

import time
from dataclasses import dataclass

from dyvte.engine.events import Engine
from dyvte.params import ExitOptions, SamplingParams
from dyvte.prompt import Prompt


@dataclass(frozen=True, slots=True)
class TextJob:
    """Prompts of text or ids. ``special``: text gets what the tokenizer puts around it (BOS)."""

    prompts: tuple[str | list[int], ...]
    sampling: SamplingParams
    exits: ExitOptions
    special: bool = True
    form_param: str = ""


@dataclass(frozen=True, slots=True)
class PreparedTexts:
    """Prompts that fit the model, and how each reads."""

    job: TextJob
    prompts: tuple[Prompt, ...]
    texts: tuple[str, ...]
    prompt_tokens: int
    seconds: float


def prepare_texts(job: TextJob, engine: Engine) -> PreparedTexts:
    """Blocking. Raises PromptError, OptionError."""
    began = time.perf_counter()
    prompts, texts, tokens = [], [], 0
    for given in job.prompts:
        ids = engine.tokenize(given, job.special) if isinstance(given, str) else given
        prompt = Prompt(ids)
        tokens += engine.check(prompt, job.sampling, job.exits)
        prompts.append(prompt)
        texts.append(given if isinstance(given, str) else engine.detokenize(given))
    seconds = time.perf_counter() - began
    return PreparedTexts(job, tuple(prompts), tuple(texts), tokens, seconds)
